"""Thresholds and curves: by hand, and by brute force over pycocotools' outcomes of real detections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_cases import REAL_FILES, reference, result, small_truth

from detrkit.evaluation import analyze, evaluate_detections
from detrkit.evaluation.inputs import read_inputs
from detrkit.evaluation.outcomes import outcomes
from detrkit.evaluation.thresholds import (
    LEAST_OBJECTS,
    BestThresholds,
    best_thresholds,
    class_operations,
    operating_thresholds,
    threshold_curves,
)


def at_50(truth: Any, results: Any) -> Any:
    return outcomes(read_inputs(truth, results), 100, thresholds=np.array([0.5]))


CAT = (0, 0, 50, 50)
OTHER_CAT = (100, 100, 60, 60)
NOWHERE = (300, 300, 30, 30)
DOG = (10, 10, 20, 20)


def row_of_objects(right: int, wrong: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Birds side by side: `right` of them are found with scores from 0.9 down, then `wrong` places where there is none, below 0.5."""
    annotations = [
        {"id": number + 1, "image_id": 1, "category_id": 7, "bbox": [30 * number, 0, 20, 20], "iscrowd": 0}
        for number in range(right)
    ]
    found = [result(1, 7, entry["bbox"], 0.9 - number / 100) for number, entry in enumerate(annotations)]
    lost = [result(1, 7, (30 * number, 500, 20, 20), 0.4 - number / 100) for number in range(wrong)]
    return small_truth() | {"annotations": annotations}, found + lost


def test_the_best_of_one_class() -> None:
    truth = small_truth()
    truth["annotations"] = truth["annotations"][:2]  # two cats
    hits = [result(bbox=CAT, score=0.8), result(bbox=OTHER_CAT, score=0.3)]
    # From 0.8: one of one is right, one of two found, F1 2/3. From 0.3 with three mistakes: two of five, F1 4/7; with one: F1 4/5.
    assert best_thresholds(at_50(truth, [*hits, *[result(bbox=NOWHERE, score=0.5)] * 3])).overall == 0.8
    assert best_thresholds(at_50(truth, [*hits, result(bbox=NOWHERE, score=0.5)])).overall == 0.3
    # Of equally good ones the lowest: with two mistakes F1 is 2/3 from both.
    assert best_thresholds(at_50(truth, [*hits, *[result(bbox=NOWHERE, score=0.5)] * 2])).overall == 0.3
    assert evaluate_detections(truth, [result(bbox=NOWHERE)]).best_threshold is None


def test_equal_scores_are_kept_together() -> None:
    truth = small_truth()
    truth["annotations"] = truth["annotations"][:1]
    tied = [result(bbox=CAT, score=0.5), *[result(bbox=NOWHERE, score=0.5)] * 3]
    operation = class_operations(at_50(truth, tied), BestThresholds(0.5, {}), [5, 7, 9], ["cat", "bird", "dog"])[0]
    assert (operation.detections, operation.correct, operation.precision) == (4, 1, 0.25)


def test_classes_weigh_equally_and_detections_inside_crowds_do_not_count() -> None:
    crowded = [result(2, 5, (20 + number, 20, 30, 30), 0.9) for number in range(20)]
    results = [result(bbox=CAT, score=0.8), result(bbox=OTHER_CAT, score=0.3), *[result(bbox=NOWHERE, score=0.5)] * 3]
    dog = [result(2, 9, DOG, 0.6)]
    # Cats: F1 2/3 from 0.8 on and 4/7 from 0.3 on; the dog is found from 0.6 on, whose mean with 2/3 is the best.
    assert best_thresholds(at_50(small_truth(), [*crowded, *results, *dog])).overall == 0.6


def test_a_class_needs_enough_objects_and_a_correct_detection() -> None:
    for objects, own in ((LEAST_OBJECTS - 1, {}), (LEAST_OBJECTS, {7: 0.9 - (LEAST_OBJECTS - 1) / 100})):
        evaluation = evaluate_detections(*row_of_objects(objects, 5))
        assert evaluation.class_thresholds == pytest.approx(own)
        assert evaluation.best_threshold == pytest.approx(0.9 - (objects - 1) / 100)
    truth, _ = row_of_objects(LEAST_OBJECTS, 0)
    truth["annotations"].append({"id": 99, "image_id": 2, "category_id": 9, "bbox": list(DOG), "iscrowd": 0})
    evaluation = evaluate_detections(truth, [result(2, 9, DOG, 0.6), result(1, 7, NOWHERE, 0.7)])
    assert (evaluation.best_threshold, evaluation.class_thresholds) == (0.6, {})


def test_operating_thresholds() -> None:
    found = at_50(small_truth(), [result()])
    assert operating_thresholds(found, BestThresholds(0.3, {1: 0.7})).tolist() == [0.3, 0.7, 0.3]
    assert operating_thresholds(found, BestThresholds(None, {})).tolist() == [0.5, 0.5, 0.5]


def test_operations_of_classes() -> None:
    results = [result(bbox=CAT, score=0.8), result(bbox=NOWHERE, score=0.7), result(bbox=OTHER_CAT, score=0.2)]
    found = at_50(small_truth(), [*results, result(1, 7, NOWHERE, 0.9)])
    cat, bird, dog = class_operations(found, BestThresholds(0.5, {0: 0.75}), [5, 7, 9], ["cat", "bird", "dog"])
    assert (cat.id, cat.name, cat.threshold, cat.own) == (5, "cat", 0.75, True)
    assert (cat.objects, cat.detections, cat.correct) == (2, 1, 1)
    assert (cat.precision, cat.recall, cat.f1) == (1.0, 0.5, pytest.approx(2 / 3))
    assert (bird.threshold, bird.own, bird.objects, bird.detections) == (0.5, False, 0, 1)
    assert (bird.precision, bird.recall, bird.f1) == (0.0, None, None)
    assert (dog.detections, dog.precision, dog.recall, dog.f1) == (0, None, 0.0, 0.0)


def test_curves() -> None:
    results = [result(bbox=CAT, score=0.8), result(bbox=NOWHERE, score=0.5), result(bbox=OTHER_CAT, score=0.25)]
    curves = threshold_curves(at_50(small_truth(), [*results, result(1, 7, NOWHERE, 0.9)]))
    assert sorted(curves.of_classes) == [0, 2]
    cats = curves.of_classes[0]
    assert cats.thresholds == pytest.approx(np.linspace(0, 1, 101).tolist())
    assert [cats.precision[place] for place in (0, 25, 26, 51, 80, 81)] == [2 / 3, 2 / 3, 0.5, 1.0, 1.0, None]
    assert [cats.recall[place] for place in (0, 25, 26, 80, 81)] == [1.0, 1.0, 0.5, 0.5, 0.0]
    assert [cats.f1[place] for place in (0, 26, 51, 81)] == pytest.approx([0.8, 0.5, 2 / 3, 0])
    assert set(curves.of_classes[2].recall) == {0.0}
    # Together: the bird's mistake and the missed dog count as well.
    assert (curves.overall.precision[0], curves.overall.recall[0]) == (0.5, 2 / 3)
    assert curves.mean_f1[0] == pytest.approx(0.4)


def test_curves_without_objects_and_scores_beyond_one() -> None:
    curves = threshold_curves(at_50(small_truth() | {"annotations": []}, [result(score=3.0), result(score=-1.0)]))
    assert (curves.overall.recall, curves.overall.f1, curves.of_classes, curves.mean_f1) == ((), (), {}, ())
    assert (curves.overall.thresholds[0], curves.overall.thresholds[-1]) == (-1.0, 3.0)
    assert set(curves.overall.precision) == {0.0}


@pytest.fixture(scope="module")
def real(shared: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[int, Any]]:
    """Ground truth, results, and of each class its number of objects and (score, correct) of its detections by pycocotools."""
    truth, results = (json.loads((shared / file).read_text()) for file in REAL_FILES["femto"])
    evaluator = reference(truth, results)
    by_class = {}
    images = len(evaluator.params.imgIds)
    for number, category in enumerate(evaluator.params.catIds):
        records = [entry for entry in evaluator.evalImgs[number * 4 * images : (number * 4 + 1) * images] if entry]
        detections = [
            (score, bool(match))
            for entry in records
            for score, match, ignored in zip(
                entry["dtScores"], entry["dtMatches"][0], entry["dtIgnore"][0], strict=True
            )
            if not ignored
        ]
        objects = sum(int((np.array(entry["gtIgnore"]) == 0).sum()) for entry in records)
        by_class[category] = (objects, np.array(detections).reshape(-1, 2))
    return truth, results, by_class


def f1(objects: int, detections: np.ndarray, threshold: float) -> float:
    kept = detections[detections[:, 0] >= threshold]
    return float(2 * kept[:, 1].sum() / (len(kept) + objects))


def test_the_best_of_real_detections_are_the_best_of_all(real: Any) -> None:
    truth, results, by_class = real
    evaluation = evaluate_detections(truth, results)
    scores = np.unique([entry["score"] for entry in results])
    present = {category: entry for category, entry in by_class.items() if entry[0]}

    def mean_f1(threshold: float) -> float:
        return float(np.mean([f1(*entry, threshold) for entry in present.values()]))

    means = [mean_f1(threshold) for threshold in scores[scores > 0.05]]
    assert mean_f1(evaluation.best_threshold or 0) == pytest.approx(max(means), rel=1e-12)
    assert set(evaluation.class_thresholds) == {number for number, (objects, _) in present.items() if objects >= 20}
    for category in (1, 62, 84):
        best = max(f1(*present[category], threshold) for threshold in np.unique(present[category][1][:, 0]))
        assert f1(*present[category], evaluation.class_thresholds[category]) == pytest.approx(best, rel=1e-12)


def test_the_curves_of_real_detections(real: Any) -> None:
    truth, results, by_class = real
    analysis = analyze(truth, results, resamples=1)
    for place in (0, 20, 37, 90):
        threshold = analysis.curve.thresholds[place]
        expected = [f1(*entry, threshold) for entry in by_class.values() if entry[0]]
        assert analysis.mean_f1[place] == pytest.approx(np.mean(expected), rel=1e-12)
        person = by_class[1]
        assert analysis.class_curves[1].f1[place] == pytest.approx(f1(*person, threshold), rel=1e-12)
    objects = sum(entry[0] for entry in by_class.values())
    everything = np.concatenate([entry[1] for entry in by_class.values()])
    assert analysis.curve.f1[30] == pytest.approx(f1(objects, everything, analysis.curve.thresholds[30]), rel=1e-12)
