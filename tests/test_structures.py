"""What flows through a detector can be moved, flattened and looked at layer by layer without losing anything."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support import make_memory
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from detrkit.cards import Preprocessing
from detrkit.models import detr
from detrkit.structures import (
    Decoded,
    Detections,
    FeatureMap,
    GroupOutput,
    ImageBatch,
    LayerOutput,
    Levels,
    Memory,
    Output,
    Proposals,
    Queries,
    QueryGroup,
    Target,
    TensorRecord,
)

FLOATS, MASK = torch.rand(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.bool)


def proposals() -> Proposals:
    every = LayerOutput(torch.rand(2, 6, 7), torch.rand(2, 6, 4))
    return Proposals(every, LayerOutput(every.logits[:, :4], every.boxes_cxcywh[:, :4]), torch.arange(4).expand(2, -1))


def group() -> QueryGroup:
    return QueryGroup("noise", 2, torch.tensor([[0, -1], [1, 0]]), 1)


RECORDS: list[TensorRecord] = [
    group(),
    QueryGroup("matched", 3, repeats=6, counted=torch.ones(2, 3, dtype=torch.bool)),
    proposals(),
    Proposals(rows=torch.arange(4).expand(2, -1)),
    GroupOutput(group(), Output(torch.rand(5, 2, 2, 7), torch.rand(5, 2, 2, 4))),
    Queries(
        torch.zeros(2, 6, 3),
        torch.rand(2, 6, 3),
        training_groups=(group(),),
        mask=torch.ones(2, 1, 6, 6, dtype=torch.bool),
    ),
    Output(
        torch.rand(5, 2, 4, 7),
        torch.rand(5, 2, 4, 4),
        training_groups=(GroupOutput(group(), Output(torch.rand(5, 2, 2, 7), torch.rand(5, 2, 2, 4))),),
    ),
    ImageBatch(FLOATS, MASK, torch.tensor([7, 8]), torch.tensor([[10, 20], [30, 40]])),
    ImageBatch(FLOATS),
    Target(torch.tensor([1, 2]), torch.rand(2, 4)),
    LayerOutput(torch.rand(2, 4, 7), torch.rand(2, 4, 4)),
    Detections(torch.rand(4), torch.arange(4), torch.rand(4, 4), torch.arange(4)),
    Decoded(torch.rand(5, 2, 4, 3), torch.rand(5, 2, 4, 4)),
    Queries(torch.zeros(2, 4, 3), torch.rand(2, 4, 3)),
    Output(torch.rand(5, 2, 4, 7), torch.rand(5, 2, 4, 4)),
    FeatureMap(torch.rand(2, 3, 1, 2), MASK[:, :1, :2], 32),
    Levels((torch.rand(2, 3, 2, 3),), (torch.rand(2, 3, 2, 3),), (None,)),
    make_memory(torch.rand(2, 6, 3), torch.rand(2, 6, 3), None, ((2, 3),)),
    Queries(torch.zeros(2, 4, 3), None, torch.rand(2, 4, 2), proposals()),
    Decoded(torch.rand(5, 2, 4, 3), torch.rand(5, 2, 4, 4), (torch.rand(2, 4, 2), torch.rand(2, 4, 4))),
    Output(torch.rand(5, 2, 4, 7), torch.rand(5, 2, 4, 4), proposals()),
]


def names(records: list[TensorRecord]) -> list[str]:
    return [type(record).__name__ for record in records]


@pytest.mark.parametrize("record", RECORDS, ids=names(RECORDS))
def test_a_pytree_gives_back_what_it_was_given(record: TensorRecord) -> None:
    leaves, shape = pytree.tree_flatten(record)
    assert any(isinstance(leaf, Tensor) for leaf in leaves)
    again = pytree.tree_unflatten(leaves, shape)
    assert type(again) is type(record)
    assert all(first is second for first, second in zip(leaves, pytree.tree_leaves(again), strict=True))


@pytest.mark.parametrize("record", RECORDS, ids=names(RECORDS))
def test_a_dtype_is_for_floats_only(record: TensorRecord) -> None:
    moved = record.to(dtype=torch.float64)
    assert type(moved) is type(record)
    for before, after in zip(pytree.tree_leaves(record), pytree.tree_leaves(moved), strict=True):
        if isinstance(before, Tensor):
            assert after.dtype == (torch.float64 if before.is_floating_point() else before.dtype)
            assert torch.equal(after.to(before.dtype), before)
        else:
            assert after == before


@pytest.mark.parametrize("record", RECORDS, ids=names(RECORDS))
def test_a_device_is_for_every_tensor(record: TensorRecord) -> None:
    moved = pytree.tree_leaves(record.to("meta"))
    assert {leaf.device.type for leaf in moved if isinstance(leaf, Tensor)} == {"meta"}
    assert {leaf.device.type for leaf in pytree.tree_leaves(record) if isinstance(leaf, Tensor)} == {"cpu"}


def test_pinning_reaches_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 1)
    batch = ImageBatch(torch.zeros(1, 3, 2, 2), None, torch.tensor([5])).pin_memory()
    assert batch.pixels.sum() == 12
    assert batch.padding is None
    assert batch.image_ids is not None
    assert batch.image_ids.tolist() == [6]


def test_records_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ImageBatch(FLOATS).pixels = FLOATS


def test_layers_are_views_from_first_to_last() -> None:
    output = Output(torch.rand(3, 2, 4, 7), torch.rand(3, 2, 4, 4))
    assert len(output.layers) == 3
    for index, layer in enumerate(output.layers):
        assert torch.equal(layer.logits, output.logits[index])
        assert torch.equal(layer.boxes_cxcywh, output.boxes_cxcywh[index])
        assert layer.logits.data_ptr() == output.logits[index].data_ptr()


def test_memory_gives_back_the_maps_that_it_was_laid_out_from() -> None:
    first, second = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 2, 3)
    tokens = torch.zeros(2, 26, 3)
    for image in range(2):
        for row in range(4):
            for column in range(5):
                tokens[image, row * 5 + column] = first[image, :, row, column]
        for row in range(2):
            for column in range(3):
                tokens[image, 20 + row * 3 + column] = second[image, :, row, column]
    maps = make_memory(tokens, tokens, None, ((4, 5), (2, 3))).maps()
    assert torch.equal(maps[0], first)
    assert torch.equal(maps[1], second)


def padded_memory() -> Memory:
    """Levels of 4 x 6 and 2 x 3 cells; the second image ends after 3 x 4 and 2 x 2 of them."""
    fine, coarse = torch.zeros(2, 4, 6, dtype=torch.bool), torch.zeros(2, 2, 3, dtype=torch.bool)
    fine[1, 3:], fine[1, :, 4:], coarse[1, :, 2:] = True, True, True
    padding = torch.cat([fine.flatten(1), coarse.flatten(1)], dim=1)
    tokens = torch.rand(2, 30, 3, dtype=torch.float64)
    return make_memory(tokens, tokens, padding, ((4, 6), (2, 3)))


def test_sizes_are_width_first_and_count_what_is_image() -> None:
    memory = padded_memory()
    assert memory.sizes.tolist() == [[6, 4], [3, 2]]
    assert memory.valid_sizes.tolist() == [[[6, 4], [3, 2]], [[4, 3], [2, 2]]]
    wanted = torch.tensor([[[1, 1], [1, 1]], [[4 / 6, 3 / 4], [2 / 3, 1]]])
    torch.testing.assert_close(memory.valid_ratios(), wanted)
    for found in (memory.sizes, memory.valid_sizes, memory.valid_ratios()):
        assert found.dtype == torch.float32  # also beside float64 tokens, as the authors compute them


def test_without_padding_all_is_image() -> None:
    tokens = torch.rand(2, 30, 3)
    memory = make_memory(tokens, tokens, None, ((4, 6), (2, 3)))
    assert memory.padding_maps() == (None, None)
    assert memory.valid_sizes.tolist() == [[[6, 4], [3, 2]]] * 2
    assert (memory.valid_ratios() == 1).all()


def test_a_level_is_a_memory_of_its_own() -> None:
    memory = padded_memory()
    for index, (rows, size) in enumerate(((slice(0, 24), (4, 6)), (slice(24, 30), (2, 3)))):
        level = memory.level(index)
        assert level.level_sizes == (size,)
        assert torch.equal(level.tokens, memory.tokens[:, rows])
        assert torch.equal(level.positions, memory.positions[:, rows])
        assert torch.equal(level.padding, memory.padding[:, rows])
        assert torch.equal(level.sizes[0], memory.sizes[index])
        assert torch.equal(level.valid_sizes[:, 0], memory.valid_sizes[:, index])
        assert torch.equal(level.maps()[0], memory.maps()[index])
        assert torch.equal(level.padding_maps()[0], memory.padding_maps()[index])
    assert torch.equal(memory.level(-1).tokens, memory.level(1).tokens)
    assert torch.equal(memory.level(-1).sizes, memory.level(1).sizes)
    bare = dataclasses.replace(memory, positions=None, padding=None).level(1)
    assert bare.positions is None
    assert bare.padding is None


def test_padding_maps_are_the_padding_that_memory_was_laid_out_from() -> None:
    fine, coarse = padded_memory().padding_maps()
    assert fine.shape == (2, 4, 6)
    assert not fine[0].any()
    assert (~fine[1]).nonzero().tolist() == [[row, column] for row in range(3) for column in range(4)]
    assert (~coarse[1]).nonzero().tolist() == [[row, column] for row in range(2) for column in range(2)]


def test_image_sizes_leave_padding_out() -> None:
    padding = torch.ones(2, 6, 9, dtype=torch.bool)
    padding[0, :4, :9], padding[1, :6, :5] = False, False
    pixels = torch.zeros(2, 3, 6, 9, dtype=torch.float64)
    assert ImageBatch(pixels, padding).image_sizes().tolist() == [[9, 4], [5, 6]]
    assert ImageBatch(pixels).image_sizes().tolist() == [[9, 6], [9, 6]]
    assert ImageBatch(pixels).image_sizes().dtype == torch.float32


def test_torch_export_takes_and_gives_records() -> None:
    class Doubler(nn.Module):
        def forward(self, batch: ImageBatch) -> LayerOutput:
            return LayerOutput(batch.pixels * 2, batch.pixels + 1)

    exported = torch.export.export(Doubler(), (ImageBatch(FLOATS),)).module()
    other = torch.rand(2, 3, 4, 5)
    found = exported(ImageBatch(other))
    assert isinstance(found, LayerOutput)
    assert torch.equal(found.logits, other * 2)
    assert torch.equal(found.boxes_cxcywh, other + 1)


def test_the_recipe_of_detr() -> None:
    assert Preprocessing() == Preprocessing(800, 1333, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    recipe = detr.RECIPE
    assert (recipe.learning_rate, recipe.backbone_learning_rate, recipe.weight_decay) == (1e-4, 1e-5, 1e-4)
    assert (recipe.gradient_clip, recipe.epochs, recipe.schedule) == (0.1, 500, "step")
    assert recipe.epochs * recipe.drop_after == 400
    assert recipe.slow_parts == ()
