"""Implementations inside `torch.compile`. Importing this module imports the compiler."""

from __future__ import annotations

import torch

from detrkit.layers.sampling.operator import choice
from detrkit.layers.sampling.without_numba import deformable_attention_bags

bags_outside_of_graphs = torch.compiler.disable(deformable_attention_bags)  # type: ignore[no-untyped-call]  # SciPy's product cannot be traced


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def name_as_constant(device: torch.device, dtype: torch.dtype) -> str:
    """The name of the chosen implementation: `torch.compile` asks once and keeps it as a constant."""
    return choice(device, dtype).name
