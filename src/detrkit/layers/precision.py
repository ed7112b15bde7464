"""Where half precision must not go."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32 where they were in half precision, else as they are: coordinates, scores and losses need no less."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
