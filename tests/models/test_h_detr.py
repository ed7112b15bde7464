"""H-DETR: two kinds of queries that are apart, one of them in training only, learned content, and boxes that look forward twice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from models.by_heart import assert_learns_by_heart
from models.small_deformable_detr import CELLS, SMALL, batch, memory_of
from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.models import deformable_detr, h_detr
from detrkit.models.catalog import CATALOG, build, config_of, criterion_for
from detrkit.models.deformable_detr import ProposalQueries
from detrkit.models.detector import Detector
from detrkit.models.h_detr import Config, HybridQueries, MixedQueries
from detrkit.structures import Target
from detrkit.training.pieces import step_memory

OWN, MORE = 5, 12


def small(**changes: Any) -> Detector:
    """In float64 and training mode with frozen norms, and random parameters, since the box heads start at zero."""
    torch.manual_seed(0)
    settings = SMALL | {"queries": OWN, "one_to_many_queries": MORE, "repeats": 3} | changes
    model = build("h-deformable-detr-compact", classes=["a", "b", "c"], **settings)
    for part in (model.encoder, model.decoder, model.query_source, model.heads):
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.2)
    model.double().train()
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # its running averages would change from pass to pass
    return model


def source(kind: type[HybridQueries], *, own: int = 3, more: int = 4) -> HybridQueries:
    torch.manual_seed(0)
    queries = kind(count=own, one_to_many=more, repeats=2, width=8, outputs=3)
    for parameter in queries.parameters():
        nn.init.normal_(parameter, std=0.3)
    return queries.double()


def ancestor_of(queries: HybridQueries, count: int) -> ProposalQueries:
    """Deformable DETR's query source with the same weights."""
    ancestor = ProposalQueries(count=count, width=8, outputs=3).double()
    ancestor.load_state_dict(queries.state_dict(), strict=False)
    return ancestor


def some_targets() -> list[Target]:
    return [
        Target(torch.tensor([0, 1]), torch.rand(2, 4).double() * 0.4 + 0.2),
        Target(torch.tensor([1]), torch.rand(1, 4).double() * 0.4 + 0.2),
    ]


def test_the_defaults_are_the_papers() -> None:
    config, recipe = Config(), CATALOG["h-deformable-detr-r50"].recipe
    assert CATALOG["h-deformable-detr-r50"].config == config
    assert CATALOG["h-deformable-detr-r50-one-to-one"].config == dataclasses.replace(config, one_to_many_queries=0)
    assert (config.queries, config.one_to_many_queries, config.repeats) == (300, 1500, 6)
    assert (config.mixed_selection, config.look_forward_twice, config.dropout) == (True, True, 0.0)
    assert (config.class_count, config.width, config.attention_heads, config.hidden) == (91, 256, 8, 2048)
    assert (config.levels, config.points, config.encoder_layers, config.decoder_layers) == (4, 4, 6, 6)
    assert config.term_weights == {"class": 2.0, "l1": 5.0, "giou": 2.0}
    assert (recipe.learning_rate, recipe.backbone_learning_rate, recipe.weight_decay) == (2e-4, 2e-5, 1e-4)
    assert (recipe.epochs, recipe.drop_after * recipe.epochs, recipe.batch_size) == (12, 11, 16)
    assert (recipe.slow_parts, recipe.gradient_clip) == (("offsets", "reference_points"), 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"one_to_many_queries": -1}, "one_to_many_queries must be at least 0, not -1"),
        ({"repeats": 0}, "repeats must be at least 1, not 0"),
        ({"mixed_selection": 1}, "mixed_selection must be of type bool, not int (1)"),
        ({"width": 48}, "width 48 must be a multiple of 32 (groups of the neck's norms), at least 64, and a multiple of the 8 attention heads"),
    ],
)  # fmt: skip
def test_settings_that_no_model_can_have(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Config(**changes)
    assert str(caught.value) == message


def test_memory_is_estimated_with_all_queries_of_training() -> None:
    hybrid, baseline = Config(), Config(one_to_many_queries=0)
    assert (hybrid.training_queries, baseline.training_queries) == (1800, 300)
    assert step_memory(hybrid, 1, 800, 1333) - step_memory(baseline, 1, 800, 1333) == pytest.approx(
        1.3 * 6 * 1500 * (16 * 256 + 2048) * 4 / 1e9
    )


class TestQueries:
    @pytest.mark.parametrize("kind", [HybridQueries, MixedQueries])
    def test_the_next_best_proposals_become_one_to_many_queries(self, kind: type[HybridQueries]) -> None:
        queries_of, memory = source(kind), memory_of(2)
        queries, wanted = queries_of(memory), ancestor_of(queries_of, 7)(memory)
        assert queries.proposals is not None
        assert wanted.proposals is not None
        assert wanted.proposals.rows is not None
        torch.testing.assert_close(queries.references, wanted.references)
        torch.testing.assert_close(queries.position, wanted.position)
        assert torch.equal(queries.proposals.rows, wanted.proposals.rows[:, :3])
        (group,) = queries.training_groups
        assert (group.name, group.rows, group.objects, group.repeats) == ("one_to_many", 4, None, 2)
        kinds = torch.tensor([0] * 3 + [1] * 4)
        assert torch.equal(queries.mask, (kinds[:, None] == kinds)[None, None])
        content = queries_of.content.weight.expand(2, -1, -1) if kind is MixedQueries else wanted.content
        torch.testing.assert_close(queries.content, content)

    @pytest.mark.parametrize("kind", [HybridQueries, MixedQueries])
    def test_evaluation_makes_none(self, kind: type[HybridQueries]) -> None:
        queries_of, memory = source(kind).eval(), memory_of(2)
        queries, wanted = queries_of(memory), ancestor_of(queries_of, 3)(memory)
        assert queries.content.shape == (2, 3, 8)
        assert queries.training_groups == ()
        assert queries.mask is None
        torch.testing.assert_close(queries.references, wanted.references)
        torch.testing.assert_close(queries.position, wanted.position)
        if kind is MixedQueries:
            assert torch.equal(queries.content[1], queries_of.content.weight[:3])

    @pytest.mark.parametrize(("own", "rows"), [(CELLS - 2, (2,)), (CELLS, ()), (CELLS + 3, ())])
    def test_where_tokens_run_out_one_to_one_queries_come_first(self, own: int, rows: tuple[int, ...]) -> None:
        queries = source(MixedQueries, own=own, more=40)(memory_of(2))
        assert queries.content.shape[1] == CELLS
        assert tuple(group.rows for group in queries.training_groups) == rows

    def test_what_a_proposal_says_of_content_is_only_in_the_norms_statistics(self) -> None:
        queries_of = source(MixedQueries)
        queries = queries_of(memory_of(2))
        assert queries.position is not None
        (queries.position.square().sum() + queries.content.square().sum()).backward()
        for parameter in (queries_of.position_norm.weight, queries_of.position_norm.bias):
            assert parameter.grad is not None
            assert parameter.grad[:8].all()
            assert not parameter.grad[8:].any()
        assert queries_of.position_projection.bias.grad is not None
        assert queries_of.position_projection.bias.grad[8:].all()
        assert queries_of.content.weight.grad is not None
        torch.testing.assert_close(queries_of.content.weight.grad, 4 * queries_of.content.weight)  # of two images


class TestTwoKindsOfQueries:
    def test_do_not_see_each_other(self) -> None:
        """In the decoder: what one kind gives does not depend on what the other carries."""
        model = small()
        stages = model.stages(batch())
        for first, last in ((0, OWN), (OWN, OWN + MORE)):
            queries = dataclasses.replace(stages.queries, content=stages.queries.content.detach().requires_grad_())
            states = model.decoder(queries, stages.memory, model.heads).states
            (gradient,) = torch.autograd.grad(states[-1][:, first:last].square().sum(), queries.content)
            influence = gradient.abs().amax((0, 2)) > 0
            assert influence.tolist() == [first <= row < last for row in range(OWN + MORE)]

    def test_training_finds_what_evaluation_finds(self) -> None:
        model, images = small(), batch()
        output, alone = model(images), model.eval()(images)
        assert alone.training_groups == ()
        assert alone.logits.shape[2] == OWN
        torch.testing.assert_close(output.logits, alone.logits)
        torch.testing.assert_close(output.boxes_cxcywh, alone.boxes_cxcywh)
        (part,) = output.training_groups
        assert part.output.logits.shape[2] == MORE

    @pytest.mark.parametrize("counts", [(2, 1), (1, 0), (0, 0)])
    def test_have_losses_each(self, counts: tuple[int, int]) -> None:
        model = small()
        targets = [Target(each.labels[:count], each.boxes_cxcywh[:count]) for each, count in zip(some_targets(), counts, strict=True)]  # fmt: skip
        criterion, output = criterion_for(model), model(batch())
        losses = criterion(output, targets)
        layers = [f"layers.{layer}" for layer in range(3)]
        names = {name.rsplit(".", 1)[0] for name in losses.terms}
        assert names == {*layers, "proposals", *(f"one_to_many.{layer}" for layer in layers)}
        assert criterion.weights.keys() == losses.terms.keys()
        for layer in layers:
            for term in ("class", "l1", "giou"):
                assert criterion.weights[f"one_to_many.{layer}.{term}"] == criterion.weights[f"{layer}.{term}"]
        (part,) = output.training_groups
        repeated = [Target(each.labels.repeat(3), each.boxes_cxcywh.repeat(3, 1)) for each in targets]
        plain = dataclasses.replace(config_of(model), one_to_many_queries=0)
        alone = dataclasses.replace(part.output, training_groups=(), proposals=output.proposals)
        wanted = h_detr.criterion(plain)(alone, repeated).terms
        for layer in layers:
            for term in ("class", "l1", "giou"):
                torch.testing.assert_close(losses.terms[f"one_to_many.{layer}.{term}"], wanted[f"{layer}.{term}"])

    def test_every_object_is_learned_several_times(self) -> None:
        model, targets = small(), some_targets()
        matched = criterion_for(model).matched(model(batch()), targets)
        (matches,) = [pairs.matches for each, pairs in matched if each.source == "one_to_many"]
        for layer in range(3):
            objects = matches.objects[layer][matches.images[layer] == 0] % 2
            assert objects.bincount().tolist() == [3, 3]
            assert (matches.images[layer] == 1).sum() == 3

    def test_without_tokens_for_the_second_the_first_learns(self) -> None:
        model = small(queries=126, one_to_many_queries=8)  # the batch has 126 tokens
        output, targets = model(batch()), some_targets()
        assert output.training_groups == ()
        losses = criterion_for(model)(output, targets)
        assert not [name for name in losses.terms if name.startswith("one_to_many")]
        assert losses.total.isfinite()

    def test_a_model_may_do_without_the_second(self) -> None:
        model = small(one_to_many_queries=0)
        output, targets = model(batch()), some_targets()
        assert output.training_groups == ()
        assert not [name for name in criterion_for(model).weights if name.startswith("one_to_many")]
        assert criterion_for(model)(output, targets).total.isfinite()


class TestLookingForwardTwice:
    def taught(self, model: Detector, boxes: Tensor) -> list[bool]:
        """Which layers' box heads get a gradient."""
        model.zero_grad()
        boxes.square().sum().backward(retain_graph=True)
        return [bool(head.output.bias.grad is not None and head.output.bias.grad.any()) for head in model.heads.box_heads]  # fmt: skip

    def test_a_layers_boxes_teach_it_and_the_one_before(self) -> None:
        model = small()
        boxes = model(batch()).boxes_cxcywh
        assert [self.taught(model, boxes[layer]) for layer in range(3)] == [
            [True, False, False],
            [True, True, False],
            [False, True, True],
        ]

    def test_otherwise_only_itself_and_values_are_the_same(self) -> None:
        twice, once = small(), small(look_forward_twice=False)
        once.load_state_dict(twice.state_dict())
        images = batch()
        boxes = once(images).boxes_cxcywh
        torch.testing.assert_close(boxes, twice(images).boxes_cxcywh)
        assert [self.taught(once, boxes[layer]) for layer in range(3)] == [
            [True, False, False],
            [False, True, False],
            [False, False, True],
        ]


def test_without_tricks_it_is_two_stage_deformable_detr() -> None:
    settings = {"one_to_many_queries": 0, "mixed_selection": False, "look_forward_twice": False}
    model = small(**settings).eval()
    ancestor = build("deformable-detr-compact-two-stage", classes=["a", "b", "c"], **SMALL).double().eval()
    ancestor.load_state_dict(model.state_dict())
    images = batch()
    assert torch.equal(model(images).logits, ancestor(images).logits)
    config = config_of(model)
    assert h_detr.criterion(config).weights == deformable_detr.criterion(config_of(ancestor)).weights


def test_a_batch_is_learned_by_heart() -> None:
    model = build("h-deformable-detr-compact", classes=["a", "b", "c"], queries=5, one_to_many_queries=20, repeats=4)
    assert_learns_by_heart(model, steps=60)
