"""Runs a model with masks on every image of a panoptic data set and compares its segments with the annotated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from detrkit.cards import Category
from detrkit.checkpoints.loading import as_detector
from detrkit.data.dataset import DetectionDataset
from detrkit.errors import ConfigurationError
from detrkit.evaluation.classes import MatchBy, match_categories
from detrkit.evaluation.panoptic import PanopticCounter
from detrkit.evaluation.panoptic_figures import PanopticEvaluation
from detrkit.evaluation.runner import eval_mode, loader_of, opened
from detrkit.layers.mask_selection import MaskSelection
from detrkit.models.catalog import selection_for
from detrkit.models.detector import Detector
from detrkit.panoptic import VOID, PanopticSegmentation
from detrkit.prediction.looking import look
from detrkit.progress import Follow, watched


def evaluate_panoptic(
    model: Detector | nn.Module | str | Path,
    dataset: DetectionDataset | str | Path,
    *,
    split: str | None = None,
    threshold: float | None = None,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    workers: int = 0,
    progress: bool | Follow = False,
    match_by: MatchBy = "auto",
) -> PanopticEvaluation:
    """Panoptic quality of a model on a data set with panoptic segments.

    Args:
        model: with masks; see `detrkit.evaluate`, as for all arguments that are not described here.
        dataset: opened with `masks="panoptic"`, or what `open_dataset` takes.
        split: of a data set that is given by its path; by default "val".
        threshold: score in [0, 1] above which a query becomes a segment; None means that of the model's card.
        batch_size: images of equal size that go through the model together.
        device: where the model is moved to.
        workers: processes that read images.
        progress: see `detrkit.evaluate`.
        match_by: how the model's classes find those of the data set. Segments of classes without a partner are left out.

    Raises:
        ConfigurationError: the model has no masks, or an argument is out of range.
        CheckpointError: the checkpoint cannot be read.
        DataError: the data cannot be read, were opened without panoptic masks, or have other classes.
        NonFiniteError: the model produces NaN or infinity.
    """
    model = as_detector(model)
    dataset = opened(dataset, split, masks="panoptic")
    select = selection_for(model if device is None else model.to(device))
    if not isinstance(select, MaskSelection):
        raise ConfigurationError(
            f"a {model.card.variant} has no masks, so it has no panoptic quality: evaluate a model with masks, such as detr-r50-panoptic"
        )
    least = model.card.threshold if threshold is None else threshold
    if not 0 <= least <= 1:
        raise ConfigurationError(f"the threshold {threshold} is not a score: choose one from 0 to 1")
    matched = match_categories(model.card.categories, dataset, match_by)
    by_id = {category.id: category for category in dataset.categories}
    known = {index: by_id[category_id] for index, category_id in matched.ids.items()}
    counter = PanopticCounter()
    places = {image_id: index for index, image_id in enumerate(dataset.image_ids.tolist())}
    with eval_mode(model), watched(progress) as follow:
        loaded = loader_of(model, dataset, batch_size=batch_size, workers=workers)
        batches = follow(
            loaded, "evaluating segments", unit="image", total=len(dataset), size=lambda each: len(each[0].image_ids)
        )
        for batch, _ in batches:
            found = look(model, select, batch, segments_from=least, masks=False).segmentations or []
            for image_id, segmentation in zip(batch.image_ids.tolist(), found, strict=True):
                counter.add(dataset.panoptic(places[image_id]), of_data_set(segmentation, known))
    return counter.result(name=dataset.name, notes=_notes(matched.notes, least))


def of_data_set(segmentation: PanopticSegmentation, known: Mapping[int, Category]) -> PanopticSegmentation:
    """A segmentation with the classes of a data set; pixels of segments of other classes become void.

    Args:
        segmentation: with the model's classes.
        known: the data set's class for the `Category.index` of a model's class, where it has one.
    """
    kept = [segment for segment in segmentation.segments if segment.category.index in known]
    ids = segmentation.ids
    if len(kept) < len(segmentation.segments):
        ids = np.where(np.isin(ids, [segment.id for segment in kept]), ids, VOID).astype(ids.dtype)
    return PanopticSegmentation(ids, tuple(segment.with_category(known[segment.category.index]) for segment in kept))


def _notes(notes: Sequence[str], threshold: float) -> list[str]:
    return [*notes, f"Segments are of queries with a score above {threshold:.2f}."]
