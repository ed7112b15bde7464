"""Object detection with transformers: the DETR family, trained, evaluated and run from one place.

    import detrkit

    result = detrkit.train("light-detr-mobilenetv2", "photos", epochs=50)  # the folder of a data set with splits train and val
    evaluation = detrkit.evaluate(result.best, "photos", split="test")     # COCO's figures
    predictor = detrkit.Predictor(result.best)
    detections = predictor("photo.jpg")                                    # a supervision.Detections

What to begin with:

- `train` trains a model on a data set, as `TrainingOptions` say; `evaluate` says how good one is (`evaluate_panoptic` its segments); `Predictor` finds objects in images;
  `explain` shows where a model looked for them.
- `open_dataset` opens a data set (a `DetectionDataset`); `inspect_data` looks for what is wrong with one.
- `build` makes a new model (a `Detector`), `load` reads one from a file, and `save` writes one.
- `criterion_for` gives a model's loss, for training loops of one's own; `ImageBatch`, `Target`, `Output` and `Losses` are what goes in
  and comes out.
- `errors` has all errors that detrkit raises, with sentences that name the remedy; `checkpoints` reads and writes weights of others.

The same is on the command line: `detrkit --help`. The public names are imported when they are first used, so that `import detrkit` costs
next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detrkit import checkpoints, errors
    from detrkit.cards import Category, Preprocessing
    from detrkit.checkpoints import load, save
    from detrkit.data import DetectionDataset, open_dataset
    from detrkit.evaluation import Evaluation, PanopticEvaluation, evaluate, evaluate_panoptic, inspect_data
    from detrkit.explaining import explain
    from detrkit.models.catalog import build, criterion_for
    from detrkit.models.detector import Detector
    from detrkit.panoptic import PanopticSegmentation
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
    "Losses",
    "Output",
    "PanopticEvaluation",
    "PanopticSegmentation",
    "Predictor",
    "Preprocessing",
    "Target",
    "TrainingOptions",
    "build",
    "checkpoints",
    "criterion_for",
    "errors",
    "evaluate",
    "evaluate_panoptic",
    "explain",
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
    "Losses": "structures",
    "Output": "structures",
    "PanopticEvaluation": "evaluation",
    "PanopticSegmentation": "panoptic",
    "Predictor": "prediction",
    "Preprocessing": "cards",
    "Target": "structures",
    "TrainingOptions": "training",
    "build": "models.catalog",
    "criterion_for": "models.catalog",
    "evaluate": "evaluation",
    "evaluate_panoptic": "evaluation",
    "explain": "explaining",
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
    return sorted(__all__)
