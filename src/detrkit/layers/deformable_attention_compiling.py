"""What `torch.compile` needs to know about the choice of the operator. Importing this file imports the compiler."""

from __future__ import annotations

import torch

from detrkit.layers.deformable_attention import choice


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def name_as_constant(device: torch.device, dtype: torch.dtype) -> str:
    """Of `choice` the name alone: `torch.compile` asks once and keeps it."""
    return choice(device, dtype).name
