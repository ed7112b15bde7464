"""What `detrkit evaluate` prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from evaluation.made_analysis import made_analysis, made_evaluation
from evaluation_cases import REAL_FILES, result, small_truth
from rich.console import Console

from detrkit.evaluation import evaluate_in_detail
from detrkit.evaluation.tables import detailed_table
from detrkit.models.coco_categories import coco_categories


def printed(subject: object, width: int = 160) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(subject)
    return capture.get()


def rows(text: str) -> list[list[str]]:
    """The cells that are not empty; between two there are at least two blanks."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_real_detections(shared: Path) -> None:
    evaluation, analysis = evaluate_in_detail(*(shared / file for file in REAL_FILES["femto"]))
    text = printed(detailed_table(evaluation, analysis))
    cells = rows(text)
    overall = analysis.intervals.figures["AP"]
    assert ["AP", "0.332", f"{overall.low:.3f} to {overall.high:.3f}", "mean AP over IoU 0.50 to 0.95"] in cells
    assert ["AR100", "0.485", "recall, 100 detections of each class"] in cells
    person = analysis.intervals.class_ap[1]
    interval = f"{person.low:.2f}–{person.high:.2f}"
    assert ["person", "278", "0.432", interval, "0.720", "0.801", "0.637", "0.709", "0.371"] in cells
    assert ["bear", "1", "1.000", "1.000", "1.000", "1.000", "1.000", "0.359*"] in cells
    assert ["giraffe", "0", "–", "–", "–", "–", "–", "0.359*"] in cells
    assert ["wrong class", "64", "6.8%", "0.036", "on an object (IoU from 0.50), but of another class"] in cells
    assert ["small (up to 32 × 32 pixels)", "73", "482", "0.128", "0.284"] in cells
    assert ["images with 4 to 6 objects", "26", "122", "0.329", "0.507"] in cells
    words = " ".join(text.split())
    for sentence in (
        "120 images, 1084 objects, 16 crowd regions (where detections are ignored), 12000 detections; 4.2% of those from the best thresholds "
        "on repeat a better one. Intervals: 95%, bootstrap over images, 1000 draws.",
        "936 detections from these thresholds: 514 correct, 422 wrong; 76 more objects have only a detection of the wrong class or place.",
        "* the same, for classes with fewer than 20 objects or no correct detection.",
        "Most errors: 000000376322.jpg (37), 000000560256.jpg (36), 000000357888.jpg (34),",
        "objects are in fewer than 5 images.",
    ):
        assert sentence in words


def test_missing_sizes_thresholds_and_names_are_said() -> None:
    evaluation, analysis = evaluate_in_detail(small_truth(), [result(bbox=(300, 300, 5, 5))], notes=("A note.",))
    text = printed(detailed_table(evaluation, analysis))
    assert ["AP_large", "no ground truth of this size", "AP, from 96 × 96 pixels"] in rows(text)
    assert ["large (from 96 × 96 pixels)", "0", "0", "–", "–"] in rows(text)
    assert "Precision, recall and F1: IoU 0.50, from the threshold in the last column." in text
    assert "Most errors: 1 (3), 2 (1)." in text  # without file names
    assert "interval " not in text  # neither of figures nor of classes
    assert "bootstrap" not in text
    notes = [line for line in text.splitlines() if line.startswith("Note: ")]
    assert notes == [
        "Note: A note.",
        "Note: No detection is correct at IoU 0.50, so there is no best threshold: errors are counted from score 0.5 on.",
        "Note: There are no large objects (from 96 × 96 pixels) in the ground truth, so there is no AP of this size.",
        "Note: There are no intervals: only 2 images have objects, and fewer than 5 say nothing about others.",
    ]


def test_nothing_to_compare() -> None:
    text = printed(detailed_table(*evaluate_in_detail(small_truth() | {"annotations": []}, [])))
    assert ["AP", "no ground truth", "mean AP over IoU 0.50 to 0.95"] in rows(text)
    assert ["nothing there", "0", "–", "–", "on nothing (IoU below 0.10)"] in rows(text)
    assert "Most errors" not in text


@pytest.mark.parametrize(
    "names",
    [
        [category.name for category in coco_categories(80)],
        ["x" * 70, "a long name of several words that nobody would shorten", "dog"],
    ],
)
def test_nothing_is_cut_in_the_width_of_a_file(names: list[str]) -> None:
    evaluation, analysis = made_evaluation(names), made_analysis(names)
    text = printed(detailed_table(evaluation, analysis), width=80)
    assert "…" not in text
    tables = text[: text.index("Best mean F1")] if "Best mean F1" in text else text
    assert max(map(len, tables.splitlines())) <= 80
    assert re.search(
        r"^class +objects +AP +interval +AP50 +precision +recall +F1 +threshold *$", text, flags=re.MULTILINE
    )
    lines = [line.split() for line in text.splitlines()]
    for operation in analysis.classes:
        score = f"{operation.threshold:.3f}{'' if operation.own else '*'}"
        assert any(line[-1:] == [score] for line in lines), operation
    squeezed = re.sub(r"\s", "", "".join(line[:13] for line in text.splitlines()))
    for name in names:
        assert name.replace(" ", "") in squeezed


def test_a_class_without_interval_is_one() -> None:
    truth = small_truth()
    first = {**truth["annotations"][0], "category_id": 1}
    images = [{**truth["images"][0], "id": number, "file_name": f"{number}.jpg"} for number in range(1, 7)]
    annotations = [{**first, "id": number, "image_id": number} for number in range(1, 7)]
    other = {**first, "id": 9, "category_id": truth["categories"][1]["id"], "image_id": 1}
    truth |= {
        "images": images,
        "annotations": [{**each, "category_id": truth["categories"][0]["id"]} for each in annotations] + [other],
    }
    _, analysis = evaluate_in_detail(truth, [])
    assert "No interval for 1 of 2 classes: its objects are in fewer than 5 images." in analysis.notes
