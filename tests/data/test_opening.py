"""Every known layout opens by its folder; for anything else, the message says what was looked for and what was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from detrkit.data import available_splits, open_dataset
from detrkit.errors import DataError


def write_truth(file: Path, name: str = "a.png") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    contents = {
        "images": [{"id": 1, "file_name": name, "height": 6, "width": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 4]}],
        "categories": [{"id": 3, "name": "thing"}],
    }
    file.write_text(json.dumps(contents))


def write_picture(file: Path, red: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (red, 0, 0)).save(file)


@pytest.mark.parametrize(
    ("annotation_file", "picture", "split"),
    [
        ("annotations/instances_val.json", "val/a.png", "val"),
        ("annotations/instances_val.json", "valid/a.png", "val"),
        ("annotations/instances_val.json", "val2017/a.png", "val"),
        ("annotations/instances_val.json", "images/val/a.png", "val"),
        ("annotations/instances_val.json", "images/a.png", "val"),
        ("annotations/instances_val.json", "a.png", "val"),
        ("annotations/instances_val2017.json", "val2017/a.png", "val"),
        ("annotations/instances_val2017.json", "val2017/a.png", "val2017"),
        ("annotations/instances_val2014.json", "images/val2014/a.png", "val"),
        ("annotations/instances_valid.json", "valid/a.png", "val"),
        ("annotations/instances_val.json", "val/a.png", "valid"),
        ("annotations/instances_minitrain.json", "minitrain/a.png", "minitrain"),
        ("valid/_annotations.coco.json", "valid/a.png", "val"),
        ("valid/_annotations.coco.json", "valid/a.png", "valid"),
        ("test/_annotations.coco.json", "test/a.png", "test"),
    ],
)
def test_layouts(tmp_path: Path, annotation_file: str, picture: str, split: str) -> None:
    write_truth(tmp_path / annotation_file)
    write_picture(tmp_path / picture, red=77)
    dataset = open_dataset(tmp_path, split)
    assert dataset.name == f"{tmp_path.name} {split}"
    assert dataset.image(0).getpixel((0, 0)) == (77, 0, 0)
    assert dataset.boxes_xyxy.tolist() == [[1, 1, 5, 5]]


def test_pictures_of_the_split_win_over_namesakes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_truth(tmp_path / f"annotations/instances_{split}.json")
    write_picture(tmp_path / "images/a.png", red=1)
    write_picture(tmp_path / "images/train/a.png", red=2)
    write_picture(tmp_path / "images/val/a.png", red=3)
    assert open_dataset(tmp_path, "train").image(0).getpixel((0, 0)) == (2, 0, 0)
    assert open_dataset(tmp_path, "val").image(0).getpixel((0, 0)) == (3, 0, 0)


def test_the_requested_year_is_opened(tmp_path: Path) -> None:
    for year, red in (("2014", 14), ("2017", 17)):
        write_truth(tmp_path / f"annotations/instances_val{year}.json")
        write_picture(tmp_path / f"val{year}/a.png", red=red)
    assert open_dataset(tmp_path, "val").image(0).getpixel((0, 0)) == (17, 0, 0)
    assert open_dataset(tmp_path, "val2014").image(0).getpixel((0, 0)) == (14, 0, 0)
    assert available_splits(tmp_path) == ["val2014", "val2017"]
    with pytest.raises(DataError, match="has no split 'train2017'"):
        open_dataset(tmp_path, "train2017")


@pytest.mark.parametrize(
    ("annotation_file", "picture"),
    [
        ("my.json", "a.png"),
        ("my.json", "images/a.png"),
        ("my.json", "my/a.png"),
        ("annotations/instances_val.json", "val/a.png"),
        ("annotations/my.json", "annotations/a.png"),
        ("valid/_annotations.coco.json", "valid/a.png"),
    ],
)
def test_an_annotation_file_itself(tmp_path: Path, annotation_file: str, picture: str) -> None:
    write_truth(tmp_path / annotation_file)
    write_picture(tmp_path / picture)
    assert len(open_dataset(str(tmp_path / annotation_file), "val")) == 1


def test_an_annotation_file_named_after_its_split_opens_as_no_other(tmp_path: Path) -> None:
    write_truth(tmp_path / "annotations/instances_val.json")
    with pytest.raises(
        DataError,
        match=r"instances_val\.json is the split 'val', not 'train': ask for that one \(in training --train-split val or --val-split val, "
        r"elsewhere --split val\), or give the folder above it\.$",
    ):
        open_dataset(tmp_path / "annotations/instances_val.json", "train")
    assert available_splits(tmp_path / "annotations/instances_val.json") == ["val"]
    write_truth(tmp_path / "my.json")
    assert available_splits(tmp_path / "my.json") == []


def test_real_folders(shared: Path) -> None:
    assert available_splits(shared / "data/coco") == ["train", "val"]
    assert available_splits(shared / "data/roboflow_sample") == ["train", "val", "test"]
    assert len(open_dataset(shared / "data/coco", "train")) == 84
    counts = [len(open_dataset(shared / "data/roboflow_sample", split).labels) for split in ("train", "val", "test")]
    assert counts == [48, 49, 28]


def test_a_voc_folder(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("valid", "b"), ("dog_train", "a -1"), ("trainval", "a\nb")):
        (tmp_path / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"ImageSets/Main/{split}.txt").write_text(name + "\n")
    (tmp_path / "Annotations").mkdir()
    corners = "<xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>5</ymax>"
    thing = f"<object><name>thing</name><bndbox>{corners}</bndbox></object>"
    for name, red in (("a", 4), ("b", 5)):
        (tmp_path / f"Annotations/{name}.xml").write_text(f"<annotation>{thing}</annotation>")
        write_picture(tmp_path / f"JPEGImages/{name}.png", red=red)
    assert available_splits(tmp_path) == ["train", "val", "trainval"]
    validation = open_dataset(tmp_path, "val")
    assert validation.name == f"{tmp_path.name} val"
    assert validation.image(0).getpixel((0, 0)) == (5, 0, 0)
    assert validation.boxes_xyxy.tolist() == [[1, 1, 5, 5]]
    with pytest.raises(DataError, match=r"has no split 'test': choose one of 'train', 'val', 'trainval'"):
        open_dataset(tmp_path, "test")
    write_truth(tmp_path / "annotations/instances_train.json")
    write_picture(tmp_path / "train/a.png", red=6)
    assert open_dataset(tmp_path, "train").image(0).getpixel((0, 0)) == (6, 0, 0)  # COCO annotations win
    assert available_splits(tmp_path) == ["train"]


def test_the_first_format_wins(tmp_path: Path) -> None:
    """COCO, YOLO, Pascal VOC, image folder."""
    write_picture(tmp_path / "train/metadata.png", red=1)
    objects = {"bbox": [[1, 1, 4, 4]], "categories": ["thing"]}
    (tmp_path / "train/metadata.jsonl").write_text(json.dumps({"file_name": "metadata.png", "objects": objects}))
    assert open_dataset(tmp_path, "train").image(0).getpixel((0, 0)) == (1, 0, 0)
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages", "images/train", "labels/train"):
        (tmp_path / folder).mkdir(parents=True)
    write_picture(tmp_path / "JPEGImages/voc.png", red=2)
    corners = "<xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>5</ymax>"
    thing = f"<annotation><object><name>thing</name><bndbox>{corners}</bndbox></object></annotation>"
    (tmp_path / "Annotations/voc.xml").write_text(thing)
    (tmp_path / "ImageSets/Main/train.txt").write_text("voc\n")
    assert open_dataset(tmp_path, "train").image(0).getpixel((0, 0)) == (2, 0, 0)
    write_picture(tmp_path / "images/train/yolo.png", red=3)
    (tmp_path / "labels/train/yolo.txt").write_text("0 0.5 0.5 0.5 0.5")
    assert open_dataset(tmp_path, "train").image(0).getpixel((0, 0)) == (3, 0, 0)
    write_truth(tmp_path / "annotations/instances_train.json")
    write_picture(tmp_path / "train/a.png", red=4)
    assert open_dataset(tmp_path, "train").image(0).getpixel((0, 0)) == (4, 0, 0)


def test_the_built_in_set() -> None:
    assert available_splits("digits") == ["train", "val"]
    assert open_dataset("digits", "val").name == "digits val"


def test_a_path_that_cannot_be_opened_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist: give a data set's folder, .* or 'digits' for the"):
        open_dataset(tmp_path / "nowhere", "val")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        DataError, match=r"notes\.txt is neither a \.json, a \.yaml nor a \.data file: give a data set's folder, a COCO"
    ):
        open_dataset(tmp_path / "notes.txt", "val")
    (tmp_path / "labels").mkdir()
    message = (
        r"looked for annotations/instances_<split>\.json, <split>/_annotations\.coco\.json, <split>\.json, data\.yaml, obj\.data, images/<split>/ with labels/<split>/, "
        r"ImageSets/Main/<split>\.txt, Annotations/\*\.xml, <split>/\*\.xml, \*\.xml and <split>/metadata\.jsonl, found labels/, notes\.txt\."
    )
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path, "val")
    with pytest.raises(DataError, match="found nothing at all"):
        available_splits(tmp_path / "labels")


def test_a_missing_split_names_those_that_exist(tmp_path: Path) -> None:
    write_truth(tmp_path / "annotations/instances_train.json")
    write_truth(tmp_path / "annotations/instances_val2017.json")
    with pytest.raises(DataError, match=r"has no split 'test': choose one of 'train', 'val'"):
        open_dataset(tmp_path, "test")
    with pytest.raises(DataError, match=r"has no split 'trian': did you mean 'train'\?"):
        open_dataset(tmp_path, "trian")


def test_missing_pictures(tmp_path: Path) -> None:
    write_truth(tmp_path / "annotations/instances_val.json")
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match=r"instances_val\.json: its only picture is not in .*/val, .*: put it into one"):
        open_dataset(tmp_path, "val")
