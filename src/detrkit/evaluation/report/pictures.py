"""Photos of a report: images with most errors, and examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from detrkit.data.dataset import DetectionDataset
from detrkit.data.masks import Axis
from detrkit.data.wording import counted
from detrkit.evaluation.analysis import Analysis
from detrkit.evaluation.errors import KIND_NAMES, ImageErrors, Mark
from detrkit.evaluation.report import colors
from detrkit.evaluation.report.page import Photo
from detrkit.prediction.drawing import draw, truth_at
from detrkit.prediction.labels import draw_labels
from detrkit.prediction.mask_drawing import paint_masks
from detrkit.prediction.quiet_supervision import sv

PICTURE_WIDTH = 800  # pixels of a picture; smaller ones are enlarged towards it, so that labels can be read
# What the colours of boxes stand for. Labels say it, too.
MARK_COLORS = {
    "correct": colors.CORRECT,
    "class": colors.WRONG_CLASS,
    "place": colors.WRONG_PLACE,
    "both": colors.WRONG_BOTH,
    "duplicate": colors.DUPLICATE,
    "background": colors.BACKGROUND,
    "missed": colors.MISSED,
    "mistaken": colors.MISTAKEN,
    "ignored": colors.NEUTRAL,
}
MARK_WORDS = {
    "correct": "correct",
    **KIND_NAMES,
    "mistaken": "not found, but a wrong detection is near",
    "ignored": "ignored (in a crowd region)",
}
_LABELS = MARK_WORDS | {
    "both": "wrong class, place",
    "mistaken": "not found",
    "correct": "",
    "ignored": "in a crowd region",
}
_QUIET = ("correct", "ignored")  # thin lines without a label
MOST_LABELS = 14  # in a picture, those of the surest errors
_LARGEST_FACTOR = 4.0  # by which small pictures are enlarged
_KINDS = tuple(MARK_COLORS)
_Place = tuple[int, tuple[float, ...]]  # the class and the box of a detection


def worst_pictures(
    dataset: DetectionDataset, analysis: Analysis, entries: Iterable[Mapping[str, Any]] = (), *, count: int = 8
) -> tuple[Photo, ...]:
    """The images with most errors: detections by kind of error on the left, the ground truth and what was not found on the right.

    Masks are below the boxes, in the same colours, where the detections or the data set have some.

    Args:
        dataset: the images and their ground truth.
        analysis: of detections in this data set.
        entries: these detections, for their masks; as for `example_pictures`.
        count: maximum number of images.

    Raises:
        DataError: an image cannot be read.
    """
    places = {number: place for place, number in enumerate(dataset.image_ids.tolist())}
    names = {category.id: category.name for category in dataset.categories}
    chosen = [entry for entry in analysis.images if entry.image_id in places][:count]
    shown = {entry.image_id for entry in chosen}
    by_image: dict[int, dict[_Place, Mapping[str, Any]]] = defaultdict(dict)
    for each in _with_numbers(entries, dataset):
        if each["image_id"] in shown and each.get("segmentation") and each.get("bbox"):
            by_image[each["image_id"]][_place_of(each)] = each
    return tuple(
        _worst_picture(dataset, places[entry.image_id], entry, names, number, by_image[entry.image_id])
        for number, entry in enumerate(chosen, start=1)
    )


def _place_of(entry: Mapping[str, Any]) -> _Place:
    return entry["category_id"], tuple(map(float, entry["bbox"]))


def _worst_picture(
    dataset: DetectionDataset,
    index: int,
    entry: ImageErrors,
    names: Mapping[int, str],
    number: int,
    entries: Mapping[_Place, Mapping[str, Any]],
) -> Photo:
    picture, scale = enlarged(dataset.image(index))
    found = [mark for mark in entry.marks if mark.score is not None]
    unfound = [mark for mark in entry.marks if mark.score is None]
    truth = true_marks(dataset, index)
    wrong = ", ".join(
        f"{errors} {MARK_WORDS[kind]}"
        for kind, errors in sorted(entry.counts.items(), key=lambda item: -item[1])
        if errors
    )
    mistaken = sum(mark.kind == "mistaken" for mark in unfound)
    near = f", {mistaken} with a wrong detection near" if mistaken else ""
    name = entry.file_name or dataset.image_name(index)
    return Photo(
        f"errors_{number}",
        f"{name}: {counted(entry.objects, 'object')}, {entry.correct} found{near}; {wrong}.",
        (
            draw_marks(_with_found_masks(picture, found, entries), found, names, scale),
            draw_marks(_with_true_masks(picture, dataset, index, truth, unfound), [*truth, *unfound], names, scale),
        ),
        ("Detections", "Ground truth"),
        (f"{name}: detections, {wrong}", f"{name}: the ground truth, {counted(len(truth), 'object')}"),
        key_of([*found, *truth, *unfound]),
    )


def true_marks(dataset: DetectionDataset, index: int) -> list[Mark]:
    """The annotated objects of an image, to be drawn beside what was found; regions of many objects count as neither right nor wrong.

    Args:
        dataset: with the image.
        index: the place of the image.
    """
    objects = dataset.objects(index)
    rows = zip(objects.boxes_xyxy.tolist(), objects.labels.tolist(), objects.crowd.tolist(), strict=True)
    return [
        Mark(
            "ignored" if crowd else "correct",
            (left, top, right - left, bottom - top),
            dataset.categories[label].id,
            None,
        )
        for (left, top, right, bottom), label, crowd in rows
    ]


def _with_found_masks(
    picture: Image.Image, found: Sequence[Mark], entries: Mapping[_Place, Mapping[str, Any]]
) -> Image.Image:
    """A picture with the masks of detections in the colours of their kinds, the surest on top; entries by class and box."""
    pairs = [(mark, entries.get((mark.category_id, mark.bbox))) for mark in reversed(found)]
    known = [(mark, entry) for mark, entry in pairs if entry is not None]
    masks = masks_at([entry["segmentation"] for _, entry in known], picture.size)
    return _with_masks(picture, masks, [mark.kind for mark, _ in known])


def _with_true_masks(
    picture: Image.Image, dataset: DetectionDataset, index: int, truth: Sequence[Mark], unfound: Sequence[Mark]
) -> Image.Image:
    """A picture with the masks of its objects, which have the colours of what was not found, or that of what was."""
    masks = truth_at(dataset, index, picture.size).mask
    if masks is None:
        return picture
    kinds = {(mark.category_id, tuple(np.round(mark.bbox, 2))): mark.kind for mark in unfound}
    own = [kinds.get((mark.category_id, tuple(np.round(mark.bbox, 2))), mark.kind) for mark in truth]
    return _with_masks(picture, np.asarray(masks), own)


def _with_masks(picture: Image.Image, masks: np.ndarray, kinds: Sequence[str]) -> Image.Image:
    scene = picture.copy()
    own = [ImageColor.getrgb(MARK_COLORS[kind])[:3] for kind in kinds]
    paint_masks(scene, masks, own, thickness=1)
    return scene


def masks_at(values: Sequence[Any], size: tuple[int, int]) -> np.ndarray:
    """The masks of COCO result entries of one image in a picture of another size.

    Args:
        values: run lengths, compressed or not, at the size of the image. Outlines give empty masks.
        size: width and height of the picture.

    Returns:
        (N, height, width) bool.
    """
    from faster_coco_eval.core.mask import decode, frPyObjects  # takes a while, and most reports have no masks

    width, height = size
    masks = np.zeros((len(values), height, width), dtype=np.bool_)
    for mask, value in zip(masks, values, strict=True):  # one at a time: they have the size of the photo
        if not isinstance(value, Mapping):
            continue
        own_height, own_width = value["size"]
        rows, columns = Axis.whole(own_height).resized(height), Axis.whole(own_width).resized(width)
        whole = frPyObjects(value, own_height, own_width) if isinstance(value["counts"], list) else value
        mask[:] = decode(whole)[rows.picked()[:, None], columns.picked()]
    return masks


def key_of(marks: Iterable[Mark]) -> tuple[tuple[str, str], ...]:
    """The legend of a picture: the colours that occur in it, in the order of all legends."""
    kinds = {mark.kind for mark in marks}
    return tuple((MARK_COLORS[kind], MARK_WORDS[kind]) for kind in MARK_COLORS if kind in kinds)


def draw_marks(image: Image.Image, marks: Sequence[Mark], names: Mapping[int, str], scale: float) -> Image.Image:
    """A copy of a picture with boxes coloured by kind; what is correct has thin lines, errors have thick ones and, the surest first, labels.

    Args:
        image: RGB.
        marks: boxes in pixels of the original image.
        names: of the classes, by category id.
        scale: pixels of this picture for each pixel of the original image.
    """
    quiet = [mark for mark in marks if mark.kind in _QUIET]
    errors = sorted((mark for mark in marks if mark.kind not in _QUIET), key=lambda mark: mark.score or 0.0)
    return _drawn(image, quiet, errors, errors[: -MOST_LABELS - 1 : -1], names, scale)


def draw_truth(image: Image.Image, marks: Sequence[Mark], names: Mapping[int, str], scale: float) -> Image.Image:
    """A copy of a picture with annotated objects alone, as `true_marks` gives them: in thick lines, each with its class.

    Args:
        image: as for `draw_marks`, like everything else.
        marks: the objects.
        names: of the classes.
        scale: of the picture.
    """
    return _drawn(image, (), marks, marks, names, scale)


def _drawn(
    image: Image.Image,
    quiet: Sequence[Mark],
    loud: Sequence[Mark],
    labelled: Sequence[Mark],
    names: Mapping[int, str],
    scale: float,
) -> Image.Image:
    """A copy of a picture with boxes in thin and in thick lines, some of them with labels."""
    scene = image.copy()
    side = (scene.width * scene.height) ** 0.5
    palette = sv.ColorPalette.from_hex(list(MARK_COLORS.values()))
    thin, thick = max(1, round(side / 500)), max(3, round(side / 200))
    for group, thickness in ((quiet, thin), (loud, thick)):
        sv.BoxAnnotator(palette, thickness=thickness).annotate(scene, _boxes(group, scale))
    draw_labels(
        scene,
        _boxes(labelled, scale).xyxy,
        [_label(mark, names) for mark in labelled],
        [MARK_COLORS[mark.kind] for mark in labelled],
        ink=colors.INK,
        size=max(11, round(side / 42)),
    )
    return scene


def _label(mark: Mark, names: Mapping[int, str]) -> str:
    score = "" if mark.score is None else f" {mark.score:.2f}"
    return f"{names.get(mark.category_id, mark.category_id)}{score} {_LABELS[mark.kind]}".rstrip()


def _boxes(marks: Sequence[Mark], scale: float) -> sv.Detections:
    boxes = np.array([mark.bbox for mark in marks], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return sv.Detections(
        xyxy=boxes * scale, class_id=np.array([_KINDS.index(mark.kind) for mark in marks], dtype=np.int64)
    )


def enlarged(image: Image.Image) -> tuple[Image.Image, float]:
    """The picture in the size of a report, and the factor by which it grew."""
    scale = min(PICTURE_WIDTH / image.width, PICTURE_WIDTH / image.height, _LARGEST_FACTOR)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC), scale


def example_pictures(
    dataset: DetectionDataset,
    entries: Iterable[Mapping[str, Any]],
    *,
    threshold: float | Mapping[int, float],
    count: int = 6,
) -> tuple[Photo, ...]:
    """Predictions beside the ground truth, for images that are evenly spaced in a data set; with masks where a side has some.

    Args:
        dataset: the images and their ground truth.
        entries: COCO result entries from a model or a file: whole numbers are the data set's ids, texts those of its annotation file. Where
            a file mixes both, `pair` of `evaluation.result_files` translates them.
        threshold: score from which a detection is drawn; one for all, or one for each category id.
        count: maximum number of images.

    Raises:
        DataError: an image cannot be read.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int))
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in _with_numbers(entries, dataset):
        least = threshold.get(entry["category_id"], 0.5) if isinstance(threshold, Mapping) else threshold
        if entry["score"] >= least:
            by_image[entry["image_id"]].append(entry)
    return tuple(
        _example(dataset, index, by_image[int(dataset.image_ids[index])], number)
        for number, index in enumerate(chosen.tolist(), start=1)
    )


def _example(dataset: DetectionDataset, index: int, entries: Sequence[Mapping[str, Any]], number: int) -> Photo:
    picture, scale = enlarged(dataset.image(index))
    predicted, truth = _detections_of(entries, dataset), truth_at(dataset, index, picture.size)
    predicted.xyxy = predicted.xyxy * scale
    if entries and all(isinstance(entry.get("segmentation"), Mapping) for entry in entries):
        predicted.mask = masks_at([entry["segmentation"] for entry in entries], picture.size)
    name = dataset.image_name(index)
    return Photo(
        f"example_{number}",
        f"{name}: {counted(len(predicted), 'detection')}, {counted(len(truth), 'object')}.",
        (draw(picture, predicted), draw(picture, truth)),
        ("Detections", "Ground truth"),
        (
            f"{name}: {counted(len(predicted), 'detection')}",
            f"{name}: the ground truth, {counted(len(truth), 'object')}",
        ),
    )


def _with_numbers(entries: Iterable[Mapping[str, Any]], dataset: DetectionDataset) -> Iterator[Mapping[str, Any]]:
    """Entries with the ids of the data set, whether they have these, which are numbers, or texts, which its annotation file uses."""
    numbers = dataset.image_ids.tolist()
    own_images = numbers if dataset.file_image_ids is None else dataset.file_image_ids.tolist()
    own_categories = dataset.file_category_ids or {}
    classes = [category.id for category in dataset.categories]
    images = _by_id(numbers, own_images)
    categories = _by_id(classes, [own_categories.get(number, number) for number in classes])
    for entry in entries:
        image, category = images.get(entry["image_id"]), categories.get(entry["category_id"])
        if image is not None and category is not None:
            yield {**entry, "image_id": image, "category_id": category}


def _by_id(numbers: Sequence[int], own: Sequence[Any]) -> dict[int | str, int]:
    """The numbers of a data set by themselves, and by the texts that its file has for them."""
    return {**dict(zip(map(str, own), numbers, strict=True)), **{number: number for number in numbers}}


def _detections_of(entries: Sequence[Mapping[str, Any]], dataset: DetectionDataset) -> sv.Detections:
    names = {category.id: category.name for category in dataset.categories}
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return sv.Detections(
        xyxy=boxes,
        confidence=np.array([entry["score"] for entry in entries], dtype=np.float64),
        class_id=np.array([entry["category_id"] for entry in entries], dtype=np.int64),
        data={"class_name": np.array([names[entry["category_id"]] for entry in entries], dtype=str)},
    )
