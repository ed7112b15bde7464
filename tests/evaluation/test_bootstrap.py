"""Intervals: the middle of what AP is on drawn images, shifted onto the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_cases import REAL_FILES, crowded_scene, result, with_images_as_often

from detrkit.evaluation import analyze, evaluate_detections
from detrkit.evaluation.bootstrap import (
    Interval,
    bootstrap_intervals,
    drawn_ap,
    middle,
    over_trainings,
    resamples_within_reason,
)
from detrkit.evaluation.inputs import read_inputs
from detrkit.evaluation.outcomes import outcomes


def pictures(found: int, missed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images with one cat each, of which some are found."""
    box = [10.0, 10.0, 40.0, 40.0]
    numbers = range(1, found + missed + 1)
    truth = {
        "images": [{"id": number} for number in numbers],
        "categories": [{"id": 5, "name": "cat"}],
        "annotations": [{"id": n, "image_id": n, "category_id": 5, "bbox": box, "iscrowd": 0} for n in numbers],
    }
    return truth, [result(number, 5, box, 0.9) for number in range(1, found + 1)]


def test_figures_lie_in_their_intervals(shared: Path) -> None:
    files = [shared / file for file in REAL_FILES["femto"]]
    evaluation, intervals = evaluate_detections(*files), analyze(*files, resamples=300).intervals
    assert (intervals.confidence, intervals.resamples) == (0.95, 300)
    assert list(intervals.figures) == ["AP", "AP50", "AP75"]
    for name, interval in intervals.figures.items():
        value = evaluation.figures[name]
        assert value is not None
        assert interval.low < value < interval.high
        assert 0.05 < interval.high - interval.low < 0.15
    for entry in evaluation.classes:
        if entry.id in intervals.class_ap:
            for value, interval in (
                (entry.ap, intervals.class_ap[entry.id]),
                (entry.ap50, intervals.class_ap50[entry.id]),
            ):
                assert value is not None
                assert 0 <= interval.low <= value + 1e-9
                assert value - 1e-9 <= interval.high <= 1
    person, car = intervals.class_ap[1], intervals.class_ap[3]
    assert person.high - person.low < car.high - car.low  # 278 objects and 23


def test_the_same_seed_gives_the_same_intervals() -> None:
    case = crowded_scene(0)
    assert analyze(*case, resamples=50, seed=3) == analyze(*case, resamples=50, seed=3)
    assert analyze(*case, resamples=50, seed=3).intervals != analyze(*case, resamples=50, seed=4).intervals


def test_a_share_of_pictures_varies_as_its_formula_says() -> None:
    """Without mistakes AP50 is the recall, rounded up to hundredths: a share of independent images, whose deviation is known."""
    interval = analyze(*pictures(120, 80), resamples=2000).intervals.figures["AP50"]
    deviation = np.sqrt(0.6 * 0.4 / 200)
    assert interval.low == pytest.approx(0.6 + 0.5 / 101 - 1.96 * deviation, abs=0.012)
    assert interval.high == pytest.approx(0.6 + 0.5 / 101 + 1.96 * deviation, abs=0.012)
    half = analyze(*pictures(120, 80), resamples=2000, confidence=0.5).intervals.figures["AP50"]
    assert half.high - half.low == pytest.approx(2 * 0.674 * deviation, abs=0.012)


def test_draws_are_those_of_whole_data_sets() -> None:
    """The interval is computed from AP of data sets that hold the drawn images, with the evaluator."""
    truth, results = crowded_scene(2)
    results = [entry | {"score": number / 1000} for number, entry in enumerate(results)]
    found = outcomes(read_inputs(truth, results), 100)
    interval = bootstrap_intervals(found, [1, 2, 3, 4], resamples=12, seed=5).figures["AP50"]
    draws = np.random.default_rng(5).multinomial(6, np.full(6, 1 / 6), size=12)
    values = []
    for draw in draws:
        values.append(evaluate_detections(*with_images_as_often(truth, results, draw.tolist())).figures["AP50"])
    figure = evaluate_detections(truth, results).figures["AP50"]
    assert figure is not None
    ends = np.quantile(np.array(values, dtype=float), [0.025, 0.975]) + figure - np.mean(np.array(values, dtype=float))
    assert (interval.low, interval.high) == pytest.approx(ends.tolist(), abs=1e-9)


def test_nothing_varies_where_everything_is_found() -> None:
    intervals = analyze(*pictures(8, 0), resamples=50).intervals
    assert intervals.figures == dict.fromkeys(("AP", "AP50", "AP75"), Interval(1.0, 1.0))
    assert intervals.class_ap == intervals.class_ap50 == {5: Interval(1.0, 1.0)}


@pytest.mark.parametrize(("images", "known"), [(4, False), (5, True)])
def test_few_images_give_no_interval(images: int, known: bool) -> None:
    analysis = analyze(*pictures(images - 1, 1), resamples=20)
    assert bool(analysis.intervals.figures) is bool(analysis.intervals.class_ap) is known
    note = "There are no intervals: only 4 images have objects, and fewer than 5 say nothing about others."
    assert (note in analysis.notes) is not known


def test_fewer_draws_for_large_data() -> None:
    found = outcomes(read_inputs(*pictures(3, 0)), 100)
    assert resamples_within_reason(found) == 1000

    class Large:
        rows, object_images = range(500_000), range(36_000)

    assert resamples_within_reason(Large()) == 232  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_draws() -> None:
    """The first value is AP itself; the others are of the draws that the seed stands for."""
    truth, results = crowded_scene(2)
    found = outcomes(read_inputs(truth, results), 100)
    draws = drawn_ap(found, resamples=30, seed=4)
    assert draws.shape == (31,)
    assert draws[0] == pytest.approx(evaluate_detections(truth, results).figures["AP"])
    assert draws[1:].std() > 0.001
    assert np.array_equal(draws, drawn_ap(found, resamples=30, seed=4))
    assert not np.array_equal(draws, drawn_ap(found, resamples=30, seed=5))


def test_drawn_trainings_vary_like_a_mean_of_new_ones() -> None:
    """The standard error of a mean of n values is their standard deviation by the root of n, with n - 1 in it."""
    values = np.array([0.1, 0.25, 0.4, 0.3])
    draws = over_trainings(np.repeat(values[:, None], 20_001, axis=1), seed=0)
    assert draws[0] == pytest.approx(values.mean())
    assert draws[1:].mean() == pytest.approx(values.mean(), abs=0.002)
    assert draws[1:].std() == pytest.approx(values.std(ddof=1) / 2, rel=0.02)


def test_a_single_training_is_left_as_it_is() -> None:
    draws = np.array([[0.3, 0.2, 0.5]])
    assert np.array_equal(over_trainings(draws, seed=0), draws[0])


def test_draws_without_objects_do_not_count() -> None:
    assert middle(np.array([np.nan, 0.1, 0.2, np.nan, 0.3]), 0.5) == Interval(pytest.approx(0.15), pytest.approx(0.25))
