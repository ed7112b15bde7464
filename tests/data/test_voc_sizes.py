"""Sizes that XML files of Pascal VOC give: a pixel off is a note, everything else is counted and named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from voc_folders import thing, write_annotation, write_split

from detrkit.data.voc import read_voc
from detrkit.errors import DataError


def size_of(width: int, height: int) -> str:
    return f"<width>{width}</width><height>{height}</height>"


def test_a_size_that_is_a_pixel_off_is_noted(tmp_path: Path) -> None:
    for name, size in (("a", (8, 6)), ("b", (7, 6)), ("c", (9, 5)), ("d", (0, 6))):
        write_annotation(tmp_path, name, thing("cat", (2, 2, 8, 6)), size=size_of(*size))
    write_split(tmp_path, "train", *"abcd")
    dataset = read_voc(tmp_path, "train")
    assert dataset.sizes.tolist() == [[6, 8]] * 4
    assert dataset.boxes_xyxy.tolist() == [[1, 1, 8, 6]] * 4
    assert dataset.notes == (
        "2 of 4 images have a size in the XML file that is a pixel off, so the picture's own is used (the first: b.xml has 7 × 6, the "
        "picture 8 × 6).",
    )


def test_other_sizes_are_counted_and_named(tmp_path: Path) -> None:
    for name, size in (("a", (8, 6)), ("b", (7, 6)), ("c", (16, 12)), ("d", (6, 8)), ("e", (640, 480)), ("f", (5, 8))):
        write_annotation(tmp_path, name, thing("cat", (2, 2, 8, 6)), size=size_of(*size))
    write_split(tmp_path, "train", *"abcdef")
    message = (
        f"{tmp_path}/Annotations: 4 of 6 images have another size in the XML file than the picture has: c.xml has 16 × 12 (the picture "
        "8 × 6); d.xml has 6 × 8 (the picture 8 × 6, width and height exchanged); e.xml has 640 × 480 (the picture 8 × 6); …; use the "
        "pictures that were annotated, or export the annotations again (in 2 of them width and height are exchanged)."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        read_voc(tmp_path, "train")


def test_exchanged_width_and_height_are_named(tmp_path: Path) -> None:
    write_annotation(tmp_path, "a", thing("cat", (2, 2, 8, 6)), size=size_of(6, 8))
    write_split(tmp_path, "train", "a")
    message = (
        "1 of 1 image has another size in the XML file than the picture has: a.xml has 6 × 8 (the picture 8 × 6, width and height "
        "exchanged); exchange <width> and <height> in the XML files if the boxes fit the pictures, otherwise turn the pictures."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        read_voc(tmp_path, "train")


def save_turned(file: Path) -> None:
    """A picture of 6 × 8 stored pixels that is shown as 8 × 6."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (6, 8)).save(file, exif=exif)


def test_a_size_that_the_orientation_explains_is_left_to_the_check_of_all_pictures(tmp_path: Path) -> None:
    for name, size in (("a", (8, 6)), ("b", (6, 8)), ("c", (9, 6))):
        write_annotation(tmp_path, name, thing("cat", (1, 1, 5, 5)), size=size_of(*size))
        save_turned(tmp_path / f"JPEGImages/{name}.png")
    write_split(tmp_path, "train", "a", "c")
    dataset = read_voc(tmp_path, "train")
    assert dataset.sizes.tolist() == [[6, 8], [6, 8]]
    assert dataset.notes[0].startswith("1 of 2 images has a size in the XML file that is a pixel off")
    write_split(tmp_path, "train", "b")
    assert len(read_voc(tmp_path, "train")) == 1  # the boxes decide about b
