"""The one type of data set: its contents, its description, and its ground truth for evaluators."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster

from detrkit.cards import Category
from detrkit.data import ArrayImages, DetectionDataset, open_dataset, read_coco


@pytest.fixture
def dataset() -> DetectionDataset:
    """Three images with 2, 0 and 1 objects; categories 4 and 9 of a file."""
    pixels = np.zeros((3, 40, 50, 3), dtype=np.uint8)
    pixels[:, :, :, 0] = np.array([10, 20, 30])[:, None, None]
    return DetectionDataset(
        name="tiny val",
        images=ArrayImages(pixels),
        image_ids=np.array([7, 8, 11]),
        sizes=np.array([[40, 50]] * 3),
        categories=(Category(4, "cat", 0), Category(9, "dog", 1)),
        offsets=np.array([0, 2, 2, 3]),
        boxes_xyxy=np.array([[1.0, 2, 11, 22], [0, 0, 5, 5], [20, 10, 50, 40]]),
        labels=np.array([1, 0, 1]),
        crowd=np.array([False, True, False]),
        areas=np.array([150.0, 25, 900]),
        annotation_ids=np.array([0, 5, 6]),
    )


def test_image_and_objects_of_a_position(dataset: DetectionDataset) -> None:
    assert len(dataset) == 3
    assert dataset.image(2).getpixel((0, 0)) == (30, 0, 0)
    assert dataset.image_name(2) == "image_000002"
    objects = dataset.objects(0)
    assert len(objects) == 2
    assert objects.boxes_xyxy.tolist() == [[1, 2, 11, 22], [0, 0, 5, 5]]
    assert (objects.labels.tolist(), objects.crowd.tolist(), objects.areas.tolist()) == (
        [1, 0],
        [False, True],
        [150, 25],
    )
    assert len(dataset.objects(1)) == 0
    assert np.shares_memory(objects.boxes_xyxy, dataset.boxes_xyxy)


def test_description(dataset: DetectionDataset) -> None:
    assert dataset.description() == (
        "tiny val: 3 images (1 without objects), 2 objects and 1 crowd region, 2 classes: cat, dog"
    )
    assert repr(dataset) == f"<DetectionDataset {dataset.description()}>"
    assert dataset.subset([1]).description() == (
        "tiny val: 1 image (1 without objects), 0 objects, 2 classes: cat, dog"
    )


def test_description_shortens_many_classes(shared: Path) -> None:
    assert open_dataset(shared / "data/coco", "val").description() == (
        "coco val: 120 images (2 without objects), 1084 objects and 16 crowd regions, 80 classes: "
        "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, …, toothbrush"
    )


def test_to_coco(dataset: DetectionDataset) -> None:
    truth = dataset.to_coco()
    assert truth["images"][1] == {"id": 8, "file_name": "image_000001", "height": 40, "width": 50}
    assert truth["categories"] == [{"id": 4, "name": "cat"}, {"id": 9, "name": "dog"}]
    assert truth["annotations"] == [
        {"id": 1, "image_id": 7, "category_id": 9, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 1},
        {"id": 3, "image_id": 11, "category_id": 9, "bbox": [20, 10, 30, 30], "area": 900, "iscrowd": 0},
    ]
    json.dumps(truth)  # plain numbers only


def test_subset_keeps_order_and_objects(dataset: DetectionDataset) -> None:
    part = dataset.subset([2, 1])
    assert part.image_ids.tolist() == [11, 8]
    assert part.offsets.tolist() == [0, 1, 1]
    assert part.boxes_xyxy.tolist() == [[20, 10, 50, 40]]
    assert part.annotation_ids.tolist() == [6]
    assert part.image(0).getpixel((0, 0)) == (30, 0, 0)
    assert part.categories == dataset.categories
    assert len(dataset.subset([])) == 0


def test_subset_of_files_opens_the_right_pictures(shared: Path) -> None:
    whole = open_dataset(shared / "data/coco", "train")
    part = whole.subset(np.array([50, 3]))
    assert part.images[1] == whole.images[3]  # type: ignore[index]
    assert part.image(0).tobytes() == whole.image(50).tobytes()
    assert (part.image(0).height, part.image(0).width) == tuple(part.sizes[0])
    assert part.objects(1).boxes_xyxy.tolist() == whole.objects(3).boxes_xyxy.tolist()


def test_to_coco_gives_back_the_real_file(shared: Path) -> None:
    file = shared / "data/coco/annotations/instances_val.json"
    original = json.loads(file.read_text())
    truth = read_coco(file, shared / "data/coco/val").to_coco()

    def key(annotation: dict[str, object]) -> tuple[object, ...]:
        box = tuple(round(value, 6) for value in annotation["bbox"])  # type: ignore[attr-defined]
        return (annotation["image_id"], annotation["category_id"], box, annotation["area"], annotation["iscrowd"])

    assert sorted(map(key, truth["annotations"])) == sorted(map(key, original["annotations"]))
    assert [image["id"] for image in truth["images"]] == [image["id"] for image in original["images"]]
    assert [category["id"] for category in truth["categories"]] == [each["id"] for each in original["categories"]]


@pytest.mark.parametrize(
    ("folder", "split"), [("coco", "val"), ("roboflow_sample", "val"), ("roboflow_sample", "test")]
)
def test_the_truth_scores_100_percent_against_itself(shared: Path, folder: str, split: str) -> None:
    truth = open_dataset(shared / "data" / folder, split).to_coco()
    results = [{**each, "score": 0.9} for each in truth["annotations"] if not each["iscrowd"]]
    ground_truth = COCO(truth)
    evaluation = COCOeval_faster(ground_truth, ground_truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0, abs=1e-9)
