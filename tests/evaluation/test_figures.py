"""An evaluation as a table, as one line and as JSON."""

from __future__ import annotations

import json
import re

from rich.console import Console

from detrkit.evaluation.figures import MEANINGS, ClassFigures, Evaluation, shown_value


def evaluation() -> Evaluation:
    figures: dict[str, float | None] = dict.fromkeys(MEANINGS, 0.25)
    figures |= {"AP": 0.5041, "AP50": 0.75, "AP75": 0.5, "AP_small": None}
    classes = (ClassFigures(5, "cat", 0.5041, 0.75, 12, (1.0, 0.5)), ClassFigures(7, "bird", None, None, 0))
    return Evaluation("pets val", figures, classes, 20, 12, 1, 800, 0.4321, ("One class was left out.",))


def printed(subject: object) -> str:
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(subject)
    return capture.get()


def test_table_shows_figures_classes_basis_and_notes() -> None:
    text = printed(evaluation().table())
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    assert ["AP", "0.504", "mean AP over IoU 0.50 to 0.95"] in lines
    assert ["AP_small", "no ground truth of this size", "AP, up to 32 × 32 pixels"] in lines
    assert ["cat", "12", "0.504", "0.750"] in lines
    assert ["bird", "0", "–", "–"] in lines
    assert "20 images, 12 objects, 1 crowd region (where detections are ignored), 800 detections." in " ".join(
        text.split()
    )
    assert "keep detections from score 0.432" in text
    assert "Note: One class was left out." in text
    assert "bird" not in printed(evaluation().table(classes=False))


def test_a_missing_figure_says_why() -> None:
    assert shown_value("AR_large", None) == "no ground truth of this size"
    assert shown_value("AP", None) == "no ground truth"
    assert shown_value("AP", 0.0) == "0.000"


def test_summary_is_one_line() -> None:
    assert (
        evaluation().summary()
        == "pets val: AP 0.504, AP50 0.750, AP75 0.500 on 20 images, 12 objects; best threshold 0.432"
    )


def test_it_represents_itself_in_one_line() -> None:
    assert repr(evaluation()) == f"<Evaluation {evaluation().summary()}>"


def test_json_keeps_every_digit_and_uses_null_for_missing_figures() -> None:
    value = json.loads(json.dumps(evaluation().to_json(), allow_nan=False))
    assert value["figures"]["AP"] == 0.5041
    assert value["figures"]["AP_small"] is None
    assert list(value["figures"]) == list(MEANINGS)
    assert value["classes"][1] == {"id": 7, "name": "bird", "AP": None, "AP50": None, "objects": 0}
    assert (value["best_threshold"], value["images"], value["objects"], value["crowds"]) == (0.4321, 20, 12, 1)
    assert value["notes"] == ["One class was left out."]
