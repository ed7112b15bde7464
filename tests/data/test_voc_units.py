"""Pascal VOC boxes in another unit are refused by name; pixels are left alone, also where they could be something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image
from voc_folders import thing, write_annotation, write_split

from detrkit.data import DetectionDataset
from detrkit.data.voc import read_voc
from detrkit.errors import DataError

Box = tuple[float, ...]
# As shares of the picture: they become whole pixels in pictures of 640 × 480 and of 50 × 40.
SHARES: list[Box] = [
    (0.1, 0.1, 0.3, 0.5), (0.5, 0.2, 0.98, 0.9), (0.02, 0.6, 0.4, 0.95), (0.62, 0.025, 0.9, 0.4), (0.3, 0.5, 0.8, 0.8), (0.2, 0.3, 0.6, 0.7)
]  # fmt: skip
FORM = "so the boxes are percentages of the image; Pascal VOC's boxes are xmin, ymin, xmax, ymax in pixels: multiply them by its width and height and "


def scaled(shares: Sequence[Box], width: float, height: float) -> list[Box]:
    return [tuple(value * side for value, side in zip(box, (width, height) * 2, strict=True)) for box in shares]


def read(folder: Path, boxes: Sequence[Box], size: tuple[int, int]) -> DetectionDataset:
    stated = f"<width>{size[0]}</width><height>{size[1]}</height>"
    write_annotation(folder, "a", *(thing("cat", box) for box in boxes), size=stated)
    Image.new("RGB", size).save(folder / "JPEGImages/a.png")
    write_split(folder, "train", "a")
    return read_voc(folder, "train")


def test_percentages_of_pictures_that_they_leave(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, scaled(SHARES, 100, 100), (50, 40))
    assert str(caught.value) == (
        f"{tmp_path}/Annotations: 6 of 6 boxes would leave the image, and nearly all fit as percentages, {FORM}divide by 100."
    )


def test_percentages_that_become_whole_pixels(tmp_path: Path) -> None:
    pixels: list[Box] = [(31, 47, 226, 301), (3, 131, 569, 387), (415, 401, 631, 443), (11, 17, 222, 109)]
    percent = [tuple(100 * value / side for value, side in zip(box, (640, 480) * 2, strict=True)) for box in pixels]
    with pytest.raises(DataError) as caught:
        read(tmp_path, percent, (640, 480))
    assert str(caught.value) == (
        f"{tmp_path}/Annotations: nearly all become whole numbers of pixels if they are taken as percentages, {FORM}divide by 100."
    )


def test_whole_percentages_are_noted(tmp_path: Path) -> None:
    boxes = [(number, 2 * number, 80 + number, 90 + number) for number in range(1, 11)]
    assert read(tmp_path, boxes, (640, 480)).notes == (
        "The 10 boxes lie in the first 100 × 100 pixels of larger images; if they are percentages, multiply them by the image's width and height "
        "and divide by 100.",
    )


@pytest.mark.parametrize("size", [(640, 480), (50, 40)])
@pytest.mark.parametrize(
    "form",
    [lambda box: box, lambda box: ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1])],
)
def test_fractions_in_every_form(tmp_path: Path, size: tuple[int, int], form: Callable[[Box], Box]) -> None:
    with pytest.raises(
        DataError,
        match=r"train\.txt: all boxes lie within 0\.\.1, so they are fractions of the image; multiply them by",
    ):
        read(tmp_path, [form(box) for box in SHARES], size)


@pytest.mark.parametrize("size", [(640, 480), (50, 40), (100, 100), (101, 99), (200, 120), (12, 9)])
def test_pixels_stay(tmp_path: Path, size: tuple[int, int]) -> None:
    boxes = [tuple(map(round, box)) for box in scaled(SHARES, *size)]
    dataset = read(tmp_path, boxes, size)
    assert dataset.boxes_xyxy.tolist() == [[left - 1, top - 1, right, bottom] for left, top, right, bottom in boxes]
    assert dataset.notes == ()


def test_small_objects_in_the_upper_left_corner_stay(tmp_path: Path) -> None:
    boxes: list[Box] = [(1, 1, 4, 4), (2, 1, 3, 6), (10, 20, 40, 45), (1, 1, 2, 2)]
    assert read(tmp_path, boxes, (640, 480)).notes == ()


def test_boxes_outside_their_picture_are_left_out(tmp_path: Path) -> None:
    boxes: list[Box] = [(1, 1, 20, 20), (81, 1, 90, 20), (80, 1, 90, 20), (5, 70, 9, 80), (-9, 1, 0, 5)]
    dataset = read(tmp_path, boxes, (80, 60))
    assert dataset.boxes_xyxy.tolist() == [[0, 0, 20, 20], [79, 0, 90, 20]]
    assert dataset.notes[0] == (
        "3 of 5 boxes lie wholly outside the image and were left out (the first: annotation 2 of a.png); COCO's own evaluation would count each "
        "as an object that was missed."
    )


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_real_pixels_give_no_alarm(shared: Path, split: str) -> None:
    dataset = read_voc(shared / "data/bccd", split)
    assert not any("percent" in note or "outside" in note or "fraction" in note for note in dataset.notes)
