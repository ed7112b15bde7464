"""YOLO numbers that are not the centre and size as fractions: another unit or another meaning is refused, or said where it is a guess."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.yolo_files import write_picture, write_yolo_set

from detrkit.data import DetectionDataset, open_dataset
from detrkit.errors import DataError

CORNERS, SIZES = "left, top, right, bottom", "left, top, width, height"


def read_lines(folder: Path, *lines: str, size: tuple[int, int] = (40, 20)) -> DetectionDataset:
    write_yolo_set(folder, {"a": "\n".join(lines)})
    write_picture(folder / "images/train/a.png", size=size)
    return open_dataset(folder, "train")


@pytest.mark.parametrize(
    ("lines", "count", "meaning"),
    [
        (("0 .6 .6 .9 .9", "0 .1 .2 .4 .6"), "2 of 2 boxes", CORNERS),
        (("0 .6 .6 .9 .9", "0 .5 .5 .8 .9", "1 .1 .1 .4 .2"), "2 of 3 boxes", CORNERS),
        (("0 .05 .5 .3 .2", "0 .5 .05 .2 .4", "0 .5 .5 .1 .1"), "2 of 3 boxes", SIZES),
        (("0 .1 .1 .4 .5", "0 .2 .1 .5 .6"), "2 of 2 boxes", f"{CORNERS} or {SIZES}"),
    ],
)
def test_few_boxes_are_enough_where_most_leave_their_picture_by_far(
    tmp_path: Path, lines: tuple[str, ...], count: str, meaning: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_lines(tmp_path, *lines)
    assert str(caught.value) == (
        f"{tmp_path}/labels/train/a.txt, line 1 and others ({count}) leave their pictures, but would lie inside if the numbers were {meaning}: "
        "YOLO's are the centre, width and height; export the labels again, or clip the boxes if they do reach beyond their pictures."
    )


@pytest.mark.parametrize(
    ("lines", "count", "first", "meaning"),
    [
        (("0 .6 .6 .9 .9",), "1 of 1 box", 1, CORNERS),
        (("0 .5 .5 .8 .9", "0 .5 .5 .9 .9", "0 .6 .6 .9 .9"), "1 of 3 boxes", 3, CORNERS),
        (("0 .5 .49 .9 1", "0 .49 .49 1 1"), "", 0, ""),  # by rounding
        (("0 .5 .48 .9 1", "0 .48 .5 1 .9"), "2 of 2 boxes", 1, CORNERS),  # by less than a twentieth
        (("0 .1 .5 .5 .5",), "1 of 1 box", 1, SIZES),
        # Of many boxes, too, if they are fewer than half.
        ((*(f"0 .5 .5 .8 .{digit}1" for digit in range(6, 9)), *(f"0 .6 .6 .{digit}5 .9" for digit in (7, 8))), "2 of 5 boxes", 4, CORNERS),
    ],
)  # fmt: skip
def test_thin_evidence_is_said(tmp_path: Path, lines: tuple[str, ...], count: str, first: int, meaning: str) -> None:
    dataset = read_lines(tmp_path, *lines)
    assert len(dataset.labels) == len(lines)
    doubts = [note for note in dataset.notes if "would lie inside if" in note]
    verb = "leaves its picture" if count.startswith("1 ") else "leave their pictures"
    assert doubts == (
        [
            f"{count} {verb}, but would lie inside if the numbers were {meaning} (the first: {tmp_path}/labels/train/a.txt, line "
            f"{first}); that may be chance, so all were read as YOLO's centre, width and height."
        ]
        if meaning
        else []
    )


def test_boxes_that_fit_no_other_meaning_are_only_beyond_the_edge(tmp_path: Path) -> None:
    dataset = read_lines(tmp_path, "0 .9 .5 .4 .2", "0 .5 .9 .2 .4", "0 .05 .95 .3 .3")
    assert dataset.notes == (
        "3 of 3 boxes extend beyond the image (the first: annotation 1 of a.png); training clips them.",
    )


PERCENT = "percent, not fractions of the picture; divide them by 100."
PIXELS = "pixels, not fractions of the picture; divide them by the picture's width and height."
EITHER = (
    "percent or pixels, not fractions of the picture; divide them by 100 if they are percent, and by the picture's width and height if they are "
    "pixels."
)


@pytest.mark.parametrize(
    ("size", "lines", "meaning"),
    [
        ((120, 120), ("0 50 40 30 20",), EITHER),
        ((200, 90), ("0 50 40 30 20",) * 30, EITHER),  # one line, for repeated ones are the same
        ((224, 224), ("0 50 40 30 20", "0 90 95 10 9"), EITHER),
        ((224, 224), tuple(f"0 50 40 30 {number}" for number in range(20)), PERCENT),
        ((416, 416), ("0 50 40 30 20",), PERCENT),
        ((64, 48), ("0 55 40 10 9",), EITHER),
        ((64, 48), ("0 55 60 10 9",), PERCENT),  # 60 is below the picture
        ((64, 48), ("0 95 60 10 9",), PERCENT),
        ((64, 48), ("0 20 10 10 9",), PIXELS),
        ((640, 480), ("0 102 40 30 20",), PIXELS),
        ((64, 48), ("0 300 200 30 20",), PIXELS),  # of a larger picture
        ((120, 60), ("0 50 40 30 20", "0 70 70 4 5"), PERCENT),  # 70 is below the picture
    ],
)
def test_percent_and_pixels(tmp_path: Path, size: tuple[int, int], lines: tuple[str, ...], meaning: str) -> None:
    count = 4 * len(lines)
    beyond = count - (2 if "0 50 40 30 0" in lines else 0)
    with pytest.raises(DataError) as caught:
        read_lines(tmp_path, *lines, size=size)
    assert str(caught.value) == (
        f"{tmp_path}/labels/train/a.txt, line 1 has numbers above 1, as most of the labels have ({beyond} of {count} numbers): they are {meaning}"
    )


def test_every_label_file_is_judged_by_its_own_picture(tmp_path: Path) -> None:
    """The second picture has no labels, and the numbers of the third lie outside of it only."""
    write_yolo_set(tmp_path, {"a": "0 50 40 30 20", "b": "", "c": "0 70 40 5 5"})
    (tmp_path / "labels/train/b.txt").unlink()
    for name, size in (("a", (150, 150)), ("b", (150, 150)), ("c", (110, 30))):
        write_picture(tmp_path / f"images/train/{name}.png", size=size)
    with pytest.raises(DataError, match=r"they are percent, not fractions"):
        open_dataset(tmp_path, "train")
    write_picture(tmp_path / "images/train/c.png", size=(110, 60))
    with pytest.raises(DataError, match=r"they are percent or pixels, not fractions"):
        open_dataset(tmp_path, "train")
