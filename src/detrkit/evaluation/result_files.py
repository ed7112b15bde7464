"""Results from a file beside the data that they belong to: by the ids of the data's own files, or by file names."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.data.dataset import DetectionDataset, ImageFiles
from detrkit.data.wording import are, counted, first_few
from detrkit.errors import DataError
from detrkit.evaluation.inputs import named_contents, read_inputs
from detrkit.files import expanded

_LOW = 0.05  # of a model without a threshold, most detections have lower scores


@dataclass(frozen=True)
class Paired:
    """Two sides that can be compared, as `evaluate_detections` takes them.

    Attributes:
        ground_truth: an annotation file's contents.
        entries: results with the ids of these.
        name: of the data.
        notes: what to know about both.
    """

    ground_truth: dict[str, Any]
    entries: list[dict[str, Any]]
    name: str
    notes: tuple[str, ...]


def is_result_file(path: object) -> bool:
    """Whether a path that may be a checkpoint's names a result file."""
    return isinstance(path, str | Path) and expanded(path).suffix.lower() == ".json"


def is_annotation_file(data: object) -> bool:
    """Whether a result file can be compared with these data without any pictures."""
    return is_result_file(data) and not expanded(str(data)).is_dir()


def pair(results: str | Path, data: DetectionDataset | str | Path) -> Paired:
    """Finds the image of every result.

    Entries of which each has a `file_name`, as `detrkit predict` writes them, belong to the picture with this path, or else with this name.
    Others belong to the image whose id they have.

    Args:
        results: a result file in COCO's format.
        data: a data set, or an annotation file, of which no picture is read.

    Raises:
        DataError: a file cannot be read, or its contents do not belong together.
    """
    source, entries = named_contents(results, "")
    if isinstance(data, DetectionDataset):
        truth, name, notes = data.to_coco(own_ids=True), data.name, list(data.notes)
        pictures = _paths(data)
    else:
        _, truth = named_contents(data, "")
        name, notes, pictures = Path(data).stem, [], None
    if _all_named(entries):
        entries, more = _found_by_name(entries, truth, pictures, source, name)
        notes += more
    if isinstance(data, DetectionDataset):
        return Paired(data.to_coco(), _with_plain_ids(data, truth, entries, source), name, tuple(notes))
    return Paired(truth, entries, name, tuple(notes))


def _with_plain_ids(dataset: DetectionDataset, own: dict[str, Any], entries: Any, source: str) -> list[dict[str, Any]]:
    """Checked entries with the data set's numbers in place of the ids that its files have.

    A number that occurs among the file's own ids and among the data set's numbers is the file's own.
    """
    plain = dataset.to_coco()
    inputs = read_inputs(own, entries, name=dataset.name, results_name=source)
    numbers = {
        part: {read["id"]: entry["id"] for read, entry in zip(inputs.truth[part], plain[part], strict=True)}
        for part in ("images", "categories")
    }
    return [
        {
            **entry,
            "image_id": numbers["images"][entry["image_id"]],
            "category_id": numbers["categories"][entry["category_id"]],
        }
        for entry in inputs.results
    ]


def _paths(dataset: DetectionDataset) -> list[str] | None:
    """Where the pictures lie; None if they are in memory."""
    images = dataset.images
    return [_absolute(str(images[index])) for index in range(len(images))] if isinstance(images, ImageFiles) else None


def _absolute(path: str) -> str:
    return os.path.realpath(expanded(path))


def _all_named(entries: Any) -> bool:
    return (
        isinstance(entries, list)
        and bool(entries)
        and all(isinstance(entry, dict) and isinstance(entry.get("file_name"), str) for entry in entries)
    )


def _found_by_name(
    entries: Sequence[dict[str, Any]], truth: Any, pictures: Sequence[str] | None, source: str, name: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The entries of images that the ground truth has, with their ids, and sentences about the others."""
    records = truth.get("images") if isinstance(truth, dict) else None
    images = [image for image in records or () if isinstance(image, dict) and isinstance(image.get("file_name"), str)]
    given = list(dict.fromkeys(entry["file_name"] for entry in entries))
    places: Mapping[str, int] = {}
    if pictures is not None:
        by_path = {path: place for place, path in enumerate(pictures)}
        places = {each: by_path[path] for each in given if (path := _absolute(each)) in by_path}
    if not places:  # the pictures were elsewhere
        places = _same_names(given, [image["file_name"] for image in images], source, name)
    if not places:
        raise DataError(
            f"{source} has detections in {first_few(given)}, and {name} has none of these images: use results and data that belong together."
        )
    kept = [
        entry | {"image_id": images[places[entry["file_name"]]]["id"]}
        for entry in entries
        if entry["file_name"] in places
    ]
    return kept, [*_other_images_note(given, places, name), *_threshold_note(kept, source)]


def _same_names(given: Iterable[str], names: Sequence[str], source: str, name: str) -> dict[str, int]:
    """Places of images with the same name, of those with several folders in common where several have the name."""
    by_name: dict[str, list[int]] = defaultdict(list)
    for place, each in enumerate(names):
        by_name[_components(each)[-1]].append(place)
    places: dict[str, int] = {}
    taken: dict[int, str] = {}
    for each in given:
        candidates = by_name.get(_components(each)[-1], [])
        common = [_common_end(each, names[place]) for place in candidates]
        best = [place for place, length in zip(candidates, common, strict=True) if length == max(common)]
        if len(best) > 1:
            raise DataError(
                f"{source} has detections in {each}, which may be {names[best[0]]} or {names[best[1]]} of {name}: predict on the pictures "
                "of the data set itself, so that their paths are the same."
            )
        if not best:
            continue
        other = taken.setdefault(best[0], each)
        if other != each:
            raise DataError(
                f"{source} has detections in {other} and in {each}, and {name} has one image of this name: predict on the pictures of the "
                "data set itself, so that their paths are the same."
            )
        places[each] = best[0]
    return places


def _components(name: str) -> list[str]:
    return name.replace("\\", "/").split("/")


def _common_end(one: str, other: str) -> int:
    """How many components two names have in common, from the last one on."""
    pairs = list(zip(reversed(_components(one)), reversed(_components(other)), strict=False))
    return next((length for length, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _other_images_note(given: Sequence[str], places: Mapping[str, int], name: str) -> list[str]:
    others = [Path(each).name for each in given if each not in places]
    if not others:
        return []
    return [
        f"Detections in {counted(len(others), 'image')} that {are(len(others))} not in {name} were left out: {first_few(others)}."
    ]


def _threshold_note(entries: Sequence[dict[str, Any]], source: str) -> list[str]:
    """A sentence where low scores were left out, which makes AP lower than that of the model."""
    scores = [entry.get("score") for entry in entries]
    numbers = [score for score in scores if isinstance(score, int | float)]
    if not numbers or min(numbers) < _LOW:
        return []
    return [
        f"The lowest score in {source} is {min(numbers):.2f}, and AP counts what was left out below it as not found: detrkit predict with "
        "--threshold 0 writes all, and detrkit evaluate CHECKPOINT counts all."
    ]
