"""Object detection with transformers: the DETR family, trained, evaluated and run from one place.

The public names are imported when they are first used, so that `import detrkit` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detrkit import checkpoints, errors
    from detrkit.cards import Category, Preprocessing
    from detrkit.checkpoints import load, save
    from detrkit.data import DetectionDataset, open_dataset
    from detrkit.data.inspection import Inspection
    from detrkit.evaluation import Evaluation, evaluate, inspect_data
    from detrkit.models.catalog import build, criterion_for
    from detrkit.models.detector import Detector
    from detrkit.prediction import Predictor
    from detrkit.structures import ImageBatch, Losses, Output, Target
    from detrkit.training import TrainingOptions, train

__version__ = "0.1.0"

__all__ = [
    "Category",
    "DetectionDataset",
    "Detector",
    "Evaluation",
    "ImageBatch",
    "Inspection",
    "Losses",
    "Output",
    "Predictor",
    "Preprocessing",
    "Target",
    "TrainingOptions",
    "build",
    "checkpoints",
    "criterion_for",
    "errors",
    "evaluate",
    "inspect_data",
    "load",
    "open_dataset",
    "save",
    "train",
]

_HOMES = {
    "Category": "cards",
    "DetectionDataset": "data",
    "Detector": "models.detector",
    "Evaluation": "evaluation",
    "ImageBatch": "structures",
    "Inspection": "data.inspection",
    "Losses": "structures",
    "Output": "structures",
    "Predictor": "prediction",
    "Preprocessing": "cards",
    "Target": "structures",
    "TrainingOptions": "training",
    "build": "models.catalog",
    "criterion_for": "models.catalog",
    "evaluate": "evaluation",
    "inspect_data": "evaluation",
    "load": "checkpoints",
    "open_dataset": "data",
    "save": "checkpoints",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"detrkit.{_HOMES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"detrkit.{name}")
    raise AttributeError(f"module 'detrkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
