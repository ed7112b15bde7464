"""Folders with COCO files as tools other than COCO's own leave them: opened by the folder and by the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from coco_files import BOXES, boxes_xywh, coco, write_pictures

from detrkit.data import available_splits, coco_files, open_dataset
from detrkit.data.coco_files import looks_like_coco, split_in_name
from detrkit.errors import DataError

PICTURES = ["1.png", "2.png", "3.png"]


def lay_out(folder: Path, files: list[str], pictures: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(coco()))
    write_pictures(folder / pictures, PICTURES)


def assumed(name: str) -> tuple[str]:
    return (f"Nothing says which split {name} is, so all its pictures are 'train'.",)


@pytest.mark.parametrize(
    ("files", "pictures", "split"),
    [
        (["train.json", "val.json"], "images", "train"),
        (["train.json", "val.json"], "images", "val"),
        (["train.json", "val.json"], "images/val", "val"),
        (["train.json", "val.json"], "images/Val2017", "val"),
        (["train.json", "val.json"], "Validation", "val"),
        (["Train.json", "Test.JSON"], "data", "test"),
        (["annotations/train.json"], "images", "train"),
        (["annotations/valid.json"], "Images", "val"),
        (["Annotations/instances_train.json"], "images", "train"),
        (["ANNOTATIONS/instances_Train2017.json"], "Images/Train2017", "train"),
        (["annotations/instances_training.json"], "JPEGImages", "train"),
        (["labels/train.json"], "images", "train"),
        (["Labels/train.json"], ".", "train"),
        (["instances_train.json", "instances_val.json"], "images", "val"),
        (["instances_small.json"], "images", "small"),
        (["cats_train.json", "cats-val.json"], "images", "val"),
        (["train_annotations.coco.json"], "train", "train"),
        (["annotations/train_coco.json"], "images", "train"),
        (["annotations/val2014.json", "annotations/val2017.json"], "val2014", "val2014"),
        (["annotations/person_keypoints_val2017.json"], "val2017", "val"),
        (["train/labels.json", "val/labels.json"], "val/data", "val"),
        (["train/annotations.json"], "train", "train"),
        (["train/annotations/instances.json"], "train/images", "train"),
        (["Train/_annotations.coco.json"], "Train", "train"),
        (["fold1/_annotations.coco.json", "fold2/_annotations.coco.json"], "fold2", "fold2"),
        (["train.json", "train_small.json", "annotations/cats_train.json"], "images", "train"),
    ],
)
def test_files_that_say_their_split(tmp_path: Path, files: list[str], pictures: str, split: str) -> None:
    lay_out(tmp_path, files, pictures)
    dataset = open_dataset(tmp_path, split)
    assert split in (*available_splits(tmp_path), "val2014")
    assert boxes_xywh(dataset) == BOXES
    assert dataset.image(2).getpixel((0, 0)) == (3, 0, 0)
    assert dataset.name == f"{tmp_path.name} {split}"
    assert dataset.notes == ()


@pytest.mark.parametrize(
    ("file", "pictures"),
    [
        ("result.json", "images"),
        ("result.json", "."),
        ("labels.json", "data"),
        ("_annotations.coco.json", "."),
        ("_annotations.coco.json", "images"),
        ("annotations/instances.json", "images"),
        ("Annotations/all.json", "Images"),
        ("labels/coco.json", "imgs"),
        ("train_val.json", "images"),
        ("train_small.json", "images"),
    ],
)
def test_a_single_file_that_says_no_split_is_train(tmp_path: Path, file: str, pictures: str) -> None:
    lay_out(tmp_path, [file], pictures)
    dataset, name = open_dataset(tmp_path, "train"), Path(file).name
    assert available_splits(tmp_path) == ["train"]
    assert boxes_xywh(dataset) == BOXES
    assert dataset.image(2).getpixel((0, 0)) == (3, 0, 0)
    assert dataset.notes == assumed(name)
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path, "val")
    assert str(caught.value) == (
        f"{tmp_path} has no split 'val': nothing says which split {name} is, so all its pictures are the split 'train'; name annotation files "
        "after splits, such as train.json and val.json."
    )
    for split in ("train", "val"):
        assert open_dataset(tmp_path / file, split).notes == ()  # whoever gives a file says what it is


def test_a_single_file_in_a_folder_named_after_a_split(tmp_path: Path) -> None:
    lay_out(tmp_path / "valid", ["_annotations.coco.json"], ".")
    assert available_splits(tmp_path / "valid") == ["val"]
    assert open_dataset(tmp_path / "valid", "val").notes == ()
    with pytest.raises(
        DataError,
        match=r"valid has no split 'train', only 'val': ask for that one \(in training --train-split val or --val-split val, elsewhere --split val\)\.$",
    ):
        open_dataset(tmp_path / "valid", "train")


@pytest.mark.parametrize(
    ("file", "pictures"),
    [
        ("Annotations/instances_train.json", "images"),
        ("Annotations/instances_train.json", "Images/train"),
        ("labels/train.json", "images"),
        ("labels/train.json", "IMAGES"),
        ("LABELS/my.json", "images"),
        ("annotation/train.json", "JPEGImages"),
        ("train.json", "Train"),
        ("x/train.json", "x/images"),
        ("x/labels.json", "x/data"),
    ],
)
def test_a_file_by_itself(tmp_path: Path, file: str, pictures: str) -> None:
    lay_out(tmp_path, [file], pictures)
    dataset = open_dataset(tmp_path / file, "train")
    assert boxes_xywh(dataset) == BOXES
    assert dataset.image(2).getpixel((0, 0)) == (3, 0, 0)
    assert dataset.notes == ()


def test_a_file_by_itself_that_says_another_split(tmp_path: Path) -> None:
    lay_out(tmp_path, ["labels/cats_val.json"], "images")
    assert available_splits(tmp_path / "labels/cats_val.json") == ["val"]
    with pytest.raises(
        DataError, match=r"cats_val\.json is the split 'val', not 'train': ask for that one \(in training"
    ):
        open_dataset(tmp_path / "labels/cats_val.json", "train")


def test_several_files_that_say_no_split(tmp_path: Path) -> None:
    lay_out(tmp_path, ["a.json", "b.json", "annotations/c.json", "annotations/d.json"], "images")
    for open_it in (available_splits, lambda folder: open_dataset(folder, "train")):
        with pytest.raises(DataError) as caught:
            open_it(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path} has 4 COCO annotation files and none says which split it is: a.json, b.json, annotations/c.json and 1 more; give one "
            f"of them by itself (--data {tmp_path / 'a.json'}), or name them after splits, such as train.json and val.json."
        )
    assert len(open_dataset(tmp_path / "b.json", "train")) == 3


def test_two_files_of_one_split(tmp_path: Path) -> None:
    lay_out(tmp_path, ["cats_train.json", "annotations/train_coco.json"], "images")
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path, "train")
    assert str(caught.value) == (
        f"{tmp_path / 'cats_train.json'} and {tmp_path / 'annotations/train_coco.json'} are all the split 'train': remove all but one, or "
        f"give the right one by itself (--data {tmp_path / 'cats_train.json'})."
    )
    assert len(open_dataset(tmp_path / "cats_train.json", "train")) == 3


def test_keypoints_captions_and_panoptic_files_stand_back(tmp_path: Path) -> None:
    lay_out(tmp_path, ["annotations/instances_val2017.json", "annotations/person_keypoints_val2017.json"], "val2017")
    other = coco(BOXES[:2])
    for name in ("person_keypoints_val2017", "captions_train2017", "panoptic_train2017", "image_info_test2017"):
        (tmp_path / f"annotations/{name}.json").write_text(json.dumps(other))
    assert available_splits(tmp_path) == ["val"]
    assert boxes_xywh(open_dataset(tmp_path, "val")) == BOXES
    (tmp_path / "annotations/instances_val2017.json").rename(tmp_path / "annotations/val.json")
    assert available_splits(tmp_path) == ["val"]
    assert boxes_xywh(open_dataset(tmp_path, "val")) == BOXES


def test_other_formats_come_before_a_file_that_says_no_split(tmp_path: Path) -> None:
    lay_out(tmp_path, ["result.json"], "images/val")
    (tmp_path / "labels/val").mkdir(parents=True)
    for name in PICTURES:
        (tmp_path / f"labels/val/{name}").with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5")
    assert available_splits(tmp_path) == ["val"]
    assert len(open_dataset(tmp_path, "val").labels) == 3


def test_pictures_of_other_splits_do_not_stand_in(tmp_path: Path) -> None:
    lay_out(tmp_path, ["train.json", "val.json"], "images/Train")
    write_pictures(tmp_path / "images/val", PICTURES[:2])
    with pytest.raises(DataError, match=r": 1 of 3 pictures is missing: 3\.png; the others were found in .*images/val"):
        open_dataset(tmp_path, "val")


ENTRY = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}


@pytest.mark.parametrize(
    ("content", "is_coco"),
    [
        (coco(), True),
        ({"images": [], "annotations": [], "categories": []}, True),
        ({"info": {"description": "x" * 5000}, "licenses": [], **coco()}, True),
        ({"categories": [{"id": each, "name": "x" * 9} for each in range(9999)], "annotations": [ENTRY] * 9999}, True),
        ({"images": [{"id": 1, "file_name": "a"}] * 9999, "annotations": [ENTRY] * 9999}, True),
        ([ENTRY | {"score": 0.5}], False),
        ([], False),
        ({"images": ["a.png"]}, False),
        ({"annotations": "none"}, False),
        ({"version": "5.0", "shapes": [], "imagePath": "a.png"}, False),
        (coco() | {"annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": []}]}, False),
        (coco() | {"annotations": [{"image_id": 1, "id": 1, "caption": "a cat"}]}, False),
        ("images", False),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_beginning_and_the_end_tell(
    tmp_path: Path, content: Any, is_coco: bool, encoding: str, indent: int | None
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content, indent=indent), encoding=encoding)
    assert looks_like_coco(tmp_path / "a.json") == is_coco


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\x00\x01\x02", b'{"images": [', b"not JSON"])
def test_broken_files_are_no_annotations(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.json").write_bytes(content)
    assert not looks_like_coco(tmp_path / "train.json")
    assert not looks_like_coco(tmp_path / "missing.json")
    with pytest.raises(DataError, match=r"contains no readable data set: looked for .*, found train\.json\.$"):
        open_dataset(tmp_path, "train")


def test_large_files_are_not_read_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither parsed, nor more than the beginning and the end, nor many that have no names of splits."""
    lay_out(tmp_path, ["train.json"], "images")
    monkeypatch.setattr(json, "loads", None)
    assert available_splits(tmp_path) == ["train"]
    looked_at: list[str] = []
    monkeypatch.setattr(coco_files, "looks_like_coco", lambda file: not looked_at.append(file.name))
    for number in range(60):
        (tmp_path / f"{number}.json").write_text("{}")
    assert available_splits(tmp_path) == ["train"]
    assert looked_at == ["train.json"]


def test_result_files_are_no_data_sets(tmp_path: Path) -> None:
    lay_out(tmp_path, ["all.json"], "images")
    (tmp_path / "results.json").write_text(json.dumps([ENTRY | {"score": 0.5}]))
    (tmp_path / "._all.json").write_text(json.dumps(coco()))  # macOS leaves such files
    assert open_dataset(tmp_path, "train").notes == assumed("all.json")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("TEST", "test"),
        ("valid", "valid"),
        ("trainval", "trainval"),
        ("val2017", "val2017"),
        ("val_2017", "val2017"),
        ("instances_val", "val"),
        ("val.coco", "val"),
        ("test_annotations.coco", "test"),
        ("cats v1 - train", "train"),
        ("person_keypoints_val2017", "val2017"),
        ("train_small", None),
        ("train_val", None),
        ("contest", None),
        ("evaluation", None),
        ("_annotations.coco", None),
        ("result", None),
    ],
)
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_in_name(name) == split


def test_real_folders(shared: Path) -> None:
    for name in ("instances_train", "instances_val"):
        assert looks_like_coco(shared / f"data/coco/annotations/{name}.json")
    for name in ("panoptic_train", "panoptic_val"):
        assert not looks_like_coco(shared / f"data/coco/annotations/{name}.json")
    assert open_dataset(shared / "cases/labelstudio_exif", "train").notes[0] == assumed("result.json")[0]
