"""Outcomes are those of pycocotools' matching, detection by detection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_cases import REAL_FILES, crowded_scene, reference, result, small_truth

from detrkit.coco_limits import AREAS
from detrkit.evaluation import outcomes as module
from detrkit.evaluation.inputs import read_inputs
from detrkit.evaluation.outcomes import IOU_THRESHOLDS, outcomes, overlaps


def assert_same_as_reference(truth: dict[str, Any], results: list[dict[str, Any]], most: int) -> int:
    """Compares what every detection takes, and whether it is ignored, at ten thresholds and four ranges of size; returns the matches."""
    inputs = read_inputs(truth, results)
    evaluator = reference(inputs.truth, inputs.results, max_detections=(1, most))
    ranges = [(0.0, 1e10), *AREAS.values()]
    images, compared = len(evaluator.params.imgIds), 0
    for area, limits in enumerate(ranges):
        found = outcomes(inputs, most, areas=limits)
        own = {int(row): place for place, row in enumerate(found.rows)}
        seen = 0
        for number in range(len(evaluator.params.catIds)):
            start = (number * len(ranges) + area) * images
            for record in filter(None, evaluator.evalImgs[start : start + images]):
                columns = np.array([own[identifier - 1] for identifier in record["dtIds"]], dtype=np.int64)
                taken = record["dtMatches"].astype(np.int64) - 1  # annotations are numbered from 1, and 0 is none
                np.testing.assert_array_equal(found.matched[:, columns], taken)
                np.testing.assert_array_equal(found.ignored[:, columns], record["dtIgnore"].astype(bool))
                seen += len(columns)
                compared += int((record["dtMatches"] > 0).sum())
        assert seen == len(found.rows)
    return compared


@pytest.mark.parametrize(("name", "most"), [("femto", 100), ("yolox", 3), ("example", 100)])
def test_real_detections(shared: Path, name: str, most: int) -> None:
    truth, results = (json.loads((shared / file).read_text()) for file in REAL_FILES[name])
    assert assert_same_as_reference(truth, results, most) > 3000


@pytest.mark.parametrize("seed", range(8))
def test_crowds_and_equal_scores_and_overlaps(seed: int) -> None:
    assert assert_same_as_reference(*crowded_scene(seed), most=20) > 100


def test_correct_detections_at_iou_50_are_those_of_the_evaluator(shared: Path) -> None:
    truth, results = (shared / file for file in REAL_FILES["femto"])
    found = outcomes(read_inputs(truth, results), 100)
    evaluator = reference(json.loads(truth.read_text()), json.loads(results.read_text()))
    recalls = evaluator.eval["recall"][0, :, 0, -1]
    objects = found.object_counts()
    correct = [int(found.correct[0, rows].sum()) for rows in found.slices()]
    np.testing.assert_allclose(np.where(recalls < 0, 0, recalls) * objects, correct, atol=1e-9)
    assert sum(correct) == 737


def test_pairs_do_not_depend_on_how_many_are_computed_at_once(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = read_inputs(*(shared / file for file in REAL_FILES["example"]))
    whole = overlaps(inputs, 100, least=0.1, same_class=False)
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 50)
    parts = overlaps(inputs, 100, least=0.1, same_class=False)
    for name in ("detections", "objects", "ious"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    given = outcomes(inputs, 100, pairs=whole)
    np.testing.assert_array_equal(given.matched, outcomes(inputs, 100).matched)


def test_without_detections_or_objects() -> None:
    nothing = outcomes(read_inputs(small_truth(), []), 100)
    assert nothing.correct.shape == (len(IOU_THRESHOLDS), 0)
    assert nothing.object_counts().tolist() == [2, 0, 1]
    alone = outcomes(read_inputs(small_truth() | {"annotations": []}, [result()]), 100)
    assert (alone.matched == -1).all()
    assert not alone.ignored.any()
    assert alone.object_counts().tolist() == [0, 0, 0]
