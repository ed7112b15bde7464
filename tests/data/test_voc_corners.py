"""Corners in the wrong order are told from left, top, width and height, which are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from voc_folders import thing, write_annotation, write_split

from detrkit.data.voc import read_voc
from detrkit.errors import DataError


def numbers_of(folder: Path, *boxes: tuple[float, ...]) -> Path:
    """A picture of 80 × 60 pixels for each box."""
    for number, box in enumerate(boxes):
        write_annotation(folder, str(number), thing("cat", box), size="<width>80</width><height>60</height>")
        Image.new("RGB", (80, 60)).save(folder / f"JPEGImages/{number}.png")
    write_split(folder, "train", *map(str, range(len(boxes))))
    return folder


SIZES = ((40, 30, 20, 10), (50, 20, 30, 40), (2, 40, 70, 20), (71, 51, 10, 10), (10, 10, 30, 30), (1, 1, 80, 60))


def test_left_top_width_and_height_are_refused(tmp_path: Path) -> None:
    source = numbers_of(tmp_path, *SIZES) / "ImageSets/Main/train.txt"
    message = (
        f"{source}: 4 of 6 boxes have xmin above xmax or ymin above ymax, while as left, top, width and height the boxes lie inside their "
        "pictures, so that is what the numbers seem to be (the first: object 1 of 0.xml); write corners: xmax is xmin + width - 1, ymax is "
        "ymin + height - 1."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read_voc(tmp_path, "train")


def test_they_are_also_refused_where_only_the_pictures_say_their_size(tmp_path: Path) -> None:
    numbers_of(tmp_path, *SIZES)
    for file in (tmp_path / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<width>80</width><height>60</height>", ""))
    with pytest.raises(DataError, match="4 of 6 boxes have xmin above xmax or ymin above ymax, while as left, top"):
        read_voc(tmp_path, "train")


@pytest.mark.parametrize(
    ("boxes", "end"),
    [
        (((40, 30, 20, 10), (50, 20, 30, 40), (2, 40, 70, 20)), True),  # three may be chance
        ((*SIZES[:3], (20, 10, 30, 30)), True),  # the fourth says nothing
        ((*SIZES, (60, 40, 70, 50)), False),  # this one cannot be a size
        ((*SIZES[:4], (70, 50, 60, 40)), False),  # nor can this
    ],
)
def test_swapped_corners_that_may_be_sizes_are_a_guess(tmp_path: Path, boxes: tuple[Any, ...], end: bool) -> None:
    dataset = read_voc(numbers_of(tmp_path, *boxes), "train")
    assert dataset.boxes_xyxy[:3].tolist() == [[19, 9, 40, 30], [29, 19, 50, 40], [1, 19, 70, 40]]
    guess = (
        "; that is a guess, for the boxes would also lie inside their pictures if their numbers were left, top, width and height"
        if end
        else ""
    )
    swapped = sum(left > right or top > bottom for left, top, right, bottom in boxes)
    assert dataset.notes == (
        f"{swapped} of {len(boxes)} boxes have swapped corners (xmin above xmax, or ymin above ymax), which were swapped back (the first: "
        f"object 1 of 0.xml){guess}.",
    )
