"""Figures equal those of pycocotools, on real detections and in edge cases; what cannot be compared is refused with a clear message."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_cases import reference, result, small_truth

from detrkit.errors import ConfigurationError, DataError
from detrkit.evaluation.coco import evaluate_detections
from detrkit.evaluation.figures import MEANINGS

TOLERANCE = 1e-6


@pytest.mark.parametrize("detector", ["deimv2_hgnetv2_femto", "yolox_nano"])
def test_real_detections_give_the_figures_of_pycocotools(shared: Path, detector: str) -> None:
    truth_file = shared / "data/coco/annotations/instances_val.json"
    results_file = shared / f"data/evaluator/coco_val_detections_{detector}.json"
    evaluation = evaluate_detections(truth_file, results_file)
    expected = json.loads((shared / "data/evaluator/expected_coco_val_detectors.json").read_text())[detector]
    for name, value in evaluation.figures.items():
        assert value == pytest.approx(expected[name.replace("AR1", "AR_1")], abs=TOLERANCE), name
    assert (evaluation.images, evaluation.objects, evaluation.crowds) == (120, 1084, 16)
    assert evaluation.detections == expected["detections"]

    evaluator = reference(json.loads(truth_file.read_text()), json.loads(results_file.read_text()))
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    assert [entry.id for entry in evaluation.classes] == evaluator.params.catIds
    for index, entry in enumerate(evaluation.classes):
        if entry.ap is None:
            assert (precision[:, :, index] == -1).all()
            assert entry.objects == 0
        else:
            assert entry.ap == pytest.approx(precision[:, :, index].mean(), abs=TOLERANCE)
            assert entry.ap50 == pytest.approx(precision[0, :, index].mean(), abs=TOLERANCE)
            np.testing.assert_allclose(entry.precisions, precision[0, :, index], atol=TOLERANCE)
    person = evaluation.classes[0]
    assert (person.id, person.name, person.objects) == (1, "person", 278)


def test_the_example_of_the_coco_api(shared: Path) -> None:
    folder = shared / "data/evaluator"
    evaluation = evaluate_detections(
        folder / "instances_val2014_100.json", folder / "instances_val2014_fakebbox100_results.json"
    )
    expected = json.loads((folder / "expected.json").read_text())["bbox"]
    for name, value in evaluation.figures.items():
        assert value == pytest.approx(expected[name.replace("AR1", "AR_1")], abs=TOLERANCE), name
    assert evaluation.name == "instances_val2014_100"
    # One of the images has objects but no detections: without it the figures would be different.
    assert evaluation.images == 100


def test_it_prints_nothing_and_does_not_change_its_arguments(capfd: pytest.CaptureFixture[str]) -> None:
    truth, results = small_truth(), [result()]
    before = copy.deepcopy((truth, results))
    evaluate_detections(truth, results)
    assert (truth, results) == before
    assert capfd.readouterr() == ("", "")


def test_annotation_ids_may_start_at_zero() -> None:
    evaluation = evaluate_detections(small_truth(), [result(), result(bbox=(100, 100, 60, 60))])
    # The evaluator alone would take the match with annotation 0 for a miss.
    assert evaluation.classes[0].ap == pytest.approx(1.0)


def test_classes_are_sorted_by_id_and_missing_truth_is_none() -> None:
    evaluation = evaluate_detections(small_truth(), [result()])
    assert [(entry.id, entry.name, entry.objects) for entry in evaluation.classes] == [
        (5, "cat", 2),
        (7, "bird", 0),
        (9, "dog", 1),
    ]
    assert evaluation.classes[0].ap50 == pytest.approx(51 / 101)  # recall 0.5 of 1 at full precision, in 101 steps
    assert (evaluation.classes[1].ap, evaluation.classes[1].precisions) == (None, ())
    assert evaluation.classes[2].ap == 0.0
    assert evaluation.figures["AP_large"] is None
    assert evaluation.figures["AP_small"] == 0.0


def test_a_detection_inside_a_crowd_is_ignored() -> None:
    hits = [result(), result(bbox=(100, 100, 60, 60))]
    in_crowd = result(image_id=2, bbox=(20, 20, 30, 30), score=0.99)
    elsewhere = result(image_id=1, bbox=(300, 300, 30, 30), score=0.99)
    assert evaluate_detections(small_truth(), [*hits, in_crowd]).classes[0].ap50 == pytest.approx(1.0)
    assert evaluate_detections(small_truth(), [*hits, elsewhere]).classes[0].ap50 == pytest.approx(2 / 3)


def test_no_detections_give_zero() -> None:
    evaluation = evaluate_detections(small_truth(), [])
    assert evaluation.figures["AP"] == 0.0
    assert evaluation.figures["AR100"] == 0.0
    assert evaluation.best_threshold is None


def test_ground_truth_without_boxes_has_no_figures() -> None:
    evaluation = evaluate_detections(small_truth() | {"annotations": []}, [result()])
    assert set(evaluation.figures.values()) == {None}
    assert (evaluation.objects, evaluation.images, evaluation.detections) == (0, 2, 1)


def test_missing_areas_are_taken_from_the_boxes() -> None:
    truth, results = small_truth(), [result(), result(image_id=2, category_id=9, bbox=(10, 10, 20, 20))]
    expected = evaluate_detections(truth, results).figures
    for annotation in truth["annotations"]:
        del annotation["area"]
    assert evaluate_detections(truth, results).figures == expected


@pytest.mark.parametrize("area", [0, -1, "400", math.nan, True])
def test_areas_that_cannot_be_are_taken_from_the_boxes(area: Any) -> None:
    truth, results = small_truth(), [result(), result(image_id=2, category_id=9, bbox=(10, 10, 20, 20))]
    expected = evaluate_detections(truth, results).figures
    for annotation in truth["annotations"]:
        annotation["area"] = area
    assert evaluate_detections(truth, results).figures == expected


def test_only_the_hundred_best_of_an_image_count() -> None:
    wrong = [result(category_id=5, bbox=(300, 300, 10, 10), score=0.5) for _ in range(100)]
    evaluation = evaluate_detections(small_truth(), [*wrong, result(score=0.1)])
    assert evaluation.figures["AR100"] == 0.0


def test_images_with_more_objects_than_detections_that_count_are_named() -> None:
    truth = small_truth()
    truth["annotations"] *= 60
    assert evaluate_detections(truth, []).notes == (
        "--max-detections counts 100 detections of each class per image, and more objects of one class are annotated in 1 image "
        "(such as 1 with 120): choose a higher number.",
    )
    assert evaluate_detections(truth, [], max_detections=120).notes == ()


def test_more_detections_count_if_asked_for() -> None:
    wrong = [result(category_id=5, bbox=(300, 300, 10, 10), score=0.5) for _ in range(100)]
    evaluation = evaluate_detections(small_truth(), [*wrong, result(score=0.1)], max_detections=101)
    assert evaluation.figures["AR101"] == pytest.approx(0.25)  # one of two cats, none of one dog
    assert "AR100" not in evaluation.figures
    assert MEANINGS["AR101"] == "recall, 101 detections of each class"


def test_figures_with_few_detections_are_those_of_pycocotools(shared: Path) -> None:
    truth_file = shared / "data/coco/annotations/instances_val.json"
    results = json.loads((shared / "data/evaluator/coco_val_detections_yolox_nano.json").read_text())
    figures = evaluate_detections(truth_file, results, max_detections=5).figures
    assert list(figures) == [
        "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR5", "AR_small", "AR_medium", "AR_large",
    ]  # fmt: skip
    evaluator = reference(json.loads(truth_file.read_text()), results, max_detections=(1, 5))
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    for name, area in (("AP", 0), ("AP_small", 1), ("AP_medium", 2), ("AP_large", 3)):
        known = precision[:, :, :, area, -1]
        assert figures[name] == pytest.approx(known[known > -1].mean(), abs=TOLERANCE)
    for name, place in (("AR1", 0), ("AR5", 1)):
        known = recall[:, :, 0, place]
        assert figures[name] == pytest.approx(known[known > -1].mean(), abs=TOLERANCE)


@pytest.mark.parametrize("number", [0, -3])
def test_a_number_of_detections_that_counts_nothing_is_refused(number: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        evaluate_detections(small_truth(), [], max_detections=number)
    assert (
        str(caught.value)
        == f"{number} detections per image count nothing: choose at least 1 (COCO counts 100 of each class)"
    )


def damaged(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (result() | changes).items() if value is not ...}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (damaged(image_id=3), "entry 1 (counting from 0) has image_id 3, but the given ground truth has no such image"),
        (
            damaged(category_id=1),
            "has category_id 1, but the given ground truth has no such category (its ids run from 5 to 9, 3 in all)",
        ),
        (damaged(score=math.nan), "has nan as score: only finite numbers"),
        (damaged(score=None), "has None as score"),
        (damaged(score="0.9"), "has '0.9' as score"),
        (damaged(bbox=[0, 0, math.inf, 5]), "has inf as bbox"),
        (damaged(bbox=[0, 0, -1, 5]), "has a bbox of negative size, [0.0, 0.0, -1.0, 5.0]"),
        (damaged(bbox=[0, 0, 5]), "has the bbox [0, 0, 5], which is not [x, y, width, height]"),
        (damaged(bbox=7), "has the bbox 7, which is not [x, y, width, height]"),
        (damaged(score=...), "has no 'score'"),
        (damaged(image_id=...), "has no 'image_id'"),
        (damaged(bbox=...), "has no 'bbox'"),
        (
            damaged(image_id="x"),
            "has image_id 'x', but the given ground truth has no such image (its ids run from 1 to 2",
        ),
        (damaged(category_id=True), "has category_id True, but the given ground truth has no such category"),
        (damaged(bbox=..., segmentation={"size": [5, 5], "counts": "x"}), "do not add up to 5 x 5 pixels"),
        ("cat", "is 'cat', not an object with image_id, category_id and bbox"),
    ],
)
def test_a_damaged_result_is_named(entry: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        evaluate_detections(small_truth(), [result(), entry])
    assert "the given detections, entry 1" in str(caught.value)
    assert message in str(caught.value)


def test_numpy_numbers_are_accepted() -> None:
    entry = result(np.int64(1), np.int32(5), np.array([0, 0, 50, 50], dtype=np.float32), np.float32(0.9))
    assert evaluate_detections(small_truth(), [entry]).figures["AP50"] == pytest.approx(51 / 101 / 2)


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    text = json.dumps([result(), result()])
    results.write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=r"results\.json is not valid JSON .* it may have been cut off"):
        evaluate_detections(small_truth(), results)
    with pytest.raises(DataError, match=r"missing\.json cannot be read \(No such file or directory\)"):
        evaluate_detections(small_truth(), tmp_path / "missing.json")


def test_annotations_in_place_of_results_and_the_reverse(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text(json.dumps(small_truth()))
    with pytest.raises(DataError, match=r"file\.json is not a list of results"):
        evaluate_detections(small_truth(), file)
    file.write_text(json.dumps([result()]))
    with pytest.raises(DataError, match=r"file\.json is not a COCO annotation file, it has no list of images or"):
        evaluate_detections(file, [])


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("images", [], "lists no images"),
        (
            "categories",
            [],
            "4 of 4 annotations have a category that the file does not list: annotation 0 (5), annotation 1",
        ),
        (
            "images",
            [{"id": 1}, {"id": 1}],
            "1 image id occurs more than once: 1 (entry 0, entry 1); give every image its own",
        ),
        (
            "images",
            [{"id": None}],
            "1 of 1 image has no usable id: entry 0 (None); give each a whole number or a text",
        ),
        ("categories", ["cat"], "entry 0 of 'categories' is 'cat', not an object"),
        (
            "annotations",
            [{"image_id": 1, "category_id": 5}],
            "1 of 1 annotation has neither a box nor an outline that one follows from: annotation number 1 of the list (None)",
        ),
    ],
)
def test_damaged_ground_truth_is_named(part: str, value: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        evaluate_detections(small_truth() | {part: value}, [])
    assert message in str(caught.value)
