"""From tokens and fractions of an image to pixels of the original picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.explaining.records import Floats, Maps
from detrkit.layers.fcos_head import FeatureOutput
from detrkit.layers.proposals import token_centers
from detrkit.layers.regions_of_interest import RegionOutput
from detrkit.matching.cells import Cells
from detrkit.structures import Memory, Output


@dataclass(frozen=True)
class Places:
    """Where tokens lie.

    Attributes:
        xy: (S, 2) their centres, as fractions of the image without its padding.
        levels: (S,) int64 numbers of their levels; None for regions.
        sides: (S, 2) width and height of the cells that they are, as such fractions; None for regions.
    """

    xy: Tensor
    levels: Tensor | None
    sides: Tensor | None = None

    @classmethod
    def of_memory(cls, memory: Memory) -> Places:
        """Those of the cells of all levels of the first image."""
        counts = torch.tensor([height * width for height, width in memory.level_sizes])
        levels = torch.arange(len(counts)).repeat_interleave(counts)
        return cls(token_centers(memory)[0].cpu(), levels, 1 / memory.valid_sizes[0].cpu()[levels])

    @classmethod
    def of_chosen(cls, output: Output) -> Places | None:
        """Those of the features or regions of TSP; None for outputs of other models."""
        if isinstance(output, FeatureOutput) and output.features is not None:
            features = output.features
            cells = Cells.of(features.level_sizes, features.strides, like=features.distances)
            chosen, size = features.cells[0], features.image_sizes[0]
            levels = cells.levels[chosen].cpu()
            sides = torch.tensor(features.strides)[levels][:, None] / size.cpu()
            return cls((cells.centers[chosen] / size).cpu(), levels, sides)
        if isinstance(output, RegionOutput) and output.regions is not None:
            regions = output.regions
            corners = regions.boxes_xyxy[0]
            return cls(((corners[:, :2] + corners[:, 2:]) / 2 / regions.image_sizes[0]).cpu(), None)
        return None


def tokens_at(memory: Memory, xy: tuple[float, float]) -> list[int]:
    """The row of the cell of every level at a place of the first image.

    Args:
        memory: tokens of all levels.
        xy: fractions of the image without its padding, in [0, 1].
    """
    rows, before = [], 0
    for (height, width), (columns, lines) in zip(memory.level_sizes, memory.valid_sizes[0].tolist(), strict=True):
        column, line = (
            min(int(fraction * count), int(count) - 1) for fraction, count in zip(xy, (columns, lines), strict=True)
        )
        rows.append(before + line * width + column)
        before += height * width
    return rows


def cropped_maps(weights: Tensor, memory: Memory, levels: tuple[int, ...]) -> Maps:
    """The weights of tokens as maps without the cells behind the padding.

    Args:
        weights: (M, S) of the first image.
        memory: whose tokens these are.
        levels: the numbers of its levels.
    """
    counts = [height * width for height, width in memory.level_sizes]
    maps = []
    for part, size, (width, height) in zip(
        torch.split(weights, counts, dim=-1), memory.level_sizes, memory.valid_sizes[0].tolist(), strict=True
    ):
        maps.append(as_floats(torch.unflatten(part, -1, size)[:, : int(height), : int(width)]))
    return Maps(levels, tuple(maps))


def in_pixels(fractions: Tensor, size: tuple[int, int]) -> Floats:
    """Points (..., 2) in pixels of a picture.

    Args:
        fractions: of the image without its padding.
        size: width and height of the picture.
    """
    return as_floats(fractions.cpu().double() * torch.tensor(size))


def corners_in_pixels(boxes_cxcywh: Tensor, size: tuple[int, int]) -> Floats:
    """Corners (..., 4) in pixels of a picture; arguments as in `in_pixels`."""
    return as_floats(cxcywh_to_xyxy(boxes_cxcywh.cpu().double()) * torch.tensor(size * 2))


def as_floats(values: Tensor) -> Floats:
    """An array of its own, float32."""
    return np.array(values.detach().cpu().float().numpy())
