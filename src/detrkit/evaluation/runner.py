"""A model looks at every image of a data set; what it finds is compared with the annotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader

from detrkit.data.batching import EvaluationData, collate, equal_size_batches
from detrkit.data.dataset import DetectionDataset
from detrkit.data.transforms import EvaluationTransform
from detrkit.errors import DataError
from detrkit.evaluation.coco import LIMIT, evaluate_detections
from detrkit.evaluation.figures import Evaluation, counted
from detrkit.models.catalog import selection_for
from detrkit.models.detector import Detector
from detrkit.prediction import predictor
from detrkit.prediction.results import result_entry
from detrkit.structures import Category, Detections
from detrkit.terminal import terminal

NAMES_SHOWN = 5


def evaluate(
    model: Detector,
    dataset: DetectionDataset,
    *,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    workers: int = 0,
    progress: bool = False,
) -> Evaluation:
    """COCO's figures of a model on a data set.

    Args:
        model: runs in eval mode here, and gets back the mode it had.
        dataset: images and ground truth. Its classes find the model's by name, or by id where no name is the same.
        batch_size: images that go through the model together. Only images that are equally large after resizing do, so nothing is padded and
            the figures do not depend on it.
        device: where the model is moved to; None leaves it where it is.
        workers: processes that read images; 0 reads them in this one.
        progress: whether to show a bar on the error stream.

    Raises:
        DataError: no class of the data set is one of the model's, or an image cannot be read.
        NonFiniteError: the model gives NaN or infinity.
    """
    entries = detect(model, dataset, batch_size=batch_size, device=device, workers=workers, progress=progress)
    return compare(model, dataset, entries)


def compare(model: Detector, dataset: DetectionDataset, entries: Sequence[dict[str, Any]]) -> Evaluation:
    """COCO's figures of what `detect` found, with all that has to be said about data set and classes.

    Args:
        model: that found the entries; only its categories matter.
        dataset: that they were found in.
        entries: from `detect`.
    """
    notes = match_categories(model.card.categories, dataset).notes
    return evaluate_detections(dataset.to_coco(), entries, name=dataset.name, notes=(*dataset.notes, *notes))


def detect(
    model: Detector,
    dataset: DetectionDataset,
    *,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    workers: int = 0,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """All that a model finds in a data set, as COCO result entries with the data set's ids; at most the 100 best of an image, no threshold.

    Args:
        model: as for `evaluate`, like all the others.
        dataset: of it only images and categories matter.
        batch_size: images that go through the model together.
        device: where the model is moved to.
        workers: processes that read images.
        progress: whether to show a bar.

    Returns:
        Entries image by image in the order of the data set, best first.
    """
    category_ids = match_categories(model.card.categories, dataset).ids
    transform = EvaluationTransform(model.card.preprocessing)
    batches = equal_size_batches([transform.output_size(*size) for size in dataset.sizes.tolist()], batch_size)
    loader = DataLoader(
        EvaluationData(dataset, transform), batch_sampler=batches, collate_fn=collate, num_workers=workers
    )
    select = selection_for(model if device is None else model.to(device))
    found: dict[int, list[dict[str, Any]]] = {}
    errors = terminal(stderr=True)
    shown = progress and errors.is_terminal
    steps = track(loader, f"evaluating on {dataset.name}", total=len(batches), disable=not shown, console=errors)
    with _eval_mode(model):
        for batch, _ in steps:
            for image_id, detections in zip(
                batch.image_ids.tolist(), predictor.detect(model, select, batch), strict=True
            ):
                found[image_id] = _entries(detections, image_id, category_ids)
    return [entry for image_id in dataset.image_ids.tolist() for entry in found[image_id]]


@dataclass(frozen=True)
class CategoryMatch:
    """Which output of a model's class head stands for which category of a data set.

    Attributes:
        ids: output of the class head to category id of the data set.
        notes: sentences about classes of one that the other lacks.
    """

    ids: dict[int, int]
    notes: tuple[str, ...]


def match_categories(categories: Sequence[Category], dataset: DetectionDataset) -> CategoryMatch:
    """Matches a model's classes with a data set's: by name (large or small letters), or by id where no name is the same.

    Args:
        categories: of the model.
        dataset: with categories of its own.

    Raises:
        DataError: no class matches.
    """
    exact = {category.name: category for category in categories}
    pairs = [(exact[own.name], own) for own in dataset.categories if own.name in exact]
    taken = {category.name for category, _ in pairs}
    similar = {category.name.casefold(): category for category in categories if category.name not in taken}
    for own in dataset.categories:
        if own.name not in taken and own.name.casefold() in similar:
            pairs.append((similar.pop(own.name.casefold()), own))
    notes = []
    if not pairs:
        by_id = {category.id: category for category in categories}
        pairs = [(by_id[own.id], own) for own in dataset.categories if own.id in by_id]
        if not pairs:
            raise DataError(
                f"No class of {dataset.name} ({_names(dataset.categories)}) is known to the model ({_names(categories)}), neither by name nor "
                "by id: use a model that was trained on these classes."
            )
        first, own = pairs[0]
        notes.append(
            f"No class name is the same, so classes were matched by id: '{own.name}' is the model's '{first.name}' ({own.id}), and so on."
        )
    known, wanted = {found.index for found, _ in pairs}, {own.index for _, own in pairs}
    unused = [category for category in categories if category.index not in known]
    missing = [category for category in dataset.categories if category.index not in wanted]
    if unused:
        notes.append(f"Detections of {_classes(unused)} that the data set lacks were left out: {_names(unused)}.")
    if missing:
        notes.append(
            f"The model does not know {_classes(missing)} of the data set, counted with AP 0: {_names(missing)}."
        )
    return CategoryMatch({found.index: own.id for found, own in pairs}, tuple(notes))


def _classes(categories: Sequence[Category]) -> str:
    return counted(len(categories), "class", "classes")


def _names(categories: Sequence[Category]) -> str:
    shown = ", ".join(category.name for category in categories[:NAMES_SHOWN])
    return shown if len(categories) <= NAMES_SHOWN else f"{shown} and {len(categories) - NAMES_SHOWN} more"


def _entries(detections: Detections, image_id: int, category_ids: dict[int, int]) -> list[dict[str, Any]]:
    rows = zip(detections.labels.tolist(), detections.boxes_xyxy.tolist(), detections.scores.tolist(), strict=True)
    kept = [(label, box, score) for label, box, score in rows if label in category_ids]
    return [result_entry(image_id, category_ids[label], box, score) for label, box, score in kept[:LIMIT]]


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every part has the mode that it had, also where parts differ."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
