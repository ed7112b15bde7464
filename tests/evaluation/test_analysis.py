"""The analysis as a whole: plain values, notes, and cases without anything to count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluation_cases import REAL_FILES, result, small_truth

from detrkit.errors import ConfigurationError, DataError
from detrkit.evaluation import analyze, evaluate_detections, evaluate_in_detail


def test_it_agrees_with_the_evaluation(shared: Path) -> None:
    files = [shared / file for file in REAL_FILES["yolox"]]
    evaluation, analysis = evaluate_in_detail(*files)
    assert evaluation == evaluate_detections(*files)
    assert analysis == analyze(*files)
    assert analysis.threshold == evaluation.best_threshold
    assert {entry.id: entry.threshold for entry in analysis.classes if entry.own} == evaluation.class_thresholds
    assert [(entry.id, entry.name, entry.objects) for entry in analysis.classes] == [
        (entry.id, entry.name, entry.objects) for entry in evaluation.classes
    ]
    assert evaluation.to_json()["class_thresholds"]["1"] == evaluation.class_thresholds[1]


def test_it_represents_itself_in_one_line(shared: Path) -> None:
    analysis = analyze(*(shared / file for file in REAL_FILES["example"]), resamples=20)
    errors = analysis.errors
    assert repr(analysis) == (
        f"<Analysis {analysis.name}: {errors.correct} of {errors.detections} detections correct, "
        f"{errors.correct} of {errors.objects} objects found, {len(analysis.classes)} classes>"
    )


def test_it_becomes_json(shared: Path) -> None:
    analysis = analyze(*(shared / file for file in REAL_FILES["example"]), resamples=20)
    value = json.loads(json.dumps(analysis.to_json(), allow_nan=False))
    assert value["threshold"] == 0.012
    assert value["errors"]["counts"]["class"] == 81
    assert value["classes"][0]["name"] == "person"
    assert value["class_curves"]["1"]["thresholds"][50] == 0.5
    assert value["confusion"]["counts"][0][0] == analysis.classes[0].correct
    assert value["images"][0]["file_name"] == "COCO_val2014_000000000196.jpg"
    assert "marks" not in value["images"][0]
    assert analysis.images[0].marks  # still there in memory


def test_without_a_correct_detection_errors_are_counted_from_one_half() -> None:
    nowhere = [result(bbox=(300, 300, 30, 30), score=score) for score in (0.4, 0.6)]
    analysis = analyze(small_truth(), nowhere, resamples=1)
    assert analysis.threshold == 0.5
    assert (analysis.errors.counts["background"], analysis.errors.counts["missed"]) == (1, 3)
    assert analysis.notes[0] == (
        "No detection is correct at IoU 0.50, so there is no best threshold: errors are counted from score 0.5 on."
    )


@pytest.mark.parametrize("with_detections", [True, False])
@pytest.mark.parametrize("with_objects", [True, False])
def test_cases_without_objects_or_detections(with_objects: bool, with_detections: bool) -> None:
    truth = small_truth() if with_objects else small_truth() | {"annotations": []}
    analysis = analyze(truth, [result(score=0.7)] if with_detections else [], resamples=5)
    errors = analysis.errors
    assert (errors.objects, errors.detections) == (3 if with_objects else 0, int(with_detections))
    assert errors.correct == int(with_objects and with_detections)
    json.dumps(analysis.to_json(), allow_nan=False)


def test_a_class_list_without_images_of_it_keeps_its_place() -> None:
    names = [entry.name for entry in analyze(small_truth(), [], resamples=1).classes]
    assert names == ["cat", "bird", "dog"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 0}, "0 resamples give no interval: choose at least 1, or better 1000"),
        ({"confidence": 1.0}, "The confidence 1.0 is not between 0 and 1: choose one such as 0.95"),
        (
            {"max_detections": 0},
            "0 detections per image count nothing: choose at least 1 (COCO counts 100 of each class)",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        analyze(small_truth(), [], **options)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_a_damaged_result_is_named() -> None:
    with pytest.raises(DataError, match=r"the given detections, entry 0 .* has image_id 3"):
        analyze(small_truth(), [result(image_id=3)])


def test_it_does_not_change_its_arguments_or_print(capfd: pytest.CaptureFixture[str]) -> None:
    truth, results = small_truth(), [result()]
    analyze(truth, results, name="pets", notes=("A note.",))
    assert (truth, results) == (small_truth(), [result()])
    assert capfd.readouterr() == ("", "")
    analysis = analyze(truth, results, name="pets", notes=("A note.",), resamples=1)
    assert (analysis.name, analysis.notes[0]) == ("pets", "A note.")


def test_what_reading_left_out_is_said_once() -> None:
    truth = small_truth()
    truth["annotations"][0]["bbox"] = [0, 0, 0, 50]
    evaluation, analysis = evaluate_in_detail(truth, [])
    (left_out,) = (note for note in evaluation.notes if "no area" in note)
    assert left_out not in analysis.notes
    alone = analyze(truth, [], notes=("mine",), resamples=1)
    assert alone.notes == ("mine", left_out, *analysis.notes)
