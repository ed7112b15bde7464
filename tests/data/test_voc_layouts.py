"""Pascal VOC data sets open in every usual layout, whatever the folders and lists are called; other folders are not taken for VOC."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from voc_folders import contents, write_pair, write_picture, write_text, write_xml

from detrkit.data import available_splits, open_dataset
from detrkit.data.voc import read_voc
from detrkit.data.voc_layout import find_splits
from detrkit.errors import DataError

ASSUMED = "Nothing says which split the pictures are, so all of them are 'train'."


@pytest.mark.parametrize(
    ("annotations", "pictures"),
    [
        ("Annotations", "JPEGImages"),
        ("annotations", "jpegimages"),
        ("ANNOTATIONS", "JPEGIMAGES"),
        ("annotations", "images"),
        ("Annotation", "Images"),
        ("xmls", "images"),
        ("labels", "imgs"),
        ("annotations/xmls", "images"),
        ("Annotations", "."),
        ("Annotations", "Annotations"),
        (".", "."),
        (".", "images"),
        ("images", "images"),
    ],
)
@pytest.mark.parametrize("lists", [None, "ImageSets/Main", "imagesets/main", "ImageSets", "."])
def test_names_of_folders(tmp_path: Path, annotations: str, pictures: str, lists: str | None) -> None:
    for number, name in enumerate("abc", start=1):
        write_pair(tmp_path / annotations / f"{name}.xml", tmp_path / pictures / f"{name}.JPG", number)
    if lists is None:
        assert available_splits(tmp_path) == ["train"]
        dataset = open_dataset(tmp_path, "train")
        assert contents(dataset) == [("a.JPG", [1]), ("b.JPG", [2]), ("c.JPG", [3])]
        assert dataset.notes == (ASSUMED,)
        return
    if annotations == "images":
        return  # with lists, XML files lie in a folder of annotations or in the folder itself
    write_text(tmp_path / lists / "train.txt", "c\na\n")
    write_text(tmp_path / lists / "val.txt", "b\n")
    assert available_splits(tmp_path) == ["train", "val"]
    dataset = open_dataset(tmp_path, "train")
    assert contents(dataset) == [("c.JPG", [3]), ("a.JPG", [1])]
    assert dataset.image_ids.tolist() == ([3, 1])
    assert dataset.notes == ()
    assert contents(open_dataset(tmp_path, "valid")) == [("b.JPG", [2])]


@pytest.mark.parametrize(
    ("annotations", "pictures"),
    [
        ("{}", "{}"),
        ("{}/Annotations", "{}/JPEGImages"),
        ("{}/annotations", "{}/images"),
        ("{}/labels", "{}"),
        ("annotations/{}", "images/{}"),
        ("Annotations/{}", "{}"),
        ("annotations/{}", "images"),
        ("annotations/{}", "annotations/{}"),
        ("images/{}", "images/{}"),
    ],
)
@pytest.mark.parametrize(
    "names", [("train", "valid"), ("train", "val"), ("Train", "Validation"), ("training", "val2017")]
)
def test_a_folder_for_each_split(tmp_path: Path, annotations: str, pictures: str, names: tuple[str, str]) -> None:
    for number, name in enumerate(names, start=1):
        letters = ("a", "b") if pictures != "images" else (f"a{number}", f"b{number}")
        for letter in letters:
            place = tmp_path / annotations.format(name) / f"{letter}.xml", tmp_path / pictures.format(name)
            write_xml(place[0], number, name="cat" if number == 1 else "dog")
            write_picture(place[1] / f"{letter}.jpg", 10 * number)
    assert available_splits(tmp_path) == ["train", "val"]
    for number, split in enumerate(("train", "val"), start=1):
        dataset = open_dataset(tmp_path, split)
        assert [lefts for _, lefts in contents(dataset)] == [[number], [number]]
        assert dataset.image_ids.tolist() == [1, 2]
        assert [category.name for category in dataset.categories] == ["cat", "dog"]
        assert dataset.labels.tolist() == [number - 1] * 2
        assert dataset.notes == ()
        assert dataset.name == f"{tmp_path.name} {split}"


def test_split_folders_whose_names_are_spelled_in_two_ways(tmp_path: Path) -> None:
    for number, (xmls, pictures) in enumerate((("train", "Train"), ("val", "validation")), start=1):
        write_pair(tmp_path / f"xmls/{xmls}/a.xml", tmp_path / f"images/{pictures}/a.jpg", number)
    write_picture(tmp_path / "images/validation/b.jpg")
    assert contents(open_dataset(tmp_path, "train")) == [("a.jpg", [1])]
    assert contents(open_dataset(tmp_path, "val")) == [("a.jpg", [2]), ("b.jpg", [])]


def test_roboflow_export(tmp_path: Path) -> None:
    for split, number in (("train", 1), ("valid", 2), ("test", 3)):
        stem = f"p_jpg.rf.{number}a0"
        write_pair(tmp_path / split / f"{stem}.xml", tmp_path / split / f"{stem}.jpg", number)
    write_text(tmp_path / "README.roboflow.txt", "x")
    assert available_splits(tmp_path) == ["train", "val", "test"]
    assert contents(open_dataset(tmp_path, "val")) == [("p_jpg.rf.2a0.jpg", [2])]
    with pytest.raises(DataError, match=r"has no split 'trian': did you mean 'train'\?"):
        open_dataset(tmp_path, "trian")
    (tmp_path / "test/p_jpg.rf.3a0.xml").unlink()
    assert available_splits(tmp_path) == ["train", "val"]


def test_a_split_opened_by_its_own_folder_has_the_classes_of_all(tmp_path: Path) -> None:
    for split, name, number in (("train", "cat", 1), ("valid", "dog", 2)):
        write_xml(tmp_path / split / "a.xml", number, name=name)
        write_picture(tmp_path / split / "a.jpg", 10 * number)
    assert available_splits(tmp_path / "valid") == ["val"]
    dataset = open_dataset(tmp_path / "valid", "val")
    assert [category.name for category in dataset.categories] == ["cat", "dog"]
    assert (dataset.labels.tolist(), dataset.notes) == ([1], ())
    with pytest.raises(
        DataError, match=r"has no split 'train', only 'val': ask for that one \(in training --train-split val or "
    ):
        open_dataset(tmp_path / "valid", "train")


def test_labelimg_folder(tmp_path: Path) -> None:
    write_pair(tmp_path / "b.xml", tmp_path / "b.png", 2)
    write_pair(tmp_path / "d.xml", tmp_path / "d.jpeg", 4)
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "c.bmp")
    write_picture(tmp_path / "old/e.png")
    write_text(tmp_path / "classes.txt", "thing\n")
    write_text(tmp_path / "._b.xml", b"\0\5\x16\7")  # macOS leaves such files in archives
    write_text(tmp_path / "._b.png", b"\0\5\x16\7")
    dataset = open_dataset(tmp_path, "train")
    assert contents(dataset) == [("a.png", []), ("b.png", [2]), ("c.bmp", []), ("d.jpeg", [4])]
    assert dataset.notes == (
        ASSUMED,
        "2 of 4 pictures have no XML file and count as pictures without objects (the first: a.png).",
    )


def test_the_message_about_a_missing_split_says_why(tmp_path: Path) -> None:
    write_pair(tmp_path / "a.xml", tmp_path / "a.png", 1)
    message = (
        f"{tmp_path} has no split 'val': nothing in it names splits, so all its pictures are the split 'train'; write lists of image names "
        "such as ImageSets/Main/val.txt, or put the pictures with their XML files into one folder for each split, such as val/."
    )
    for open_it in (open_dataset, read_voc):
        with pytest.raises(DataError, match=re.escape(message)):
            open_it(tmp_path, "val")
    write_pair(tmp_path / "train/a.xml", tmp_path / "train/a.png", 1)
    with pytest.raises(
        DataError,
        match=r"has no split 'val', only 'train': ask for that one \(in training .*, elsewhere --split train\)\.$",
    ):
        open_dataset(tmp_path, "val")


def test_folders_below_annotations_and_pictures(tmp_path: Path) -> None:
    write_pair(tmp_path / "Annotations/day/a.xml", tmp_path / "JPEGImages/day/a.jpg", 1)
    write_pair(tmp_path / "Annotations/night/a.xml", tmp_path / "JPEGImages/night/a.jpg", 2)
    write_picture(tmp_path / "JPEGImages/night/b.jpg")
    write_picture(tmp_path / "JPEGImages/masks/a.png")  # no XML file belongs to this folder
    assert contents(open_dataset(tmp_path, "train")) == [
        ("day/a.jpg", [1]),
        ("night/a.jpg", [2]),
        ("night/b.jpg", []),
    ]


def write_yolo(folder: Path) -> None:
    for split in ("train", "val"):
        write_picture(folder / f"images/{split}/a.jpg")
        write_text(folder / f"labels/{split}/a.txt", "0 0.5 0.5 0.1 0.1\n")
    write_text(folder / "train.txt", "images/train/a.jpg\n")


def write_pictures_only(folder: Path) -> None:
    for place in ("train/cat", "train/dog", "val/cat", "."):
        write_picture(folder / place / "a.jpg")


def write_unknown_json(folder: Path) -> None:
    write_text(folder / "annotations/my.json", "{}")
    write_picture(folder / "images/a.jpg")


def write_cvat(folder: Path) -> None:
    write_text(
        folder / "annotations.xml", "<?xml version='1.0'?><annotations><image id='0' name='a.jpg'/></annotations>"
    )
    write_picture(folder / "images/a.jpg")
    write_picture(folder / "a.jpg")


@pytest.mark.parametrize("write", [write_yolo, write_pictures_only, write_unknown_json, write_cvat])
def test_other_folders_are_not_taken_for_voc(tmp_path: Path, write: object) -> None:
    write(tmp_path)  # type: ignore[operator]
    assert find_splits(tmp_path) == {}
    for folder in (folder for folder in tmp_path.rglob("*") if folder.is_dir()):
        assert find_splits(folder) == {}


def test_coco_annotations_win(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "valid"), start=1):
        write_pair(tmp_path / split / "a.xml", tmp_path / split / "a.png", number)
        image = {"id": 7, "file_name": "a.png", "height": 60, "width": 80}
        box = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5]}
        coco = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "thing"}]}
        write_text(tmp_path / split / "_annotations.coco.json", json.dumps(coco))
    assert open_dataset(tmp_path, "val").image_ids.tolist() == [7]


def test_recognising_a_folder_parses_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        write_text(tmp_path / f"Annotations/{number:02}.xml", "<annotation><broken>")
    opened: list[Path] = []
    real_open = Path.open

    def counting_open(path: Path, *arguments: object, **options: object) -> object:
        opened.append(path)
        return real_open(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", counting_open)
    assert available_splits(tmp_path) == ["train"]
    assert len(opened) <= 3


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> object:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(
        DataError, match=r"The folder .* cannot be read \(Permission denied\): make it a readable folder"
    ):
        find_splits(tmp_path)


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, split in enumerate(("train", "valid"), start=1):
        write_pair(tmp_path / split / "a.xml", tmp_path / split / "a.jpg", number)
    monkeypatch.chdir(tmp_path)
    assert contents(open_dataset(".", "val")) == [("a.jpg", [2])]
    assert contents(open_dataset("valid", "val")) == [("a.jpg", [2])]
    monkeypatch.chdir(tmp_path / "valid")
    assert available_splits(".") == ["val"]
    assert contents(open_dataset(".", "val")) == [("a.jpg", [2])]


CASES = {
    "voc_corners_swapped": {"train": [[15, 31, 33, 47], [26, 6, 54, 35], [46, 53, 61, 69], [27, 38, 46, 61]]},
    "voc_roboflow_flat": {"train": [[15, 31, 33, 47], [26, 6, 54, 35]], "val": [[15, 31, 33, 47], [26, 6, 54, 35]]},
    "voc_size_off_by_one": {"train": [[15, 31, 33, 47], [26, 6, 54, 35], [46, 53, 61, 69], [27, 38, 46, 61]]},
}
CASE_NOTES = {
    "voc_corners_swapped": (
        "6 of 6 boxes have swapped corners (xmin above xmax, or ymin above ymax), which were swapped back (the first: object 1 of p1.xml).",
    ),
    "voc_roboflow_flat": (),
    "voc_size_off_by_one": (
        "2 of 3 images have a size in the XML file that is a pixel off, so the picture's own is used (the first: p1.xml has 95 × 72, the "
        "picture 96 × 72).",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_reported_cases(shared: Path, case: str) -> None:
    folder = shared / "cases" / case
    assert available_splits(folder) == list(CASES[case])
    for split, boxes in CASES[case].items():
        dataset = open_dataset(folder, split)
        assert dataset.boxes_xyxy[: len(boxes)].tolist() == boxes
        assert len(dataset.labels) == 6
        assert dataset.sizes.tolist() == [[72, 96]] * 3
        assert dataset.notes == CASE_NOTES[case]


def test_real_folders_of_other_formats_are_not_taken_for_voc(shared: Path) -> None:
    for name in ("coco", "yolo_sample", "roboflow_sample"):
        assert find_splits(shared / "data" / name) == {}


def write_year(folder: Path, number: int) -> None:
    write_pair(folder / "Annotations/a.xml", folder / "JPEGImages/a.png", number)
    write_text(folder / "ImageSets/Main/train.txt", "a\n")


@pytest.mark.parametrize("kit", ["VOCdevkit", "download/VOCdevkit", "anything"])
def test_the_folder_above_a_year_is_that_year(tmp_path: Path, kit: str) -> None:
    write_year(tmp_path / kit / "VOC2012", 3)
    folder = tmp_path / kit.partition("/")[0]
    (folder / "VOC2007").mkdir()  # nothing is in it
    assert available_splits(folder) == ["train"]
    dataset = open_dataset(folder, "train")
    assert contents(dataset) == [("a.png", [3.0])]
    assert dataset.name == f"{folder.name} train"


@pytest.mark.parametrize("kit", ["VOCdevkit", "download/VOCdevkit"])
def test_several_years_are_named(tmp_path: Path, kit: str) -> None:
    for number, year in enumerate(("VOC2007", "VOC2012"), start=2):
        write_year(tmp_path / kit / year, number)
    folder = tmp_path / kit.partition("/")[0]
    inside = [
        f"{(tmp_path / kit).relative_to(folder).as_posix()}/{year}".removeprefix("./")
        for year in ("VOC2007", "VOC2012")
    ]
    with pytest.raises(DataError) as caught:
        open_dataset(folder, "train")
    assert str(caught.value) == (
        f"{folder} holds 2 Pascal VOC data sets: {', '.join(inside)}; give one of them (--data {tmp_path}/{kit}/VOC2007)."
    )
    assert contents(open_dataset(tmp_path / kit / "VOC2012", "train")) == [("a.png", [3.0])]
