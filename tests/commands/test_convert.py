"""`detrkit convert` as a user runs it: what it writes, prints and refuses."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from data.yolo_files import write_picture, write_text, write_yolo_set
from PIL import Image

from detrkit.__main__ import main
from detrkit.data import available_splits, open_dataset


def convert(*arguments: object) -> tuple[int, str]:
    """The exit code of a command, and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main(["convert", *map(str, arguments)])
            code: object = 0
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return code, printed.getvalue()


def refusal(*arguments: object) -> str:
    code, printed = convert(*arguments)
    assert code == 2, printed
    assert printed.startswith("detrkit: ")
    assert len(printed.strip().splitlines()) == 1
    return printed


def test_every_split_of_real_photos(shared: Path, tmp_path: Path) -> None:
    code, printed = convert(shared / "data/coco", "--to", "yolo", "--output", tmp_path / "out")
    assert code == 0, printed
    assert "val: coco val: 120 images (2 without objects), 1084 objects and 16 crowd regions, 80 classes" in printed
    assert "Note: 6 crowd regions were left out, which YOLO cannot mark (the first: in 000000000149.jpg)." in printed
    assert f"Written to {tmp_path}/out\nNext: detrkit train VARIANT --data {tmp_path}/out\n" in printed
    assert available_splits(tmp_path / "out") == ["train", "val"]
    counts = [
        (len(open_dataset(tmp_path / "out", split)), len(open_dataset(tmp_path / "out", split).labels))
        for split in ("train", "val")
    ]
    assert counts == [(84, 667 - 6), (120, 1100 - 16)]
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_there_and_back(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/yolo_sample"
    assert convert(source / "data.yaml", "--to", "coco", "--output", tmp_path / "coco", "--split", "valid")[0] == 0
    assert available_splits(tmp_path / "coco") == ["val"]
    assert convert(tmp_path / "coco", "--to", "yolo", "--output", tmp_path / "yolo")[0] == 0
    first, last = open_dataset(source, "val"), open_dataset(tmp_path / "yolo", "val")
    assert last.boxes_xyxy == pytest.approx(first.boxes_xyxy, abs=416e-6)
    assert last.labels.tolist() == first.labels.tolist()
    assert last.categories == first.categories


def test_pascal_voc(digits_folder: Path, tmp_path: Path) -> None:
    assert convert(digits_folder, "--to", "voc", "--output", tmp_path / "out")[0] == 0
    assert available_splits(tmp_path / "out") == ["train", "val"]
    first, last = open_dataset(digits_folder, "val"), open_dataset(tmp_path / "out", "val")
    assert last.boxes_xyxy == pytest.approx(first.boxes_xyxy, abs=1e-9)
    assert [last.categories[label].name for label in last.labels] == [
        first.categories[label].name for label in first.labels
    ]


def test_several_splits(digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    code, _ = convert(digits_folder, "--to", "yolo", "--output", tmp_path / "out", "--split", "val", "--split", "train")
    assert (code, available_splits(tmp_path / "out")) == (0, ["train", "val"])
    assert len(open_dataset(tmp_path / "out", "val")) == 5


def test_notes_of_reading_and_writing_are_printed(tmp_path: Path) -> None:
    folder = write_yolo_set(tmp_path / "in", {"a": "0 .5 .5 .5 .5\n0 .5 .5 .5 .5\n"})
    code, printed = convert(folder, "--to", "coco", "--output", tmp_path / "out")
    assert code == 0
    assert "Note: 1 line repeats another line of its file and was left out (the first: " in printed
    content = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [entry["bbox"] for entry in content["annotations"]] == [[10, 5, 20, 10]]


def test_a_file_that_does_not_say_its_split(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    content = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cat"}]}
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]
    write_text(tmp_path / "my.json", json.dumps({**content, "annotations": annotations}))
    command = (tmp_path / "my.json", "--to", "yolo", "--output", tmp_path / "out")
    assert "my.json does not say which split it is: give one, such as --split train" in refusal(*command)
    assert convert(*command, "--split", "test")[0] == 0
    assert available_splits(tmp_path / "out") == ["test"]


def test_what_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = write_yolo_set(tmp_path / "in", {"a": "0 .5 .5 .5 .5"}, "names: [cat]\nval: nowhere")
    write_text(tmp_path / "full/file", "x")
    assert "full exists and is not empty: choose a new folder" in refusal(
        folder, "--to", "coco", "--output", tmp_path / "full"
    )
    assert "file exists and is a file: choose a new folder" in refusal(
        folder, "--to", "coco", "--output", tmp_path / "full/file"
    )
    command = (folder, "--to", "coco", "--output", tmp_path / "out")
    sentence = refusal(*command, "--split", "val", "--split", "train")
    assert "'val' is 'nowhere', but there is neither" in sentence
    assert "has no split 'test'" in refusal(*command, "--split", "test")
    assert "nowhere does not exist" in refusal(tmp_path / "nowhere", "--to", "coco", "--output", tmp_path / "out")
    assert "--to" in refusal(folder, "--to", "csv", "--output", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "full"}
    assert convert(*command, "--split", "train")[0] == 0


def write_coco_split(file: Path, *pictures: str) -> None:
    """An annotation file with these pictures of 40 × 20 pixels beside it and a box in each."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(pictures, start=1)]
    boxes = [{"id": each["id"], "image_id": each["id"], "category_id": 1, "bbox": [1, 2, 3, 4]} for each in images]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    write_text(file, json.dumps(content))


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
@pytest.mark.parametrize(
    "splits", [("default",), ("train", "minival"), ("a", "b"), ("val2014", "val2017"), ("train", "val", "valid")]
)
def test_splits_of_any_name_are_read_back(tmp_path: Path, form: str, splits: tuple[str, ...]) -> None:
    for number, split in enumerate(splits):
        names = [f"{split}{each}.png" for each in range(number + 1)]
        write_coco_split(tmp_path / f"in/annotations/instances_{split}.json", *names)
        for name in names:
            write_picture(tmp_path / "in/images" / name)
    code, printed = convert(tmp_path / "in", "--to", form, "--output", tmp_path / "out")
    assert code == 0, printed
    assert sorted(available_splits(tmp_path / "out")) == sorted(splits)
    for number, split in enumerate(splits):
        dataset = open_dataset(tmp_path / "out", split)
        assert [dataset.image_name(index) for index in range(len(dataset))] == [
            f"{split}{each}.png" for each in range(number + 1)
        ]
        assert [category.name for category in dataset.categories] == ["cat"]
        assert np.allclose(dataset.boxes_xyxy, [[1, 2, 4, 6]] * (number + 1), atol=1e-6)


def test_splits_that_are_asked_for_by_several_names(tmp_path: Path) -> None:
    for split in ("val2014", "val2017"):
        write_coco_split(tmp_path / f"in/annotations/instances_{split}.json", "a.png")
        write_picture(tmp_path / f"in/{split}/a.png")
    command = (tmp_path / "in", "--to", "coco", "--output")
    assert convert(*command, tmp_path / "both", "--split", "val2014", "--split", "val2017")[0] == 0
    assert available_splits(tmp_path / "both") == ["val2014", "val2017"]
    assert convert(*command, tmp_path / "one", "--split", "val2014")[0] == 0
    assert available_splits(tmp_path / "one") == ["val"]
    assert convert(*command, tmp_path / "same", "--split", "val", "--split", "val2017")[0] == 0
    assert available_splits(tmp_path / "same") == ["val"]


def test_splits_without_pictures_are_left_out(tmp_path: Path) -> None:
    write_picture(tmp_path / "coco/a.png")
    write_coco_split(tmp_path / "coco/annotations/instances_train.json", "a.png")
    write_coco_split(tmp_path / "coco/annotations/instances_val.json")
    code, printed = convert(tmp_path / "coco", "--to", "yolo", "--output", tmp_path / "out")
    assert code == 0, printed
    assert "instances_val.json lists no images: add some, or choose another file. This split was left out.\n" in printed
    assert available_splits(tmp_path / "out") == ["train"]
    assert "lists no images" in refusal(
        tmp_path / "coco", "--to", "yolo", "--output", tmp_path / "val", "--split", "val", "--split", "train"
    )
    folder = write_yolo_set(tmp_path / "yolo", {"a": "0 .5 .5 .5 .5"}, "names: [cat]\nval: nowhere\ntest: empty")
    (folder / "empty").mkdir()
    code, printed = convert(folder, "--to", "coco", "--output", tmp_path / "back")
    assert code == 0, printed
    assert "Note: " in printed and "'val' is 'nowhere', but there is neither" in printed  # noqa: PT018 - one line
    assert "'test' is empty, where no pictures are" in printed
    assert available_splits(tmp_path / "back") == ["train"]
    (tmp_path / "coco/annotations/instances_train.json").unlink()
    assert "lists no images" in refusal(tmp_path / "coco", "--to", "yolo", "--output", tmp_path / "none")


@pytest.mark.parametrize(
    ("splits", "command"),
    [
        (("train",), "train VARIANT --data OUT"),
        (("train", "val"), "train VARIANT --data OUT"),
        (("train", "val", "test"), "train VARIANT --data OUT"),
        (("train", "test"), "train VARIANT --data OUT"),  # without evaluation: what the test split is for comes later
        (("val",), "evaluate CHECKPOINT --data OUT"),
        (("val2017",), "evaluate CHECKPOINT --data OUT"),
        (("test",), "evaluate CHECKPOINT --data OUT --split test"),
        (("val", "test"), "evaluate CHECKPOINT --data OUT --split val"),
        (("val2014", "val2017"), "evaluate CHECKPOINT --data OUT --split val2014"),
        (("default",), "train VARIANT --data OUT --train-split default"),
        (("default", "val"), "train VARIANT --data OUT --train-split default"),
        (("train", "minival"), "train VARIANT --data OUT --val-split minival"),
        (("a", "b"), "train VARIANT --data OUT --train-split a --val-split b"),
        (("trainval", "test"), "train VARIANT --data OUT --train-split trainval"),
    ],
)  # fmt: skip
def test_the_next_command_fits_the_splits(tmp_path: Path, splits: tuple[str, ...], command: str) -> None:
    for split in splits:
        write_coco_split(tmp_path / f"in/annotations/instances_{split}.json", "a.png")
        write_picture(tmp_path / f"in/{split}/a.png")
    code, printed = convert(tmp_path / "in", "--to", "coco", "--output", tmp_path / "out")
    assert code == 0, printed
    assert printed.splitlines()[-1] == f"Next: detrkit {command.replace('OUT', str(tmp_path / 'out'))}"
    asked = command.partition("-split ")[2].split()
    assert {*asked[:1]} <= {*available_splits(tmp_path / "out"), "val"}


def test_notes_name_the_commands_that_have_their_option(tmp_path: Path) -> None:
    write_coco_split(tmp_path / "in/annotations/instances_train.json", "a.png")
    pixels = (np.arange(800, dtype=np.uint16) % 900).reshape(20, 40)
    Image.fromarray(pixels).save(tmp_path / "in/a.png")
    code, printed = convert(tmp_path / "in", "--to", "yolo", "--output", tmp_path / "out")
    assert code == 0, printed
    assert (
        "open the data with stretch_16bit=True (--stretch-16bit of train, evaluate and predict) to stretch it.\n"
        in printed
    )
    assert "--stretch-16bit" in refusal("in", "--to", "yolo", "--output", "x", "--stretch-16bit")


def test_orientation(tmp_path: Path) -> None:
    write_coco_split(tmp_path / "in/annotations/instances_train.json", "a.png")
    write_picture(tmp_path / "in/a.png", orientation=3)
    for orientation, box in (("shown", [1, 2, 3, 4]), ("stored", [36, 14, 3, 4])):
        output = tmp_path / orientation
        assert convert(tmp_path / "in", "--to", "coco", "--output", output, "--orientation", orientation)[0] == 0
        content = json.loads((output / "annotations/instances_train.json").read_text())
        assert content["annotations"][0]["bbox"] == box
    folder = write_yolo_set(tmp_path / "yolo", {"a": "0 .5 .5 .5 .5"})
    assert "is in a format that leaves no choice of orientation: leave it out" in refusal(
        folder, "--to", "coco", "--output", tmp_path / "out", "--orientation", "stored"
    )
