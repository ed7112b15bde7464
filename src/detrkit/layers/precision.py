"""Keeps values out of half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision values as float32, all others unchanged: coordinates, scores and losses need at least float32."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
