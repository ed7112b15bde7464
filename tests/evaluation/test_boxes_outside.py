"""Boxes wholly outside their image: data sets and the evaluation of result files leave out the same ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from coco_files import HEIGHT, WIDTH, Contents, coco, write_pictures

from detrkit.data import read_coco
from detrkit.errors import DataError
from detrkit.evaluation import evaluate_detections

OUTSIDE = (
    "2 of 6 boxes lie wholly outside the image and were left out (the first: annotation 1 of 1.png); COCO's own evaluation would count each "
    "as an object that was missed."
)


def with_boxes(*boxes: list[float]) -> Contents:
    """The boxes take the place of the first ones."""
    contents = coco()
    for annotation, box in zip(contents["annotations"], boxes, strict=False):
        annotation |= {"bbox": box, "area": box[2] * box[3]}
    return contents


def perfect_results(contents: Contents) -> list[dict[str, Any]]:
    keys = ("image_id", "category_id", "bbox")
    return [{key: entry[key] for key in keys} | {"score": 0.9} for entry in contents["annotations"]]


def write(folder: Path, contents: Contents, orientation: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    write_pictures(folder, ["1.png", "2.png", "3.png"], size, orientation)
    (folder / "truth.json").write_text(json.dumps(contents))
    return folder / "truth.json"


@pytest.mark.parametrize(
    "boxes",
    [
        ([WIDTH, 5, 10, 10], [5, HEIGHT + 3, 10, 10]),
        ([-10, 5, 10, 10], [5, -30, 10, 10]),
        ([500, 500, 1, 1], [-9, 9, 2, 2]),
    ],
)
def test_the_data_set_and_the_file_have_the_same_objects(
    tmp_path: Path, boxes: tuple[list[float], list[float]]
) -> None:
    contents = with_boxes(*boxes)
    contents["annotations"][1]["iscrowd"] = 1
    results = perfect_results(contents)[2:]
    file = write(tmp_path, contents)
    dataset = read_coco(file, tmp_path)
    assert dataset.notes == (OUTSIDE,)
    assert dataset.annotation_ids.tolist() == [3, 4, 5, 6]
    of_file = evaluate_detections(file, results)
    of_dataset = evaluate_detections(dataset.to_coco(own_ids=True), results)
    assert of_file.notes == (OUTSIDE,)
    assert of_dataset.notes == ()
    assert (of_file.objects, of_file.crowds) == (of_dataset.objects, of_dataset.crowds) == (4, 0)
    assert of_file.figures == of_dataset.figures
    assert of_file.figures["AP"] == 1.0


def test_boxes_that_touch_or_cross_the_edge_stay(tmp_path: Path) -> None:
    contents = with_boxes([WIDTH - 0.5, 5, 10, 10], [-5, -5, 6, 5.5])
    file = write(tmp_path, contents)
    assert len(read_coco(file, tmp_path).labels) == evaluate_detections(file, perfect_results(contents)).objects == 6


def test_without_a_stated_size_the_file_says_nothing(tmp_path: Path) -> None:
    contents = with_boxes([500, 5, 10, 10])
    for image in contents["images"]:
        del image["width"]
    assert evaluate_detections(contents, perfect_results(contents)).objects == 6
    assert len(read_coco(write(tmp_path, contents), tmp_path).labels) == 5


@pytest.mark.parametrize(("orientation", "kept"), [(6, 6), (1, 5)])
def test_pictures_that_may_be_turned_are_looked_at(tmp_path: Path, orientation: int, kept: int) -> None:
    """The file states the stored size, and one picture's boxes fit only if it is turned."""
    contents = with_boxes([5, HEIGHT + 4, 10, 10], [5, 5, 10, 60])
    file = write(tmp_path, contents, orientation)
    dataset = read_coco(file, tmp_path)
    results = perfect_results(contents)
    found = evaluate_detections(file, results)
    assert len(dataset.labels) == found.objects == kept
    assert found.figures == evaluate_detections(dataset.to_coco(), results).figures
    unknown = evaluate_detections(contents, results)
    assert unknown.objects == 6
    assert unknown.notes == (
        "1 of 6 boxes lies outside the size that the file states for the image, but inside it if the picture is turned by its EXIF orientation "
        "(the first: annotation 1 of 1.png); the picture was not found, so it counts.",
    )


def test_most_of_many_boxes_are_no_strays(tmp_path: Path) -> None:
    boxes = [[WIDTH + number, 5, 10, 10] for number in range(11)] + [[5, number, 10, 10] for number in range(9)]
    contents = coco()
    contents["annotations"] = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": box} for number, box in enumerate(boxes, start=1)
    ]
    file = write(tmp_path, contents)
    sentence = (
        "11 of 20 boxes lie wholly outside the image (the first: annotation 1 of 1.png), so they belong to other pictures or are not in "
        "pixels: use the pictures that were annotated, or export the boxes again."
    )
    for read in (lambda: read_coco(file, tmp_path), lambda: evaluate_detections(file, [])):
        with pytest.raises(DataError) as caught:
            read()
        assert str(caught.value) == f"{file}: {sentence}"


def test_real_annotations_keep_all_boxes(shared: Path) -> None:
    folder = shared / "data/evaluator"
    found = evaluate_detections(
        folder / "instances_val2014_100.json", folder / "instances_val2014_fakebbox100_results.json"
    )
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    assert found.objects + found.crowds == len(truth["annotations"])
    assert not any("outside" in note for note in found.notes)
