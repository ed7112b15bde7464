"""Runs a model on every image of a data set and compares its detections with the annotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detrkit.cards import Category, ModelCard
from detrkit.checkpoints.loading import as_detector
from detrkit.coco_limits import MAX_DETECTIONS
from detrkit.data.batching import EvaluationData, collate, equal_size_batches
from detrkit.data.classes import names_shown, same_classes, spelling_notes
from detrkit.data.dataset import DetectionDataset
from detrkit.data.transforms import EvaluationTransform
from detrkit.data.wording import counted
from detrkit.data.workers import BatchLoader, for_workers
from detrkit.errors import ConfigurationError, DataError
from detrkit.evaluation.analysis import Analysis, evaluate_in_detail
from detrkit.evaluation.coco import evaluate_detections
from detrkit.evaluation.figures import Evaluation, check_max_detections
from detrkit.layers.selection import TopKSelection
from detrkit.models.catalog import selection_for
from detrkit.models.detector import Detector
from detrkit.prediction.predictor import detect_batch
from detrkit.prediction.results import result_entry
from detrkit.progress import Follow, watched
from detrkit.structures import Detections


def evaluate(
    model: Detector | nn.Module | str | Path,
    dataset: DetectionDataset,
    *,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    workers: int = 0,
    progress: bool | Follow = False,
    max_detections: int = MAX_DETECTIONS,
) -> Evaluation:
    """COCO's figures for a model on a data set.

    Args:
        model: runs in eval mode; afterwards it has its previous mode again. It may be compiled or otherwise wrapped by PyTorch, or the path
            of a checkpoint.
        dataset: images and ground truth, as `open_dataset` returns them. Its classes are matched with the model's by name, or by id if they share no name.
        batch_size: images that go through the model together. They must have the same size after resizing, so nothing is padded and the
            figures do not depend on it.
        device: where the model is moved to; None leaves it where it is.
        workers: processes that read images; 0 reads them in this process.
        progress: whether to show on the error stream how far it is, or what shows it instead.
        max_detections: number of the best detections that are kept of each image and count.

    Raises:
        ConfigurationError: the model is no detector, the data are no data set, or `max_detections` is below 1.
        CheckpointError: the checkpoint cannot be read.
        DataError: the data set and the model have no class in common, or an image cannot be read.
        NonFiniteError: the model produces NaN or infinity.
        WorkerError: the system ended a worker.
    """
    if not isinstance(dataset, DetectionDataset):
        raise ConfigurationError(
            f"evaluate needs an opened data set, not {dataset!r}: give detrkit.open_dataset(..., split), such as split 'val'"
        )
    model = as_detector(model)
    entries = detect(
        model,
        dataset,
        batch_size=batch_size,
        device=device,
        workers=workers,
        progress=progress,
        max_detections=max_detections,
    )
    return compare(model, dataset, entries, max_detections=max_detections)


def compare(
    model: Detector,
    dataset: DetectionDataset,
    entries: Sequence[dict[str, Any]],
    *,
    max_detections: int = MAX_DETECTIONS,
) -> Evaluation:
    """COCO's figures for the entries that `detect` returned, with notes about the data set and its classes.

    Args:
        model: the one that produced the entries; only its card is used.
        dataset: the one that the entries belong to.
        entries: as `detect` returns them.
        max_detections: as for `detect`.

    Raises:
        ConfigurationError: `max_detections` is below 1.
    """
    notes = _notes(model, dataset, max_detections)
    return evaluate_detections(
        dataset.to_coco(), entries, name=dataset.name, notes=notes, max_detections=max_detections
    )


def compare_in_detail(
    model: Detector,
    dataset: DetectionDataset,
    entries: Sequence[dict[str, Any]],
    *,
    max_detections: int = MAX_DETECTIONS,
) -> tuple[Evaluation, Analysis]:
    """What `compare` returns, and the analysis of the same entries; arguments as for `compare`."""
    notes = _notes(model, dataset, max_detections)
    return evaluate_in_detail(dataset.to_coco(), entries, name=dataset.name, notes=notes, max_detections=max_detections)


def with_best_thresholds(card: ModelCard, dataset: DetectionDataset, evaluation: Evaluation) -> ModelCard:
    """A card with the thresholds that an evaluation found best; without a correct detection the card is left as it is.

    Args:
        card: of the model that was evaluated.
        dataset: what it was evaluated on.
        evaluation: the result.
    """
    if evaluation.best_threshold is None:
        return card
    thresholds = evaluation.class_thresholds
    own = {
        index: thresholds[category_id]
        for index, category_id in match_categories(card.categories, dataset).ids.items()
        if category_id in thresholds
    }
    return replace(card, threshold=evaluation.best_threshold, class_thresholds=own)


def _notes(model: Detector, dataset: DetectionDataset, max_detections: int) -> tuple[str, ...]:
    """What to know about the data set, about its classes, and about images with more objects than the model can find."""
    notes = [*dataset.notes, *match_categories(model.card.categories, dataset).notes]
    queries = model.card.config["queries"]
    places = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    objects = np.bincount(places[~dataset.crowd], minlength=len(dataset))
    crowded = np.flatnonzero(objects > min(queries, max_detections))
    if crowded.size:
        first = int(crowded[0])
        where = f"{counted(len(crowded), 'image')} (the first: {dataset.image_name(first)} with {objects[first]})"
        if queries <= max_detections:
            notes.append(
                f"The model has {counted(queries, 'query', 'queries')}, and more objects are annotated in {where}: it cannot find all of "
                "them; train a model with more --settings.queries."
            )
        else:
            notes.append(
                f"--max-detections keeps {counted(max_detections, 'detection')} of each image, and more objects are annotated in {where}: "
                "choose a higher number."
            )
    return tuple(notes)


def detect(
    model: Detector,
    dataset: DetectionDataset,
    *,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    workers: int = 0,
    progress: bool | Follow = False,
    max_detections: int = MAX_DETECTIONS,
) -> list[dict[str, Any]]:
    """The detections of a model in a data set, as COCO result entries with the data set's ids: the best of each image, without a threshold.

    Args:
        model: as for `evaluate`, like all other arguments.
        dataset: only its images and categories are used.
        batch_size: images that go through the model together.
        device: where the model is moved to.
        workers: processes that read images.
        progress: as for `evaluate`.
        max_detections: number of detections of each image, at most; the model's paper may select fewer.

    Returns:
        Entries image by image in the order of the data set, best first.
    """
    model = as_detector(model)
    check_max_detections(max_detections)
    category_ids = match_categories(model.card.categories, dataset).ids
    preprocessing = model.card.preprocessing
    transform = EvaluationTransform(preprocessing)
    batches = equal_size_batches([transform.output_size(*size) for size in dataset.sizes.tolist()], batch_size)
    loader = BatchLoader(
        for_workers(EvaluationData(dataset, transform), workers),
        workers=workers,
        batch_sampler=batches,
        collate_fn=partial(collate, smallest_side=preprocessing.smallest_side),
    )
    select = selection_for(model if device is None else model.to(device))
    if isinstance(select, TopKSelection):  # the papers' 100 are a choice for COCO, not a limit of the models
        select.limit = max(select.limit, max_detections)
    entries: dict[int, list[dict[str, Any]]] = {}
    with _eval_mode(model), watched(progress) as follow:
        images = follow(
            loader, "evaluating", unit="image", total=len(dataset), size=lambda loaded: len(loaded[0].image_ids)
        )
        for batch, _ in images:
            detections_of_images = detect_batch(model, select, batch)
            for image_id, detections in zip(batch.image_ids.tolist(), detections_of_images, strict=True):
                entries[image_id] = _entries(detections, image_id, category_ids)[:max_detections]
    return [entry for image_id in dataset.image_ids.tolist() for entry in entries[image_id]]


@dataclass(frozen=True)
class CategoryMatch:
    """Which output of a model's class head stands for which category of a data set.

    Attributes:
        ids: maps the output's index to the category id of the data set.
        notes: sentences about classes that only the model or only the data set has.
    """

    ids: dict[int, int]
    notes: tuple[str, ...]


def match_categories(model_categories: Sequence[Category], dataset: DetectionDataset) -> CategoryMatch:
    """Matches a model's classes with those of a data set: by name (see `same_classes`), or by id if no name is the same.

    Args:
        model_categories: the model's classes.
        dataset: the data set whose categories are matched.

    Raises:
        DataError: no class matches.
    """
    pairs = same_classes(model_categories, dataset.categories)
    notes = spelling_notes(pairs, dataset.name)
    if not pairs:
        by_id = {category.id: category for category in model_categories}
        pairs = [(by_id[category.id], category) for category in dataset.categories if category.id in by_id]
        if not pairs:
            raise DataError(
                f"The model ({names_shown(model_categories)}) knows no class of {dataset.name} ({names_shown(dataset.categories)}) by name or by id: "
                "use a model that was trained on these classes."
            )
        of_model, of_dataset = pairs[0]
        notes.append(
            f"No class name is the same, so classes were matched by id: '{of_dataset.name}' is the model's '{of_model.name}' "
            f"({of_dataset.id}), and so on."
        )
    used = {of_model.index for of_model, _ in pairs}
    matched = {of_dataset.index for _, of_dataset in pairs}
    unused = [category for category in model_categories if category.index not in used]
    missing = [category for category in dataset.categories if category.index not in matched]
    if unused:
        notes.append(f"Detections of {_classes(unused)} that the data set lacks were left out: {names_shown(unused)}.")
    if missing:
        notes.append(
            f"The model does not know {_classes(missing)} of the data set (AP counts as 0): {names_shown(missing)}."
        )
    return CategoryMatch({of_model.index: of_dataset.id for of_model, of_dataset in pairs}, tuple(notes))


def _classes(categories: Sequence[Category]) -> str:
    return counted(len(categories), "class", "classes")


def _entries(detections: Detections, image_id: int, category_ids: dict[int, int]) -> list[dict[str, Any]]:
    rows = zip(detections.labels.tolist(), detections.boxes_xyxy.tolist(), detections.scores.tolist(), strict=True)
    return [
        result_entry(image_id, category_ids[label], box, score) for label, box, score in rows if label in category_ids
    ]


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every module has its previous mode again, even if modes differed."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
