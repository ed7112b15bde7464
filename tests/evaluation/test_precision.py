"""Average precision from outcomes is that of faster-coco-eval; weights count images as if they occurred so often."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_cases import REAL_FILES, crowded_scene, result, small_truth
from faster_coco_eval import COCO, COCOeval_faster

from detrkit.coco_limits import AREAS
from detrkit.evaluation import evaluate_detections
from detrkit.evaluation import precision as module
from detrkit.evaluation.inputs import Inputs, read_inputs
from detrkit.evaluation.outcomes import outcomes
from detrkit.evaluation.precision import average_precision, mean_over_classes

RANGES = [(0.0, 1e10), *AREAS.values()]


def of_evaluator(inputs: Inputs, most: int) -> np.ndarray:
    """(T, K, A) AP of faster-coco-eval; NaN without ground truth."""
    truth = COCO(copy.deepcopy(inputs.truth))
    evaluator = COCOeval_faster(truth, truth.loadRes(copy.deepcopy(inputs.results)), "bbox")
    evaluator.params.maxDets = [1, most]
    evaluator.run()
    values = evaluator.eval["precision"][..., -1].mean(1)
    return np.where(values < 0, np.nan, values)


@pytest.mark.parametrize("name", REAL_FILES)
@pytest.mark.parametrize("most", [100, 5])
def test_real_detections(shared: Path, name: str, most: int) -> None:
    inputs = read_inputs(*(shared / file for file in REAL_FILES[name]))
    expected = of_evaluator(inputs, most)
    for area, limits in enumerate(RANGES):
        values = average_precision(outcomes(inputs, most, areas=limits))
        np.testing.assert_allclose(values[..., 0], expected[..., area], rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_crowds_and_equal_scores(seed: int) -> None:
    inputs = read_inputs(*crowded_scene(seed))
    expected = of_evaluator(inputs, 20)
    for area, limits in enumerate(RANGES):
        values = average_precision(outcomes(inputs, 20, areas=limits))
        np.testing.assert_allclose(values[..., 0], expected[..., area], rtol=0, atol=1e-9)


def repeated(truth: dict[str, Any], results: list[dict[str, Any]], times: dict[int, int]) -> Any:
    """A data set in which every image occurs as often as `times` says."""
    images, annotations, entries = [], [], []
    for image_id, count in times.items():
        for number in range(count):
            copy_id = image_id * 10 + number
            images.append({"id": copy_id})
            annotations += [
                entry | {"image_id": copy_id} for entry in truth["annotations"] if entry["image_id"] == image_id
            ]
            entries += [entry | {"image_id": copy_id} for entry in results if entry["image_id"] == image_id]
    annotations = [entry | {"id": number} for number, entry in enumerate(annotations, start=1)]
    return truth | {"images": images, "annotations": annotations}, entries


@pytest.mark.parametrize("seed", range(5))
def test_weights_count_images_as_if_they_occurred_so_often(seed: int) -> None:
    truth, results = crowded_scene(seed)
    generator = np.random.default_rng(seed)
    results = [
        entry | {"score": float(generator.random())} for entry in results
    ]  # copies keep no order among equal scores
    weights = generator.integers(0, 4, size=(6, 3))
    weights[0] = 1
    values = average_precision(outcomes(read_inputs(truth, results), 100), weights)
    for case in range(3):
        times = dict(zip(range(1, 7), weights[:, case].tolist(), strict=True))
        expected = of_evaluator(read_inputs(*repeated(truth, results, times)), 100)[..., 0]
        np.testing.assert_allclose(values[..., case], expected, rtol=0, atol=1e-9)


def test_cases_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcomes(read_inputs(*crowded_scene(0)), 100)
    weights = np.random.default_rng(0).integers(0, 3, size=(6, 7))
    together = average_precision(found, weights)
    monkeypatch.setattr(module, "_CELLS_AT_ONCE", 1)
    np.testing.assert_allclose(average_precision(found, weights), together, rtol=0, atol=1e-12)


def test_the_mean_leaves_out_classes_without_objects() -> None:
    evaluation = evaluate_detections(small_truth(), [result()])
    values = average_precision(outcomes(read_inputs(small_truth(), [result()]), 100))[..., 0]
    assert np.isnan(values[:, 1]).all()
    np.testing.assert_allclose(values[:, 0], 51 / 101)
    assert mean_over_classes(values[..., None]).mean() == pytest.approx(evaluation.figures["AP"], abs=1e-12)
    assert np.isnan(mean_over_classes(np.full((2, 3, 1), np.nan))).all()
