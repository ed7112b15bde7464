"""What a training step has to know of the other processes that learn from the same batch: their number, and sums over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_IS_ALONE = ContextVar("is_alone", default=False)


def process_count() -> int:
    """How many processes share each batch; 1 outside a distributed run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized() and not _IS_ALONE.get():
        return torch.distributed.get_world_size()
    return 1


@contextmanager
def alone() -> Iterator[None]:
    """Inside this block a step is that of a process which shares its batch with no other, so it waits for none that may have failed."""
    before = _IS_ALONE.set(True)
    try:
        yield
    finally:
        _IS_ALONE.reset(before)


@torch.no_grad()
def averaged(values: Tensor, *, at_least: float = 0.0) -> Tensor:
    """The sum of values over all processes, divided by their number; without a gradient.

    Losses are divided by it: gradients are averaged over the processes, so that the divisor of the whole batch is in force. Every process
    has to call it, and in the same order.

    Args:
        values: of any shape, the same in all processes.
        at_least: lower limit of the sum.
    """
    count = process_count()
    if count == 1:
        return values.clamp(min=at_least)
    values = values.clone()
    torch.distributed.all_reduce(values)
    return values.clamp(min=at_least) / count
