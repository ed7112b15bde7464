"""Result files beside data sets: images are found by ids or by names, and what belongs to other images is left out and said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from voc_folders import thing, write_annotation, write_split

import detrkit
from detrkit.data import DetectionDataset, open_dataset
from detrkit.errors import ConfigurationError, DataError
from detrkit.evaluation.result_files import pair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Cells in Pascal VOC's layout: one picture for training, two for a test."""
    for name, left in (("b", 1), ("a", 2), ("c", 3)):
        write_annotation(tmp_path / "cells", name, thing("cell", (left, 1, left + 3, 5)), thing("dust", (1, 1, 2, 2)))
    write_split(tmp_path / "cells", "train", "a")
    write_split(tmp_path / "cells", "test", "b", "c")
    return tmp_path / "cells"


def perfect(dataset: DetectionDataset, name: Callable[[str], str] | None, score: float = 0.02) -> list[dict[str, Any]]:
    """The annotations as results, as `detrkit predict` writes them: numbered from 1, and with names as asked for."""
    names = {image_id: str(dataset.image_name(place)) for place, image_id in enumerate(dataset.image_ids.tolist())}
    numbers = {image_id: number for number, image_id in enumerate(names, start=1)}
    return [
        {
            "image_id": entry["image_id"] if name is None else numbers[entry["image_id"]],
            "category_id": entry["category_id"],
            "bbox": entry["bbox"],
            "score": score,
        }
        | ({} if name is None else {"file_name": name(names[entry["image_id"]])})
        for entry in dataset.to_coco()["annotations"]
    ]


def written(path: Path, entries: Iterable[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(list(entries)))
    return path


def ap(evaluation: detrkit.Evaluation) -> float | None:
    return evaluation.figures["AP"]


def test_pictures_are_found_by_their_paths(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [
        entry
        for split in ("train", "test")
        for entry in perfect(open_dataset(folder, split), lambda name: str(folder / "JPEGImages" / Path(name).name))
    ]
    found = written(tmp_path / "found.json", whole)
    evaluation = detrkit.evaluate(str(found), str(folder), split="test")
    assert ap(evaluation) == pytest.approx(1.0)
    assert (evaluation.name, evaluation.images, evaluation.detections) == ("cells test", 2, 4)
    assert "Detections in 1 image that is not in cells test were left out: a.png." in evaluation.notes
    monkeypatch.chdir(folder.parent)
    relative = [entry | {"file_name": f"cells/JPEGImages/{Path(entry['file_name']).name}"} for entry in whole]
    assert detrkit.evaluate(written(tmp_path / "relative.json", relative), "cells", split="test") == evaluation


@pytest.mark.parametrize("prefix", ["", "photos/", "C:\\photos\\", "/elsewhere/JPEGImages/"])
def test_pictures_that_were_elsewhere_are_found_by_their_names(folder: Path, tmp_path: Path, prefix: str) -> None:
    dataset = open_dataset(folder, "test")
    found = written(tmp_path / "found.json", perfect(dataset, lambda name: prefix + Path(name).name))
    assert ap(detrkit.evaluate(found, dataset)) == pytest.approx(1.0)
    assert pair(found, dataset).entries == perfect(dataset, None)


def test_names_go_with_annotation_files_as_well(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(folder, "test")
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(dataset.to_coco()))
    found = written(tmp_path / "found.json", perfect(dataset, lambda name: f"x/{Path(name).name}"))
    assert ap(detrkit.evaluate(found, truth)) == pytest.approx(1.0)
    with pytest.raises(ConfigurationError, match="is an annotation file, taken as a whole: leave `split` out"):
        detrkit.evaluate(found, truth, split="test")


def test_folders_decide_between_images_of_the_same_name(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a/1.jpg"}, {"id": 2, "file_name": "b/1.jpg"}]
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}))
    entry = {"image_id": 9, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.01}
    named = [entry | {"file_name": name} for name in ("pictures/b/1.jpg", "pictures/a/1.jpg")]
    assert [each["image_id"] for each in pair(written(tmp_path / "found.json", named), truth).entries] == [2, 1]
    found = written(tmp_path / "found.json", [entry | {"file_name": "c/1.jpg"}])
    with pytest.raises(DataError, match=r"detections in c/1\.jpg, which may be a/1\.jpg or b/1\.jpg of truth: predict"):
        pair(found, truth)
    twice = [entry | {"file_name": name} for name in ("x/a/1.jpg", "y/a/1.jpg")]
    with pytest.raises(DataError, match=r"in x/a/1\.jpg and in y/a/1\.jpg, and truth has one image of this name"):
        pair(written(tmp_path / "found.json", twice), truth)


def test_results_of_other_pictures_are_refused(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(folder, "test")
    found = written(tmp_path / "found.json", perfect(dataset, lambda name: f"other {Path(name).name}"))
    with pytest.raises(DataError) as caught:
        detrkit.evaluate(found, dataset)
    assert str(caught.value) == (
        f"{found} has detections in other b.png, other c.png, and cells test has none of these images: use results and data that belong together."
    )


def test_scores_that_were_left_out_are_said(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(folder, "test")
    for score, said in ((0.02, False), (0.3, True)):
        found = written(tmp_path / "found.json", perfect(dataset, lambda name: name, score))
        notes = detrkit.evaluate(found, dataset).notes
        assert any(f"The lowest score in {found} is 0.30, and AP counts" in note for note in notes) == said


def test_numbers_in_names_are_the_ids_where_a_format_has_none(folder: Path, tmp_path: Path) -> None:
    for old, new in (("a", "000007"), ("b", "000001"), ("c", "000012")):
        for part, suffix in (("Annotations", ".xml"), ("JPEGImages", ".png")):
            shutil.move(folder / part / f"{old}{suffix}", folder / part / f"{new}{suffix}")
    write_split(folder, "train", "000007")
    write_split(folder, "test", "000012", "000001")
    dataset = open_dataset(folder, "test")
    assert dataset.file_image_ids is not None
    assert dataset.file_image_ids.tolist() == [12, 1]
    entries = dataset.with_file_ids(
        perfect(dataset, None)
    )  # as `detrkit predict` and `detrkit evaluate --results` write them
    assert {entry["image_id"] for entry in entries} == {1, 12}
    assert ap(detrkit.evaluate(written(tmp_path / "found.json", entries), folder, split="test")) == pytest.approx(1.0)


def test_a_model_and_data_by_their_paths(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(folder, "test")
    preprocessing = detrkit.Preprocessing(32, 32)
    model = detrkit.build("detr-compact", classes=dataset.categories, preprocessing=preprocessing, queries=3)
    path = detrkit.save(model, tmp_path / "model.safetensors")
    assert detrkit.evaluate(path, folder, split="test") == detrkit.evaluate(model, dataset)
    with pytest.raises(ConfigurationError, match="opened already, as cells test: leave `split` out"):
        detrkit.evaluate(model, dataset, split="test")
    with pytest.raises(DataError, match="cells has no split 'val'"):
        detrkit.evaluate(path, folder)
    found = written(tmp_path / "found.json", [])
    with pytest.raises(ConfigurationError, match=r"are for models, and .*found\.json is a result file: leave them out"):
        detrkit.evaluate(found, dataset, batch_size=2)
