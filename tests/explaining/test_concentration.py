"""How concentrated attention is and where its centre lies, computed by hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detrkit.explaining.attention import DenseLook, SampledLook
from detrkit.explaining.concentration import centers_of, sparsity_of
from detrkit.structures import Memory


def padded_memory() -> Memory:
    """Two levels, 2 × 4 and 1 × 2 cells, of two images; the second image has the left half and, of the fine level, the upper row only."""
    fine = torch.zeros(2, 2, 4, dtype=torch.bool)
    fine[1, 1], fine[1, :, 2:] = True, True
    coarse = torch.zeros(2, 1, 2, dtype=torch.bool)
    coarse[1, :, 1:] = True
    padding = torch.cat([fine.flatten(1), coarse.flatten(1)], dim=1)
    return Memory.of(torch.zeros(2, 10, 4), None, padding, ((2, 4), (1, 2)), torch.tensor([[64.0, 32.0], [32.0, 16.0]]))


def peaked(*keys: int, keys_in_all: int = 10) -> Tensor:
    """(1, 1, len(keys), S), each query's weight on one key."""
    return torch.nn.functional.one_hot(torch.tensor(keys), keys_in_all).float()[None, None]


def test_sparsity_of_uniform_and_of_peaked_attention() -> None:
    uniform = torch.full((1, 2, 3, 10), 0.1)
    torch.testing.assert_close(sparsity_of(DenseLook(uniform, None)), torch.tensor([-math.log(10)]))
    assert sparsity_of(DenseLook(peaked(3, 7), None)).tolist() == [0.0]
    halves = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 1, 0]])[
        None, None
    ]  # zeros are padding or keys that nobody looks at
    torch.testing.assert_close(sparsity_of(DenseLook(halves, None)), torch.tensor([-math.log(2) / 2]))


def test_sparsity_is_a_mean_over_heads_of_each_image() -> None:
    heads = torch.cat([peaked(0, 1, keys_in_all=4), torch.full((1, 1, 2, 4), 0.25)], dim=1)
    both = torch.cat([heads, heads.flip(1)[:, :1].expand(-1, 2, -1, -1)])
    torch.testing.assert_close(sparsity_of(DenseLook(both, None)), -math.log(4) * torch.tensor([0.5, 1.0]))


def test_the_keys_of_deformable_attention_are_its_points() -> None:
    memory = padded_memory()
    uniform = torch.full((2, 3, 2, 2, 4), 1 / 8)  # two levels of four points
    look = SampledLook(torch.zeros(2, 3, 2, 2, 4, 2), uniform, memory)
    torch.testing.assert_close(sparsity_of(look), torch.full((2,), -math.log(8)))
    single = torch.zeros_like(uniform)
    single[..., 1, 2] = 1
    assert sparsity_of(SampledLook(look.locations, single, memory)).tolist() == [0.0, 0.0]


def test_the_centre_of_a_known_map_is_a_fraction_of_the_image_without_its_padding() -> None:
    weights = torch.zeros(2, 1, 3, 10)
    weights[:, 0, 0, 1] = 1  # the second cell of the fine level's first row
    weights[:, 0, 1, [0, 1]] = 0.5
    weights[:, 0, 2, 8] = 0.25  # the first cell of the coarse level,
    weights[:, 0, 2, 1] = 0.75  # and that of the first query
    centers = centers_of(DenseLook(weights, padded_memory()))
    assert centers is not None
    whole = torch.tensor([[0.375, 0.25], [0.25, 0.25], [0.25 * 0.25 + 0.75 * 0.375, 0.25 * 0.5 + 0.75 * 0.25]])
    half = torch.tensor([[0.75, 0.5], [0.5, 0.5], [0.25 * 0.5 + 0.75 * 0.75, 0.5]])
    torch.testing.assert_close(centers, torch.stack([whole, half]))


def test_heads_have_equal_shares_in_the_centre() -> None:
    memory = Memory.of(torch.zeros(1, 8, 4), None, None, ((2, 4),), torch.tensor([[64.0, 32.0]]))
    heads = torch.cat([peaked(0, keys_in_all=8), peaked(7, keys_in_all=8)], dim=1)  # opposite corners
    torch.testing.assert_close(centers_of(DenseLook(heads, memory)), torch.tensor([[[0.5, 0.5]]]))
    assert centers_of(DenseLook(heads, None)) is None


def test_the_centre_of_sampled_points_weighs_levels_and_points() -> None:
    locations = torch.zeros(2, 1, 1, 2, 2, 2)
    locations[..., 0, 0, :] = torch.tensor([0.2, 0.4])
    locations[..., 1, 1, :] = torch.tensor([0.4, 0.2])
    weights = torch.zeros(2, 1, 1, 2, 2)
    weights[..., 0, 0], weights[..., 1, 1] = 0.75, 0.25
    centers = centers_of(SampledLook(locations, weights, padded_memory()))
    # The second image has half of each level's width; of its height, half of the fine level's and all of the coarse one's.
    wanted = torch.tensor([[[0.25, 0.35]], [[0.5, 0.75 * 0.8 + 0.25 * 0.2]]])
    torch.testing.assert_close(centers, wanted)
