"""DN-DETR and its deformable form: what queries carry, noise by hand, groups and their limit, and who sees whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.by_heart import assert_learns_by_heart
from models.small_dab_detr import SMALL
from models.small_deformable_detr import batch, memory_of
from torch import nn

from detrkit.errors import ConfigurationError
from detrkit.layers.denoising import NoisedObjects, pick_objects
from detrkit.models import dab_detr, dn_deformable_detr, dn_detr
from detrkit.models.catalog import CATALOG, build, criterion_for, selection_for
from detrkit.models.detector import Detector
from detrkit.models.dn_detr import Config, DenoisedGroup, LabelDenoising, Noise, jitter, noised_objects
from detrkit.structures import Output, Queries, QueryGroup, Target

NONE = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
TARGETS = [
    Target(torch.tensor([1, 2]), torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.9, 0.1, 0.2, 0.2]])),
    Target(torch.tensor([0]), torch.tensor([[0.3, 0.3, 0.1, 0.1]])),
]
FORMS = {"dn-dab-detr-compact": {}, "dn-dab-deformable-detr-compact": {"least_side": None, "normed_references": None}}
forms = pytest.mark.parametrize("variant", FORMS)


def small(variant: str = "dn-dab-detr-compact", **changes: Any) -> Detector:
    """In float64 and eval mode; box heads, which start at zero, move boxes."""
    settings = {name: value for name, value in (SMALL | changes).items() if name not in FORMS[variant]}
    model = build(variant, classes=["a", "b", "c"], **settings)
    for _, box_head in model.heads.pairs():
        nn.init.normal_(box_head.output.weight, std=0.2)
    return model.double().eval()


def part(rows: int = 100, groups: int = 2, width: int = 8, outputs: int = 3, **noise: float) -> LabelDenoising:
    return LabelDenoising(
        width=width, outputs=outputs, rows=rows, groups=groups, **({"label_noise": 0.0, "box_noise": 0.4} | noise)
    )


def queries_of(images: int, count: int = 3, width: int = 8) -> Queries:
    return Queries(torch.randn(images, count, width), None, torch.rand(images, count, 4))


def quiet(images: int = 2, groups: int = 2, slots: int = 2) -> Noise:
    """Chance that changes nothing."""
    shape = (images, groups, 1, slots)
    flipped, labels = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.int64)
    return Noise(flipped, labels, torch.zeros(*shape, 4))


def noised(targets: list[Target], noise: Noise, *, box_noise: float = 0.4) -> NoisedObjects:
    """As many slots as the noise has."""
    return noised_objects(pick_objects(targets, noise.labels.shape[-1], like=noise.shifts), noise, box_noise=box_noise)


def many(*counts: int) -> list[Target]:
    """Images with so many objects; the i-th object of an image has class i."""
    return [Target(torch.arange(count), 0.3 + 0.4 * torch.rand(count, 4)) for count in counts]


class TestPublishedModels:
    @pytest.mark.parametrize(
        ("variant", "parameters"),
        [
            ("dn-dab-detr-r50", 43_449_117 + 92 * 255),  # those of DAB-DETR and the codes
            ("dn-dab-deformable-detr-r50", 47_183_594 + 92 * 255 - 300),  # contents have a channel less
        ],
    )
    def test_number_of_trained_parameters(self, variant: str, parameters: int) -> None:
        with torch.device("meta"):
            model = build(variant)
        assert sum(each.numel() for each in model.parameters() if each.requires_grad) == parameters

    @pytest.mark.parametrize("family", [dn_detr, dn_deformable_detr])
    def test_the_defaults_are_the_papers(self, family: Any) -> None:
        config = family.Config()
        assert (config.denoising_groups, config.label_noise, config.box_noise) == (5, 0.2, 0.4)
        assert (config.class_weight, config.class_cost, config.l1_weight, config.giou_weight) == (1.0, 2.0, 5.0, 2.0)
        assert (config.queries, config.training_queries, config.dropout) == (300, 800, 0.0)

    def test_settings_of_the_ancestor_are_unchanged(self) -> None:
        ours, before = Config(), dab_detr.Config()
        assert {name: getattr(ours, name) for name in vars(before)} == vars(before)

    @pytest.mark.parametrize(
        ("variant", "epochs", "drop_epoch", "ap", "tag"),
        [
            ("dn-dab-detr-r50", 50, 40, 0.444, "50 epochs"),
            ("dn-dab-detr-r50-dc5", 50, 40, 0.463, "50 epochs"),
            ("dn-dab-detr-r50-dc5-3patterns", 12, 11, 0.417, "12 epochs"),
            ("dn-dab-detr-r101-dc5-3patterns", 12, 11, 0.428, "12 epochs"),
            ("dn-dab-deformable-detr-r50", 50, 40, 0.495, "v2, 50 epochs"),
        ],
    )
    def test_recipes_and_weights(self, variant: str, epochs: int, drop_epoch: int, ap: float, tag: str) -> None:
        entry = CATALOG[variant]
        assert (entry.recipe.epochs, entry.recipe.batch_size, entry.recipe.learning_rate) == (epochs, 16, 1e-4)
        assert entry.recipe.drop_after * epochs == pytest.approx(drop_epoch)
        assert [(each.ap, each.tag, each.licence) for each in entry.weights] == [(ap, tag, "Apache-2.0")]

    @pytest.mark.parametrize(("variant", "limit"), [("dn-dab-detr-r50", 300), ("dn-dab-deformable-detr-r50", 100)])
    def test_how_many_are_reported(self, variant: str, limit: int) -> None:
        with torch.device("meta"):
            select = selection_for(build(variant))
        output = Output(torch.randn(1, 1, 300, 91), torch.rand(1, 1, 300, 4))
        assert len(select(output, torch.tensor([[100, 100]]))[0].scores) == limit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denoising": 0}, "denoising must be at least 1, not 0"),
        ({"denoising_groups": 0}, "denoising_groups must be at least 1, not 0"),
        ({"label_noise": -0.1}, "label_noise must be at least 0, not -0.1"),
        ({"label_noise": 1.5}, "label_noise must be at most 1, not 1.5"),
        ({"box_noise": 2}, "box_noise must be at most 1, not 2"),
        ({"box_noise": "x"}, "box_noise must be of type float, not str ('x')"),
        ({"patterns": 7}, "queries must be a multiple of patterns (7), not 300: every anchor comes once with each pattern"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("config", [dn_detr.Config, dn_deformable_detr.Config])
def test_settings_that_no_model_can_have(config: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config(**changes)
    assert str(caught.value) == message


class TestWhatQueriesCarry:
    @pytest.mark.parametrize("patterns", [0, 3])
    def test_all_carry_the_code_of_no_known_class(self, patterns: int) -> None:
        source = small(patterns=patterns).query_source
        queries = source(memory_of(2, width=64))
        code = source.denoising.embedding.weight[3]
        assert code.shape == (63,)
        for index in range(6):
            wanted = torch.cat([code, code.new_zeros(1)])
            if patterns:  # which have a number in the indicator's channel, too
                wanted = wanted + source.patterns.weight[index // 2]
            for image in range(2):
                torch.testing.assert_close(queries.content[image, index], wanted)
        assert queries.position is None

    def test_in_the_deformable_form_each_has_a_content_of_its_own(self) -> None:
        source = small("dn-dab-deformable-detr-compact").query_source
        queries = source(memory_of(2, width=64))
        assert source.content.weight.shape == (6, 63)
        for image in range(2):
            torch.testing.assert_close(queries.content[image, :, :63], source.content.weight)
            assert not queries.content[image, :, 63].any()
        (gradient,) = torch.autograd.grad(queries.content.sum(), source.denoising.embedding.weight, allow_unused=True)
        assert gradient is None  # the last row is there for the authors' files only

    def test_noised_objects_carry_the_code_of_a_class_and_the_indicator(self) -> None:
        denoising = part()
        found = denoising(queries_of(2), TARGETS)
        codes = denoising.embedding.weight
        rows = found.content[:, 3:]
        for row, label in enumerate([1, 2, 1, 2]):
            assert torch.equal(rows[0, row], torch.cat([codes[label], torch.ones(1)]))
        assert torch.equal(rows[1, 0], torch.cat([codes[0], torch.ones(1)]))
        assert not rows[1, [1, 3]].any()  # padding rows carry nothing, not even the indicator
        assert found.references is not None
        assert (found.references[1, [3 + 1, 3 + 3]] == 0.5).all()

    def test_codes_learn_also_where_anchors_do_not(self) -> None:
        model = small(learn_queries=False)
        fixed = [name for name, value in model.named_parameters() if not value.requires_grad]
        assert fixed == ["query_source.center_logits", "query_source.side_logits"]


class TestNoise:
    def test_rows_and_what_they_answer_for(self) -> None:
        found = noised([*TARGETS, NONE], quiet(images=3))
        assert found.objects.tolist() == [[0, 1] * 2, [0, -1] * 2, [-1] * 4]
        assert found.real.tolist() == [[True] * 4, [True, False] * 2, [False] * 4]
        assert found.labels.tolist() == [[1, 2] * 2, [0] * 4, [0] * 4]
        torch.testing.assert_close(found.boxes_cxcywh[0, :2], TARGETS[0].boxes_cxcywh)

    def test_a_box_by_hand(self) -> None:
        """A centre moves by half the side at most, a side changes by itself at most; both times 0.4."""
        noise = quiet(images=1, groups=1, slots=1)
        noise.shifts[:] = torch.tensor([1.0, -0.5, 0.5, -1.0])
        target = Target(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.2, 0.4]]))
        (box,) = noised([target], noise).boxes_cxcywh[0]
        wanted = [0.5 + 0.4 * 0.1, 0.5 - 0.5 * 0.4 * 0.2, 0.2 * 1.2, 0.4 * 0.6]
        torch.testing.assert_close(box, torch.tensor(wanted))

    def test_each_number_stays_in_the_image(self) -> None:
        """The box as a whole may reach out of it."""
        boxes = torch.tensor([[[0.95, 0.02, 0.9, 0.1]]])
        shifts = torch.tensor([1.0, -1.0, 1.0, 0.0]).view(1, 1, 1, 1, 4)
        torch.testing.assert_close(jitter(boxes, shifts).flatten(), torch.tensor([1.0, 0.0, 1.0, 0.1]))
        noise = quiet(images=1, groups=1, slots=1)._replace(shifts=shifts)
        target = Target(torch.tensor([0]), boxes[0])
        (box,) = noised([target], noise, box_noise=1.0).boxes_cxcywh[0]
        limit = 1e-3 / (1 + 1e-3)  # of the inverse sigmoid
        torch.testing.assert_close(box, torch.tensor([1 - limit, limit, 1 - limit, 0.1]))

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_boxes_that_are_no_numbers_harm_nobody_else(self, value: float) -> None:
        target = Target(torch.tensor([0]), torch.tensor([[0.5, value, 0.2, 0.2]]))
        found = part()(queries_of(1), [target])
        assert found.references is not None
        assert found.references.isfinite().all()

    def test_classes_change_where_chance_says_so(self) -> None:
        noise = quiet()
        noise.labels[:] = 7
        noise.flipped[0, 1, :, 0] = True
        noise.flipped[1, :, :, 1] = True  # a row without an object
        assert noised(TARGETS, noise).labels.tolist() == [[1, 2, 7, 2], [0] * 4]

    def test_draws_have_their_probabilities(self) -> None:
        torch.manual_seed(0)
        denoising = part(outputs=5, label_noise=0.2)
        noise = denoising.draw(50, like=torch.zeros(4, 30, 4, dtype=torch.float64))
        assert noise.flipped.shape == noise.labels.shape == (4, 50, 1, 30)
        assert noise.flipped.double().mean() == pytest.approx(0.2, abs=0.02)
        shares = torch.bincount(noise.labels.flatten(), minlength=5) / noise.labels.numel()
        assert shares.tolist() == pytest.approx([0.2] * 5, abs=0.02)
        assert noise.shifts.dtype == torch.float64
        assert noise.shifts.mean() == pytest.approx(0.0, abs=0.02)
        assert -1 <= noise.shifts.min() < -0.99
        assert 0.99 < noise.shifts.max() < 1

    def test_it_depends_on_pytorchs_generator_alone(self) -> None:
        """Which training seeds by seed, epoch and batch."""
        denoising, queries = part(label_noise=0.5), queries_of(2)
        found = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            found.append(denoising(queries, TARGETS))
        for name in ("content", "references"):
            first, again, other = (getattr(each, name) for each in found)
            assert torch.equal(first, again)
            assert not torch.equal(first, other)


class TestGroupsAndTheirLimit:
    @pytest.mark.parametrize(
        ("counts", "rows", "wanted"),
        [
            ((2, 1), 10, (2, 5)),  # as with the authors
            ((2, 1), 1000, (2, 5)),  # never more than five groups
            ((2, 1), 9, (2, 4)),
            ((4,), 10, (4, 2)),
            ((10, 1), 10, (10, 1)),
            ((11, 1), 10, (10, 1)),  # not all of them
            ((500,), 10, (10, 1)),
            ((0, 0), 10, (1, 1)),
        ],
    )
    def test_slots_and_groups(self, counts: tuple[int, ...], rows: int, wanted: tuple[int, int]) -> None:
        found = part(rows=rows, groups=5, outputs=500)(queries_of(len(counts)), many(*counts))
        (group,) = found.training_groups
        assert (group.rows // group.repeats, group.repeats) == wanted
        assert group.rows <= rows
        assert found.content.shape[1] == 3 + group.rows

    def test_without_reaching_the_limit_it_changes_nothing(self) -> None:
        """A hundred objects fit five times into the default."""
        for count, rows in ((100, 500), (101, 4 * 101)):
            found = part(rows=Config().denoising, groups=Config().denoising_groups, outputs=500)(
                queries_of(1), many(count)
            )
            assert found.training_groups[0].rows == rows

    def test_a_crowded_image_gets_other_objects_each_time(self) -> None:
        torch.manual_seed(0)
        denoising = part(rows=6, groups=5, outputs=50)
        found = denoising(queries_of(2), many(50, 1))
        (group,) = found.training_groups
        assert (group.rows, group.repeats) == (6, 1)
        assert group.objects[0].unique().numel() == 6
        assert group.objects[1].tolist() == [0, -1, -1, -1, -1, -1]
        codes = denoising.embedding.weight[group.objects[0]]  # the i-th object has class i
        assert torch.equal(found.content[0, 3:, :-1], codes)
        again = denoising(queries_of(2), many(50, 1)).training_groups[0].objects
        assert not torch.equal(again[0], group.objects[0])

    def test_the_estimate_of_memory_counts_the_rows(self) -> None:
        assert Config(denoising=700).training_queries == 1000


def test_who_sees_whom() -> None:
    """A group also sees its padding rows, as in the authors' code."""
    mask = part(groups=2)(queries_of(2), TARGETS).mask
    assert mask is not None
    queries, first, second = [True] * 3, [True] * 2 + [False] * 2, [False] * 2 + [True] * 2
    for image in range(2):
        assert mask[image, 0].tolist() == [queries + [False] * 4] * 3 + [queries + first] * 2 + [queries + second] * 2


@forms
def test_noised_objects_change_nothing_for_the_queries(variant: str) -> None:
    model, images = small(variant).train(), batch()
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # its running averages would change between the two passes
    output = model(images, TARGETS)
    (group,) = output.training_groups
    assert group.group.rows == 10
    assert group.output.logits.shape == (3, 2, 10, 3)
    alone = model.eval()(images, TARGETS)
    torch.testing.assert_close(output.logits, alone.logits)
    torch.testing.assert_close(output.boxes_cxcywh, alone.boxes_cxcywh)


@forms
def test_eval_mode_draws_nothing_and_leaves_no_trace(variant: str) -> None:
    model, memory = small(variant), memory_of(2, width=64)
    before = torch.get_rng_state()
    queries = model.query_source(memory, TARGETS)
    assert torch.equal(torch.get_rng_state(), before)
    assert queries.content.shape == (2, 6, 64)
    assert (queries.training_groups, queries.mask) == ((), None)
    output = model(batch(), TARGETS)
    terms = criterion_for(model)(output, TARGETS).terms
    assert [name for name in terms if "denoising" in name] == []


@forms
def test_training_without_targets_is_refused(variant: str) -> None:
    with pytest.raises(ValueError, match=r"^training needs the targets to make noised objects of"):
        small(variant).train()(batch())


class TestLosses:
    @forms
    def test_only_real_rows_count_and_divide(self, variant: str) -> None:
        model = small(variant).train()
        output = model(batch(), TARGETS)
        losses = criterion_for(model)(output, TARGETS)
        (group,) = output.training_groups
        assert group.group.objects is not None
        logits, boxes = group.output.logits[-1], group.output.boxes_cxcywh[-1]
        scores = logits.sigmoid()
        focal = distance = torch.zeros((), dtype=torch.float64)
        for image, rows in enumerate(group.group.objects):
            for row, place in enumerate(rows):
                if place < 0:
                    continue
                wanted = torch.zeros(3, dtype=torch.float64)
                wanted[TARGETS[image].labels[place]] = 1
                right = torch.where(wanted == 1, scores[image, row], 1 - scores[image, row])
                weights = torch.where(wanted == 1, 0.25, 0.75)
                focal = focal - (weights * (1 - right) ** 2 * right.log()).sum()
                distance = distance + (boxes[image, row] - TARGETS[image].boxes_cxcywh[place]).abs().sum()
        assert int((group.group.objects >= 0).sum()) == 5 * 3
        torch.testing.assert_close(losses.terms["denoising.layers.2.class"], focal / 15, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(losses.terms["denoising.layers.2.l1"], distance / 15, rtol=1e-6, atol=1e-9)
        weights = criterion_for(model).weights
        assert [weights[f"denoising.layers.0.{name}"] for name in ("class", "l1", "giou")] == [1.0, 5.0, 2.0]

    def test_the_divisor_asks_no_other_process(self) -> None:
        counted = torch.tensor([[True, True, False]])
        group = QueryGroup("denoising", 3, torch.tensor([[0, 1, -1]]), repeats=1, counted=counted)
        for others in (0.0, 1000.0):
            assert DenoisedGroup("denoising").divisor([], torch.tensor(others), group) == 2
        nobody = QueryGroup("denoising", 3, torch.full((1, 3), -1), counted=counted & False)
        assert DenoisedGroup("denoising").divisor([], torch.tensor(7.0), nobody) == 1

    @forms
    def test_without_objects_they_are_zero_and_everything_takes_part(self, variant: str) -> None:
        model = small(variant).train()
        losses = criterion_for(model)(model(batch(), [NONE, NONE]), [NONE, NONE])
        noise = {name: value.item() for name, value in losses.terms.items() if name.startswith("denoising.")}
        assert len(noise) == 9
        assert set(noise.values()) == {0.0}
        losses.total.backward()
        assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []
        codes = model.query_source.denoising.embedding.weight.grad
        assert not codes[:3].any()

    @forms
    @pytest.mark.parametrize("label", [3, -1])  # 3 would be the code of no known class
    def test_labels_without_a_code_are_refused_in_one_sentence(self, variant: str, label: int) -> None:
        model, targets = small(variant).train(), [TARGETS[0], Target(torch.tensor([label]), torch.rand(1, 4))]
        with pytest.raises(ValueError, match=r"^target 1 has a label outside 0..2: [^.]*$"):
            criterion_for(model)(model(batch(), targets), targets)

    def test_wrong_targets_are_refused_before_they_are_used(self) -> None:
        with pytest.raises(ValueError, match=r"^the batch has 2 images but 1 targets were given"):
            part()(queries_of(2), TARGETS[:1])
        with pytest.raises(ValueError, match=r"^target 0 has 1 labels for 2 boxes$"):
            part()(queries_of(1), [Target(torch.tensor([0]), torch.rand(2, 4))])


@forms
def test_a_batch_is_learned_by_heart(variant: str) -> None:
    assert_learns_by_heart(build(variant, classes=["a", "b", "c"], queries=10), steps=80, clip=1.0)
