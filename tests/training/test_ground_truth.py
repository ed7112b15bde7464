"""Before a run starts it is clear whether there is anything to learn, and anything to evaluate on."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data.yolo_files import write_picture, write_text
from rich.console import Console

from detrkit.data import read_digits
from detrkit.errors import DataError
from detrkit.training.ground_truth import check_something_to_learn, open_splits
from detrkit.training.training_options import TrainingOptions


@pytest.fixture
def data(digits_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(digits_folder, tmp_path / "data")


def change(data: Path, split: str, edit: Callable[[dict[str, Any]], None]) -> None:
    file = data / f"annotations/instances_{split}.json"
    contents = json.loads(file.read_text())
    edit(contents)
    file.write_text(json.dumps(contents))


def opened(data: Path, **options: Any) -> tuple[bool, list[str]]:
    """Whether there is validation, and the notes on the console."""
    text = io.StringIO()
    given = TrainingOptions(variant="detr-compact", data=str(data), **options)
    training, validation = open_splits(given, Console(file=text, width=2000))
    assert len(training) == 12
    return validation is not None, [line for line in text.getvalue().splitlines() if line.startswith("Note")]


def all_crowds(contents: dict[str, Any]) -> None:
    for annotation in contents["annotations"]:
        annotation["iscrowd"] = 1


def all_without_area(contents: dict[str, Any]) -> None:
    for annotation in contents["annotations"]:
        annotation["bbox"][2] = 0


def no_objects(contents: dict[str, Any]) -> None:
    contents["annotations"] = []


def no_images(contents: dict[str, Any]) -> None:
    contents["images"] = contents["annotations"] = []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            all_crowds,
            r"^data train has only crowd regions, \d+ in 12 images, so there is nothing to learn: check its ann",
        ),
        (
            all_without_area,
            r"^data train has no objects in its 12 images, so there is nothing to learn: check its annotat",
        ),
        (no_objects, r"^data train has no objects in its 12 images, so there is nothing to learn: .*another split\.$"),
        (no_images, r"instances_train\.json lists no images: add some, or choose another file\.$"),
    ],
)
def test_training_data_without_anything_to_learn_are_refused(
    data: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    change(data, "train", edit)
    with pytest.raises(DataError, match=message):
        opened(data)


def test_one_object_is_enough() -> None:
    check_something_to_learn(read_digits("train", images=1, size=64))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (all_crowds, "data val has only crowd regions, {} in 5 images"),
        (no_objects, "data val has no objects in its 5 images"),
        (no_images, "{} val has no images"),
    ],
)
def test_validation_data_without_ground_truth_are_said_to_be_so(
    data: Path, edit: Callable[[dict[str, Any]], None], reason: str
) -> None:
    assert opened(data) == (True, [])
    file = data / "annotations/instances_val.json"
    value = str(data) if edit is no_images else len(json.loads(file.read_text())["annotations"])
    change(data, "val", edit)
    note = f"Note: {reason.format(value)}, so nothing is evaluated and the lowest loss counts as best."
    assert opened(data) == (False, [note])


def test_an_empty_valid_folder_of_roboflow(data: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid")):
        file = data / f"annotations/instances_{split}.json"
        if split == "val":
            change(data, split, no_images)
        (data / folder).mkdir(exist_ok=True)
        shutil.move(file, data / folder / "_annotations.coco.json")
    has_validation, notes = opened(data)
    assert not has_validation
    assert notes == [f"Note: {data} val has no images, so nothing is evaluated and the lowest loss counts as best."]
    (data / "valid/_annotations.coco.json").unlink()  # the folder may also be wholly empty
    has_validation, notes = opened(data)
    assert not has_validation
    assert notes == [f"Note: {data} has no split 'val', so nothing is evaluated and the lowest loss counts as best."]


def test_options_reach_the_data(data: Path) -> None:
    given = TrainingOptions(variant="detr-compact", data=str(data), orientation="stored", stretch_16bit=True)
    training, validation = open_splits(given, Console(file=io.StringIO()))
    assert validation is not None
    assert [dataset.images.stretch_16bit for dataset in (training, validation)] == [True, True]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="There is no orientation 'up'"):
        open_splits(dataclasses.replace(given, orientation="up"), Console(file=io.StringIO()))  # type: ignore[arg-type]


def test_a_split_that_was_asked_for_must_exist(data: Path) -> None:
    with pytest.raises(DataError, match="has no split 'dev'"):
        opened(data, val_split="dev")


def test_a_yolo_set_whose_valid_folder_is_empty_or_missing(tmp_path: Path) -> None:
    """Roboflow's exports name `valid` in any case."""
    for number in range(12):
        write_picture(tmp_path / f"train/images/{number}.png")
        write_text(tmp_path / f"train/labels/{number}.txt", "0 .5 .5 .5 .5")
    write_text(tmp_path / "data.yaml", "names: [cat]\ntrain: ../train/images\nval: ../valid/images\n")
    end = "so nothing is evaluated and the lowest loss counts as best."
    for split in ("val", "valid"):
        has_validation, notes = opened(tmp_path, val_split=split)
        assert not has_validation
        assert notes[-1].startswith(
            f"Note: {tmp_path} {split} has no images ({tmp_path}/data.yaml: 'val' is '../valid/images', but there is"
        )
        assert notes[-1].endswith(f"correct it, put the pictures there, or remove 'val'), {end}")
    (tmp_path / "valid/images").mkdir(parents=True)
    has_validation, notes = opened(tmp_path)
    assert not has_validation
    assert notes[-1].startswith(
        f"Note: {tmp_path} val has no images ({tmp_path}/data.yaml: 'val' is ../valid/images, where no pictures are"
    )


def test_an_unused_metadata_file(tmp_path: Path) -> None:
    for number in range(12):
        write_picture(tmp_path / f"train/{number}.png")
    line = '{"file_name": "%d.png", "objects": {"bbox": [[1, 2, 3, 4]], "categories": ["cat"]}}\n'
    write_text(tmp_path / "train/metadata.jsonl", "".join(line % number for number in range(12)))
    write_text(tmp_path / "validation/metadata.jsonl", "")
    note = f"Note: {tmp_path} val has no images, so nothing is evaluated and the lowest loss counts as best."
    assert opened(tmp_path) == (False, [note])


def test_two_validation_splits(data: Path) -> None:
    """`val` means one of them, although their names keep the year."""
    for year in ("2014", "2017"):
        shutil.copy(data / "annotations/instances_val.json", data / f"annotations/instances_val{year}.json")
    (data / "annotations/instances_val.json").unlink()
    assert opened(data) == (True, [])
