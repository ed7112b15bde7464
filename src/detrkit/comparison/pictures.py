"""The images in which contestants differ most, with the detections of each beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence

from detrkit.comparison.figures import ContestantFigures, Training
from detrkit.comparison.outcome import DETECTIONS
from detrkit.data import DetectionDataset
from detrkit.data.wording import counted
from detrkit.evaluation.errors import ImageErrors, Mark
from detrkit.evaluation.report import Photo
from detrkit.evaluation.report.pictures import draw_marks, enlarged, key_of, true_marks
from detrkit.evaluation.result_files import pair

_MOST_BESIDE = 5  # contestants in a picture, the best


def telling_pictures(
    contestants: Sequence[ContestantFigures], dataset: DetectionDataset, *, count: int = 6
) -> tuple[Photo, ...]:
    """The images in which the numbers of errors lie furthest apart, furthest first; of the first training of each contestant.

    Errors are those at the best thresholds of each contestant's classes: wrong detections, and objects that were missed.

    Args:
        contestants: those with a finished run, best first.
        dataset: the images and their ground truth.
        count: maximum number of images.

    Raises:
        DataError: an image cannot be read.
    """
    shown = list(contestants[:_MOST_BESIDE])
    errors = {each.name: {entry.image_id: entry for entry in each.finished[0].outcome.errors} for each in shown}
    chosen = most_telling([{number: entry.errors for number, entry in own.items()} for own in errors.values()], count)
    places = {number: place for place, number in enumerate(dataset.image_ids.tolist())}
    faultless = {
        each.name: _correct_marks(each.finished[0], dataset, [n for n in chosen if n not in errors[each.name]])
        for each in shown
    }
    photos = []
    for number, image_id in enumerate(chosen, start=1):
        marks = {
            name: own[image_id].marks if image_id in own else faultless[name][image_id] for name, own in errors.items()
        }
        counts = {name: _errors_in_words(own.get(image_id)) for name, own in errors.items()}
        photos.append(_photo(dataset, places[image_id], marks, counts, number))
    return tuple(photos)


def most_telling(errors: Sequence[dict[int, int]], count: int) -> list[int]:
    """The ids of the images in which the numbers of errors differ most.

    Args:
        errors: of each contestant, numbers of errors by image id, without images that have none.
        count: maximum number of images.
    """
    ids = sorted({number for own in errors for number in own})
    spreads = {}
    for number in ids:
        values = [own.get(number, 0) for own in errors]
        spreads[number] = max(values) - min(values)
    ranked = sorted(ids, key=lambda number: -spreads[number])
    return [number for number in ranked if spreads[number]][:count]


def _correct_marks(
    training: Training, dataset: DetectionDataset, image_ids: Sequence[int]
) -> dict[int, tuple[Mark, ...]]:
    """The detections from the thresholds on in images without an error: all of them are correct, or in crowd regions."""
    marks: dict[int, list[Mark]] = {number: [] for number in image_ids}
    if not marks:
        return {}
    thresholds = training.outcome.thresholds or {}
    for entry in pair(training.run.folder / DETECTIONS, dataset).entries:
        if entry["image_id"] in marks and entry["score"] >= thresholds.get(entry["category_id"], 1.0):
            left, top, width, height = entry["bbox"]
            box = (left, top, width, height)
            marks[entry["image_id"]].append(Mark("correct", box, entry["category_id"], entry["score"]))
    return {number: tuple(own) for number, own in marks.items()}


def _errors_in_words(entry: ImageErrors | None) -> str:
    return "no errors" if entry is None else counted(entry.errors, "error")


def _photo(
    dataset: DetectionDataset, place: int, marks: dict[str, tuple[Mark, ...]], counts: dict[str, str], number: int
) -> Photo:
    picture, scale = enlarged(dataset.image(place))
    names = {category.id: category.name for category in dataset.categories}
    truth = true_marks(dataset, place)
    file_name = dataset.image_name(place)
    return Photo(
        f"differing_{number}",
        f"{file_name}: " + ", ".join(f"{name} {words}" for name, words in counts.items()) + ".",
        tuple(draw_marks(picture, own, names, scale) for own in (*marks.values(), truth)),
        (*(f"{name}: {words}" for name, words in counts.items()), "Ground truth"),
        (
            *(f"{file_name}: detections of {name}, {words}" for name, words in counts.items()),
            f"{file_name}: the ground truth, {counted(len(truth), 'object')}",
        ),
        key_of([mark for own in (*marks.values(), truth) for mark in own]),
    )
