"""How many detections repeat a better one, and when suppression of them is worth storing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from evaluation_cases import result, small_truth

from detrkit.evaluation import Evaluation, evaluate_detections
from detrkit.evaluation.bootstrap import difference_interval
from detrkit.evaluation.inputs import read_inputs
from detrkit.evaluation.outcomes import outcomes
from detrkit.evaluation.repeats import repeating, repeats_note

CAT, BIRD = 5, 7


def case(
    images: int, *, repeats: bool = True, second_objects: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images with two cats each, of which the first is found with score 0.9 and again with 0.8 (IoU 0.82), the second with 0.6.

    Args:
        images: number of images.
        repeats: whether the first cat is found again.
        second_objects: whether there is another cat where it is found again.
    """
    annotations, entries = [], []
    for image in range(1, images + 1):
        boxes = [[0, 0, 100, 50], [300, 0, 100, 50], *([[10, 0, 100, 50]] if second_objects else [])]
        annotations += [{"image_id": image, "category_id": CAT, "bbox": box, "iscrowd": 0} for box in boxes]
        entries += [result(image, CAT, boxes[0], 0.9), result(image, CAT, boxes[1], 0.6)]
        if repeats:
            entries.append(result(image, CAT, [10, 0, 100, 50], 0.8))
    truth = small_truth() | {"images": [{"id": image} for image in range(1, images + 1)]}
    return truth | {"annotations": [entry | {"id": number} for number, entry in enumerate(annotations)]}, entries


def test_the_share_counts_detections_from_the_best_thresholds_on() -> None:
    truth, entries = case(12)
    low = [
        result(1, CAT, [10 + shift, 0, 100, 50], 0.1) for shift in range(3)
    ]  # below the threshold: they do not count
    evaluation = evaluate_detections(truth, entries + low)
    assert evaluation.repeated_share == pytest.approx(1 / 3)
    assert "; 33.3% of those from the best thresholds on repeat a better one." in evaluation.basis()
    assert evaluation.to_json()["repeated_share"] == evaluation.repeated_share


def test_other_classes_and_images_repeat_nothing() -> None:
    truth, entries = case(2, repeats=False)
    entries += [result(1, BIRD, [0, 0, 100, 50], 0.95)]
    assert evaluate_detections(truth, entries).repeated_share == 0
    inputs = read_inputs(truth, [result(1, CAT, [0, 0, 9, 9], 0.5), result(2, CAT, [0, 0, 9, 9], 0.4)])
    assert repeating(inputs.detections, np.arange(2)).tolist() == [False, False]


def test_of_equal_scores_the_later_one_repeats() -> None:
    truth, _ = case(1)
    inputs = read_inputs(truth, [result(1, CAT, [0, 0, 9, 9], score) for score in (0.5, 0.6, 0.6)])
    assert repeating(inputs.detections, np.arange(3)).tolist() == [True, False, True]


def test_without_detections_there_is_no_share() -> None:
    truth, _ = case(2)
    nothing = evaluate_detections(truth, [])
    assert (nothing.repeated_share, nothing.suppression) == (None, None)
    assert "repeat" not in nothing.basis()


def test_suppression_that_helps_is_measured_and_said() -> None:
    truth, entries = case(12)
    evaluation = evaluate_detections(truth, entries)
    suppression = evaluation.suppression
    assert suppression is not None
    assert suppression.helps
    assert suppression.iou == 0.7
    assert suppression.ap_before == pytest.approx(evaluation.figures["AP"])
    without = [entry for entry in entries if entry["score"] != 0.8]
    alone = evaluate_detections(truth, without)
    assert suppression.ap == pytest.approx(alone.figures["AP"]) == pytest.approx(1)
    assert suppression.class_thresholds == alone.class_thresholds == {CAT: 0.6}
    assert evaluation.notes[-1] == (
        "33% of detections repeat a better one of their class: train longer, or suppress them by --nms 0.7 "
        f"(AP 1.000 instead of {suppression.ap_before:.3f})."
    )
    assert evaluation.to_json()["suppression"]["gain"] == dataclasses.asdict(suppression.gain)


def test_suppression_is_not_advised_where_the_figures_look_the_same() -> None:
    suppression = evaluate_detections(*case(12)).suppression
    assert suppression is not None
    alike = dataclasses.replace(suppression, ap_before=0.0050, ap=0.0054)
    assert alike.helps
    assert repeats_note(0.06, alike) == []
    (note,) = repeats_note(0.06, dataclasses.replace(alike, ap=0.0056))
    assert note.endswith("by --nms 0.7 (AP 0.006 instead of 0.005).")


def test_suppression_that_loses_objects_is_not_advised() -> None:
    evaluation = evaluate_detections(*case(12, second_objects=True))
    assert evaluation.repeated_share == pytest.approx(1 / 3)
    assert evaluation.suppression is not None
    assert evaluation.suppression.ap < evaluation.suppression.ap_before
    assert not evaluation.suppression.helps
    assert not any("repeat" in note for note in evaluation.notes)


def test_few_images_and_few_repeats_decide_nothing() -> None:
    assert evaluate_detections(*case(4)).suppression is None
    assert evaluate_detections(*case(12, repeats=False)).suppression is None


def test_a_gain_in_one_of_many_images_may_be_chance() -> None:
    truth, entries = case(12, repeats=False)
    repeated = [result(1, CAT, [10, 0, 100, 50], 0.8)]
    inputs = [read_inputs(truth, each) for each in (entries + repeated, entries)]
    before, after = (outcomes(each, 100) for each in inputs)
    interval = difference_interval(before, after, resamples=300)
    assert interval.low == 0 < interval.high
    assert difference_interval(after, after, resamples=20).low == 0


def test_an_evaluation_comes_back_from_its_file() -> None:
    evaluation = evaluate_detections(*case(12))
    assert evaluation.suppression is not None
    content = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    again = Evaluation.from_json(content)
    assert (again.repeated_share, again.suppression) == (evaluation.repeated_share, evaluation.suppression)
    assert json.loads(json.dumps(again.to_json())) == content
    older = {name: value for name, value in content.items() if name not in ("repeated_share", "suppression")}
    assert Evaluation.from_json(older).repeated_share is None
