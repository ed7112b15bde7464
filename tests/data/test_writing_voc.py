"""A data set written as Pascal VOC reads back as it was: boxes to the last digit, names of classes, crowds and images without objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrkit.cards import Category
from detrkit.data import DetectionDataset, ImageFiles, available_splits, open_dataset, read_digits
from detrkit.data.writing_voc import write_voc
from detrkit.errors import DataError, OutputError

CLASSES = ("cat", "dog")


def dataset_of(
    folder: Path,
    names: Sequence[str],
    boxes: Sequence[Sequence[Sequence[float]]] | None = None,
    *,
    classes: Sequence[str] = CLASSES,
    as_stored: bool = False,
) -> DetectionDataset:
    """Pictures of 8 × 6 pixels of one colour each, with the given boxes or one each, which belong to the classes in turn."""
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            Image.new("RGB", (8, 6), (10 * index + 5, 0, 0)).save(folder / name, format="PNG")
    rows = boxes or [[[1.0, 1.0, 4.0 + index, 5.0]] for index in range(len(names))]
    flat = np.array([box for each in rows for box in each], dtype=np.float64).reshape(-1, 4)
    counts = [len(each) for each in rows]
    return DetectionDataset(
        name="small",
        images=ImageFiles(folder, np.array(names), np.full(len(names), as_stored)),
        image_ids=np.arange(1, len(names) + 1),
        sizes=np.array([[6, 8]] * len(names), dtype=np.int64),
        categories=tuple(Category(id=10 * index, name=name, index=index) for index, name in enumerate(classes)),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xyxy=flat,
        labels=np.arange(len(flat)) % len(classes),
        crowd=np.zeros(len(flat), dtype=np.bool_),
        areas=np.ones(len(flat)),
        annotation_ids=np.arange(len(flat)),
    )


def by_picture(dataset: DetectionDataset) -> dict[str, list[tuple[str, list[float], bool]]]:
    """Class, box and crowd of the objects of each picture."""
    found = {}
    for index in range(len(dataset)):
        objects = dataset.objects(index)
        names = [dataset.categories[label].name for label in objects.labels]
        rows = zip(names, objects.boxes_xyxy.tolist(), objects.crowd.tolist(), strict=True)
        found[dataset.image_name(index)] = list(rows)
    return found


@pytest.mark.parametrize(("name", "split"), [("coco", "train"), ("coco", "val"), ("bccd", "train"), ("bccd", "val")])
def test_real_data_read_back_as_they_were(shared: Path, tmp_path: Path, name: str, split: str) -> None:
    original = open_dataset(shared / "data" / name, split)
    notes = write_voc(original, tmp_path / "out", split, link=name == "bccd")
    copy = open_dataset(tmp_path / "out", split)
    assert len(copy) == len(original)
    before, after = by_picture(original), by_picture(copy)
    assert list(after) == list(before)
    for picture, rows in before.items():
        assert [(row[0], row[2]) for row in after[picture]] == [(row[0], row[2]) for row in rows]
        boxes = [np.array([row[1] for row in each]).reshape(-1, 4) for each in (after[picture], rows)]
        np.testing.assert_array_equal(boxes[0][:, :2], boxes[1][:, :2])
        np.testing.assert_allclose(boxes[0], boxes[1], rtol=0, atol=1e-12)
    assert copy.sizes.tolist() == original.sizes.tolist()
    file = original.images[0] if isinstance(original.images, ImageFiles) else Path()
    written = tmp_path / "out/JPEGImages" / file.name
    assert written.is_symlink() == (name == "bccd")
    assert written.read_bytes() == file.read_bytes()
    unused = len(original.categories) - len(set(original.labels.tolist()))
    assert [note.split(",")[0] for note in notes] == (
        [f"{unused} of {len(original.categories)} classes have no objects here"] if unused else []
    )


def test_built_in_pictures_are_written_as_png(tmp_path: Path) -> None:
    digits = read_digits("val", images=3, size=64)
    write_voc(digits, tmp_path, "val")
    copy = open_dataset(tmp_path, "val")
    assert copy.image_name(0) == "image_000000.png"
    assert copy.boxes_xyxy.tolist() == digits.boxes_xyxy.tolist()
    for index in range(3):
        assert np.array_equal(np.asarray(copy.image(index)), np.asarray(digits.image(index)))


def test_the_text_of_an_annotation(tmp_path: Path) -> None:
    boxes = [[[0, 0, 8, 6], [0.1, 1e-07, 2.5, 4.25], [-0.5, 1, 9.125, 6]]]
    dataset = dataset_of(tmp_path / "in", ["a.png"], boxes, classes=("a<b", " chat "))
    dataset = replace(dataset, crowd=np.array([False, True, False]))
    assert write_voc(dataset, tmp_path / "out", "train") == ()
    text = (tmp_path / "out/Annotations/a.xml").read_text(encoding="utf-8")
    assert "<filename>a.png</filename>" in text
    assert "<width>8</width>" in text
    assert "<height>6</height>" in text
    assert re.findall(r"<name>(.*)</name>", text) == ["a&lt;b", "chat", "a&lt;b"]
    assert re.findall(r"<difficult>(.*)</difficult>", text) == ["0", "1", "0"]
    numbers = re.findall(r"<[xy]m(?:in|ax)>(.*)</", text)
    assert numbers == ["1", "1", "8", "6", "1.1", "1.0000001", "2.5", "4.25", "0.5", "2", "9.125", "6"]
    assert (tmp_path / "out/ImageSets/Main/train.txt").read_text() == "a\n"
    copy = open_dataset(tmp_path / "out", "train")
    assert copy.boxes_xyxy.tolist() == boxes[0]
    assert copy.crowd.tolist() == [False, True, False]
    assert (tmp_path / "out/JPEGImages/a.png").read_bytes() == (tmp_path / "in/a.png").read_bytes()


def test_images_without_objects(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "in", ["a.png", "b.png"], [[], [[1, 1, 3, 3]]])
    notes = write_voc(dataset, tmp_path / "out", "train")
    assert by_picture(open_dataset(tmp_path / "out", "train")) == {"a.png": [], "b.png": [("cat", [1, 1, 3, 3], False)]}
    assert notes == (
        "1 of 2 classes has no objects here, and Pascal VOC has no list of classes; without objects in another split they are lost: "
        "dog.",
    )


def test_boxes_of_a_pixel_are_left_out(tmp_path: Path) -> None:
    boxes = [[[1, 1, 4, 4], [1, 1, 2, 4], [1, 1, 4, 1.5], [1, 1, 2.5, 4]]]
    notes = write_voc(dataset_of(tmp_path / "in", ["a.png"], boxes), tmp_path / "out", "train")
    assert notes == (
        "2 of 4 boxes are at most a pixel wide or high, which Pascal VOC cannot hold, and were left out (the first: in a.png).",
    )
    assert open_dataset(tmp_path / "out", "train").boxes_xyxy.tolist() == [[1, 1, 4, 4], [1, 1, 2.5, 4]]


def test_names_become_safe_and_unique(tmp_path: Path) -> None:
    names = [
        "day/a.png",
        "night/a.png",
        "day_a.png",
        "a.jpg",
        "a.png",
        "A.PNG",
        "c d 1.png",
        ".e .png",
        "é.v2.png",
        "x/n:?.png",
    ]
    write_voc(dataset_of(tmp_path / "in", names), tmp_path / "out", "train")
    expected = ["day_a", "night_a", "day_a_2", "a", "a_2", "A_3", "c d 1", "e", "é.v2", "x_n__"]
    assert (tmp_path / "out/ImageSets/Main/train.txt").read_text(encoding="utf-8").splitlines() == expected
    copy = open_dataset(tmp_path / "out", "train")
    assert [Path(copy.image_name(index)).stem for index in range(len(names))] == expected
    for index in range(len(names)):
        assert copy.image(index).getpixel((0, 0)) == (10 * index + 5, 0, 0)
        assert copy.objects(index).boxes_xyxy.tolist() == [[1, 1, 4 + index, 5]]
    assert [note.split(" (")[0] for note in copy.notes] == ["4 of 10 boxes extend beyond the image"]


def test_names_that_would_leave_the_folder(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "in/deep", ["../a.png"])
    write_voc(dataset, tmp_path / "out", "train")
    assert (tmp_path / "out/JPEGImages/a.png").is_file()


def test_splits_share_images_but_no_names(tmp_path: Path) -> None:
    out = tmp_path / "out"
    train = dataset_of(tmp_path / "in/train", ["a.png", "b.png"])
    val = dataset_of(tmp_path / "in/val", ["x.png", "a.png"])
    write_voc(train, out, "train")
    write_voc(val, out, "val")
    write_voc(train, out, "again")
    write_voc(replace(train, boxes_xyxy=train.boxes_xyxy + 0.5), out, "moved")
    assert available_splits(out) == ["train", "val", "again", "moved"]
    lists = {split: (out / f"ImageSets/Main/{split}.txt").read_text().split() for split in available_splits(out)}
    assert lists == {"train": ["a", "b"], "val": ["x", "a_2"], "again": ["a", "b"], "moved": ["a_3", "b_2"]}
    assert open_dataset(out, "val").image(1).getpixel((0, 0)) == (15, 0, 0)
    assert open_dataset(out, "train").image(0).getpixel((0, 0)) == (5, 0, 0)
    with pytest.raises(
        OutputError, match=r"ImageSets/Main/val\.txt exists already: choose another folder or another name"
    ):
        write_voc(val, out, "val")


def test_pictures_that_cannot_be_copied_as_they_are(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    (tmp_path / "in").mkdir()
    picture = Image.new("RGB", (8, 6))
    picture.putpixel((0, 0), (200, 0, 0))
    picture.save(tmp_path / "in/a.png", exif=exif)
    dataset = dataset_of(tmp_path / "in", ["a.png"], as_stored=True)
    write_voc(dataset, tmp_path / "out", "train")
    with Image.open(tmp_path / "out/JPEGImages/a.png") as written:
        assert written.getexif() == {}
        assert written.getpixel((0, 0)) == (200, 0, 0)
    other = dataset_of(tmp_path / "in", ["b.data"])
    write_voc(other, tmp_path / "other", "train")
    assert open_dataset(tmp_path / "other", "train").image_name(0) == "b.data.png"


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twins = dataset_of(tmp_path / "in", ["a.png"], classes=("cat", "cat "))
    with pytest.raises(
        DataError, match=r"small has two classes named 'cat' but for blanks around the name: rename one\."
    ):
        write_voc(twins, tmp_path / "out", "train")
    for name in (" ", "a\x01"):
        odd = dataset_of(tmp_path / "in", ["a.png"], classes=(name, "dog"))
        with pytest.raises(DataError, match=r"small has a class named .*, which XML cannot hold: rename it\."):
            write_voc(odd, tmp_path / "out", "train")
    assert not (tmp_path / "out").exists()
    dataset = dataset_of(tmp_path / "in", ["a.png"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file/Annotations cannot be written to"):
        write_voc(dataset, tmp_path / "file", "train")

    def refuse(link: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(
        OutputError, match=r"a\.png cannot be made a link \(Operation not permitted\): copy the pictures"
    ):
        write_voc(dataset, tmp_path / "out", "train", link=True)
    (tmp_path / "in/a.png").unlink()
    with pytest.raises(DataError, match=r"in/a\.png does not exist: correct its name or put the file there\."):
        write_voc(dataset, tmp_path / "out", "train")
