"""Small things that several tests build."""

from __future__ import annotations

import signal
from collections.abc import Callable

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


def kept_tensors(compute: Callable[..., object], *inputs: object) -> list[Tensor]:
    """What `compute(*inputs)` keeps for the backward pass: one tensor for each storage."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute(*inputs)  # holds the graph, so that no address is used twice
    assert result is not None
    return list(kept.values())


def heed_interrupts() -> None:
    """For the start of a process that is to be interrupted: shells start what runs in the background so that it ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
