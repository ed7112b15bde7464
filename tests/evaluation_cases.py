"""Ground truth, result entries and pycocotools' evaluation of them, for the tests of figures and analysis."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def reference(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    max_detections: tuple[int, ...] = (1, 10, 100),
    kind: str = "bbox",
) -> COCOeval:
    """pycocotools' own evaluation; its summary takes three numbers of detections for granted."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = copy.deepcopy(truth)
        ground_truth.createIndex()
        evaluator = COCOeval(ground_truth, ground_truth.loadRes(copy.deepcopy(results)), kind)
        evaluator.params.maxDets = list(max_detections)
        evaluator.evaluate()
        evaluator.accumulate()
        if len(max_detections) == 3:
            evaluator.summarize()
    return evaluator


def small_truth() -> dict[str, Any]:
    """Two images; three cats (one of them a crowd) and a dog, and a class without objects."""
    boxes = [
        (1, 5, [0, 0, 50, 50], 0),
        (1, 5, [100, 100, 60, 60], 0),
        (2, 5, [0, 0, 200, 200], 1),
        (2, 9, [10, 10, 20, 20], 0),
    ]
    return {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 5, "name": "cat"}, {"id": 7, "name": "bird"}],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": crowd,
            }
            for number, (image, category, box, crowd) in enumerate(boxes)
        ],
    }


def result(image_id: int = 1, category_id: int = 5, bbox: Any = (0, 0, 50, 50), score: Any = 0.9) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), "score": score}


REAL_FILES = {
    "femto": (
        "data/coco/annotations/instances_val.json",
        "data/evaluator/coco_val_detections_deimv2_hgnetv2_femto.json",
    ),
    "yolox": ("data/coco/annotations/instances_val.json", "data/evaluator/coco_val_detections_yolox_nano.json"),
    "example": (
        "data/evaluator/instances_val2014_100.json",
        "data/evaluator/instances_val2014_fakebbox100_results.json",
    ),
}


def crowded_scene(seed: int, images: int = 6) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results on a coarse grid, so that scores, boxes and IoUs are often equal; a third of the objects are crowds."""
    generator = np.random.default_rng(seed)

    def box() -> list[float]:
        return [float(value) for value in (*generator.integers(0, 4, 2) * 20, *generator.integers(1, 6, 2) * 20)]

    annotations = [
        {
            "id": number,
            "image_id": int(generator.integers(1, images + 1)),
            "category_id": int(generator.integers(1, 4)),
            "bbox": box(),
            "iscrowd": int(generator.random() < 0.3),
        }
        for number in range(1, 61)
    ]
    for annotation in annotations:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3] * float(generator.choice([0.5, 1.0]))
    results = [
        result(int(generator.integers(1, images + 1)), int(generator.integers(1, 4)), box(), int(generator.integers(1, 9)) / 10)
        for _ in range(250)
    ]  # fmt: skip
    categories = [{"id": number, "name": f"class {number}"} for number in (1, 2, 3, 4)]
    return {
        "images": [{"id": number} for number in range(1, images + 1)],
        "annotations": annotations,
        "categories": categories,
    }, results


def with_images_as_often(
    truth: dict[str, Any], results: list[dict[str, Any]], times: list[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results in which image 1 occurs `times[0]` times, image 2 `times[1]` times, and so on, with at most 10 of each."""
    annotations, entries, images = [], [], []
    for image_id, count in enumerate(times, start=1):
        for number in range(count):
            own = {"image_id": image_id * 10 + number}
            images.append({"id": image_id * 10 + number})
            annotations += [entry | own for entry in truth["annotations"] if entry["image_id"] == image_id]
            entries += [entry | own for entry in results if entry["image_id"] == image_id]
    annotations = [entry | {"id": number} for number, entry in enumerate(annotations, start=1)]
    return truth | {"images": images, "annotations": annotations}, entries
