"""Which boxes repeat a better one, and what is taken then."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou, nms

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.layers.distinct import CANDIDATES, best_distinct


def boxes(*lefts: float) -> torch.Tensor:
    """(1, S, 4) boxes of 0.2 x 0.2 in a row; a shift of x gives an IoU of (0.2 - x) / (0.2 + x)."""
    return torch.tensor([[[left + 0.1, 0.5, 0.2, 0.2] for left in lefts]])


def test_without_repetitions_it_is_the_order_of_scores() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
    assert best_distinct(scores, boxes(0.0, 0.2, 0.4, 0.6), count=3, overlap=0.8).tolist() == [[1, 3, 2]]


def test_the_worse_of_two_comes_after_all_others() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.5, 0.1]])
    placed = boxes(0.0, 0.01, 0.4, 0.6)  # IoU of the first two: 0.19 / 0.21 = 0.905
    assert best_distinct(scores, placed, count=3, overlap=0.9).tolist() == [[0, 2, 3]]
    assert best_distinct(scores, placed, count=4, overlap=0.9).tolist() == [[0, 2, 3, 1]]
    assert best_distinct(scores, placed, count=3, overlap=0.91).tolist() == [[0, 1, 2]]


def test_a_repetition_of_a_repetition_is_one_too() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
    placed = boxes(0.0, 0.02, 0.04, 0.6)  # neighbours 0.818, first and third 0.667
    assert best_distinct(scores, placed, count=2, overlap=0.8).tolist() == [[0, 3]]


def test_repetitions_fill_up_by_score_and_images_do_not_meet() -> None:
    scores = torch.tensor([[0.1, 0.3, 0.2], [0.1, 0.3, 0.2]])
    same, apart = boxes(0.5, 0.5, 0.5), boxes(0.0, 0.3, 0.6)
    found = best_distinct(scores, torch.cat([same, apart]), count=3, overlap=0.8)
    assert found.tolist() == [[1, 2, 0], [1, 2, 0]]
    assert best_distinct(scores, torch.cat([same, apart]), count=1, overlap=0.8).tolist() == [[1], [1]]


def test_only_the_best_four_times_as_many_are_looked_at() -> None:
    scores = torch.linspace(0.9, 0.1, 9)[None]
    placed = boxes(*[0.0] * 8, 0.6)  # eight times the same, then another
    assert CANDIDATES == 4
    assert best_distinct(scores, placed, count=2, overlap=0.8).tolist() == [[0, 1]]
    assert best_distinct(scores, placed, count=3, overlap=0.8).tolist() == [[0, 8, 1]]


def test_boxes_without_area_repeat_nothing() -> None:
    found = best_distinct(torch.tensor([[0.3, 0.2, 0.1]]), torch.zeros(1, 3, 4), count=3, overlap=0.5)
    assert found.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("overlap", [0.3, 0.6, 0.9])
def test_among_random_boxes_none_that_is_taken_overlaps_a_better_one(overlap: float) -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(2, 300, 2, generator=generator)
    placed = torch.cat([centers, 0.2 + 0.1 * torch.rand(2, 300, 2, generator=generator)], dim=-1)
    scores = torch.rand(2, 300, generator=generator)
    count = 50
    found = best_distinct(scores, placed, count=count, overlap=overlap)
    for image in range(2):
        corners = cxcywh_to_xyxy(placed[image])
        candidates = scores[image].topk(CANDIDATES * count).indices
        shares = box_iou(corners, corners)[candidates][:, candidates].triu(1)
        assert (shares - overlap).abs().min() > 1e-6  # else rounding would decide
        better = shares.amax(0) > overlap
        distinct, repeats = candidates[~better], candidates[better]
        assert found[image].tolist() == torch.cat([distinct, repeats])[:count].tolist()
        # Suppression one after the other keeps these and perhaps more.
        assert set(distinct.tolist()) <= set(nms(corners, scores[image], overlap).tolist())
