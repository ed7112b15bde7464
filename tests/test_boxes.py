"""Box arithmetic compared with numbers computed by hand and with torchvision."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor

from detrkit import boxes

# Two boxes of one image in every format: 2 x 4 at (1, 2), and 3 x 1 at (10, 20).
XYXY = torch.tensor([[1.0, 2.0, 3.0, 6.0], [10.0, 20.0, 13.0, 21.0]])
XYWH = torch.tensor([[1.0, 2.0, 2.0, 4.0], [10.0, 20.0, 3.0, 1.0]])
CXCYWH = torch.tensor([[2.0, 4.0, 2.0, 4.0], [11.5, 20.5, 3.0, 1.0]])


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, dtype=torch.float64, generator=generator)
    size = torch.rand(count, 2, dtype=torch.float64, generator=generator) * 0.5 + 0.01
    return torch.cat([low, low + size], dim=-1)


@pytest.mark.parametrize(
    ("convert", "given", "expected"),
    [
        (boxes.cxcywh_to_xyxy, CXCYWH, XYXY),
        (boxes.xyxy_to_cxcywh, XYXY, CXCYWH),
        (boxes.xywh_to_xyxy, XYWH, XYXY),
        (boxes.xyxy_to_xywh, XYXY, XYWH),
    ],
)
def test_formats(convert: object, given: Tensor, expected: Tensor) -> None:
    assert callable(convert)
    assert torch.equal(convert(given), expected)
    assert torch.equal(convert(given.expand(3, 5, 2, 4)), expected.expand(3, 5, 2, 4))
    assert convert(torch.zeros(0, 4)).shape == (0, 4)


def test_area() -> None:
    assert boxes.area_xyxy(XYXY).tolist() == [8.0, 3.0]


@pytest.mark.parametrize(
    ("second", "iou", "union", "giou"),
    [
        ((0, 0, 2, 2), 1.0, 4.0, 1.0),  # the same box
        ((1, 1, 3, 3), 1 / 7, 7.0, 1 / 7 - 2 / 9),  # overlap at a corner; the hull is 3 x 3
        ((0, 0, 1, 1), 1 / 4, 4.0, 1 / 4),  # inside: the hull is the first box
        ((2, 0, 4, 2), 0.0, 8.0, 0.0),  # side by side: the hull is the union
        ((4, 0, 6, 2), 0.0, 8.0, -4 / 12),  # a gap of the same size
        ((4, 4, 6, 6), 0.0, 8.0, -28 / 36),  # across the corner
        ((1, 1, 1, 1), 0.0, 4.0, 0.0),  # a point inside
    ],
)
def test_overlap_by_hand(second: tuple[float, ...], iou: float, union: float, giou: float) -> None:
    one, other = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor(second, dtype=torch.float32)
    for first, last in ((one, other), (other, one)):
        actual_iou, actual_union = boxes.iou_and_union_xyxy(first, last)
        assert actual_iou.item() == pytest.approx(iou, abs=1e-7)
        assert actual_union.item() == pytest.approx(union)
        assert boxes.generalized_iou_xyxy(first, last).item() == pytest.approx(giou, abs=1e-7)


def test_all_pairs_equal_torchvision() -> None:
    first, second = random_boxes(17, seed=1), random_boxes(23, seed=2)
    iou, _ = boxes.iou_and_union_xyxy(first[:, None], second[None])
    torch.testing.assert_close(iou, torchvision.ops.box_iou(first, second))
    giou = boxes.generalized_iou_xyxy(first[:, None], second[None])
    torch.testing.assert_close(giou, torchvision.ops.generalized_box_iou(first, second))


def test_pairs_one_by_one_equal_the_diagonal_of_all_pairs() -> None:
    first, second = random_boxes(9, seed=3), random_boxes(9, seed=4)
    every_pair = boxes.generalized_iou_xyxy(first[:, None], second[None])
    torch.testing.assert_close(boxes.generalized_iou_xyxy(first, second), every_pair.diagonal())


def test_epsilon_is_added_to_the_divisors() -> None:
    first, second = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 3.0])
    iou, union = boxes.iou_and_union_xyxy(first, second, epsilon=1.0)
    assert iou.item() == pytest.approx(1 / 8)
    assert union.item() == 7.0
    assert boxes.generalized_iou_xyxy(first, second, epsilon=1.0).item() == pytest.approx(1 / 8 - 2 / 10)


def test_two_points_have_an_overlap_only_with_an_epsilon() -> None:
    point = torch.tensor([0.5, 0.5, 0.5, 0.5])
    assert boxes.iou_and_union_xyxy(point, point)[0].isnan()
    assert boxes.generalized_iou_xyxy(point, point, epsilon=1e-6).item() == 0.0


def test_giou_of_separate_boxes_pulls_them_together() -> None:
    moving = torch.tensor([4.0, 0.0, 6.0, 2.0], requires_grad=True)
    boxes.generalized_iou_xyxy(moving, torch.tensor([0.0, 0.0, 2.0, 2.0])).backward()
    assert moving.grad is not None
    # GIoU = 8 / hull - 1 with hull = 2 · right edge; the left edge matters through the area: d/dx1 = -2 / hull.
    torch.testing.assert_close(moving.grad[[0, 2]], torch.tensor([-2 / 12, 2 / 12 - 8 * 2 / 144]))
