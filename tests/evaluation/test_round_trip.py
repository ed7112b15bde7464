"""Ground truth through the whole pipeline and COCO's evaluation gives AP 1, or a reason why not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from inspected_data import CAT, DOG, GOOD, HEIGHT, WIDTH, found, only, opened, write_split

from detrkit.data import open_dataset, read_digits
from detrkit.data.inspection import Split
from detrkit.evaluation import inspect_data
from detrkit.evaluation.round_trip import perfect_entries, round_trip, round_trip_findings


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("bccd", ("train", "val", "test")),
        ("coco", ("train", "val")),
        ("yolo_sample", ("train", "val", "test")),
        ("roboflow_sample", ("train", "val", "test")),
    ],
)
def test_real_data(shared: Path, name: str, splits: tuple[str, ...]) -> None:
    for split in splits:
        outcome = round_trip(Split(split, open_dataset(shared / "data" / name, split)))
        assert outcome.ap == pytest.approx(1.0, abs=1e-6)
        assert outcome.left_out == 0
        assert all(each.ap in (None, pytest.approx(1.0, abs=1e-6)) for each in outcome.evaluation.classes)


def test_built_in_digits() -> None:
    assert round_trip(Split("val", read_digits("val", images=20, size=64))).ap == pytest.approx(1.0, abs=1e-6)


def test_entries_are_the_annotations(tmp_path: Path) -> None:
    things = [(DOG, [10.25, 20.5, 30, 40.75]), (CAT, [0, 0, WIDTH, HEIGHT]), (CAT, [3, 3, 9, 9], True)]
    dataset = opened(write_split(tmp_path, "train", [[], things])).dataset
    assert perfect_entries(dataset, 0) == []
    entries = {entry["category_id"]: entry for entry in perfect_entries(dataset, 1)}
    assert {number: entry["bbox"] for number, entry in entries.items()} == {
        2: pytest.approx([10.25, 20.5, 30, 40.75], abs=1e-4),
        1: pytest.approx([0, 0, WIDTH, HEIGHT], abs=1e-4),
    }
    assert {entry["image_id"] for entry in entries.values()} == {2}


def test_boxes_at_the_edge_cost_ap(tmp_path: Path) -> None:
    write_split(
        tmp_path, "train", [*GOOD, [(CAT, [-8, 20, 40, 30])], [(DOG, [150, 20, 20, 30])], [(DOG, [-1, 9, 50, 50])]]
    )
    inspection = inspect_data(tmp_path)
    assert inspection.exit_code == 1
    assert inspection.round_trips["train"] == pytest.approx(0.9, abs=0.06)
    (one,) = [each for each in inspection.findings if each.kind == "round-trip"]
    assert one.message == (
        f"Perfect detections reach AP {inspection.round_trips['train']:.4f} only: 2 of 23 boxes lose more than a twentieth of the area at "
        "the picture's edge, where training and models end (train_10.jpg, train_11.jpg)."
    )
    assert one.files == ("train_10.jpg", "train_11.jpg")


def test_a_box_just_over_the_edge_costs_nothing(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [*GOOD, [(CAT, [-1.5, 20, 40, 30])]])
    assert found(tmp_path, "round-trip") == []
    assert only(tmp_path, "boxes-over-the-edge").count == 1


def test_crowd_regions_at_the_edge_do_not_count(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [*GOOD, [(CAT, [-50, 20, 80, 30], True)]])
    assert found(tmp_path, "round-trip") == []


def test_other_reasons_are_named_by_class(tmp_path: Path) -> None:
    """What no check explains still shows, with the classes that lose."""
    split = opened(write_split(tmp_path, "train", GOOD))
    outcome = round_trip(split)
    cat, dog = outcome.evaluation.classes
    lower = replace(
        outcome.evaluation,
        figures={**outcome.evaluation.figures, "AP": 0.999996},
        classes=(replace(cat, ap=0.999992), dog),
    )
    (one,) = round_trip_findings(split, replace(outcome, evaluation=lower))
    assert one.message == "Perfect detections reach AP 0.999996 only: the classes below 1 are cat (1.0000)."
    assert round_trip_findings(split, outcome) == []


def test_more_objects_of_a_class_than_count(tmp_path: Path) -> None:
    things = [(CAT, [8 * (number % 18), 10 * (number // 18), 6, 7]) for number in range(101)]
    split = opened(write_split(tmp_path, "train", [*GOOD, things]))
    outcome = round_trip(split)
    assert (outcome.ap, outcome.left_out, outcome.evaluation.images) == (pytest.approx(1.0), 1, 10)


def test_pictures_annotated_before_they_were_turned(tmp_path: Path) -> None:
    """Boxes on the stored pixels of a turned picture come back as they were."""
    from PIL import Image

    folder = write_split(tmp_path, "train", [[(CAT, [100, 20, 50, 90])]] * 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3):
        file = folder / f"train/train_{number}.jpg"
        Image.open(file).save(file, exif=exif)
    assert json.loads((folder / "annotations/instances_train.json").read_text())["images"][0]["width"] == WIDTH
    split = opened(folder)
    assert split.dataset.sizes.tolist() == [[HEIGHT, WIDTH]] * 3
    assert round_trip(split).ap == pytest.approx(1.0, abs=1e-6)


CROWD = [(CAT, [8 * (number % 18), 10 * (number // 18), 6, 7]) for number in range(101)]


def test_where_every_image_has_too_many_objects(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [CROWD, CROWD])
    split = opened(tmp_path)
    outcome = round_trip(split)
    assert (outcome.ap, outcome.evaluation, outcome.left_out) == (None, None, 2)
    inspection = inspect_data(tmp_path)
    assert (inspection.exit_code, inspection.round_trips) == (0, {"train": None})
    (note,) = (each for each in inspection.findings if each.kind.startswith("round-trip"))
    assert (note.kind, note.severity, note.count, note.files) == (
        "round-trip-left-out", "note", 2, ("train_0.jpg", "train_1.jpg"),
    )  # fmt: skip
    assert note.message == (
        "2 of 2 images have more than 100 objects of one class, and were left out of the round trip (train_0.jpg, train_1.jpg)."
    )


def test_what_is_left_out_is_a_note(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [*GOOD, CROWD])
    assert only(tmp_path, "round-trip-left-out").message == (
        "1 of 11 images has more than 100 objects of one class, and was left out of the round trip (train_10.jpg)."
    )
    assert inspect_data(tmp_path).round_trips == {"train": pytest.approx(1.0)}
