"""Panoptic results from a file beside the segments that they belong to: a panoptic file, or a data set with panoptic segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.cards import Category
from detrkit.data.dataset import DetectionDataset
from detrkit.data.wording import are, first_few, some_of
from detrkit.errors import DataError
from detrkit.evaluation.panoptic import PanopticCounter
from detrkit.evaluation.panoptic_figures import PanopticEvaluation
from detrkit.panoptic import VOID, PanopticSegmentation
from detrkit.prediction.panoptic_files import PanopticFile, read_panoptic


@dataclass(frozen=True)
class _Truth:
    """The annotated side: the ids and names of its images, its classes, and what gives the segments of an image."""

    name: str
    ids: Sequence[Any]
    names: Sequence[str]
    categories: Sequence[Category]
    read: Callable[[int], PanopticSegmentation]
    notes: tuple[str, ...] = ()


def evaluate_panoptic_file(results: str | Path, truth: DetectionDataset | str | Path) -> PanopticEvaluation:
    """Panoptic quality of a result file in COCO's form.

    Images belong together by their ids, or by the names of their PNG files where `detrkit predict` numbered the images. Every annotated image
    counts, including those without a result.

    Args:
        results: the JSON file, with the folder of its PNG files beside it. Its classes are those of the ground truth, by their ids.
        truth: a panoptic file, or a data set that was opened with `masks="panoptic"`.

    Raises:
        DataError: a file cannot be read, has classes or segments that do not fit, or has none of the annotated images.
    """
    annotated = _of_dataset(truth) if isinstance(truth, DetectionDataset) else _of_file(truth)
    found = read_panoptic(results, categories=annotated.categories)
    places = _places(found, annotated)
    counter = PanopticCounter()
    for index, name in enumerate(annotated.names):
        segments = annotated.read(index)
        place = places.get(index)
        prediction = _nothing(segments) if place is None else found[place]
        counter.add(segments, prediction, name=name)
    notes = (*annotated.notes, *_notes(found, annotated, places))
    return counter.result(name=annotated.name, notes=notes)


def _of_dataset(dataset: DetectionDataset) -> _Truth:
    ids = dataset.image_ids.tolist() if dataset.file_image_ids is None else list(dataset.file_image_ids)
    names = [dataset.image_name(index) for index in range(len(dataset))]
    return _Truth(dataset.name, ids, names, dataset.categories, dataset.panoptic, dataset.notes)


def _of_file(path: str | Path) -> _Truth:
    file = read_panoptic(path)
    return _Truth(file.source.stem, file.image_ids, file.names, file.categories, file.__getitem__)


def _places(found: PanopticFile, annotated: _Truth) -> dict[int, int]:
    """The place of the result of each annotated image that has one.

    Raises:
        DataError: there is none.
    """
    theirs: list[Any] = [Path(name).stem for name in found.names] if found.numbered else [*map(str, found.image_ids)]
    own = [Path(name).stem for name in annotated.names] if found.numbered else [*map(str, annotated.ids)]
    by_key = {key: place for place, key in enumerate(theirs)}
    places = {index: by_key[key] for index, key in enumerate(own) if key in by_key}
    if not places:
        raise DataError(
            f"{found.source} has results for {first_few(theirs)}, and {annotated.name} has none of these images: use results and ground truth "
            "that belong together."
        )
    return places


def _nothing(truth: PanopticSegmentation) -> PanopticSegmentation:
    return PanopticSegmentation(np.full_like(truth.ids, VOID), ())


def _notes(found: PanopticFile, annotated: _Truth, places: dict[int, int]) -> list[str]:
    """Sentences about images that only one side has."""
    missing = [name for index, name in enumerate(annotated.names) if index not in places]
    used = set(places.values())
    others = [name for place, name in enumerate(found.names) if place not in used]
    notes = []
    if missing:
        count = some_of(len(missing), len(annotated.names), "image")
        notes.append(f"There is no result for {count}, whose segments count as missed: {first_few(missing)}.")
    if others:
        count = some_of(len(others), len(found), "result")
        notes.append(f"{count} {are(len(others))} of images that {annotated.name} does not have: {first_few(others)}.")
    return notes


def is_panoptic_file(path: str | Path) -> bool:
    """Whether a JSON file holds panoptic segments rather than a list of detections or boxes; False for what cannot be read."""
    from detrkit.evaluation.inputs import named_contents
    from detrkit.prediction.panoptic_files import is_panoptic

    try:
        return is_panoptic(named_contents(path, "")[1])
    except DataError:
        return False
