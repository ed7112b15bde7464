"""Differences of AP: their intervals are those of whole data sets that were drawn, and a winner is named only where these allow it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from evaluation_cases import crowded_scene, result, with_images_as_often

from detrkit.comparison.differences import Difference, ranking
from detrkit.evaluation import evaluate_detections
from detrkit.evaluation.bootstrap import Interval
from detrkit.evaluation.inputs import read_inputs
from detrkit.evaluation.outcomes import Outcomes, outcomes

DRAWS, IMAGES = 20, 6
BOX = [10.0, 10.0, 40.0, 40.0]


def found(truth: dict[str, Any], results: list[dict[str, Any]]) -> Outcomes:
    return outcomes(read_inputs(truth, results), 100)


def ap(truth: dict[str, Any], results: list[dict[str, Any]]) -> float:
    value = evaluate_detections(truth, results).figures["AP"]
    assert value is not None
    return value


def cats(found_in: list[int], images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images with one cat each, which is found in some."""
    numbers = range(1, images + 1)
    truth = {
        "images": [{"id": number} for number in numbers],
        "categories": [{"id": 5, "name": "cat"}],
        "annotations": [{"id": n, "image_id": n, "category_id": 5, "bbox": BOX, "iscrowd": 0} for n in numbers],
    }
    return truth, [result(number, 5, BOX, 0.9) for number in found_in]


def scenes() -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Six images and the detections of four trainings: the scene's own with different scores, and with some left out."""
    truth, results = crowded_scene(2)
    trainings = []
    for seed in range(4):
        generator = np.random.default_rng(seed)
        scores = generator.permutation(len(results))
        kept = generator.random(len(results)) < (0.9 if seed < 2 else 0.5)
        trainings.append(
            [
                entry | {"score": (score + 1) / 1000}
                for entry, score, keep in zip(results, scores.tolist(), kept, strict=True)
                if keep
            ]
        )
    return truth, trainings


def test_an_interval_is_that_of_paired_drawn_data_sets() -> None:
    truth, (first, _, third, _) = scenes()
    ranks = ranking({"a": [found(truth, first)], "b": [found(truth, third)]}, resamples=DRAWS, seed=3)
    draws = np.random.default_rng(3).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=DRAWS).tolist()
    values = [
        ap(*with_images_as_often(truth, first, draw)) - ap(*with_images_as_often(truth, third, draw)) for draw in draws
    ]
    (difference,) = ranks.differences
    assert (difference.first, difference.second) == ("a", "b")
    assert difference.ap == pytest.approx(ap(truth, first) - ap(truth, third))
    assert difference.interval is not None
    low, high = np.quantile(values, [0.025, 0.975])
    assert (difference.interval.low, difference.interval.high) == pytest.approx((low, high), abs=1e-9)


def test_trainings_are_drawn_for_each_contestant() -> None:
    truth, trainings = scenes()
    sides = {"a": trainings[:2], "b": trainings[2:]}
    ranks = ranking(
        {name: [found(truth, each) for each in own] for name, own in sides.items()}, resamples=DRAWS, seed=3
    )
    draws = np.random.default_rng(3).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=DRAWS).tolist()
    means = []
    for place, own in enumerate(sides.values()):
        drawn = np.array([[ap(*with_images_as_often(truth, each, draw)) for draw in draws] for each in own])
        chosen = np.random.default_rng(3 + 1 + place).integers(2, size=(2, DRAWS))
        values = []
        for case in range(DRAWS):
            mean = drawn[:, case].mean()
            values.append(mean + (drawn[chosen[:, case], case].mean() - mean) * np.sqrt(2))
        means.append(np.array(values))
    (difference,) = ranks.differences
    assert difference.interval is not None
    ends = np.quantile(means[0] - means[1], [0.025, 0.975])
    assert (difference.interval.low, difference.interval.high) == pytest.approx(tuple(ends), abs=1e-9)


@pytest.mark.parametrize(
    ("low", "high", "better"),
    [(0.01, 0.2, "a"), (-0.2, -0.01, "b"), (-0.01, 0.2, None), (0.0, 0.2, None), (-0.2, 0.0, None), (0.0, 0.0, None)],
)
def test_better_only_where_the_interval_leaves_out_zero(low: float, high: float, better: str | None) -> None:
    difference = Difference("a", "b", 0.1, Interval(low, high))
    assert difference.better == better
    assert difference.to_json()["better"] == better
    words = {"a": "a is better than b", "b": "b is better than a", None: "a and b cannot be ranked"}
    assert difference.verdict() == words[better]


@pytest.mark.parametrize(
    ("low", "high", "basis"),
    [
        (0.0123, 0.2, "AP +0.100, 95% interval +0.012 to +0.200"),
        (0.00004, 0.2, "AP +0.10000, 95% interval +0.00004 to +0.20000"),
        (-0.2, -0.0003, "AP +0.1000, 95% interval -0.2000 to -0.0003"),
        (-0.0003, 0.2, "AP +0.100, 95% interval -0.000 to +0.200"),
    ],
)
def test_a_winner_has_no_end_of_its_interval_shown_as_zero(low: float, high: float, basis: str) -> None:
    assert Difference("a", "b", 0.1, Interval(low, high)).basis() == basis


def test_more_cats_in_every_draw_are_better_and_one_more_is_not() -> None:
    truth, most = cats([*range(1, 19)], 20)
    _, some = cats([*range(1, 8)], 20)
    _, nearly_as_many = cats([*range(1, 18)], 20)
    ranks = ranking(
        {"some": [found(truth, some)], "most": [found(truth, most)], "nearly": [found(truth, nearly_as_many)]},
        resamples=400,
    )
    assert [(each.first, each.second) for each in ranks.differences] == [
        ("most", "nearly"),
        ("most", "some"),
        ("nearly", "some"),
    ]
    assert [each.better for each in ranks.differences] == [None, "most", "nearly"]
    assert ranks.intervals["most"].low < ap(truth, most) < ranks.intervals["most"].high


def test_four_images_rank_nobody() -> None:
    truth, all_of_them = cats([1, 2, 3, 4], 4)
    ranks = ranking({"a": [found(truth, all_of_them)], "b": [found(truth, [])]}, resamples=10)
    assert ranks.intervals == {}
    (difference,) = ranks.differences
    assert (difference.ap, difference.interval, difference.better) == (1.0, None, None)
    assert difference.basis() == "AP +1.000 on too few images for an interval"
