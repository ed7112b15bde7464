"""Training with Lightning: one call, one folder, and runs that can be resumed.

Only the options are imported at once, since the command line shows them without loading PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from detrkit.training.training_options import TrainingOptions

if TYPE_CHECKING:
    from detrkit.training.result import TrainingResult
    from detrkit.training.run import train

__all__ = ["TrainingOptions", "TrainingResult", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("detrkit.training.run"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
