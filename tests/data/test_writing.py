"""Data sets are written so that reading them gives the same boxes, classes, sizes and pictures, and what cannot be kept is said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import HEIGHT, WIDTH, coco, write_pictures
from data.yolo_files import write_picture, write_text
from PIL import Image, ImageOps

from detrkit.data import DetectionDataset, available_splits, open_dataset, read_coco, read_digits
from detrkit.data.writing import as_shown, write_coco, write_yolo
from detrkit.data.writing_voc import write_voc
from detrkit.errors import DataError, OutputError
from detrkit.evaluation import evaluate_detections


def write_truth(folder: Path, boxes: list[list[float]], **changes: Any) -> DetectionDataset:
    """A COCO data set with one picture `a.jpg` of 40 × 20 pixels with these boxes; `changes` replace lists of the file."""
    annotations = [
        {"id": number + 7, "image_id": 5, "category_id": 30, "bbox": box} for number, box in enumerate(boxes)
    ]
    content = {
        "images": [{"id": 5, "file_name": "a.jpg"}],
        "annotations": annotations,
        "categories": [{"id": 30, "name": "cat"}, {"id": 4, "name": "no"}],
        **changes,
    }
    for image in content["images"]:
        if not (folder / image["file_name"]).is_file():
            write_picture(folder / image["file_name"])
    write_text(folder / "truth.json", json.dumps(content))
    return read_coco(folder / "truth.json", folder)


def assert_same(found: DetectionDataset, expected: DetectionDataset, rounding: float) -> None:
    """The same pictures by name, with the same sizes, bytes, class names and boxes within a share of the picture's side."""
    assert len(found) == len(expected)
    places = {found.image_name(index): index for index in range(len(found))}
    for index in range(len(expected)):
        place = places[expected.image_name(index)]
        assert found.sizes[place].tolist() == expected.sizes[index].tolist()
        assert found.images[place].read_bytes() == expected.images[index].read_bytes()
        here, there = found.objects(place), expected.objects(index)
        names = (
            [each.categories[label].name for label in objects.labels]
            for each, objects in ((found, here), (expected, there))
        )
        assert next(names) == next(names)
        sides = np.tile(expected.sizes[index][::-1], 2)
        assert (np.abs(here.boxes_xyxy - there.boxes_xyxy) <= rounding * sides).all()


def without_crowds(dataset: DetectionDataset) -> dict[str, Any]:
    content = dataset.to_coco()
    content["annotations"] = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    return content


@pytest.fixture(scope="module")
def val(shared: Path) -> DetectionDataset:
    return open_dataset(shared / "data/coco", "val")


@pytest.fixture(scope="module")
def entries(shared: Path) -> list[dict[str, Any]]:
    """Real detections in these photos."""
    file = shared / "data/evaluator/coco_val_detections_deimv2_hgnetv2_femto.json"
    found: list[dict[str, Any]] = json.loads(file.read_text())
    return found


def test_real_photos_as_coco(val: DetectionDataset, entries: list[dict[str, Any]], tmp_path: Path) -> None:
    assert write_coco(val, tmp_path, "val") == []
    found = open_dataset(tmp_path, "val")
    assert_same(found, val, rounding=0)
    assert found.image_ids.tolist() == val.image_ids.tolist()
    assert found.annotation_ids.tolist() == val.annotation_ids.tolist()
    assert found.categories == val.categories
    assert found.crowd.tolist() == val.crowd.tolist()
    assert found.areas.tolist() == val.areas.tolist()
    figures = evaluate_detections(found.to_coco(), entries).figures
    assert figures == evaluate_detections(val.to_coco(), entries).figures
    assert figures["AP"] == pytest.approx(0.33233, abs=5e-6)


def test_real_photos_as_yolo(val: DetectionDataset, entries: list[dict[str, Any]], tmp_path: Path) -> None:
    assert write_yolo(val, tmp_path, "val") == [
        "16 crowd regions were left out, which YOLO cannot mark (the first: in 000000000632.jpg).",
    ]
    found = open_dataset(tmp_path, "val")
    assert found.notes == ()
    kept = val_without_crowds(val)
    assert_same(found, kept, rounding=1e-6)
    assert [(each.id, each.name) for each in found.categories] == [(each.index, each.name) for each in val.categories]

    truth = with_ids_of(val, found)
    figures = evaluate_detections(truth, entries).figures
    expected = evaluate_detections(without_crowds(val), entries).figures
    for name in ("AP", "AP50", "AP75"):  # those of sizes go by the area, which is the box's here
        assert figures[name] == pytest.approx(expected[name], abs=1e-12)
    with_crowds = evaluate_detections(val.to_coco(), entries).figures
    assert (with_crowds["AP"], figures["AP"]) == pytest.approx((0.33233, 0.33170), abs=5e-6)


def test_real_photos_as_voc(val: DetectionDataset, entries: list[dict[str, Any]], tmp_path: Path) -> None:
    notes = write_voc(val, tmp_path, "val")
    assert [note.partition(" classes")[0] for note in notes] == ["5 of 80"]  # classes without objects are lost
    found = open_dataset(tmp_path, "val")
    assert_same(found, val, rounding=1e-12)
    assert int(found.crowd.sum()) == 16
    truth = with_ids_of(val, found)
    known = {category["id"] for category in truth["categories"]}
    figures = evaluate_detections(truth, [entry for entry in entries if entry["category_id"] in known]).figures
    expected = evaluate_detections(val.to_coco(), entries).figures
    for name in ("AP", "AP50", "AP75"):
        assert figures[name] == pytest.approx(expected[name], abs=1e-12)


def with_ids_of(original: DetectionDataset, found: DetectionDataset) -> dict[str, Any]:
    """The ground truth of a data set that was written in a format without COCO's ids, with those of the original."""
    image_ids = {original.image_name(index): number for index, number in enumerate(original.image_ids.tolist())}
    theirs = {number: found.image_name(index) for index, number in enumerate(found.image_ids.tolist())}
    category_ids = {category.name: category.id for category in original.categories}
    names = {category.id: category.name for category in found.categories}
    truth = found.to_coco()
    for image in truth["images"]:
        image["id"] = image_ids[image["file_name"]]
    for entry in truth["annotations"]:
        entry["image_id"] = image_ids[theirs[entry["image_id"]]]
        entry["category_id"] = category_ids[names[entry["category_id"]]]
    for category in truth["categories"]:
        category["id"] = category_ids[category["name"]]
    return truth


def val_without_crowds(dataset: DetectionDataset) -> DetectionDataset:
    keep = ~dataset.crowd
    counts = [int(keep[start:end].sum()) for start, end in zip(dataset.offsets[:-1], dataset.offsets[1:], strict=True)]
    columns = {
        name: getattr(dataset, name)[keep] for name in ("boxes_xyxy", "labels", "crowd", "areas", "annotation_ids")
    }
    return dataclasses.replace(dataset, offsets=np.concatenate([[0], np.cumsum(counts)]), **columns)


def test_yolo_files(tmp_path: Path) -> None:
    dataset = write_truth(tmp_path / "in", [[10, 5, 10, 10], [0, 0, 40, 20], [1 / 3, 0, 1, 1]])
    assert write_yolo(dataset, tmp_path / "out", "val") == []
    assert (tmp_path / "out/labels/val/a.txt").read_text() == (
        "1 0.375000000 0.500000000 0.250000000 0.500000000\n"
        "1 0.500000000 0.500000000 1.000000000 1.000000000\n"
        "1 0.020833333 0.025000000 0.025000000 0.050000000\n"
    )
    assert (tmp_path / "out/data.yaml").read_text() == "val: images/val\nnames:\n  0: 'no'\n  1: cat\n"
    found = open_dataset(tmp_path / "out", "val")
    assert found.boxes_xyxy == pytest.approx(dataset.boxes_xyxy, abs=1e-6)
    assert [category.name for category in found.categories] == ["no", "cat"]


def test_splits_with_other_classes_share_their_numbers(tmp_path: Path) -> None:
    train = write_truth(tmp_path / "train", [[10, 5, 10, 10]])
    others = [{"id": 30, "name": "owl"}, {"id": 31, "name": "cat"}]
    val = write_truth(tmp_path / "val", [[10, 5, 10, 10]], categories=others)
    for split, dataset in (("train", train), ("val", val)):
        assert write_yolo(dataset, tmp_path / "out", split) == []
    for split, label in (("train", 1), ("val", 2)):
        found = open_dataset(tmp_path / "out", split)
        assert [category.name for category in found.categories] == ["no", "cat", "owl"]
        assert found.labels.tolist() == [label]


def test_pictures_without_objects_get_an_empty_label_file(tmp_path: Path) -> None:
    images = [{"id": 5, "file_name": "a.jpg"}, {"id": 6, "file_name": "b.jpg"}]
    write_yolo(write_truth(tmp_path / "in", [[1, 1, 2, 2]], images=images), tmp_path / "out", "train")
    assert (tmp_path / "out/labels/train/b.txt").read_text() == ""
    found = open_dataset(tmp_path / "out", "train")
    assert (found.offsets.tolist(), found.notes) == ([0, 1, 1], ())


def test_boxes_that_yolo_cannot_hold(tmp_path: Path) -> None:
    boxes = [[-5, 0, 50, 10], [35, 0, 20, 10], [-2, 0, 10, 10], [30, 0, 5, 5]]
    dataset = write_truth(tmp_path / "in", boxes)
    moved = dataset.boxes_xyxy + np.array([[0], [0], [0], [20]]) * [1, 0, 1, 0]  # readers leave such a box out
    notes = write_yolo(dataclasses.replace(dataset, boxes_xyxy=moved), tmp_path / "out", "train")
    assert notes == [
        "2 boxes were clipped to the picture, for YOLO's numbers end there (the first: in a.jpg).",
        "1 box lies outside the picture and was left out (the first: in a.jpg).",
    ]
    found = open_dataset(tmp_path / "out", "train").boxes_xyxy
    assert found == pytest.approx(np.array([[0, 0, 40, 10], [35, 0, 40, 10], [-2, 0, 8, 10]]), abs=1e-6)


def test_annotation_ids_that_evaluators_take_for_none(tmp_path: Path) -> None:
    annotations = [{"id": number, "image_id": 5, "category_id": 4, "bbox": [1, 1, 2, 2]} for number in (3, 0)]
    dataset = write_truth(tmp_path / "in", [], annotations=annotations)
    assert write_coco(dataset, tmp_path / "out", "train") == [
        "Annotations are numbered anew from 1: their ids were not unique, or 0, which evaluators take for none.",
    ]
    assert open_dataset(tmp_path / "out", "train").annotation_ids.tolist() == [1, 2]


def test_names_stay_where_they_are_unique(tmp_path: Path) -> None:
    names = ["x/a.jpg", "y/a.jpg", "y/A.png", "b.jpg", "z/c.jpg", "x_a.jpg"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    for red, name in enumerate(names):
        write_picture(tmp_path / "in" / name, red=40 * red)
    dataset = write_truth(tmp_path / "in", [], images=images)
    for write in (write_coco, write_yolo):
        write(dataset, tmp_path / write.__name__, "train")
    written = json.loads((tmp_path / "write_coco/annotations/instances_train.json").read_text())["images"]
    assert [entry["file_name"] for entry in written] == [
        "x_a_2.jpg",
        "y_a.jpg",
        "y_A_2.png",
        "b.jpg",
        "c.jpg",
        "x_a.jpg",
    ]
    assert len(list((tmp_path / "write_yolo/labels/train").iterdir())) == 6
    for entry, name in zip(written, names, strict=True):
        original = (tmp_path / "in" / name).read_bytes()
        assert (tmp_path / "write_coco/train" / entry["file_name"]).read_bytes() == original
        assert (tmp_path / "write_yolo/images/train" / entry["file_name"]).read_bytes() == original


def test_a_name_without_ending_gets_one(tmp_path: Path) -> None:
    write_picture(tmp_path / "in/a.png")
    (tmp_path / "in/a.png").rename(tmp_path / "in/a")
    dataset = write_truth(tmp_path / "in", [[1, 1, 2, 2]], images=[{"id": 5, "file_name": "a"}])
    write_yolo(dataset, tmp_path / "out", "train")
    assert open_dataset(tmp_path / "out", "train").image_name(0) == "a.png"


@pytest.mark.parametrize("write", [write_coco, write_yolo])
def test_the_built_in_digits(tmp_path: Path, write: Any) -> None:
    digits = read_digits("val", images=3, size=64)
    write(digits, tmp_path, "val")
    found = open_dataset(tmp_path, "val")
    assert found.boxes_xyxy == pytest.approx(digits.boxes_xyxy, abs=64e-6)
    assert found.labels.tolist() == digits.labels.tolist()
    assert (np.asarray(found.image(2)) == np.asarray(digits.image(2))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("write", [write_coco, write_yolo])
def test_boxes_on_stored_pixels_are_turned_to_the_picture_as_shown(
    tmp_path: Path, orientation: int, write: Any
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.new("RGB", (40, 20))
    picture.paste((255, 255, 255), (4, 2, 10, 6))
    (tmp_path / "in").mkdir()
    picture.save(tmp_path / "in/a.jpg", exif=exif, quality=100)
    size = {"height": 20, "width": 40} if orientation >= 5 else {}
    images = [{"id": 5, "file_name": "a.jpg", **size}]
    dataset = write_truth(tmp_path / "in", [[4, 2, 6, 4]], images=images)
    stored = dataclasses.replace(dataset.images, as_stored=np.array([True]))
    dataset = dataclasses.replace(dataset, images=stored)
    notes = write(dataset, tmp_path / "out", "train")
    assert notes == [
        "1 picture was annotated on the stored pixels; boxes were turned to the picture as EXIF orientation shows it "
        "(the first: a.jpg).",
    ]
    found = open_dataset(tmp_path / "out", "train")
    with Image.open(tmp_path / "in/a.jpg") as original:
        shown = np.asarray(ImageOps.exif_transpose(original).convert("L"))
    rows, columns = np.nonzero(shown > 128)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert found.boxes_xyxy[0] == pytest.approx(expected, abs=1e-6)
    assert found.sizes[0].tolist() == list(shown.shape)
    assert found.images[0].read_bytes() == (tmp_path / "in/a.jpg").read_bytes()
    assert as_shown(found) == (found, [])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    dataset = write_truth(tmp_path / "in", [])
    write_text(tmp_path / "out", "in the way")
    with pytest.raises(OutputError, match=r"out/train.* cannot be "):
        write_coco(dataset, tmp_path / "out", "train")


def test_yolo_boxes_that_repeat_are_written_once(tmp_path: Path) -> None:
    """Readers leave repeated lines out, so they would vanish with a note about a fault of the file."""
    boxes = [[1.0, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [1 + 1e-10, 2, 3, 4]]
    notes = write_yolo(write_truth(tmp_path / "in", boxes), tmp_path / "out", "train")
    assert notes == [
        "3 boxes repeat another of the same class in the same picture and were written once, for YOLO's readers leave repeated lines out "
        "(the first: in a.jpg)."
    ]
    dataset = open_dataset(tmp_path / "out", "train")
    assert dataset.boxes_xyxy == pytest.approx(np.array([[1, 2, 4, 6], [5, 6, 12, 14]]), abs=1e-6)
    assert dataset.notes == ()


def test_yolo_splits_of_any_name(tmp_path: Path) -> None:
    cats = write_truth(tmp_path / "in", [[1, 2, 3, 4]])
    dogs = dataclasses.replace(
        cats, categories=tuple(dataclasses.replace(each, name="dog") for each in cats.categories[:1])
    )
    for split, dataset in (("a", cats), ("no", cats), ("val2014", dogs.subset([])), ("val2017", cats)):
        write_yolo(dataset, tmp_path / "out", split)
    assert available_splits(tmp_path / "out") == ["val", "a", "no"]  # no pictures are in val2014
    write_yolo(cats, tmp_path / "out", "val2014")
    assert available_splits(tmp_path / "out") == ["val2014", "val2017", "a", "no"]
    for split in ("a", "no", "val2014", "val2017"):
        dataset = open_dataset(tmp_path / "out", split)
        assert [category.name for category in dataset.categories] == ["no", "cat", "dog"]
        assert dataset.notes == ()
    with pytest.raises(DataError, match=r"another use for the key 'path': give the split another name\.$"):
        write_yolo(cats, tmp_path / "out", "path")
    write_text(tmp_path / "other/data.yaml", "- a")
    with pytest.raises(
        DataError, match=r"data\.yaml does not describe a YOLO data set: move it away, or choose another"
    ):
        write_yolo(cats, tmp_path / "other", "a")


def test_yolo_classes_get_numbers_that_are_free(tmp_path: Path) -> None:
    write_text(tmp_path / "out/data.yaml", "names: {1: dog, 2: cow}\n")
    write_yolo(write_truth(tmp_path / "in", [[1, 2, 3, 4]]), tmp_path / "out", "train")
    dataset = open_dataset(tmp_path / "out", "train")
    assert [(each.id, each.name) for each in dataset.categories] == [(1, "dog"), (2, "cow"), (3, "no"), (4, "cat")]
    assert [dataset.categories[label].name for label in dataset.labels] == ["cat"]


TEXT_IDS: list[list[Any]] = [["b/2", "a", "c"], ["b/2", 3, "0"], ["7", "07", "007"], [10**30, 2, 1]]


@pytest.mark.parametrize("images", TEXT_IDS)
@pytest.mark.parametrize("categories", [["c1", "c0"], [2, "x"], [5, 9]])
def test_coco_keeps_the_ids_that_the_file_uses(tmp_path: Path, images: list[Any], categories: list[Any]) -> None:
    contents = coco()
    for entry in contents["annotations"]:
        entry["image_id"] = images[entry["image_id"] - 1]
        entry["category_id"] = categories[entry["category_id"] - 1]
    for entries, ids in ((contents["images"], images), (contents["categories"], categories)):
        for entry, identifier in zip(entries, ids, strict=True):
            entry["id"] = identifier
    write_pictures(tmp_path / "in", ["1.png", "2.png", "3.png"])
    (tmp_path / "in/truth.json").write_text(json.dumps(contents))
    dataset = open_dataset(tmp_path / "in/truth.json", "train")
    assert write_coco(dataset, tmp_path / "out", "train") == []
    written = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [entry["id"] for entry in written["images"]] == images
    assert [entry["id"] for entry in written["categories"]] == categories
    for key in ("image_id", "category_id", "bbox", "area"):
        assert [entry[key] for entry in written["annotations"]] == [
            entry[key] for entry in sorted(contents["annotations"], key=lambda entry: images.index(entry["image_id"]))
        ]
    found = open_dataset(tmp_path / "out", "train")
    results = [entry | {"score": 1.0} for entry in found.with_file_ids(found.to_coco()["annotations"])]
    assert evaluate_detections(tmp_path / "in/truth.json", results).figures["AP"] == 1.0
    assert_same(found, dataset, rounding=0)
    part = dataset.subset([2]).to_coco(own_ids=True)
    assert part["images"] == [{"id": images[2], "file_name": "3.png", "height": HEIGHT, "width": WIDTH}]
    assert {entry["image_id"] for entry in part["annotations"]} == {images[2]}
    assert [entry["id"] for entry in dataset.to_coco()["images"]] == [1, 2, 3]  # evaluators need numbers
