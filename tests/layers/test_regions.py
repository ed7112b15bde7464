"""What is cut out of an image: boxes whose cells coincide with those of the map, and boxes that no image has."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.layers.regions import regions_of

HEIGHT, WIDTH = (
    8,
    16,
)  # powers of two: a box that is wider than seven cells by rounding alone is looked at in twice as many places
WHOLE = torch.ones(1, 2)


def image_of(batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, HEIGHT, WIDTH, dtype=torch.float64)


def box_of(rows: tuple[int, int], columns: tuple[int, int], height: float = HEIGHT, width: float = WIDTH) -> Tensor:
    """The cxcywh box of these cells, first and behind the last, of an image with so many."""
    return torch.tensor(
        [sum(columns) / 2 / width, sum(rows) / 2 / height, (columns[1] - columns[0]) / width, (rows[1] - rows[0]) / height],
        dtype=torch.float64,
    )  # fmt: skip


def cut_out(image: Tensor, boxes: Tensor, ratios: Tensor, *, cells: int) -> Tensor:
    """(B · Q, D, cells, cells)."""
    return regions_of(boxes, ratios, size=(image.shape[2], image.shape[3]), cells=cells).cut_out(image).flatten(0, 1)


@pytest.mark.parametrize("size", [(5, 7), (8, 16), (25, 42), (60, 33)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchvisions_operator_gives_the_same(dtype: torch.dtype, size: tuple[int, int]) -> None:
    """Values and gradients, of boxes of all sizes, many of which reach beyond the image."""
    image = torch.randn(2, 3, *size, dtype=dtype, requires_grad=True)
    boxes = (2 * torch.randn(2, 100, 4, dtype=dtype)).sigmoid()
    ratios = torch.tensor([[1.0, 1.0], [0.8, 0.6]])
    pixels = (ratios * torch.tensor([size[1], size[0]])).repeat(1, 2)[:, None].to(dtype)
    rows = torch.arange(2, dtype=dtype)[:, None, None].expand(-1, 100, 1)
    corners = torch.cat([rows, cxcywh_to_xyxy(boxes) * pixels], dim=-1).flatten(0, 1)
    wanted = roi_align(image, corners, (7, 7), sampling_ratio=-1, aligned=True)
    found = cut_out(image, boxes, ratios, cells=7)
    torch.testing.assert_close(found, wanted)
    share = torch.randn_like(wanted)
    gradients = [torch.autograd.grad(values, image, share)[0] for values in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_points_are_looked_up_between_the_cells() -> None:
    """As by interpolation in what is cut out, also beyond the outer cells' middles, where it fades out."""
    image = torch.randn(2, 3, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    boxes, points = torch.rand(2, 20, 4).double(), (2 * torch.rand(2, 20, 5, 2).double() - 1).requires_grad_()
    points.data[:, :2] = 0.0  # the middle of a cell
    points.data[:, 2] = 1.0
    regions = regions_of(boxes, WHOLE.expand(2, -1), size=(HEIGHT, WIDTH), cells=7)
    cells = regions.cut_out(image).flatten(0, 1)
    wanted = F.grid_sample(cells, points.flatten(0, 1)[:, None], align_corners=False)[:, :, 0].mT.unflatten(0, (2, 20))
    found = regions.sample(image.flatten(2).mT, points)
    torch.testing.assert_close(found, wanted)
    share = torch.randn_like(wanted)
    for one, other in zip(
        *(torch.autograd.grad(each, [image, points], share) for each in (found, wanted)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_cells_that_coincide_with_the_maps_are_the_maps() -> None:
    image = image_of()
    found = cut_out(image, box_of((1, 8), (4, 11))[None, None], WHOLE, cells=7)
    torch.testing.assert_close(found, image[:, :, 1:8, 4:11])


def test_a_cell_of_two_by_three_is_their_mean() -> None:
    image = image_of()
    found = cut_out(image, box_of((0, 4), (2, 8))[None, None], WHOLE, cells=2)
    for row in range(2):
        for column in range(2):
            cells = image[0, :, 2 * row : 2 * row + 2, 2 + 3 * column : 5 + 3 * column]
            torch.testing.assert_close(found[0, :, row, column], cells.mean((1, 2)))


def test_boxes_are_fractions_of_the_image_without_its_padding() -> None:
    image, ratios = image_of(2), torch.tensor([[1.0, 1.0], [0.5, 1.0]])  # the second has 8 columns
    boxes = torch.stack([box_of((0, 7), (0, 7)), box_of((1, 8), (1, 8), width=8)])[:, None]
    found = cut_out(image, boxes, ratios, cells=7)
    torch.testing.assert_close(found[0], image[0, :, :7, :7], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[1], image[1, :, 1:8, 1:8], atol=1e-6, rtol=1e-6)


def test_boxes_come_image_by_image() -> None:
    image = image_of(2)
    boxes = torch.stack([box_of((row, row + 3), (row, row + 3)) for row in range(4)])
    found = cut_out(image, torch.stack([boxes, boxes.flip(0)]), WHOLE.expand(2, -1), cells=3)
    for number in range(8):
        row = number if number < 4 else 7 - number
        torch.testing.assert_close(found[number], image[number // 4, :, row : row + 3, row : row + 3])


def test_beyond_the_image_a_box_sees_its_padding_and_behind_the_map_nothing() -> None:
    image, ratios = image_of(), torch.tensor([[0.5, 1.0]])  # 8 columns
    box = box_of((5, 12), (3, 10), width=8)
    found = cut_out(image, box[None, None], ratios, cells=7)[0]
    torch.testing.assert_close(found[:, :3], image[0, :, 5:, 3:10])
    assert not found[:, 4:].any()


def test_gradients_reach_the_image() -> None:
    image = image_of().requires_grad_()
    cut_out(image, box_of((1, 8), (4, 11))[None, None], WHOLE, cells=7).sum().backward()
    wanted = torch.zeros(HEIGHT, WIDTH, dtype=torch.float64)
    wanted[1:8, 4:11] = 1
    torch.testing.assert_close(image.grad, wanted.expand(1, 3, -1, -1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_cut_out_in_float32(dtype: torch.dtype) -> None:
    image, box = image_of().to(dtype), box_of((1, 8), (4, 11))[None, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        regions = regions_of(box.float(), WHOLE, size=(HEIGHT, WIDTH), cells=7)
        found = regions.cut_out(image)[0]
        middle = regions.sample(image.flatten(2).mT, torch.zeros(1, 1, 1, 2))
    assert found.dtype == middle.dtype == torch.float32
    torch.testing.assert_close(middle[0, 0, 0], found[0, :, 3, 3])
    torch.testing.assert_close(found, image[:, :, 1:8, 4:11].float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "box",
    [
        [torch.nan] * 4,
        [0.5, 0.5, torch.nan, 0.5],
        [0.5, 0.5, torch.inf, torch.inf],
        [-torch.inf, 0.5, 0.1, 0.1],
        [0.5, 0.5, -0.3, -0.3],
        [0.5, 0.5, 0.0, 0.0],
        [0.5, 0.5, 1e30, 1e30],
        [1e30, -1e30, 0.1, 0.1],
        [-3.0, 7.0, 0.1, 0.1],
        [0.5, 0.5, 1e4, 1e4],
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_boxes_that_no_image_has_end_in_finite_numbers(dtype: torch.dtype, box: list[float]) -> None:
    """What damaged weights give is found by the boxes themselves."""
    boxes = torch.tensor([[box, box_of((1, 8), (4, 11)).tolist()]], dtype=dtype)
    image = image_of().to(dtype)
    found = cut_out(image, boxes, WHOLE, cells=7)
    assert found.isfinite().all()
    torch.testing.assert_close(found[1:], image[:, :, 1:8, 4:11], atol=1e-5, rtol=1e-5)
