"""Panoptic result files beside their ground truth: images that belong together, and sentences about those that do not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from panoptic_cases import CATEGORIES, DOG, PERSON, SKY, coco_panoptic, perturbed, row, segmentation
from PIL import Image

import detrkit
from detrkit.errors import DataError
from detrkit.evaluation import evaluate_panoptic_file, panoptic_quality
from detrkit.evaluation.report import panoptic_sections, write_report
from detrkit.panoptic import PanopticSegmentation
from detrkit.prediction import write_panoptic
from detrkit.prediction.result_files import PanopticFiles, Result

FIRST = segmentation(row((1, 10), (2, 10)), {1: DOG, 2: SKY})
SECOND = segmentation(row((1, 10), (3, 10)), {1: PERSON, 3: PERSON})


def written(path: Path, images: Iterable[tuple[int, str, PanopticSegmentation]]) -> Path:
    return write_panoptic(path, images, CATEGORIES)


def test_real_segments_from_files(shared: Path, tmp_path: Path) -> None:
    truth = coco_panoptic(shared, "val")
    predictions = [perturbed(image, seed) for seed, image in enumerate(truth)]
    order = np.random.default_rng(0).permutation(len(truth)).tolist()
    results = write_panoptic(
        tmp_path / "found.json",
        ((truth.image_ids[place], truth.names[place], predictions[place]) for place in order),  # type: ignore[misc]
        truth.categories,
    )
    evaluation = evaluate_panoptic_file(results, truth.source)
    assert evaluation.name == "panoptic_val"
    assert evaluation.classes == panoptic_quality(truth, predictions).classes
    assert evaluation.notes == ()
    dataset = detrkit.open_dataset(shared / "data/coco", "val", masks="panoptic")
    other = evaluate_panoptic_file(results, dataset)  # whose images have another order, so sums round differently
    assert [(entry.name, entry.matched, entry.wrong, entry.missed) for entry in other.classes] == [
        (entry.name, entry.matched, entry.wrong, entry.missed) for entry in evaluation.classes
    ]
    np.testing.assert_allclose(
        [entry.pq for entry in other.classes], [entry.pq for entry in evaluation.classes], rtol=1e-12
    )
    page = write_report(tmp_path / "report.html", "Segments", panoptic_sections(evaluation)).read_text()
    assert f"{evaluation.pq:.3f}" in page
    assert "PQ, things" in page
    assert "stop sign" in page


def test_images_that_only_one_side_has_are_said(tmp_path: Path) -> None:
    truth = written(tmp_path / "truth.json", [(1, "a.jpg", FIRST), (2, "b.jpg", SECOND)])
    results = written(tmp_path / "found.json", [(5, "e.jpg", FIRST), (1, "a.jpg", FIRST)])
    evaluation = evaluate_panoptic_file(results, truth)
    assert {entry.name: (entry.matched, entry.missed) for entry in evaluation.classes} == {
        "dog": (1, 0),
        "sky": (1, 0),
        "person": (0, 2),
    }
    assert evaluation.images == 2
    assert evaluation.notes == (
        "There is no result for 1 of 2 images, whose segments count as missed: b.png.",
        "1 of 2 results is of images that truth does not have: e.png.",
    )


def test_results_of_other_images_are_refused(tmp_path: Path) -> None:
    truth = written(tmp_path / "truth.json", [(1, "a.jpg", FIRST)])
    results = written(tmp_path / "found.json", [(7, "a.jpg", FIRST)])
    with pytest.raises(DataError, match=r"found.json has results for 7, and truth has none of these images"):
        evaluate_panoptic_file(results, truth)


def test_images_that_predict_numbered_are_found_by_name(tmp_path: Path) -> None:
    truth = written(tmp_path / "truth.json", [(1, "a.jpg", FIRST), (2, "b.jpg", SECOND)])
    files = PanopticFiles(tmp_path / "found.json", [Path("x/b.png"), Path("x/a.png")], CATEGORIES)
    files.add(Result(0, Image.new("RGB", (20, 1)), sv.Detections.empty(), SECOND))
    files.add(Result(1, Image.new("RGB", (20, 1)), sv.Detections.empty(), FIRST))
    files.finish()
    assert evaluate_panoptic_file(tmp_path / "found.json", truth).pq == 1.0


def test_results_without_categories_take_those_of_the_ground_truth(tmp_path: Path) -> None:
    truth = written(tmp_path / "truth.json", [(1, "a.jpg", FIRST)])
    results = written(tmp_path / "found.json", [(1, "a.jpg", FIRST)])
    content = json.loads(results.read_text())
    results.write_text(json.dumps({"annotations": content["annotations"]}))
    assert evaluate_panoptic_file(results, truth).pq == 1.0
    content["annotations"][0]["segments_info"][0]["category_id"] = 77
    results.write_text(json.dumps({"annotations": content["annotations"]}))
    with pytest.raises(DataError, match="the segment 1 has the category_id 77, and there is no such category"):
        evaluate_panoptic_file(results, truth)


def test_another_size_names_the_image(tmp_path: Path) -> None:
    truth = written(tmp_path / "truth.json", [(1, "a.jpg", FIRST)])
    results = written(tmp_path / "found.json", [(1, "a.jpg", segmentation(row((1, 5)), {1: DOG}))])
    with pytest.raises(DataError, match=r"The prediction for a.png has 5 x 1 pixels and its ground truth 20 x 1"):
        evaluate_panoptic_file(results, truth)
