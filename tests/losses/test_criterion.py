"""The set loss against one written out image by image, and its manners with empty, wrong and broken batches."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from detrkit.errors import NonFiniteError
from detrkit.losses.classification import focal_loss
from detrkit.losses.criterion import SetCriterion, number_of_objects
from detrkit.matching.costs import focal_class_cost, giou_cost, l1_cost
from detrkit.matching.hungarian import HungarianMatcher
from detrkit.models import deformable_detr, detr
from detrkit.models.catalog import build, criterion_for
from detrkit.structures import GroupOutput, ImageBatch, LayerOutput, Output, QueryGroup, Target

LAYERS, QUERIES, CLASSES = 3, 5, 4
CONFIG = detr.Config(classes=CLASSES, queries=QUERIES, decoder_layers=LAYERS)
SMALL = {"width": 64, "hidden": 64, "heads": 4, "encoder_layers": 1, "decoder_layers": 2, "queries": 5}


def prediction(images: int, *, layers: int = LAYERS, classes: int = CLASSES) -> Output:
    shape = (layers, images, QUERIES)
    logits = torch.randn(*shape, classes + 1, dtype=torch.float64, requires_grad=True)
    return Output(logits, (torch.rand(*shape, 4, dtype=torch.float64) * 0.5 + 0.2).requires_grad_())


def objects(count: int) -> Target:
    return Target(torch.randint(0, CLASSES, (count,)), torch.rand(count, 4, dtype=torch.float64) * 0.5 + 0.2)


def corners(boxes: Tensor) -> Tensor:
    return torchvision.ops.box_convert(boxes, "cxcywh", "xyxy")


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
    losses = detr.criterion(CONFIG)(output, targets)
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
        classes=CLASSES, queries=QUERIES, decoder_layers=LAYERS, class_weight=0.5, l1_weight=3.0, giou_weight=7.0
    )
    criterion = detr.criterion(config)
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
    together = detr.criterion(CONFIG)(output, targets)
    alone = detr.criterion(detr.Config(classes=CLASSES, queries=QUERIES, decoder_layers=1))
    for layer in range(LAYERS):
        part = slice(layer, layer + 1)
        losses = alone(Output(output.logits[part], output.boxes_cxcywh[part]), targets)
        for name in ("class", "l1", "giou"):
            torch.testing.assert_close(losses.terms[f"layers.0.{name}"], together.terms[f"layers.{layer}.{name}"])


def test_more_objects_than_queries_are_divided_by_all_objects() -> None:
    output, target = prediction(1, layers=1), objects(8)
    criterion = detr.criterion(detr.Config(classes=CLASSES, queries=QUERIES, decoder_layers=1))
    with pytest.warns(UserWarning, match="8 objects"):
        losses = criterion(output, [target])
    cost = (output.boxes_cxcywh[0, 0, :, None] - target.boxes_cxcywh).abs().sum(-1)
    matches = criterion.matcher(output, [target])
    wanted = cost[matches.queries[0], matches.objects[0]].sum() / 8
    torch.testing.assert_close(losses.terms["layers.0.l1"], wanted)
    assert losses.statistics["objects"] == 8
    assert losses.statistics["matched"] == 5


def test_statistics_are_of_the_last_layer() -> None:
    boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1]])
    scores = torch.full((2, 1, 3, 4), -5.0)
    for query, label in ((0, 1), (1, 0), (2, 2)):
        scores[-1, 0, query, label] = 5.0
    target = Target(torch.tensor([1, 2]), boxes[:2])  # query 0 has the right class, query 1 another
    criterion = detr.criterion(detr.Config(classes=3, decoder_layers=2, class_weight=0.01))
    places = torch.stack([boxes[[2, 1, 0]], boxes])[:, None]  # in the first layer, query 2 is where query 0 will be
    statistics = criterion(Output(scores, places), [target]).statistics
    assert {name: value.item() for name, value in statistics.items()} == {
        "objects": 2.0,
        "matched": 2.0,
        "correct": 1.0,
    }


def test_focal_loss_fits_in_place_of_cross_entropy() -> None:
    matcher = HungarianMatcher({"class": (focal_class_cost, 2.0), "l1": (l1_cost, 5.0), "giou": (giou_cost, 2.0)})
    criterion = SetCriterion(
        matcher=matcher,
        class_loss=focal_loss,
        no_object=CLASSES,
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


class TestProposals:
    """What an encoder proposes is matched to the same objects, taught as class 0, in one group of terms of its own."""

    CONFIG = deformable_detr.Config(classes=CLASSES, queries=QUERIES, decoder_layers=2, two_stage=True)

    def output(self, tokens: int = 9) -> Output:
        layers = prediction(2, layers=2, classes=CLASSES - 1)
        logits = torch.randn(2, tokens, CLASSES, dtype=torch.float64, requires_grad=True)
        boxes = (torch.rand(2, tokens, 4, dtype=torch.float64) * 0.5 + 0.2).requires_grad_()
        return Output(layers.logits, layers.boxes_cxcywh, LayerOutput(logits, boxes))

    def alone(self, output: Output, targets: list[Target]) -> dict[str, Tensor]:
        """The proposals as the only layer of a model of one stage."""
        assert output.proposals is not None
        config = dataclasses.replace(self.CONFIG, decoder_layers=1, two_stage=False)
        layer = Output(output.proposals.logits[None], output.proposals.boxes_cxcywh[None])
        return deformable_detr.criterion(config)(layer, targets).terms

    def test_every_object_counts_as_class_0(self) -> None:
        output, targets = self.output(), [objects(3), objects(1)]
        losses = deformable_detr.criterion(self.CONFIG)(output, targets)
        classless = [Target(torch.zeros_like(target.labels), target.boxes_cxcywh) for target in targets]
        wanted = self.alone(output, classless)
        assert not torch.equal(wanted["layers.0.class"], self.alone(output, targets)["layers.0.class"])
        for name in ("class", "l1", "giou"):
            torch.testing.assert_close(losses.terms[f"proposals.{name}"], wanted[f"layers.0.{name}"])
        layers = Output(output.logits, output.boxes_cxcywh)
        one_stage = deformable_detr.criterion(dataclasses.replace(self.CONFIG, two_stage=False))(layers, targets)
        assert losses.terms.keys() == one_stage.terms.keys() | {f"proposals.{name}" for name in ("class", "l1", "giou")}
        for name, value in one_stage.terms.items():
            torch.testing.assert_close(losses.terms[name], value)
        more = sum(
            weight * losses.terms[f"proposals.{name}"]
            for name, weight in {"class": 2.0, "l1": 5.0, "giou": 2.0}.items()
        )
        torch.testing.assert_close(losses.total, one_stage.total + more)

    def test_without_objects_only_scores_learn(self) -> None:
        output = self.output()
        assert output.proposals is not None
        losses = deformable_detr.criterion(self.CONFIG)(output, [objects(0), objects(0)])
        assert losses.terms["proposals.l1"].item() == losses.terms["proposals.giou"].item() == 0
        scores, boxes = torch.autograd.grad(losses.total, (output.proposals.logits, output.proposals.boxes_cxcywh))
        assert (scores > 0).all()
        assert not boxes.any()


class TestBatchesWithoutObjects:
    def test_box_losses_are_zero_and_every_parameter_has_a_finite_gradient(self) -> None:
        model = build("detr-compact", classes=["a", "b"], **SMALL)
        criterion = criterion_for(model)
        empty = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
        losses = criterion(model(ImageBatch(torch.randn(2, 3, 64, 64))), [empty, empty])
        for name, term in losses.terms.items():
            assert (term.item() > 0) == name.endswith(".class"), name
        assert {name: value.item() for name, value in losses.statistics.items()} == {
            "objects": 0.0,
            "matched": 0.0,
            "correct": 0.0,
        }
        losses.total.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        assert model.heads.classes.weight.grad.abs().sum() > 0
        assert not model.heads.boxes.layers[-1].weight.grad.any()

    def test_they_are_not_divided_by_zero(self) -> None:
        empty = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
        assert number_of_objects([empty, empty], torch.zeros(1)).item() == 1.0


def test_number_of_objects_is_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [objects(3), objects(2)]
    found = number_of_objects(targets, torch.zeros(1, dtype=torch.float64))
    assert (found.item(), found.dtype) == (5.0, torch.float64)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.add_(8))  # what the other three have
    assert number_of_objects(targets, torch.zeros(1)).item() == (5 + 8) / 4

    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count)
    assert number_of_objects([objects(1)], torch.zeros(1)).item() == 1.0  # a quarter of an object counts as one


class TestWhatIsRefused:
    def test_another_number_of_targets(self) -> None:
        with pytest.raises(
            ValueError, match=r"^the batch has 2 images but 3 targets were given: give one for each image$"
        ):
            detr.criterion(CONFIG)(prediction(2), [objects(1)] * 3)

    @pytest.mark.parametrize("label", [-1, CLASSES, 90])
    def test_a_label_that_is_no_output(self, label: int) -> None:
        targets = [objects(2), Target(torch.tensor([0, label]), torch.full((2, 4), 0.5))]
        with pytest.raises(ValueError, match=r"^target 1 has a label outside 0\.\.3: .*, not category ids$"):
            detr.criterion(CONFIG)(prediction(2), targets)

    def test_labels_and_boxes_of_different_number(self) -> None:
        target = Target(torch.tensor([0, 1]), torch.full((3, 4), 0.5))
        with pytest.raises(ValueError, match=r"^target 0 has 2 labels for 3 boxes$"):
            detr.criterion(CONFIG)(prediction(1), [target])

    def test_a_prediction_that_is_not_a_number(self) -> None:
        output = prediction(2)
        with torch.no_grad():
            output.logits[0, 1, 2] = math.nan
        with pytest.raises(
            NonFiniteError, match=r"image 1 .*the terms class, because the model's predictions"
        ) as caught:
            detr.criterion(CONFIG)(output, [objects(1), objects(1)])
        assert caught.value.image == 1

    @pytest.mark.parametrize("counts", [(1, 0), (0, 0)], ids=str)
    def test_also_in_an_image_without_objects(self, counts: tuple[int, ...]) -> None:
        output = prediction(2)
        with torch.no_grad():
            output.logits[0, 1, 2] = math.nan
        with pytest.raises(NonFiniteError, match="image 1") as caught:
            detr.criterion(CONFIG)(output, [objects(count) for count in counts])
        assert caught.value.image == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_give_a_float32_loss(dtype: torch.dtype) -> None:
    output, targets = prediction(2), [objects(3), objects(1)]
    halved = Output(output.logits.detach().to(dtype), output.boxes_cxcywh.detach().float())
    exact = Output(halved.logits.double(), halved.boxes_cxcywh.double())
    losses, wanted = detr.criterion(CONFIG)(halved, targets), detr.criterion(CONFIG)(exact, targets)
    assert losses.total.dtype == torch.float32
    torch.testing.assert_close(losses.total.double(), wanted.total, rtol=1e-5, atol=0)


class TestTrainingGroups:
    """Queries that know their object are not matched; their terms have the group's name, and repetitions are averaged."""

    CONFIG = deformable_detr.Config(classes=CLASSES, queries=QUERIES, decoder_layers=2, two_stage=True, denoising=4)

    def test_terms_by_hand(self) -> None:
        own, found = (prediction(2, layers=2, classes=CLASSES - 1) for _ in range(2))
        targets = [objects(2), objects(1)]
        group = QueryGroup("denoising", torch.tensor([[1, 0, -1, 0, 1], [0, -1, -1, 0, -1]]), repeats=2)
        part = GroupOutput(group, found.logits, found.boxes_cxcywh)
        criterion = deformable_detr.criterion(self.CONFIG)
        alone = criterion(own, targets)
        losses = criterion(dataclasses.replace(own, training_groups=(part,)), targets)
        answers = [(0, 0, 1), (0, 1, 0), (0, 3, 0), (0, 4, 1), (1, 0, 0), (1, 3, 0)]  # image, query, object
        total = alone.total
        for layer in range(2):
            wanted = torch.zeros(2, QUERIES, CLASSES, dtype=torch.float64)
            distance = overlap = torch.zeros((), dtype=torch.float64)
            for image, query, entry in answers:
                box, truth = found.boxes_cxcywh[layer, image, query], targets[image].boxes_cxcywh[entry]
                wanted[image, query, targets[image].labels[entry]] = 1
                distance = distance + (box - truth).abs().sum()
                overlap = overlap + torchvision.ops.generalized_box_iou_loss(corners(box), corners(truth))
            focal = torchvision.ops.sigmoid_focal_loss(found.logits[layer], wanted, reduction="sum")
            for name, value, weight in (("class", focal, 2), ("l1", distance, 5), ("giou", overlap, 2)):
                value = value / (3 * 2)  # three objects, each twice
                torch.testing.assert_close(
                    losses.terms[f"denoising.layers.{layer}.{name}"], value, rtol=1e-6, atol=1e-9
                )
                total = total + weight * value
        torch.testing.assert_close(losses.total, total, rtol=1e-6, atol=1e-9)
        assert losses.statistics == alone.statistics

    def test_without_objects_all_of_it_is_background(self) -> None:
        own, found = (prediction(1, layers=2, classes=CLASSES - 1) for _ in range(2))
        group = QueryGroup("denoising", torch.full((1, QUERIES), -1), repeats=1)
        output = dataclasses.replace(own, training_groups=(GroupOutput(group, found.logits, found.boxes_cxcywh),))
        terms = deformable_detr.criterion(self.CONFIG)(output, [objects(0)]).terms
        assert terms["denoising.layers.1.l1"] == terms["denoising.layers.1.giou"] == 0
        assert terms["denoising.layers.1.class"] > 0

    def test_a_model_learns_from_them(self) -> None:
        model = build("deformable-detr-compact-two-stage", classes=["a", "b", "c"], denoising=6, **SMALL).train()
        targets = [Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.3, 0.4]]))]
        losses = criterion_for(model)(model(ImageBatch(torch.rand(1, 3, 64, 64)), targets), targets)
        groups = [name for name in losses.terms if name.startswith("denoising.")]
        assert groups == [f"denoising.layers.{layer}.{name}" for name in ("class", "l1", "giou") for layer in range(2)]
        sum(losses.terms[name] for name in groups).backward()
        codes = model.query_source.denoising.embedding.weight.grad
        assert codes.abs().sum(1).gt(0)[1]
