"""Every cost term against a loop over queries and objects."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

from detrkit.matching.costs import (
    PaddedTargets,
    focal_class_cost,
    giou_cost,
    l1_cost,
    pad_targets,
    softmax_class_cost,
)
from detrkit.structures import Output, Target

LAYERS, IMAGES, QUERIES, OUTPUTS = 2, 3, 4, 5


def prediction(dtype: torch.dtype = torch.float64) -> Output:
    shape = (LAYERS, IMAGES, QUERIES)
    return Output(torch.randn(*shape, OUTPUTS, dtype=dtype), torch.rand(*shape, 4, dtype=torch.float64) * 0.5 + 0.2)


def objects() -> list[Target]:
    """Two objects, none, and three."""
    return [Target(torch.randint(0, OUTPUTS - 1, (count,)), torch.rand(count, 4) * 0.5 + 0.2) for count in (2, 0, 3)]


def test_targets_are_padded_to_the_fullest_image() -> None:
    targets = objects()
    padded = pad_targets(targets, torch.zeros(1, dtype=torch.float64))
    assert padded.counts == (2, 0, 3)
    assert padded.labels.shape == (3, 3)
    assert padded.boxes_cxcywh.dtype == torch.float64
    for image, target in enumerate(targets):
        count = len(target.labels)
        assert torch.equal(padded.labels[image, :count], target.labels)
        assert torch.equal(padded.boxes_cxcywh[image, :count], target.boxes_cxcywh.double())
        assert (padded.boxes_cxcywh[image, count:] == 0.5).all()


def test_a_batch_without_objects_has_no_columns() -> None:
    empty = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    padded = pad_targets([empty, empty], torch.zeros(1))
    assert padded.labels.shape == (2, 0)
    assert padded.boxes_cxcywh.shape == (2, 0, 4)
    output = Output(torch.randn(LAYERS, 2, QUERIES, OUTPUTS), torch.rand(LAYERS, 2, QUERIES, 4))
    for term in (softmax_class_cost, focal_class_cost, l1_cost, giou_cost):
        assert term(output, padded).shape == (LAYERS, 2, QUERIES, 0)


def softmax_by_hand(logits: Tensor, label: int) -> float:
    return -math.exp(logits[label]) / sum(math.exp(value) for value in logits.tolist())


def focal_by_hand(logits: Tensor, label: int) -> float:
    probability = 1 / (1 + math.exp(-logits[label]))
    as_object = -0.25 * (1 - probability) ** 2 * math.log(probability + 1e-8)
    as_background = -0.75 * probability**2 * math.log(1 - probability + 1e-8)
    return as_object - as_background


@pytest.mark.parametrize(
    ("term", "by_hand"), [(softmax_class_cost, softmax_by_hand), (focal_class_cost, focal_by_hand)]
)
def test_class_costs(term: Callable[[Output, PaddedTargets], Tensor], by_hand: Callable[[Tensor, int], float]) -> None:
    output, targets = prediction(), objects()
    found = term(output, pad_targets(targets, output.boxes_cxcywh))
    assert found.shape == (LAYERS, IMAGES, QUERIES, 3)
    for layer in range(LAYERS):
        for image, target in enumerate(targets):
            for query in range(QUERIES):
                for entry, label in enumerate(target.labels.tolist()):
                    wanted = by_hand(output.logits[layer, image, query], label)
                    assert found[layer, image, query, entry].item() == pytest.approx(wanted, rel=1e-9)


def test_box_costs() -> None:
    output, targets = prediction(), objects()
    padded = pad_targets(targets, output.boxes_cxcywh)
    distance, overlap = l1_cost(output, padded), giou_cost(output, padded)
    corners = torchvision.ops.box_convert(output.boxes_cxcywh, "cxcywh", "xyxy")
    for layer in range(LAYERS):
        for image, target in enumerate(targets):
            wanted_boxes, count = target.boxes_cxcywh.double(), len(target.labels)
            wanted = torch.cdist(output.boxes_cxcywh[layer, image], wanted_boxes, p=1)
            torch.testing.assert_close(distance[layer, image, :, :count], wanted)
            wanted_corners = torchvision.ops.box_convert(wanted_boxes, "cxcywh", "xyxy")
            wanted = -torchvision.ops.generalized_box_iou(corners[layer, image], wanted_corners)
            torch.testing.assert_close(overlap[layer, image, :, :count], wanted)


def test_costs_are_at_least_float32() -> None:
    output = prediction(torch.float16)
    padded = pad_targets(objects(), output.boxes_cxcywh)
    for term in (softmax_class_cost, focal_class_cost):
        found = term(output, padded)
        assert found.dtype == torch.float32
        exact = term(Output(output.logits.double(), output.boxes_cxcywh), padded)
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)


def test_sure_scores_keep_a_finite_focal_cost() -> None:
    output = Output(torch.tensor([[[[200.0, -200.0]]]]), torch.full((1, 1, 1, 4), 0.5))
    for label, wanted in ((0, 0.75 * math.log(1e-8)), (1, -0.25 * math.log(1e-8))):
        padded = pad_targets([Target(torch.tensor([label]), torch.full((1, 4), 0.5))], output.boxes_cxcywh)
        assert focal_class_cost(output, padded).item() == pytest.approx(wanted, rel=1e-5)


def test_giou_cost_with_an_epsilon_by_hand() -> None:
    """Corners (0, 0, 2, 2) and (1, 1, 3, 3): intersection 1, union 7, hull 9; an epsilon of 1 is added to the last two as divisors."""
    output = Output(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 1.0, 2.0, 2.0]]]]))
    padded = pad_targets([Target(torch.tensor([0]), torch.tensor([[2.0, 2.0, 2.0, 2.0]]))], output.boxes_cxcywh)
    assert giou_cost(output, padded).item() == pytest.approx(-(1 / 7 - 2 / 9), rel=1e-6)
    assert giou_cost(output, padded, epsilon=1.0).item() == pytest.approx(-(1 / 8 - 2 / 10), rel=1e-6)


@pytest.mark.parametrize("term", [softmax_class_cost, focal_class_cost])
def test_labels_without_an_output_do_not_end_the_process(term: Callable[[Output, PaddedTargets], Tensor]) -> None:
    """The criterion names them afterwards; on a GPU the process would have crashed before."""
    output = prediction()
    wrong, nearest = (
        [Target(torch.tensor(labels), torch.full((2, 4), 0.5))] * IMAGES for labels in ([-3, 99], [0, OUTPUTS - 1])
    )
    found, wanted = (term(output, pad_targets(each, output.boxes_cxcywh)) for each in (wrong, nearest))
    assert torch.equal(found, wanted)
