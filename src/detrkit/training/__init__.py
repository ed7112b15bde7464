"""Training on Lightning: one call, one folder, and a run that can be gone on with."""

from __future__ import annotations

from detrkit.training.options import TrainingOptions
from detrkit.training.train import TrainingResult, train

__all__ = ["TrainingOptions", "TrainingResult", "train"]
