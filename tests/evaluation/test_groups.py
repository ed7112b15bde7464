"""AP by size is the evaluator's; AP by crowdedness is that of the images on their own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from evaluation_cases import REAL_FILES, result, small_truth

from detrkit.evaluation import analyze, evaluate_detections


@pytest.mark.parametrize("name", REAL_FILES)
def test_sizes_are_the_evaluators(shared: Path, name: str) -> None:
    files = [shared / file for file in REAL_FILES[name]]
    figures = evaluate_detections(*files).figures
    sizes = analyze(*files, resamples=1).sizes
    assert [group.name for group in sizes] == ["small", "medium", "large"]
    for group in sizes:
        assert group.ap == pytest.approx(figures[f"AP_{group.name}"], abs=1e-9)
    if name == "femto":
        assert [(group.images, group.objects) for group in sizes] == [(73, 482), (94, 359), (101, 243)]


def test_a_size_without_objects_has_no_figure_and_a_note() -> None:
    analysis = analyze(small_truth(), [result()], resamples=1)
    large = analysis.sizes[2]
    assert (large.name, large.images, large.objects, large.ap, large.ap50) == ("large", 0, 0, None, None)
    assert (
        "There are no large objects (from 96 × 96 pixels) in the ground truth, so there is no AP of this size."
        in analysis.notes
    )
    empty = analyze(small_truth() | {"annotations": []}, [result()], resamples=1)
    assert "There are no objects in the ground truth, so there is no AP of any size." in empty.notes


def test_crowdedness_is_that_of_the_images_alone(shared: Path) -> None:
    truth, results = (json.loads((shared / file).read_text()) for file in REAL_FILES["femto"])
    analysis = analyze(truth, results, resamples=1)
    assert [(group.name, group.images, group.objects) for group in analysis.crowdedness] == [
        ("0 to 3 objects", 37, 75), ("4 to 6 objects", 26, 122), ("7 to 12 objects", 27, 255), ("13 to 44 objects", 30, 632),
    ]  # fmt: skip
    objects = Counter(entry["image_id"] for entry in truth["annotations"] if not entry["iscrowd"])
    for group, (least, most) in zip(analysis.crowdedness, [(0, 3), (4, 6), (7, 12), (13, 44)], strict=True):
        chosen = {entry["id"] for entry in truth["images"] if least <= objects[entry["id"]] <= most}
        part = truth | {
            "images": [entry for entry in truth["images"] if entry["id"] in chosen],
            "annotations": [entry for entry in truth["annotations"] if entry["image_id"] in chosen],
        }
        alone = evaluate_detections(part, [entry for entry in results if entry["image_id"] in chosen])
        assert group.ap == pytest.approx(alone.figures["AP"], abs=1e-9)
        assert group.ap50 == pytest.approx(alone.figures["AP50"], abs=1e-9)
        assert group.meaning == f"images with {group.name}"


def test_images_with_equally_many_objects_are_not_parted() -> None:
    truth = small_truth()  # two objects in the first image, one in the second
    names = [(group.name, group.images, group.objects) for group in analyze(truth, [], resamples=1).crowdedness]
    assert names == [("1 object", 1, 1), ("2 objects", 1, 2)]
    truth["annotations"] = []
    (alone,) = analyze(truth, [], resamples=1).crowdedness
    assert (alone.name, alone.images, alone.ap) == ("0 objects", 2, None)
