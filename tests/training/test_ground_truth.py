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
from inspected_data import CAT, DOG, GOOD, write_split
from rich.console import Console

from detrkit.data import read_digits
from detrkit.data.inspection import finding
from detrkit.errors import DataError
from detrkit.training.ground_truth import check_something_to_learn, open_run_data
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
    data_of_run = open_run_data(given, Console(file=text, width=2000))
    training, validation = data_of_run.training, data_of_run.validation
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
    data_of_run = open_run_data(given, Console(file=io.StringIO()))
    training, validation = data_of_run.training, data_of_run.validation
    assert validation is not None
    assert [dataset.images.stretch_16bit for dataset in (training, validation)] == [True, True]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="There is no orientation 'up'"):
        open_run_data(dataclasses.replace(given, orientation="up"), Console(file=io.StringIO()))  # type: ignore[arg-type]


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


def warned(folder: Path, **options: Any) -> list[str]:
    """What a run says about its data besides what the data are."""
    text = io.StringIO()
    given = TrainingOptions(variant="detr-compact", data=str(folder), **options)
    open_run_data(given, Console(file=text, width=2000))
    return [line for line in text.getvalue().splitlines() if not line.startswith(f"{folder.name} ")]


def test_warnings_before_a_run(tmp_path: Path) -> None:
    many = [(CAT, [9 * number, 10, 8, 40]) for number in range(17)]
    write_split(tmp_path, "train", [*GOOD, [GOOD[0][0]] * 2, many, []])
    write_split(tmp_path, "val", [*GOOD, [("owl", [5, 5, 20, 20])]], classes=[CAT, DOG, "owl"])
    assert warned(tmp_path) == [
        f"Note: 1 class of {tmp_path.name} val is not in {tmp_path.name} train and cannot be learned: owl.",
        "Warning: train: 1 pair of boxes is the same box of the same class (train_10.jpg: cat at 20, 20).",
        "Warning: train: 1 of 13 images has more objects, up to 17, than the 16 queries of detr-compact (train_11.jpg).",
        f"What to do about it: detrkit inspect {tmp_path}",
    ]
    assert len(warned(tmp_path, settings={"queries": 17})) == 3
    assert warned(tmp_path, settings={"queries": 17}, train_split="val") == []


def test_a_class_that_training_lists_but_does_not_have(tmp_path: Path) -> None:
    write_split(tmp_path, "train", GOOD, classes=[CAT, DOG, "owl"])
    write_split(tmp_path, "val", [*GOOD, [("owl", [5, 5, 20, 20])]], classes=[CAT, DOG, "owl"])
    assert warned(tmp_path)[0] == "Warning: val: 1 class has objects in 'val', but none in 'train' (owl)."


def test_classes_without_objects_are_said_before_a_run(tmp_path: Path) -> None:
    write_split(tmp_path, "train", GOOD, classes=[CAT, "owl", DOG, "elk"])
    write_split(tmp_path, "val", GOOD, classes=[CAT, DOG])
    assert warned(tmp_path) == [
        "Note: 2 of 4 classes have no objects in train, val (owl, elk). Nothing can be learned of them.",
    ]


def test_a_picture_of_both_splits_is_seen_before_a_run(tmp_path: Path) -> None:
    write_split(tmp_path, "train", GOOD)
    write_split(tmp_path, "val", GOOD)
    assert warned(tmp_path) == []
    (tmp_path / "val/train_0.jpg").write_bytes((tmp_path / "train/train_0.jpg").read_bytes())
    change(tmp_path, "val", lambda contents: contents["images"][0].update(file_name="train_0.jpg"))
    assert warned(tmp_path)[0] == "Warning: train, val: 1 picture of 'val' is also in 'train' (train_0.jpg)."


def test_errors_of_the_inspection_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_split(tmp_path, "train", GOOD)
    error = finding("damaged-pictures", "train", "1 of 10 pictures cannot be decoded.")
    monkeypatch.setattr("detrkit.training.ground_truth.quick_findings", lambda *given: [error])
    with pytest.raises(DataError) as problem:
        warned(tmp_path)
    assert str(problem.value) == (
        f"{tmp_path}: 1 of 10 pictures cannot be decoded. Copy the pictures again from their source, or remove them and their entries."
    )


def test_what_was_found_is_kept_for_the_report(tmp_path: Path) -> None:
    """With the queries that the model has, and one look at a split that is also the validation split."""
    many = [(CAT, [9 * number, 10, 8, 40]) for number in range(17)]
    write_split(tmp_path, "train", [*GOOD, many])
    given = TrainingOptions(variant="detr-compact", data=str(tmp_path), val_split="train")
    found = open_run_data(given, Console(file=io.StringIO())).findings
    assert [(each.kind, each.split) for each in found if "queries" in each.message] == [
        ("more-objects-than-queries", "train")
    ]
    assert [each.severity for each in found] == sorted((each.severity for each in found), key=["warning", "note"].index)
