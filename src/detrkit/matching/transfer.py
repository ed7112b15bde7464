"""A single copy from the device for all values that the host needs, since for every copy the host waits until a GPU's queue is empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Result = TypeVar("Result")


@dataclass(frozen=True)
class HostTask(Generic[Result]):
    """Work for the host that needs values of tensors on the device.

    Attributes:
        inputs: the tensors. Integers must be below 2^24, since all inputs are copied as floating-point numbers.
        run: takes one NumPy array of the same shape for each input.
    """

    inputs: tuple[Tensor, ...]
    run: Callable[[Sequence[NDArray[Any]]], Result]


@torch.no_grad()
def run_together(tasks: Sequence[HostTask[Result]], checks: Sequence[HostTask[None]] = ()) -> list[Result]:
    """Results of all tasks, whose inputs are copied from the device as one tensor.

    Args:
        tasks: tasks that return results.
        checks: tasks that only raise errors; they run first.
    """
    tensors = [tensor for check in checks for tensor in check.inputs]
    tensors += [tensor for task in tasks for tensor in task.inputs]
    copies = iter(_to_host(tensors))
    for check in checks:
        check.run([next(copies) for _ in check.inputs])
    return [task.run([next(copies) for _ in task.inputs]) for task in tasks]


def to_device(table: NDArray[np.int64], device: torch.device) -> Tensor:
    """A copy on the device; the host does not wait for it."""
    return torch.from_numpy(table).to(device, non_blocking=True)


def _to_host(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    if not tensors:
        return []
    floats = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    dtype, device = reduce(torch.promote_types, floats, torch.float32), tensors[-1].device
    flat = torch.cat([tensor.to(device, dtype, non_blocking=True).flatten() for tensor in tensors])
    values = flat.cpu().numpy()  # the one transfer
    ends = np.cumsum([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(np.split(values, ends[:-1]), tensors, strict=True)]
