"""Evaluation by all processes of a run: each looks at its part of the images, and the first one compares."""

from __future__ import annotations

from typing import Any

from detrkit.data import DetectionDataset
from detrkit.evaluation import Evaluation, detect
from detrkit.evaluation.runner import compare
from detrkit.models.detector import Detector
from detrkit.training.processes import Processes


def evaluate_together(
    model: Detector, dataset: DetectionDataset, processes: Processes, **options: Any
) -> Evaluation | None:
    """COCO's figures for a model that all processes have; every image is looked at once.

    Args:
        model: with the same weights in all processes.
        dataset: the same in all processes.
        processes: those of the run; all have to call this.
        **options: further arguments of `detect`.

    Returns:
        The figures, equal to those of a single process, for the first one; None for the others.
    """
    images = range(processes.rank, len(dataset), processes.count)
    parts = processes.at_first(detect(model, dataset, images=images, **options))
    if parts is None:
        return None
    places = {image_id: place for place, image_id in enumerate(dataset.image_ids.tolist())}
    entries = [entry for part in parts for entry in part]
    return compare(model, dataset, sorted(entries, key=lambda entry: places[entry["image_id"]]))
