"""Result files are valid after every image, have the right numbers, and survive odd names."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv
from PIL import Image
from pycocotools.coco import COCO

from detrkit.cards import Category
from detrkit.errors import OutputError
from detrkit.prediction import result_files as module
from detrkit.prediction.result_files import (
    CsvFile,
    JsonFile,
    JsonStream,
    Result,
    crop_folders,
    replaced_results,
    result_files,
    result_places,
    yolo_lines,
)
from detrkit.prediction.results import save_image

CATEGORIES = (Category(90, "tooth brush", 0), Category(3, 'car, "old"', 1), Category(7, "two\nlines", 2))
IMAGES = [Path("a/dog.jpg"), Path("b/dog.png"), Path("c/cat.jpg")]


def detections(*rows: tuple[tuple[float, ...], int, float]) -> sv.Detections:
    names = {category.id: category.name for category in CATEGORIES}
    return sv.Detections(
        xyxy=np.array([box for box, _, _ in rows], dtype=np.float32).reshape(-1, 4),
        confidence=np.array([score for _, _, score in rows], dtype=np.float32),
        class_id=np.array([label for _, label, _ in rows], dtype=np.int64),
        data={"class_name": np.array([names[label] for _, label, _ in rows], dtype=str)},
    )


TWO = detections(((10, 20, 30, 60), 3, 0.75), ((-5, 0.5, 50, 100), 90, 0.5))
ONE = detections(((0, 0, 1, 2), 7, 0.25))
NONE = detections()


def result(place: int, found: sv.Detections) -> Result:
    return Result(place, Image.new("RGB", (100, 80)), found)


def test_the_json_file_is_complete_after_every_image(tmp_path: Path) -> None:
    path = tmp_path / "detections.json"
    path.write_text("[" + "{}, " * 1000 + "{}]")  # of an earlier run, and longer
    file = JsonFile(tmp_path, IMAGES, CATEGORIES)
    counts = [len(json.loads(path.read_text()))]  # nothing is known that could replace it
    for place, found in enumerate((NONE, TWO, ONE)):
        file.add(result(place, found))
        counts.append(len(json.loads(path.read_text())))
    assert counts == [1001, 0, 2, 3]
    file.finish()
    assert json.loads(path.read_text()) == [
        {
            "image_id": number,
            "category_id": category,
            "bbox": box,
            "score": score,
            "category_name": name,
            "file_name": file_name,
        }
        for number, category, box, score, name, file_name in (
            (2, 3, [10, 20, 20, 40], 0.75, 'car, "old"', "b/dog.png"),
            (2, 90, [-5, 0.5, 55, 99.5], 0.5, "tooth brush", "b/dog.png"),
            (3, 7, [0, 0, 1, 2], 0.25, "two\nlines", "c/cat.jpg"),
        )
    ]
    assert path.read_text().splitlines()[1].startswith('{"image_id": 2,')


def test_images_without_objects_are_listed_and_cocos_tools_load_both_files(tmp_path: Path) -> None:
    file = JsonFile(tmp_path, IMAGES, CATEGORIES)
    for place, found in ((0, NONE), (2, TWO)):
        file.add(result(place, found))
        listed = json.loads((tmp_path / "images.json").read_text())  # complete after every image
        assert listed["images"][-1]["id"] == place + 1
    file.finish()
    assert listed["images"] == [
        {"id": 1, "file_name": "a/dog.jpg", "width": 100, "height": 80, "detections": 0},
        {"id": 3, "file_name": "c/cat.jpg", "width": 100, "height": 80, "detections": 2},
    ]
    assert [(each["id"], each["name"]) for each in listed["categories"]] == [
        (each.id, each.name) for each in CATEGORIES
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(tmp_path / "images.json").loadRes(str(tmp_path / "detections.json"))
    assert [entry["score"] for entry in loaded.loadAnns(loaded.getAnnIds(imgIds=[3]))] == [0.75, 0.5]


def test_a_stream_gets_one_list_with_the_names_of_files() -> None:
    for added, count in (((NONE, TWO, ONE), 3), ((NONE,), 0), ((), 0)):
        text = io.StringIO()
        stream = JsonStream(text, [Path("000007.jpg"), Path("000009.jpg"), Path("000011.jpg")])
        for place, found in enumerate(added):
            stream.add(result(place, found))
        stream.finish()
        entries = json.loads(text.getvalue())
        assert len(entries) == count


def test_crops_are_the_objects_by_class_and_rank(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    found = detections(((10.2, 20, 29.5, 60), 3, 0.75), ((-5, 0.5, 50, 100), 90, 0.5), ((100.5, 10, 120, 20), 3, 0.3))
    with result_files(tmp_path, ["crops"], IMAGES, CATEGORIES) as files:
        files[0].add(Result(1, Image.fromarray(pixels), found))
        files[0].add(result(0, NONE))
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "crops/car_ _old_/dog_2_1.png", "crops/tooth brush/dog_2_2.png",
    }  # fmt: skip
    crop = Image.open(tmp_path / "crops" / "car_ _old_" / "dog_2_1.png")
    np.testing.assert_array_equal(np.asarray(crop), pixels[20:60, 10:30])


def test_folders_for_crops_have_names_that_every_system_takes() -> None:
    names = ["a/b", "a:b", "..", "Straße", "c++"]
    folders = crop_folders([Category(10 + number, name, number) for number, name in enumerate(names)])
    assert list(folders.values()) == ["a_b", "a_b_11", "_", "Straße", "c++"]


def test_numbers_as_names_are_image_ids_whatever_was_skipped(tmp_path: Path) -> None:
    file = JsonFile(tmp_path, [Path("000007.jpg"), Path("000009.jpg")], CATEGORIES)
    file.add(result(1, ONE))
    file.finish()
    assert json.loads((tmp_path / "detections.json").read_text()) == [
        {"image_id": 9, "category_id": 7, "bbox": [0, 0, 1, 2], "score": 0.25, "category_name": "two\nlines"}
    ]


def test_the_json_file_replaces_its_end_in_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed between two writes must leave a complete file."""
    file = JsonFile(tmp_path, IMAGES, CATEGORIES)
    file.add(result(0, NONE))
    writes: list[str] = []
    write = file._entries._write
    monkeypatch.setattr(
        file._entries, "_write", lambda content, at: (writes.append(content.decode()), write(content, at))
    )
    file.add(result(0, TWO))
    file.add(result(1, ONE))
    file.add(result(2, NONE))
    assert [text[:2] for text in writes] == ["\n{", ",\n"]
    assert all(text.endswith("}\n]\n") for text in writes)
    file.finish()


def test_rows_of_csv_are_quoted_and_numbers_keep_their_digits(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(b'a, "b"/\xff.jpg'))
    file = CsvFile(tmp_path / "found.csv", [odd, *IMAGES])
    assert not (tmp_path / "found.csv").exists()
    file.add(result(1, NONE))
    assert (tmp_path / "found.csv").read_text() == "file,class,category_id,score,x1,y1,x2,y2\n"
    file.add(result(0, TWO))
    file.add(result(2, detections(((1 / 3, 2, 3, 4), 7, 1 / 3))))
    with (tmp_path / "found.csv").open(newline="", errors="surrogateescape") as opened:
        rows = list(csv.DictReader(opened))
    file.finish()
    assert [row["file"] for row in rows] == [odd.as_posix(), odd.as_posix(), "b/dog.png"]
    assert [row["class"] for row in rows] == ['car, "old"', "tooth brush", "two\nlines"]
    assert [row["category_id"] for row in rows] == ["3", "90", "7"]
    assert [rows[0][name] for name in ("score", "x1", "y1", "x2", "y2")] == ["0.75", "10", "20", "30", "60"]
    assert np.float32(rows[2]["score"]) == np.float32(rows[2]["x1"]) == np.float32(1 / 3)


def test_lines_of_yolo_are_shares_of_the_picture_and_end_with_the_score() -> None:
    found = detections(
        ((10, 20, 30, 60), 3, 0.75),
        ((-5, 0.5, 50, 100), 90, 0.5),
        ((100.5, 10, 120, 20), 3, 0.3),
        ((5, 5, 5, 9), 3, 0.2),
    )
    assert yolo_lines(found, 100, 80, {90: 0, 3: 1, 7: 2}) == [
        "1 0.200000 0.500000 0.200000 0.500000 0.750000",
        "0 0.250000 0.503125 0.500000 0.993750 0.500000",
    ]
    assert yolo_lines(NONE, 100, 80, {}) == []


def test_all_formats_together(tmp_path: Path) -> None:
    formats: list[Any] = ["json", "csv", "yolo", "images", "json"]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "cat.txt").write_text("of an earlier run")
    with result_files(tmp_path, formats, IMAGES, CATEGORIES) as files:
        for place, found in enumerate((TWO, ONE, NONE)):
            for file in files:
                file.add(result(place, found))
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "detections.json", "images.json", "detections.csv", "classes.txt", "labels/dog.txt", "labels/dog_2.txt", "labels/cat.txt",
        "dog.jpg", "dog_2.png", "cat.jpg",
    }  # fmt: skip
    assert (tmp_path / "classes.txt").read_text() == 'tooth brush\ncar, "old"\ntwo lines\n'
    assert (tmp_path / "labels" / "dog_2.txt").read_text().startswith("2 0.005")
    assert (tmp_path / "labels" / "cat.txt").read_text() == ""
    assert np.asarray(Image.open(tmp_path / "dog_2.png")).any()
    assert not np.asarray(Image.open(tmp_path / "cat.jpg")).any()
    assert result_places(tmp_path, formats) == [
        tmp_path / "detections.json", tmp_path / "detections.csv", tmp_path / "labels", tmp_path,
    ]  # fmt: skip


def test_results_of_an_earlier_run_are_named(tmp_path: Path) -> None:
    assert replaced_results(tmp_path, ["json", "csv", "yolo", "images"], IMAGES) == []
    (tmp_path / "detections.csv").touch()
    (tmp_path / "labels").mkdir()
    assert replaced_results(tmp_path, ["json", "csv", "yolo", "images"], IMAGES) == [
        f"There are results of an earlier run ({tmp_path / 'detections.csv'}, {tmp_path / 'labels'}); files of the same names are replaced."
    ]
    assert replaced_results(tmp_path, ["json", "images"], IMAGES) == []
    (tmp_path / "dog_2.png").touch()
    assert replaced_results(tmp_path, ["json", "images"], IMAGES) == [
        "There are results of an earlier run (1 picture with boxes); files of the same names are replaced."
    ]


def test_crops_of_an_earlier_run_are_said_to_stay(tmp_path: Path) -> None:
    folder = tmp_path / "crops"
    (folder / "dog").mkdir(parents=True)
    assert replaced_results(tmp_path, ["json"], IMAGES) == []
    Image.new("RGB", (8, 8)).save(folder / "dog" / "mine.png")  # whoever owns it has other results than ours
    assert replaced_results(tmp_path, ["json"], IMAGES) == []
    save_image(folder / "dog" / "dog_2_3.png", Image.new("RGB", (8, 8)))
    assert replaced_results(tmp_path, ["json"], IMAGES) == [f"{folder} stays as it is, with objects of an earlier run."]
    assert replaced_results(tmp_path, ["crops"], IMAGES) == [
        f"There are results of an earlier run ({folder}); files of the same names are replaced.",
        f"Nothing is deleted in {folder}, so it may also have objects that only the earlier run found.",
    ]


def test_all_that_was_added_is_written_after_an_error(tmp_path: Path) -> None:
    def look() -> None:
        with result_files(tmp_path, ["json", "images"], IMAGES, CATEGORIES) as files:
            for file in files:
                file.add(result(0, TWO))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look()
    assert len(json.loads((tmp_path / "detections.json").read_text())) == 2
    assert (tmp_path / "dog.jpg").is_file()


def test_a_drawing_that_cannot_be_saved_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path, image: Image.Image) -> Path:
        raise OutputError(f"{path} cannot be written (No space left on device): choose another path")

    monkeypatch.setattr(module, "save_image", full_disk)
    with (
        pytest.raises(OutputError, match=r"dog\.jpg cannot be written \(No space left on device\)"),
        result_files(tmp_path, ["images"], IMAGES, CATEGORIES) as files,
    ):
        files[0].add(result(0, TWO))


@pytest.mark.parametrize(("kind", "name"), [("json", "detections.json"), ("csv", "detections.csv")])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, kind: Any, name: str) -> None:
    (tmp_path / name).mkdir()
    with (
        pytest.raises(
            OutputError, match=rf"{name} cannot be written \(Is a directory\): make room, or choose another --output$"
        ),
        result_files(tmp_path, [kind], IMAGES, CATEGORIES) as files,
    ):
        files[0].add(result(0, TWO))
