"""Training with Lightning: one call, one folder, and runs that can be resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.lazy import lazy_names

if TYPE_CHECKING:
    from detrkit.training.rehearsal import DryRun, dry_run
    from detrkit.training.result import TrainingResult
    from detrkit.training.run import train
    from detrkit.training.training_options import TrainingOptions

__all__ = ["DryRun", "TrainingOptions", "TrainingResult", "dry_run", "train"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "rehearsal": ("DryRun", "dry_run"),
        "result": ("TrainingResult",),
        "run": ("train",),
        "training_options": ("TrainingOptions",),
    },
)
