"""Lists, XML files and pictures of Pascal VOC find each other, however people and tools spell their names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest
from voc_folders import contents, write_pair, write_picture, write_text, write_xml

from detrkit.data import available_splits, open_dataset
from detrkit.errors import DataError

ASSUMED = "Nothing says which split the pictures are, so all of them are 'train'."


def folder_with_lists(folder: Path, names: Iterable[str], lines: str | bytes) -> Path:
    for number, name in enumerate(names, start=1):
        write_pair(folder / f"Annotations/{name}.xml", folder / f"JPEGImages/{name}.jpg", number)
    write_text(folder / "ImageSets/Main/train.txt", lines)
    return folder


@pytest.mark.parametrize(
    "lines",
    [
        "a b\nc\n",
        "a b.jpg\nc.jpg\n",
        "a b.xml\nc.XML\n",
        "a b.png\r\nc.JPEG\r\n",
        "\ufeffa b\r\n\r\nc",
        "\ufeffa b\r\nc\r\n".encode("utf-16-le"),
        "  a b  \n\tc\n",
        "JPEGImages/a b.jpg\n./JPEGImages/c.jpg\n",
        "/home/me/VOC2007/JPEGImages/a b.jpg\n/home/me/VOC2007/JPEGImages/c.jpg\n",
        "C:\\VOC\\JPEGImages\\a b.jpg\r\nC:\\VOC\\JPEGImages\\c.jpg\r\n",
        "JPEGImages/a b.jpg Annotations/a b.xml\nJPEGImages/c.jpg\tAnnotations/c.xml\n",
        "A B\nC.JPG\n",
    ],
)
def test_spellings_in_lists(tmp_path: Path, lines: str | bytes) -> None:
    dataset = open_dataset(folder_with_lists(tmp_path, ("a b", "c", "d"), lines), "train")
    assert contents(dataset) == [("a b.jpg", [1]), ("c.jpg", [2])]
    assert dataset.image_ids.tolist() == [1, 2]
    assert dataset.notes == ()


def test_a_second_column_does_not_choose_images(tmp_path: Path) -> None:
    folder = folder_with_lists(tmp_path, ("a", "b 2", "c"), "a  1\nb 2 -1\nc.jpg  0\n")
    dataset = open_dataset(folder, "train")
    assert contents(dataset) == [("a.jpg", [1]), ("b 2.jpg", [2]), ("c.jpg", [3])]
    assert dataset.notes == (
        f"{folder}/ImageSets/Main/train.txt has a second column of 1, 0 or -1, as VOC's lists for a single class have; it was left out, and all 3 "
        "images belong to the split.",
    )


def test_names_that_end_like_a_second_column(tmp_path: Path) -> None:
    dataset = open_dataset(folder_with_lists(tmp_path, ("photo", "photo 0", "photo 1"), "photo 0\nphoto 1\n"), "train")
    assert contents(dataset) == [("photo 0.jpg", [2]), ("photo 1.jpg", [3])]
    assert dataset.notes == ()
    write_text(tmp_path / "ImageSets/Main/train.txt", "photo\nphoto -1\n")
    with pytest.raises(
        DataError, match=r"lists 'photo -1', but .*Annotations has no XML file of that name: add the file"
    ):
        open_dataset(tmp_path, "train")  # not every line has a second column, so it is none


def test_lists_for_single_classes_are_splits_only_where_there_are_no_others(tmp_path: Path) -> None:
    folder_with_lists(tmp_path, ("a", "b"), "a\n")
    write_text(tmp_path / "ImageSets/Main/dog_train.txt", "a  1\nb -1\n")
    write_text(tmp_path / "ImageSets/Main/my_own.txt", "b\n")
    write_text(tmp_path / "ImageSets/Main/my_val.txt", "a\nphoto 1\n")
    assert available_splits(tmp_path) == ["train", "my_own", "my_val"]
    for name in ("train", "my_own", "my_val"):
        (tmp_path / f"ImageSets/Main/{name}.txt").unlink()
    assert available_splits(tmp_path) == ["dog_train"]
    assert contents(open_dataset(tmp_path, "dog_train")) == [("a.jpg", [1]), ("b.jpg", [2])]


def test_cvat_calls_its_only_split_default(tmp_path: Path) -> None:
    folder_with_lists(tmp_path, ("day/a", "night/a"), "day/a\nnight/a\n")
    (tmp_path / "ImageSets/Main/train.txt").rename(tmp_path / "ImageSets/Main/default.txt")
    assert available_splits(tmp_path) == ["default"]
    assert contents(open_dataset(tmp_path, "default")) == [("day/a.jpg", [1]), ("night/a.jpg", [2])]


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("annotation", "filename", "picture"),
    [
        ("x.xml", "photo.jpg", "photo.jpg"),
        ("x.xml", "photo.png", "photo.jpg"),
        ("x.xml", "PHOTO.JPG", "photo.jpg"),
        ("x.xml", "photo", "photo.jpg"),
        ("x.xml", " C:\\me\\photo.jpg ", "photo.jpg"),
        ("x.xml", "/me/photo.v2.jpg", "photo.v2.png"),
        ("x.xml", "other.jpg", "X.JPG"),
        (f"{COMPOSED}.xml", "", f"{DECOMPOSED}.jpg"),
        ("IMG_1.XML", "", "img_1.jpg"),
    ],
)
def test_a_picture_named_otherwise(tmp_path: Path, annotation: str, filename: str, picture: str) -> None:
    write_pair(tmp_path / "y.xml", tmp_path / "y.jpg", 1)
    write_xml(tmp_path / annotation, 2, filename=filename)
    write_picture(tmp_path / picture, 20)
    dataset = open_dataset(tmp_path, "train")
    assert sorted(contents(dataset)) == sorted([("y.jpg", [1]), (picture, [2])])
    assert dataset.notes == (
        ASSUMED,
        "1 of 2 pictures is not named exactly like the XML file and was found by its filename or in another case (the first: "
        f"{picture} of {annotation}).",
    )


def test_the_own_name_wins_over_filename(tmp_path: Path) -> None:
    for number, name in enumerate("ab", start=1):
        write_xml(tmp_path / f"{name}.xml", number, filename="a.jpg")
        write_picture(tmp_path / f"{name}.jpg", 10 * number)
    assert contents(open_dataset(tmp_path, "train")) == [("a.jpg", [1]), ("b.jpg", [2])]


def test_annotations_named_after_the_whole_picture(tmp_path: Path) -> None:
    write_pair(tmp_path / "a.jpg.xml", tmp_path / "a.jpg", 1)
    dataset = open_dataset(tmp_path, "train")
    assert contents(dataset) == [("a.jpg", [1])]
    assert dataset.notes == (ASSUMED,)


def test_pictures_that_differ_in_their_ending_only(tmp_path: Path) -> None:
    for name, filename, number in (("a", "a.png", 1), ("b", "elsewhere.gif", 2)):
        write_xml(tmp_path / f"{name}.xml", number, filename=filename)
        write_picture(tmp_path / f"{name}.jpg", 20)
        write_picture(tmp_path / f"{name}.png", 10)
    dataset = open_dataset(tmp_path, "train")
    assert contents(dataset) == [("a.png", [1]), ("b.jpg", [2])]
    assert dataset.notes[1:] == (
        "2 of 2 XML files fit several pictures, of which the one named in the file or else the first was taken (the first: a.png for a.xml, "
        "among a.jpg, a.png).",
    )


def test_annotations_without_pictures(tmp_path: Path) -> None:
    for number, name in enumerate("abcdef", start=1):
        write_xml(tmp_path / f"{name}.xml", number, filename="a.jpg")
    write_picture(tmp_path / "a.jpg", 10)
    write_picture(tmp_path / "z.jpg", 10)
    message = (
        f"{tmp_path}/b.xml has no picture of its own in {tmp_path}: put one there that is named like it, or remove the XML file. (5 of 6 XML "
        "files have none: b.xml, c.xml, d.xml and 2 more.)"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        open_dataset(tmp_path, "train")
    for name in "acdef":
        (tmp_path / f"{name}.xml").unlink()
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"b\.xml has no picture of its own in .*, or remove the XML file\.$"):
        open_dataset(tmp_path, "train")


def test_two_annotations_that_share_a_picture(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_xml(tmp_path / f"{name}.xml", filename="a.jpg")
    write_picture(tmp_path / "a.jpg", 10)
    with pytest.raises(
        DataError, match=r"x\.xml has no picture of its own in .*\(2 of 2 XML files have none: x\.xml, y"
    ):
        open_dataset(tmp_path, "train")
