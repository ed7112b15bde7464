"""FCOS's assignment of cells to objects, and the restricted matching on top of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detrkit.boxes import generalized_iou_xyxy
from detrkit.matching.cells import (
    Cells,
    assign_cells,
    best_of_each,
    centerness_of,
    distances_to,
    generalized_iou_of_distances,
)
from detrkit.structures import Target

LEVELS = ((16, 16), (8, 8), (4, 4), (2, 2), (1, 1))
STRIDES = (8, 16, 32, 64, 128)
SIZE = torch.tensor([[128.0, 128.0]])


def cells() -> Cells:
    return Cells.of(LEVELS, STRIDES, like=torch.zeros(()))


def target(*boxes_xyxy: tuple[float, float, float, float]) -> Target:
    corners = torch.tensor(boxes_xyxy).reshape(-1, 4) / 128
    boxes = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    return Target(torch.zeros(len(corners), dtype=torch.int64), boxes)


def places(objects: Tensor, number: int) -> list[tuple[float, float, float]]:
    """Stride and centre of the cells of an object."""
    found = (objects == number).nonzero()[:, 0]
    return [(cells().strides[each].item(), *cells().centers[each].tolist()) for each in found]


def test_cells_lie_in_the_middle_of_their_stride() -> None:
    found = cells()
    assert len(found.centers) == 256 + 64 + 16 + 4 + 1
    assert found.centers[[0, 1, 16, 256, 340]].tolist() == [[4, 4], [12, 4], [4, 12], [8, 8], [64, 64]]
    assert found.levels.unique(return_counts=True)[1].tolist() == [256, 64, 16, 4, 1]


def test_an_object_has_the_cells_around_its_centre_in_the_level_of_its_size() -> None:
    found = assign_cells(cells(), [target((30, 30, 70, 70))], SIZE).objects[0]  # reaches less than 64: level 0
    assert sorted(places(found, 0)) == [
        (8.0, x, y) for x in (44.0, 52.0, 60.0) for y in (44.0, 52.0, 60.0) if x < 62 > y and x > 38 < y
    ]
    large = assign_cells(cells(), [target((0, 0, 128, 128))], SIZE).objects[0]
    strides = {stride for stride, *_ in places(large, 0)}
    assert strides == {16.0}  # none of level 0 lies so near to the middle that it reaches no further than 64
    far = assign_cells(cells(), [target((-300, 0, 428, 128))], SIZE).objects[0]
    assert {stride for stride, *_ in places(far, 0)} <= {64.0}


def test_the_smallest_of_several_objects_has_the_cell() -> None:
    found = assign_cells(cells(), [target((20, 20, 76, 76), (40, 40, 56, 56)), target()], SIZE.expand(2, -1))
    here = (cells().centers == torch.tensor([52.0, 52.0])).all(1).nonzero()[0]
    assert found.objects[0, here].tolist() == [1]
    assert (found.objects[1] == -1).all()
    assert (found.distances[1] == 1).all()
    assert found.distances[0, here].tolist() == [[1.5, 1.5, 0.5, 0.5]]
    assert found.centerness[0, here].item() == pytest.approx(1 / 3)


def test_centerness() -> None:
    distances = torch.tensor([[2.0, 3.0, 2.0, 3.0], [1.0, 2.0, 4.0, 3.0]])
    torch.testing.assert_close(centerness_of(distances), torch.tensor([1.0, math.sqrt(1 / 4 * 2 / 3)]))


def test_overlap_of_distances_is_that_of_boxes_with_one_more_unit() -> None:
    first, second = torch.rand(20, 4).double() + 0.1, torch.rand(20, 4).double() + 0.1
    boxes = [torch.cat([-each[:, :2], each[:, 2:]], dim=1) for each in (first, second)]
    assert torch.equal(distances_to(boxes[0], torch.zeros(20, 2)), first)
    scale = 1e6  # where one more unit does not matter
    wanted = generalized_iou_xyxy(*boxes)
    torch.testing.assert_close(generalized_iou_of_distances(first * scale, second * scale), wanted)
    one = torch.ones(1, 4)
    assert generalized_iou_of_distances(one, 2 * one).item() == pytest.approx(5 / 17)
    far = generalized_iou_of_distances(one, torch.tensor([[0.0, 0.0, 4.0, 1.0]]))
    assert far.item() == pytest.approx((1 + 1) / (4 + 4 - 1 + 1) - (10 - 7) / 10)


def test_the_best_of_each_group() -> None:
    groups, costs = torch.tensor([2, 0, 2, 0, 2]), torch.tensor([1.0, 5.0, -1.0, 5.0, -1.0])
    assert best_of_each(groups, costs, 4).tolist() == [False, True, True, False, False]
    assert best_of_each(groups[:0], costs[:0], 0).tolist() == []
