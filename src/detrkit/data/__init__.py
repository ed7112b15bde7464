"""Data: from files or the built-in set to batches.

`open_dataset` finds and reads a `DetectionDataset`; `TrainingData` and `EvaluationData` turn it into samples with a transform; `collate`
makes batches of samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.lazy import lazy_names

if TYPE_CHECKING:
    from detrkit.data.augmentation import Augmentation
    from detrkit.data.batching import (
        EvaluationData,
        Sample,
        TrainingData,
        collate,
        epoch_order,
        equal_size_batches,
        pad_images,
    )
    from detrkit.data.coco import read_coco
    from detrkit.data.dataset import ArrayImages, DetectionDataset, ImageFiles, NoImagesError, Objects
    from detrkit.data.digits import read_digits
    from detrkit.data.images import check_image, read_image, to_pil
    from detrkit.data.opening import available_splits, open_dataset
    from detrkit.data.split_names import plain_split
    from detrkit.data.transforms import EvaluationTransform, TrainingTransform, resized_size

__all__ = [
    "ArrayImages",
    "Augmentation",
    "DetectionDataset",
    "EvaluationData",
    "EvaluationTransform",
    "ImageFiles",
    "NoImagesError",
    "Objects",
    "Sample",
    "TrainingData",
    "TrainingTransform",
    "available_splits",
    "check_image",
    "collate",
    "epoch_order",
    "equal_size_batches",
    "open_dataset",
    "pad_images",
    "plain_split",
    "read_coco",
    "read_digits",
    "read_image",
    "resized_size",
    "to_pil",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "augmentation": ("Augmentation",),
        "batching": (
            "EvaluationData",
            "Sample",
            "TrainingData",
            "collate",
            "epoch_order",
            "equal_size_batches",
            "pad_images",
        ),
        "coco": ("read_coco",),
        "dataset": ("ArrayImages", "DetectionDataset", "ImageFiles", "NoImagesError", "Objects"),
        "digits": ("read_digits",),
        "images": ("check_image", "read_image", "to_pil"),
        "opening": ("available_splits", "open_dataset"),
        "split_names": ("plain_split",),
        "transforms": ("EvaluationTransform", "TrainingTransform", "resized_size"),
    },
)
