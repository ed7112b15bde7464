"""The set loss against one computed image by image, and its behaviour on empty, wrong and damaged batches."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from losses.predictions import CLASSES, CONFIG, LAYERS, QUERIES, corners, focal_loss_of, objects, prediction, shown
from torch import Tensor

from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.losses.boxes import giou_loss, l1_loss
from detrkit.losses.classification import focal_loss
from detrkit.losses.criterion import SetCriterion, focal_criterion, number_of_objects
from detrkit.losses.sets import AllProposals, ChosenProposals, KnownGroup, PredictionSet, RepeatedGroup
from detrkit.matching.costs import focal_class_cost, giou_cost, l1_cost, pad_targets
from detrkit.matching.hungarian import HungarianMatcher
from detrkit.models import detr
from detrkit.models.catalog import build, criterion_for
from detrkit.structures import GroupOutput, ImageBatch, Output, Proposals, QueryGroup, Target

SMALL = {"width": 64, "hidden": 64, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 2, "queries": 5}


def objects_of_one_class() -> Target:
    return Target(torch.tensor([1]), torch.tensor([[0.5, 0.4, 0.3, 0.2]], dtype=torch.float64))


def loss_by_hand(logits: Tensor, boxes: Tensor, targets: list[Target]) -> dict[str, Tensor]:
    """DETR's three terms for one layer: (B, Q, K) scores and (B, Q, 4) boxes, matched by trying every assignment."""
    labels = torch.full(logits.shape[:2], CLASSES)
    distance, overlap = boxes.new_zeros(()), boxes.new_zeros(())
    for image, target in enumerate(targets):
        giou = torchvision.ops.generalized_box_iou(corners(boxes[image]), corners(target.boxes_cxcywh))
        apart = (boxes[image, :, None] - target.boxes_cxcywh).abs().sum(-1)
        cost = -logits[image].softmax(-1)[:, target.labels] + 5 * apart - 2 * giou
        count = len(target.labels)
        best = min(
            itertools.permutations(range(QUERIES), count),
            key=lambda chosen, cost=cost: sum(cost[query, entry].item() for entry, query in enumerate(chosen)),
        )
        for entry, query in enumerate(best):
            labels[image, query] = target.labels[entry]
            distance = distance + apart[query, entry]
            overlap = overlap + 1 - giou[query, entry]
    divisor = max(1, sum(len(target.labels) for target in targets))
    weights = torch.tensor([1.0] * CLASSES + [0.1]).double()
    by_class = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights)
    return {"class": by_class, "l1": distance / divisor, "giou": overlap / divisor}


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0), (5, 4)], ids=str)
def test_terms_and_gradients_equal_those_written_out(counts: tuple[int, ...]) -> None:
    output, targets = prediction(len(counts)), [objects(count) for count in counts]
    losses = detr.criterion(CONFIG, None)(output, targets)
    assert set(losses.terms) == {
        f"layers.{layer}.{name}" for layer in range(LAYERS) for name in ("class", "l1", "giou")
    }
    wanted = {}
    for layer in range(LAYERS):
        for name, value in loss_by_hand(output.logits[layer], output.boxes_cxcywh[layer], targets).items():
            wanted[f"layers.{layer}.{name}"] = value
    for name, value in wanted.items():
        torch.testing.assert_close(losses.terms[name], value, msg=lambda text, name=name: f"{name}: {text}")

    factors = {"class": 1.0, "l1": 5.0, "giou": 2.0}
    total = torch.stack([factors[name.split(".")[-1]] * value for name, value in wanted.items()]).sum()
    torch.testing.assert_close(losses.total, total)
    inputs = (output.logits, output.boxes_cxcywh)
    found_gradients = torch.autograd.grad(losses.total, inputs)
    wanted_gradients = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(found_gradients, wanted_gradients)


def test_the_total_is_the_weighted_sum_of_the_terms() -> None:
    config = detr.Config(
        class_count=CLASSES, queries=QUERIES, decoder_layers=LAYERS, class_weight=0.5, l1_weight=3.0, giou_weight=7.0
    )
    criterion = detr.criterion(config, None)
    losses = criterion(prediction(2), [objects(2), objects(1)])
    assert criterion.weights == {
        f"layers.{layer}.{name}": weight
        for layer in range(LAYERS)
        for name, weight in {"class": 0.5, "l1": 3.0, "giou": 7.0}.items()
    }
    wanted = sum(criterion.weights[name] * value.item() for name, value in losses.terms.items())
    assert losses.total.item() == pytest.approx(wanted)
    assert losses.total.shape == ()
    assert all(term.shape == () and term.requires_grad for term in losses.terms.values())


def test_layers_together_give_what_each_gives_alone() -> None:
    output, targets = prediction(3), [objects(2), objects(0), objects(4)]
    together = detr.criterion(CONFIG, None)(output, targets)
    alone = detr.criterion(detr.Config(class_count=CLASSES, queries=QUERIES, decoder_layers=1), None)
    for layer in range(LAYERS):
        part = slice(layer, layer + 1)
        losses = alone(Output(output.logits[part], output.boxes_cxcywh[part]), targets)
        for name in ("class", "l1", "giou"):
            torch.testing.assert_close(losses.terms[f"layers.0.{name}"], together.terms[f"layers.{layer}.{name}"])


def test_more_objects_than_queries_are_divided_by_all_objects() -> None:
    output, target = prediction(1, layers=1), objects(8)
    criterion = detr.criterion(detr.Config(class_count=CLASSES, queries=QUERIES, decoder_layers=1), None)
    with pytest.warns(UserWarning, match="8 objects"):
        losses = criterion(output, [target])
    cost = (output.boxes_cxcywh[0, 0, :, None] - target.boxes_cxcywh).abs().sum(-1)
    matches = criterion.matcher(output, [target])
    wanted = cost[matches.queries[0], matches.objects[0]].sum() / 8
    torch.testing.assert_close(losses.terms["layers.0.l1"], wanted)
    assert losses.shown["matched class accuracy"].count == 5
    assert losses.shown["distance loss"].count == 5
    torch.testing.assert_close(losses.shown["distance loss"].sum, wanted.detach() * 8)


def test_what_is_shown_is_of_the_last_layer() -> None:
    boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1]])
    scores = torch.full((2, 1, 3, 4), -5.0)
    for query, label in ((0, 1), (1, 0), (2, 2)):
        scores[-1, 0, query, label] = 5.0
    target = Target(torch.tensor([1, 2]), boxes[:2])  # query 0 has the right class, query 1 another
    criterion = detr.criterion(detr.Config(class_count=3, decoder_layers=2, class_weight=0.01), None)
    places = torch.stack([boxes[[2, 1, 0]], boxes])[:, None]  # in the first layer, query 2 is where query 0 will be
    places[1, 0, 0, 0] += 0.03  # the only distance in the last layer
    losses = criterion(Output(scores, places), [target])
    assert list(losses.shown) == ["class loss", "distance loss", "overlap loss", "matched class accuracy"]
    found = shown(losses)
    assert found["class loss"] == (losses.terms["layers.1.class"].item(), 1)
    assert found["distance loss"] == (pytest.approx(0.03), 2)
    assert found["overlap loss"] == (pytest.approx(1 - 7 / 13), 2)
    assert found["matched class accuracy"] == (1, 2)
    assert [name for name, entry in losses.shown.items() if entry.percentage] == ["matched class accuracy"]
    assert not any(entry.sum.requires_grad for entry in losses.shown.values())


def test_focal_loss_fits_in_place_of_cross_entropy() -> None:
    matcher = HungarianMatcher({"class": (focal_class_cost, 2.0), "l1": (l1_cost, 5.0), "giou": (giou_cost, 2.0)})
    criterion = SetCriterion(
        matcher=matcher,
        terms={"class": focal_loss, "l1": l1_loss, "giou": giou_loss},
        class_count=CLASSES,
        term_weights={"class": 2.0, "l1": 5.0, "giou": 2.0},
        layers=1,
    )
    output, targets = prediction(2, layers=1, classes=CLASSES - 1), [objects(2), objects(0)]
    matches = matcher(output, targets)
    wanted = torch.zeros(2, QUERIES, CLASSES, dtype=torch.float64)
    for query, entry in zip(matches.queries[0].tolist(), matches.objects[0].tolist(), strict=True):
        wanted[0, query, targets[0].labels[entry]] = 1
    reference = torchvision.ops.sigmoid_focal_loss(output.logits[0], wanted, 0.25, 2.0, reduction="sum") / 2
    torch.testing.assert_close(criterion(output, targets).terms["layers.0.class"], reference)


class TestBatchesWithoutObjects:
    def test_box_losses_are_zero_and_every_parameter_has_a_finite_gradient(self) -> None:
        model = build("detr-compact", classes=["a", "b"], **SMALL)
        criterion = criterion_for(model)
        empty = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
        losses = criterion(model(ImageBatch(torch.randn(2, 3, 64, 64))), [empty, empty])
        for name, term in losses.terms.items():
            assert (term.item() > 0) == name.endswith(".class"), name
        assert {name: numbers for name, numbers in shown(losses).items() if name != "class loss"} == {
            "distance loss": (0, 0),
            "overlap loss": (0, 0),
            "matched class accuracy": (0, 0),
        }
        losses.total.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        assert model.heads.class_head.weight.grad.abs().sum() > 0
        assert not model.heads.box_head.layers[-1].weight.grad.any()

    def test_they_are_not_divided_by_zero(self) -> None:
        output, empty = prediction(2), objects(0)
        assert number_of_objects([empty, empty], output.boxes_cxcywh).item() == 0
        found = focal_loss_of(output, [empty, empty])
        background = output.logits.sigmoid() ** 2 * F.softplus(output.logits)
        torch.testing.assert_close(found, 0.75 * background[-1].sum())


def test_number_of_objects_is_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [objects(3), objects(2)]
    found = number_of_objects(targets, torch.zeros(1, dtype=torch.float64))
    assert (found.item(), found.dtype) == (5.0, torch.float64)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.add_(8))  # what the other three have
    assert number_of_objects(targets, torch.zeros(1)).item() == (5 + 8) / 4

    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count)
    assert number_of_objects([objects(1)], torch.zeros(1)).item() == 0.25
    output = prediction(1, layers=1, classes=CLASSES - 1)
    shared, target = focal_loss_of(output, [objects_of_one_class()]), objects_of_one_class()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    # Gradients are averaged over four processes, so the only object of all of them counts as one.
    torch.testing.assert_close(shared / 4, focal_loss_of(output, [target]))


class TestWhatIsRefused:
    def test_another_number_of_targets(self) -> None:
        with pytest.raises(
            ValueError, match=r"^the batch has 2 images but 3 targets were given: give one for each image$"
        ):
            detr.criterion(CONFIG, None)(prediction(2), [objects(1)] * 3)

    @pytest.mark.parametrize("label", [-1, CLASSES, 90])
    def test_a_label_that_is_no_output(self, label: int) -> None:
        targets = [objects(2), Target(torch.tensor([0, label]), torch.full((2, 4), 0.5))]
        with pytest.raises(ValueError, match=r"^target 1 has a label outside 0\.\.3: .*, not category ids$"):
            detr.criterion(CONFIG, None)(prediction(2), targets)

    def test_labels_and_boxes_of_different_number(self) -> None:
        target = Target(torch.tensor([0, 1]), torch.full((3, 4), 0.5))
        with pytest.raises(ValueError, match=r"^target 0 has 2 labels for 3 boxes$"):
            detr.criterion(CONFIG, None)(prediction(1), [target])

    def test_a_prediction_that_is_not_a_number(self) -> None:
        output = prediction(2)
        with torch.no_grad():
            output.logits[0, 1, 2] = math.nan
        with pytest.raises(
            NonFiniteError, match=r"image 1 .*the terms class, because the model's predictions"
        ) as caught:
            detr.criterion(CONFIG, None)(output, [objects(1), objects(1)])
        assert caught.value.image == 1

    @pytest.mark.parametrize("counts", [(1, 0), (0, 0)], ids=str)
    def test_also_in_an_image_without_objects(self, counts: tuple[int, ...]) -> None:
        output = prediction(2)
        with torch.no_grad():
            output.logits[0, 1, 2] = math.nan
        with pytest.raises(NonFiniteError, match="image 1") as caught:
            detr.criterion(CONFIG, None)(output, [objects(count) for count in counts])
        assert caught.value.image == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_give_a_float32_loss(dtype: torch.dtype) -> None:
    output, targets = prediction(2), [objects(3), objects(1)]
    halved = Output(output.logits.detach().to(dtype), output.boxes_cxcywh.detach().float())
    exact = Output(halved.logits.double(), halved.boxes_cxcywh.double())
    losses, wanted = detr.criterion(CONFIG, None)(halved, targets), detr.criterion(CONFIG, None)(exact, targets)
    assert losses.total.dtype == torch.float32
    torch.testing.assert_close(losses.total.double(), wanted.total, rtol=1e-5, atol=0)


class TestFocalCriterion:
    def test_costs_and_losses_have_weights_and_an_epsilon_of_their_own(self) -> None:
        criterion = focal_criterion(
            class_count=3,
            layers=1,
            cost_weights={"class": 2.0, "l1": 5.0, "giou": 2.0},
            loss_weights={"class": 1.0, "l1": 4.0, "giou": 3.0},
            giou_epsilon=0.01,
        )
        assert criterion.weights == {"layers.0.class": 1.0, "layers.0.l1": 4.0, "layers.0.giou": 3.0}
        assert [weight for _, weight in criterion.matcher.terms.values()] == [2.0, 5.0, 2.0]
        boxes = torch.tensor([[[[0.1, 0.1, 0.2, 0.2]]]])
        output, target = Output(torch.zeros(1, 1, 1, 3), boxes), Target(torch.tensor([0]), boxes[0, 0] + 0.1)
        # Corners (0, 0, 0.2, 0.2) and (0.05, 0.05, 0.35, 0.35): intersection 0.0225, union 0.1075, hull 0.1225.
        wanted = 0.0225 / (0.1075 + 0.01) - (0.1225 - 0.1075) / (0.1225 + 0.01)
        assert criterion(output, [target]).terms["layers.0.giou"].item() == pytest.approx(1 - wanted, rel=1e-5)
        cost = criterion.matcher.terms["giou"][0]
        assert cost(output, pad_targets([target], boxes)).item() == pytest.approx(-wanted, rel=1e-5)

    def test_the_no_object_label_may_lie_above_the_classes(self) -> None:
        weights = {"class": 1.0, "l1": 1.0, "giou": 1.0}
        numbers = {"layers": LAYERS, "cost_weights": weights, "loss_weights": weights}
        output, targets = prediction(1), [objects(2)]  # one output more than classes
        found = focal_criterion(class_count=CLASSES, no_object=CLASSES + 1, **numbers)(output, targets)
        wanted = focal_criterion(class_count=CLASSES + 1, **numbers)(output, targets)
        torch.testing.assert_close(found.total, wanted.total, rtol=0, atol=0)
        with pytest.raises(ValueError, match=r"^target 0 has a label outside 0\.\.3: "):
            focal_criterion(class_count=CLASSES, no_object=CLASSES + 1, **numbers)(
                output, [Target(torch.tensor([CLASSES]), torch.full((1, 4), 0.5))]
            )


class TestOutputsOfOtherModels:
    """A criterion refuses outputs that have more or less than it was made for."""

    def criterion(self, *sets: PredictionSet) -> SetCriterion:
        weights = {"class": 2.0, "l1": 5.0, "giou": 2.0}
        return focal_criterion(class_count=CLASSES, layers=2, cost_weights=weights, loss_weights=weights, sets=sets)

    def test_with_a_group_that_is_unknown(self) -> None:
        queries = prediction(1, layers=2, classes=CLASSES - 1)
        group = QueryGroup("noise", QUERIES, torch.zeros(1, QUERIES, dtype=torch.int64))
        output = dataclasses.replace(
            queries, training_groups=(GroupOutput(group, Output(queries.logits, queries.boxes_cxcywh)),)
        )
        with pytest.raises(
            ConfigurationError, match=r"^the output has 'noise' but the criterion was made for a model without it"
        ):
            self.criterion(KnownGroup("denoising"))(output, [objects(1)])

    def test_with_proposals_that_are_unknown(self) -> None:
        queries = prediction(1, layers=2, classes=CLASSES - 1)
        output = dataclasses.replace(queries, proposals=Proposals(all=queries.layers[0]))
        with pytest.raises(
            ConfigurationError, match=r"^the output has 'proposals' but the criterion was made for a model without it"
        ):
            self.criterion()(output, [objects(1)])

    @pytest.mark.parametrize(("kind", "which"), [(AllProposals, "all"), (ChosenProposals, "chosen")])
    @pytest.mark.parametrize("proposals", [None, Proposals()], ids=["none", "other"])
    def test_without_the_proposals_that_it_needs(
        self, kind: type[AllProposals] | type[ChosenProposals], which: str, proposals: Proposals | None
    ) -> None:
        output = dataclasses.replace(prediction(1, layers=2, classes=CLASSES - 1), proposals=proposals)
        with pytest.raises(ConfigurationError, match=rf"the output's `proposals.{which}` is missing"):
            self.criterion(kind())(output, [objects(1)])

    def test_of_another_number_of_layers(self) -> None:
        with pytest.raises(ConfigurationError, match=r"made for 2 decoder layers but the output has 3: "):
            self.criterion()(prediction(1, layers=3, classes=CLASSES - 1), [objects(1)])

    def test_with_a_group_of_the_other_kind(self) -> None:
        queries = prediction(1, layers=2, classes=CLASSES - 1)
        for kind, rows, advice in (
            (KnownGroup, None, "RepeatedGroup"),
            (RepeatedGroup, torch.zeros(1, QUERIES, dtype=torch.int64), "KnownGroup"),
        ):
            part = GroupOutput(QueryGroup("extra", QUERIES, rows), Output(queries.logits, queries.boxes_cxcywh))
            output = dataclasses.replace(queries, training_groups=(part,))
            with pytest.raises(ConfigurationError, match=rf"'extra' .*use {advice}$"):
                self.criterion(kind("extra"))(output, [objects(1)])

    def test_two_sets_of_one_name(self) -> None:
        with pytest.raises(ConfigurationError, match="two sets of the criterion have terms with the same name"):
            self.criterion(AllProposals(), ChosenProposals())
