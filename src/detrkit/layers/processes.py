"""What a training step has to know of the other processes that learn from the same batch: their number, and sums over all of them."""

from __future__ import annotations

import torch
from torch import Tensor


def process_count() -> int:
    """How many processes share each batch; 1 outside a distributed run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


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
