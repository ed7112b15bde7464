"""Training with Lightning: one call, one folder, and runs that can be resumed.

Only the options are imported at once, since the command line shows them without loading PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from detrkit.training.training_options import TrainingOptions

if TYPE_CHECKING:
    from detrkit.training.rehearsal import DryRun, dry_run
    from detrkit.training.run import TrainingResult, train

__all__ = ["DryRun", "TrainingOptions", "TrainingResult", "dry_run", "train"]

_HOMES = {"DryRun": "rehearsal", "TrainingResult": "run", "dry_run": "rehearsal", "train": "run"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"detrkit.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
