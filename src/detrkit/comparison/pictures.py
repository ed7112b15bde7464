"""The images in which contestants differ most, with the detections of each beside the ground truth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from detrkit.comparison.figures import ContestantFigures, Training
from detrkit.comparison.outcome import DETECTIONS
from detrkit.data import DetectionDataset
from detrkit.data.wording import counted
from detrkit.evaluation.errors import ImageErrors, Mark
from detrkit.evaluation.report import Photo
from detrkit.evaluation.report.pictures import draw_marks, draw_truth, enlarged, key_of, true_marks
from detrkit.evaluation.result_files import pair

_MOST_BESIDE = 5  # contestants in a picture, the best


def telling_pictures(
    contestants: Sequence[ContestantFigures], dataset: DetectionDataset, *, count: int = 6
) -> tuple[Photo, ...]:
    """The images in which the numbers of errors lie furthest apart, in favour of the best contestant and of another in turn.

    Errors are those at the best thresholds of each contestant's classes: wrong detections, and objects that were missed. Of several trainings
    it is the first.

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
    titles = {each.name: _with_seed(each) for each in shown}
    for number, image_id in enumerate(chosen, start=1):
        marks = {
            titles[name]: own[image_id].marks if image_id in own else faultless[name][image_id]
            for name, own in errors.items()
        }
        counts = {titles[name]: _errors_in_words(own.get(image_id)) for name, own in errors.items()}
        photos.append(_photo(dataset, places[image_id], marks, counts, number))
    return tuple(photos)


def _with_seed(contestant: ContestantFigures) -> str:
    """The name, with the seed of the training that is shown where there are several."""
    seed = contestant.finished[0].run.seed
    return contestant.name if len(contestant.trainings) == 1 else f"{contestant.name} with seed {seed}"


def most_telling(errors: Sequence[dict[int, int]], count: int) -> list[int]:
    """The ids of the images in which the numbers of errors differ most: one in favour of the first, one in favour of another, and so on.

    Where one side has no more images, the other has the rest.

    Args:
        errors: of each contestant, numbers of errors by image id, without images that have none.
        count: maximum number of images.
    """
    favour: dict[int, int] = {}  # how many errors fewer the first has; below 0 where another has fewer
    for number in sorted({number for own in errors for number in own}):
        first, *others = (own.get(number, 0) for own in errors)
        fewer, more = max(others, default=first) - first, first - min(others, default=first)
        favour[number] = fewer if fewer >= more else -more
    ranked = sorted(favour, key=lambda number: -abs(favour[number]))
    sides = ([each for each in ranked if favour[each] > 0], [each for each in ranked if favour[each] < 0])
    in_turn = [each for both in itertools.zip_longest(*sides) for each in both if each is not None]
    return in_turn[:count]


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
    if entry is None:
        return "no errors"
    missed = entry.counts["missed"]
    return f"{entry.correct} correct, {entry.errors - missed} wrong, {missed} missed"


def _photo(
    dataset: DetectionDataset, place: int, marks: dict[str, tuple[Mark, ...]], counts: dict[str, str], number: int
) -> Photo:
    picture, scale = enlarged(dataset.image(place))
    names = {category.id: category.name for category in dataset.categories}
    truth = true_marks(dataset, place)
    file_name = dataset.image_name(place)
    return Photo(
        f"differing_{number}",
        f"{file_name}: {counted(len(truth), 'object')}.",
        (*(draw_marks(picture, own, names, scale) for own in marks.values()), draw_truth(picture, truth, names, scale)),
        (*(f"{name}: {words}" for name, words in counts.items()), "Ground truth"),
        (
            *(f"{file_name}: detections of {name}, {words}" for name, words in counts.items()),
            f"{file_name}: the ground truth, {counted(len(truth), 'object')}",
        ),
        key_of([mark for own in marks.values() for mark in own] + truth),
    )
