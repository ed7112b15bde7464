"""SAM-DETR's aligner: what it takes from a box that lies on whole cells of a map, and where gradients go."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from models.test_sam_detr import code_of, gradient
from torch import Tensor, nn

from detrkit.layers.regions import regions_of
from detrkit.models.sam_detr import SemanticsAligner
from detrkit.structures import Memory

HEIGHT, COLUMNS = 8, 16  # of the map that the aligner looks at
BOX = torch.tensor([7.5 / 16, 4.5 / 8, 7 / 16, 7 / 8], dtype=torch.float64)  # rows 1 to 7, columns 4 to 10


def aligner(*, gaussian: bool = False) -> SemanticsAligner:
    return SemanticsAligner(width=8, attention_heads=2, gaussian=gaussian).double()


def memory_of(image: Tensor, ratios: Tensor) -> Memory:
    """The map (B, D, h, w) as the only level of a memory, of which so much of the width and height is no padding."""
    tokens = image.flatten(2).mT
    whole = Memory.of(tokens, None, None, (image.shape[2:],), image_sizes=torch.ones(len(image), 2))
    return replace(whole, valid_sizes=ratios[:, None] * whole.sizes)


def test_zero_is_the_middle_of_the_box() -> None:
    module = aligner()
    for value in module.points.output.parameters():
        nn.init.zeros_(value)
    content, image = torch.randn(1, 1, 8).double(), torch.randn(1, 8, HEIGHT, COLUMNS).double()
    found = module(content, BOX[None, None], memory_of(image, torch.ones(1, 2)))
    torch.testing.assert_close(found.points, BOX[:2].expand(1, 1, 2, 2))
    gate = module.content_gate(content).sigmoid().view(1, 1, 2, 8)
    torch.testing.assert_close(found.content, gate * image[0, :, 4, 7])
    gate = module.position_gate(content).sigmoid().view(1, 1, 2, 8)
    torch.testing.assert_close(found.position, gate * code_of(BOX[:2], 8), rtol=1e-5, atol=1e-5)
    assert found.scales is None


def test_each_head_takes_the_cell_at_its_own_point() -> None:
    """Cells of the box are numbered from 0 to 6; their middles lie at (2 i + 1) / 7 - 1 in [-1, 1]."""
    module, cells = aligner(), ((5, 1), (0, 6))  # column and row of each head
    nn.init.zeros_(module.points.output.weight)
    places = torch.tensor([[(2 * cell + 1) / 7 - 1 for cell in each] for each in cells], dtype=torch.float64)
    module.points.output.bias.data.copy_(places.atanh().flatten())
    for gate in (module.content_gate, module.position_gate):
        nn.init.constant_(gate.bias, 100.0)  # open
    image = torch.randn(1, 8, HEIGHT, COLUMNS).double()
    found = module(torch.zeros(1, 1, 8).double(), BOX[None, None], memory_of(image, torch.ones(1, 2)))
    for head, (column, row) in enumerate(cells):
        torch.testing.assert_close(found.content[0, 0, head], image[0, :, 1 + row, 4 + column])
        point = torch.tensor([(4 + column + 0.5) / COLUMNS, (1 + row + 0.5) / HEIGHT]).double()
        torch.testing.assert_close(found.points[0, 0, head], point)
        torch.testing.assert_close(found.position[0, 0, head], code_of(point, 8), rtol=1e-5, atol=1e-5)


def test_points_are_fractions_of_the_image_without_its_padding() -> None:
    module = aligner()
    for value in module.points.output.parameters():
        nn.init.zeros_(value)
    nn.init.constant_(module.content_gate.bias, 100.0)
    nn.init.zeros_(module.content_gate.weight)
    image = torch.randn(1, 8, HEIGHT, COLUMNS).double()
    box = torch.tensor([7.5 / 8, 4.5 / 8, 7 / 8, 7 / 8]).double()  # the same cells of an image of 8 columns
    found = module(torch.zeros(1, 1, 8).double(), box[None, None], memory_of(image, torch.tensor([[0.5, 1.0]])))
    torch.testing.assert_close(found.points[0, 0, 0], box[:2])
    torch.testing.assert_close(found.content[0, 0], image[0, :, 4, 7].expand(2, -1))


@pytest.mark.parametrize("gaussian", [False, True])
def test_numbers_come_from_all_that_lies_in_the_box(gaussian: bool) -> None:
    module = aligner(gaussian=gaussian)
    content, image = torch.randn(2, 3, 8).double(), torch.randn(2, 8, HEIGHT, COLUMNS).double()
    boxes, ratios = torch.rand(2, 3, 4).double(), torch.tensor([[1.0, 1.0], [0.5, 0.75]])
    found = module(content, boxes, memory_of(image, ratios))
    regions = regions_of(boxes, ratios, size=(HEIGHT, COLUMNS), cells=7).cut_out(image)
    for index, query in itertools.product(range(2), range(3)):
        values = F.conv2d(regions[index, query][None], module.squeeze.weight, module.squeeze.bias).clamp(min=0)
        numbers = module.points(values.flatten())
        places = numbers[:4].tanh().view(2, 2)
        box = boxes[index, query]
        torch.testing.assert_close(found.points[index, query], box[:2] + places * box[2:] / 2)
        if gaussian:
            assert found.scales is not None
            torch.testing.assert_close(found.scales[index, query], numbers[4:].view(2, 2))
        sampled = F.grid_sample(regions[index, query][None], places[None, :, None], align_corners=False)[0, :, :, 0]
        gate = module.content_gate(content[index, query]).sigmoid().view(2, 8)
        torch.testing.assert_close(found.content[index, query], sampled.T * gate)


def test_no_gradient_goes_through_codes() -> None:
    module = aligner(gaussian=True)
    content, image = torch.randn(1, 2, 8).double(), torch.randn(1, 8, HEIGHT, COLUMNS).double().requires_grad_()
    boxes = BOX.expand(1, 2, -1).clone().requires_grad_()
    found = module(content, boxes, memory_of(image, torch.ones(1, 2)))
    weight = module.points.layers[0].weight
    for source in (weight, image, boxes):
        assert gradient(found.position, source) is None
    assert gradient(found.position, module.position_gate.weight) is not None
    for value in (found.points, found.content, found.scales):
        assert gradient(value, weight).abs().max() > 0
    assert gradient(found.content, image).abs().max() > 0
    torch.testing.assert_close(gradient(found.points, boxes)[..., :2], torch.full((1, 2, 2), 2.0).double())
