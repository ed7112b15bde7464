"""What `detrkit evaluate` prints."""

from __future__ import annotations

from pathlib import Path

from evaluation_cases import REAL_FILES, result, small_truth
from rich.console import Console

from detrkit.evaluation import evaluate_in_detail
from detrkit.evaluation.tables import detailed_table


def printed(subject: object) -> str:
    console = Console(width=160, color_system=None)
    with console.capture() as capture:
        console.print(subject)
    return capture.get()


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]


def test_real_detections(shared: Path) -> None:
    evaluation, analysis = evaluate_in_detail(*(shared / file for file in REAL_FILES["femto"]))
    text = printed(detailed_table(evaluation, analysis))
    cells = rows(text)
    overall = analysis.intervals.figures["AP"]
    assert ["AP", "0.332", f"{overall.low:.3f} to {overall.high:.3f}", "mean AP over IoU 0.50 to 0.95"] in cells
    assert ["AR100", "0.485", "", "recall, 100 detections per image"] in cells
    person = analysis.intervals.class_ap[1]
    interval = f"{person.low:.2f}–{person.high:.2f}"
    assert ["person", "278", "0.432", interval, "0.720", "0.801", "0.637", "0.709", "0.371"] in cells
    assert ["bear", "1", "1.000", "", "1.000", "1.000", "1.000", "1.000", "0.359*"] in cells
    assert ["giraffe", "0", "–", "", "–", "–", "–", "–", "0.359*"] in cells
    assert ["class", "64", "6.8%", "0.036", "on an object (IoU from 0.50), but of another class"] in cells
    assert ["small (below 32 × 32 pixels)", "73", "482", "0.128", "0.284"] in cells
    assert ["images with 4 to 6 objects", "26", "122", "0.329", "0.507"] in cells
    words = " ".join(text.split())
    for sentence in (
        "120 images, 1084 objects, 16 crowd regions (where detections are ignored), 12000 detections. Intervals: 95%, bootstrap over images, 1000 draws.",
        "936 detections from these scores: 514 correct, 422 wrong; 76 more objects have only a detection of the wrong class or place.",
        "* the same, for classes with fewer than 20 objects or no correct detection.",
        "Most errors: 000000376322.jpg (37), 000000560256.jpg (36), 000000357888.jpg (34),",
        "objects are in fewer than 5 images.",
    ):
        assert sentence in words


def test_missing_sizes_thresholds_and_names_are_said() -> None:
    evaluation, analysis = evaluate_in_detail(small_truth(), [result(bbox=(300, 300, 5, 5))], notes=("A note.",))
    text = printed(detailed_table(evaluation, analysis))
    assert ["AP_large", "no ground truth of this size", "", "AP, above 96 × 96 pixels"] in rows(text)
    assert ["large (above 96 × 96 pixels)", "0", "0", "–", "–"] in rows(text)
    assert "Precision, recall and F1: IoU 0.50." in text
    assert "Most errors: 1 (3), 2 (1)." in text  # without file names
    notes = [line for line in text.splitlines() if line.startswith("Note: ")]
    assert notes == [
        "Note: A note.",
        "Note: No detection is correct at IoU 0.50, so there is no best threshold: errors are counted from score 0.5 on.",
        "Note: There are no large objects (above 96 × 96 pixels) in the ground truth, so there is no AP of this size.",
        "Note: No interval for 2 of 2 classes: their objects are in fewer than 5 images.",
    ]


def test_nothing_to_compare() -> None:
    text = printed(detailed_table(*evaluate_in_detail(small_truth() | {"annotations": []}, [])))
    assert ["AP", "no ground truth", "", "mean AP over IoU 0.50 to 0.95"] in rows(text)
    assert ["background", "0", "–", "–", "on nothing (IoU below 0.10)"] in rows(text)
    assert "Most errors" not in text
