"""Small things that several tests build."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.structures import Memory


def make_memory(
    tokens: Tensor, positions: Tensor | None, padding: Tensor | None, level_sizes: tuple[tuple[int, int], ...]
) -> Memory:
    """Memory of images whose finest level has stride 8."""
    height, width = level_sizes[0]
    sizes = torch.tensor([[8.0 * width, 8.0 * height]]).expand(len(tokens), -1)
    return Memory.of(tokens, positions, padding, level_sizes, sizes)
