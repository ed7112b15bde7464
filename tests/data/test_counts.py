"""Faults that many entries have are counted, so that nobody mends them one at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from coco_files import coco
from data.conftest import Read
from data.yolo_files import write_picture, write_text, write_yolo_set

from detrkit.data import open_dataset
from detrkit.data.coco_truth import checked_lists
from detrkit.errors import DataError
from detrkit.evaluation import evaluate_detections


@pytest.mark.parametrize(
    ("entries", "end"),
    [
        ([{}, 7], "entry 1 of 'images' is 7, not an object; export the file again."),
        (
            [None, {}, 7],
            "entry 0 of 'images' is None, not an object; export the file again. (2 of 3 entries are none.)",
        ),
    ],
)
def test_entries_that_are_no_objects(entries: list[Any], end: str) -> None:
    with pytest.raises(DataError) as caught:
        checked_lists({"images": entries, "annotations": [], "categories": []}, "truth.json")
    assert str(caught.value) == f"truth.json: {end}"


def test_categories_of_one_name(read: Read, tmp_path: Path) -> None:
    contents = coco()
    contents["categories"] += [{"id": 3, "name": "bar"}]
    with pytest.raises(DataError) as caught:
        read(contents)
    assert str(caught.value) == f"{tmp_path}/truth.json: categories 2 and 3 are both named 'bar'; rename one."
    contents["categories"] += [{"id": 4, "name": "square"}, {"id": 5, "name": "bar"}]
    with pytest.raises(DataError) as caught:
        read(contents)
    assert str(caught.value) == (
        f"{tmp_path}/truth.json: categories 2 and 3 are both named 'bar'; rename one. (3 categories have the name of another.)"
    )


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ("names: [[a], b, {c: d}]", ": names has the entry ['a']; give a list of texts. (2 of 3 entries are no texts.)"),
        ("names: {cat: 0, dog: 1}", ": names has the key 'cat'; give whole numbers from 0, each with its name. (2 of this kind.)"),
        ("names: {0: cat, '00': dog, x: y}",
         ": names has class 0 twice; remove one of the two. (1 of other kinds, the first: FILE.)"),
        ("names: {0: a, 0: b, 1: c, 1: d}", ", line 2 has the key '0' again: remove one of the two. (2 keys are there again.)"),
    ],
)  # fmt: skip
def test_names_in_a_yaml_file(tmp_path: Path, description: str, sentence: str) -> None:
    folder = write_yolo_set(tmp_path, {"a": "0 .5 .5 .5 .5"}, description)
    with pytest.raises(DataError) as caught:
        open_dataset(folder, "train")
    assert str(caught.value) == f"{folder}/data.yaml{sentence.replace('FILE', f'{folder}/data.yaml')}"


def test_other_faults_of_label_files(tmp_path: Path) -> None:
    lines = "9 .5 .5 .5 .5\n0 .5 .5 .5\n0 x .5 .5 .5\n8 .5 .5 .5 .5"
    folder = write_yolo_set(tmp_path, {"a": lines})
    where = f"{folder}/labels/train/a.txt, line"
    with pytest.raises(DataError) as caught:
        open_dataset(folder, "train")
    assert str(caught.value) == (
        f"{where} 1 has the class 9, which {folder}/data.yaml does not name (0 cat, 1 dog): correct the line, or add the name. (2 of this kind, "
        f"also in {where} 4.) (2 of other kinds, the first: {where} 2.)"
    )


def test_numbers_that_a_readme_does_not_name(tmp_path: Path) -> None:
    write_picture(tmp_path / "train/a.png")
    objects = {"bbox": [[1, 1, 4, 4]] * 4, "categories": [0, 4, 5, 4]}
    write_text(tmp_path / "train/metadata.jsonl", json.dumps({"file_name": "a.png", "objects": objects}))
    header = "dataset_info:\n  features:\n  - name: categories\n    class_label:\n      names:\n        '0': cat\n        '1': dog\n"
    write_text(tmp_path / "README.md", f"---\n{header}---\n")
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path, "train")
    assert str(caught.value) == (
        f"{tmp_path}/train/metadata.jsonl, line 1 has the category 4, but {tmp_path}/README.md names 2 classes from 0 to 1: correct one of the two. "
        "(2 of 3 categories are not named.)"
    )


def test_entries_of_a_result_file() -> None:
    good = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}
    results = [good, {**good, "image_id": 9}, good, {**good, "score": None}]
    with pytest.raises(DataError) as caught:
        evaluate_detections(coco(), results)
    assert str(caught.value) == (
        "the given detections, entry 1 (counting from 0) has image_id 9, but the given ground truth has no such image (its ids run from 1 to 3, 3 "
        "in all): use results and annotations that belong together. (2 of 4 entries cannot be used.)"
    )
    with pytest.raises(
        DataError, match=r"entry 1 \(counting from 0\) has image_id 9, but practice val has no such image \("
    ):
        evaluate_detections(coco(), results, name="practice val")
