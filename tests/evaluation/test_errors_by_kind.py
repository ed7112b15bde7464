"""Every wrong detection has exactly one kind, and so has every object that was not found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_cases import REAL_FILES, crowded_scene, result

from detrkit.evaluation import analyze
from detrkit.evaluation.analysis import Analysis
from detrkit.evaluation.errors import KINDS, Mark
from detrkit.evaluation.inputs import read_inputs
from detrkit.evaluation.outcomes import outcomes

CAT, DOG = 1, 2
BOX = (100.0, 100.0, 100.0, 100.0)


def scene(*objects: tuple[int, int, tuple[float, ...]], crowds: tuple[int, ...] = ()) -> dict[str, Any]:
    """Ground truth from (image, category, box); the places of crowd regions among them."""
    return {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2, 3)],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
        "annotations": [
            {"id": place + 1, "image_id": image, "category_id": category, "bbox": list(box), "iscrowd": int(place in crowds)}
            for place, (image, category, box) in enumerate(objects)
        ],
    }  # fmt: skip


def shifted(pixels: float) -> tuple[float, ...]:
    return (100.0 + pixels, 100.0, 100.0, 100.0)


def counts(truth: dict[str, Any], *results: dict[str, Any]) -> dict[str, int]:
    """Kinds that occur; a certain hit on a cat of image 3 sets the threshold to 0.01."""
    hit = {"id": 99, "image_id": 3, "category_id": CAT, "bbox": [0, 0, 10, 10], "iscrowd": 0}
    truth = truth | {"annotations": [*truth["annotations"], hit]}
    analysis = analyze(truth, [*results, result(3, CAT, (0, 0, 10, 10), 0.01)], resamples=1)
    assert all(entry["score"] >= analysis.threshold for entry in results)
    return {kind: number for kind, number in analysis.errors.counts.items() if number}


ONE_CAT = scene((1, CAT, BOX))


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([result(1, CAT, BOX, 0.4)], {}),
        ([result(1, DOG, BOX, 0.4)], {"class": 1}),
        ([result(1, CAT, shifted(50), 0.4)], {"place": 1}),
        ([result(1, DOG, shifted(50), 0.4)], {"both": 1, "missed": 1}),
        ([result(1, CAT, BOX, 0.4), result(1, CAT, shifted(5), 0.3)], {"duplicate": 1}),
        ([result(1, CAT, shifted(90), 0.4)], {"background": 1, "missed": 1}),
        ([result(2, CAT, BOX, 0.4)], {"background": 1, "missed": 1}),
        ([], {"missed": 1}),
        # A missed object that a detection of the wrong class stands for is not missed as well; its box may still be found.
        ([result(1, DOG, BOX, 0.4), result(1, CAT, BOX, 0.3)], {"class": 1}),
    ],
)
def test_kinds(results: list[dict[str, Any]], expected: dict[str, int]) -> None:
    assert counts(ONE_CAT, *results) == expected


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [(33, None), (34, "place"), (81, "place"), (82, "background")],
)
def test_bounds_of_nearness(pixels: float, kind: str | None) -> None:
    # A shift by p of 100 pixels gives an IoU of (100 - p) / (100 + p): 0.504, 0.493, 0.105, 0.099.
    found = counts(ONE_CAT, result(1, CAT, shifted(pixels), 0.4))
    assert [name for name in found if name != "missed"] == ([kind] if kind else [])


def test_near_an_object_of_its_class_goes_before_on_another() -> None:
    truth = scene((1, CAT, BOX), (1, DOG, shifted(50)))
    assert counts(truth, result(1, CAT, shifted(50), 0.4)) == {"place": 1, "missed": 1}


def test_crowd_regions_are_no_objects() -> None:
    truth = scene((1, CAT, BOX), crowds=(0,))
    assert counts(truth, result(1, CAT, BOX, 0.4)) == {}  # ignored
    assert counts(truth, result(1, DOG, BOX, 0.4)) == {"background": 1}


def test_only_detections_from_the_threshold_on_count() -> None:
    truth = scene((1, CAT, BOX), (2, CAT, BOX))
    results = [result(1, CAT, BOX, 0.9), *[result(3, CAT, BOX, 0.5)] * 3, result(2, CAT, BOX, 0.1)]
    analysis = analyze(truth, results, resamples=1)
    assert analysis.threshold == 0.9  # F1 2/3, against 4/7 from 0.1 on
    errors = analysis.errors
    assert (errors.correct, errors.detections, errors.objects, errors.mistaken) == (1, 1, 2, 0)
    assert {kind: number for kind, number in errors.counts.items() if number} == {"missed": 1}


def assert_sums(analysis: Analysis, inputs: Any) -> None:
    errors = analysis.errors
    assert list(errors.counts) == list(KINDS)
    wrong = sum(number for kind, number in errors.counts.items() if kind != "missed")
    assert errors.correct + wrong == errors.detections
    assert errors.correct + errors.mistaken + errors.counts["missed"] == errors.objects
    assert errors.detections == sum(entry.detections for entry in analysis.classes)
    assert errors.correct == sum(entry.correct for entry in analysis.classes)
    thresholds = {entry.id: entry.threshold for entry in analysis.classes}
    shown = sum(entry["score"] >= thresholds[entry["category_id"]] for entry in inputs.results)
    assert errors.detections + errors.ignored == shown
    assert sum(entry.errors for entry in analysis.images) == sum(errors.counts.values())
    for kind in KINDS:
        assert sum(entry.counts[kind] for entry in analysis.images) == errors.counts[kind]
    assert [entry.errors for entry in analysis.images] == sorted(
        (entry.errors for entry in analysis.images), reverse=True
    )


@pytest.mark.parametrize("name", REAL_FILES)
def test_counts_of_real_detections_add_up(shared: Path, name: str) -> None:
    inputs = read_inputs(*(shared / file for file in REAL_FILES[name]))
    analysis = analyze(*(shared / file for file in REAL_FILES[name]), resamples=1)
    assert_sums(analysis, inputs)
    assert analysis.errors.objects == int((~inputs.objects.crowd).sum())
    assert all(cost >= -1e-9 for cost in analysis.errors.costs.values())


@pytest.mark.parametrize("seed", range(8))
def test_counts_of_crowded_scenes_add_up(seed: int) -> None:
    truth, results = crowded_scene(seed)
    assert_sums(analyze(truth, results, resamples=1), read_inputs(truth, results))


def test_real_errors_by_kind(shared: Path) -> None:
    errors = analyze(*(shared / file for file in REAL_FILES["femto"]), resamples=1).errors
    assert errors.counts == {"class": 64, "place": 135, "both": 43, "duplicate": 46, "background": 134, "missed": 494}
    assert (errors.correct, errors.detections, errors.ignored, errors.mistaken) == (514, 936, 105, 76)
    assert errors.duplicate_share == pytest.approx(46 / 936)


def test_what_errors_cost() -> None:
    # The cat and the dog are taken for each other: AP50 is 0 for both, and 1 if classes were right.
    truth = scene((1, CAT, BOX), (2, DOG, BOX))
    swapped = [result(1, DOG, BOX, 0.9), result(2, CAT, BOX, 0.8)]
    costs = analyze(truth, swapped, resamples=1).errors.costs
    assert costs == pytest.approx({"class": 1, "place": 0, "both": 0, "duplicate": 0, "background": 0, "missed": 0})
    moved = [result(1, CAT, shifted(50), 0.9), result(2, DOG, BOX, 0.8)]
    costs = analyze(truth, moved, resamples=1).errors.costs
    assert costs == pytest.approx({"class": 0, "place": 0.5, "both": 0, "duplicate": 0, "background": 0, "missed": 0})
    costs = analyze(truth, [result(2, DOG, BOX, 0.8)], resamples=1).errors.costs
    assert costs["missed"] == pytest.approx(0.5)


def test_duplicates_and_background_cost_what_removing_them_gives() -> None:
    truth = scene((1, CAT, BOX), (2, CAT, BOX))
    twice = [result(1, CAT, BOX, 0.9), result(1, CAT, BOX, 0.8), result(2, CAT, BOX, 0.7)]
    # Precision falls to 2/3 for the upper half of the recalls, 50 of 101.
    assert analyze(truth, twice, resamples=1).errors.costs["duplicate"] == pytest.approx(50 / 101 / 3)
    nowhere = [result(1, CAT, BOX, 0.9), result(3, CAT, BOX, 0.8), result(2, CAT, BOX, 0.7)]
    assert analyze(truth, nowhere, resamples=1).errors.costs["background"] == pytest.approx(50 / 101 / 3)


def test_only_the_best_detection_of_an_object_can_be_mended() -> None:
    truth = scene((1, CAT, BOX), (2, CAT, BOX))
    results = [result(1, CAT, shifted(50), 0.9), result(1, CAT, shifted(60), 0.8), result(2, CAT, BOX, 0.7)]
    # The first becomes correct, the second vanishes: from AP 50 % precision at 51 recalls… to 1.
    before = 51 / 101 / 3  # one hit after two mistakes, recall 0.5
    assert analyze(truth, results, resamples=1).errors.costs["place"] == pytest.approx(1 - before)


def test_nothing_costs_anything_without_objects() -> None:
    errors = analyze(scene(), [result(1, CAT, BOX, 0.9)], resamples=1).errors
    assert (errors.costs, errors.counts["background"], errors.objects) == ({}, 1, 0)
    assert analyze(scene(), [], resamples=1).errors.duplicate_share is None


def test_images_and_their_marks() -> None:
    truth = scene((1, CAT, BOX), (2, CAT, BOX), (2, DOG, (0.0, 0.0, 50.0, 50.0)))
    results = [
        result(1, CAT, BOX, 0.9),
        result(1, CAT, BOX, 0.87),
        result(2, CAT, BOX, 0.85),
        result(2, DOG, BOX, 0.95),
    ]
    second, first = analyze(truth, results, resamples=1).images
    assert (second.image_id, second.file_name, second.objects, second.correct, second.errors) == (2, "2.jpg", 2, 1, 2)
    assert second.counts == {"class": 1, "place": 0, "both": 0, "duplicate": 0, "background": 0, "missed": 1}
    assert second.marks == (
        Mark("class", BOX, DOG, 0.95),
        Mark("correct", BOX, CAT, 0.85),
        Mark("missed", (0.0, 0.0, 50.0, 50.0), DOG, None),
    )
    assert (first.image_id, first.errors, [mark.kind for mark in first.marks]) == (1, 1, ["correct", "duplicate"])


def test_matching_of_shown_detections_is_that_of_all(shared: Path) -> None:
    """A detection below the threshold never takes an object from one above it, so outcomes can be cut instead of computed again."""
    truth, results = (shared / file for file in REAL_FILES["yolox"])
    inputs = read_inputs(truth, results)
    found = outcomes(inputs, 100)
    few = read_inputs(truth, [entry for entry in inputs.results if entry["score"] >= 0.3])
    again = outcomes(few, 100)
    shown = found.scores >= 0.3
    np.testing.assert_array_equal(found.matched[:, shown], again.matched)
