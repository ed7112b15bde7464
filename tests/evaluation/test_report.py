"""A report is one file that loads nothing else, shows the right numbers, and escapes all text."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.data import open_dataset
from detrkit.errors import OutputError
from detrkit.evaluation.coco import evaluate_detections
from detrkit.evaluation.figures import MEANINGS, ClassFigures, Evaluation
from detrkit.evaluation.report import (
    Section,
    Table,
    class_figure,
    curves_figure,
    evaluation_sections,
    example_pictures,
    precision_recall_figure,
    training_section,
    write_report,
)

ROWS = [
    {"epoch": 1, "loss": 4.0, "class_loss": 1.0, "lr": 1e-4, "AP": None},
    {"epoch": 2, "loss": 3.0, "AP": 0.1, "AP50": 0.2},
    {"epoch": 3, "loss": 2.5, "AP": 0.3, "AP50": 0.5},
]


class Page(HTMLParser):
    """The table cells of a page, its tags, and every address in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in ("td", "th") and data.strip():
            self.rows[-1].append(data)


def evaluation() -> Evaluation:
    figures: dict[str, float | None] = dict.fromkeys(MEANINGS, 0.25) | {"AP_large": None}
    curve = tuple(np.linspace(1, 0.5, 101))
    classes = (
        ClassFigures(5, "cat", 0.2, 0.4, 12, curve),
        ClassFigures(6, "<dog>", 0.6, 0.8, 3, (1.0,) * 101),
        ClassFigures(7, "cow", None, None, 0),
    )
    return Evaluation("pets val", figures, classes, 20, 15, 0, 800, 0.4321, ("A note & a half.",))


def test_a_whole_report_of_a_training_run(tmp_path: Path) -> None:
    examples = Section("Examples", ("Eight pictures.",), (Image.new("RGB", (40, 30), (200, 30, 30)),))
    sections = [training_section(ROWS), *evaluation_sections(evaluation()), examples]
    text = write_report(tmp_path / "report.html", "Pets <1>", sections).read_text(encoding="utf-8")
    page = Page(text)
    assert "<title>Pets &lt;1&gt;</title>" in text
    assert ["AP", "0.250", "mean AP over IoU 0.50 to 0.95"] in page.rows
    assert ["AP_large", "no ground truth of this size", "AP, above 96 × 96 pixels"] in page.rows
    assert ["<dog>", "6", "3", "0.600", "0.800"] in page.rows
    assert "<dog>" not in text
    assert ["3", "2.5", "0.3", "0.5"] in page.rows
    assert "1 of 3 classes have no objects here" in text
    assert "A note &amp; a half." in text
    assert "from score 0.432" in text
    assert page.tags.count("img") == 4


def test_it_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    text = write_report(tmp_path / "report.html", "Report", evaluation_sections(evaluation())).read_text()
    page = Page(text)
    assert len(page.addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not re.search(r"https?://|@import|url\(", re.sub(r"data:image/[^\"]*", "", text))
    assert not {"script", "link", "iframe"} & set(page.tags)
    opened = Image.open(BytesIO(base64.b64decode(page.addresses[0].partition(",")[2])))
    assert opened.format == "PNG"
    assert opened.width > 500


def test_photos_are_kept_as_jpeg(tmp_path: Path) -> None:
    section = Section("Examples", (), (Image.new("RGBA", (40, 30), (200, 30, 30, 255)),))
    address = Page(write_report(tmp_path / "r.html", "Report", [section]).read_text()).addresses[0]
    opened = Image.open(BytesIO(base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))))
    assert np.abs(np.array(opened.getpixel((20, 15))) - (200, 30, 30)).max() < 5


def test_tables_can_be_folded(tmp_path: Path) -> None:
    table = Table(("a", "b"), (("1", "2"),), folded=True)
    text = write_report(tmp_path / "r.html", "Report", [Section("Numbers", (), (), (table,))]).read_text()
    assert text.index("<details>") < text.index("<td>1</td>") < text.index("</details>")


def test_an_evaluation_without_ground_truth_has_no_diagrams() -> None:
    empty = Evaluation("pets", dict.fromkeys(MEANINGS), (ClassFigures(5, "cat", None, None, 0),), 3, 0, 0, 10)
    sections = evaluation_sections(empty)
    assert len(sections) == 1
    assert sections[0].tables[0].rows[0][1] == "no ground truth"


def test_curves_show_the_rows() -> None:
    losses, parts, figures = curves_figure(ROWS).axes
    assert [line.get_label() for line in losses.lines] == ["loss"]
    assert [line.get_label() for line in parts.lines] == ["class_loss"]
    assert losses.lines[0].get_xydata().tolist() == [[1, 4.0], [2, 3.0], [3, 2.5]]
    assert {line.get_label(): line.get_xydata().tolist() for line in figures.lines} == {
        "AP": [[2, 0.1], [3, 0.3]],
        "AP50": [[2, 0.2], [3, 0.5]],
    }
    assert len(curves_figure(ROWS[:1]).axes) == 2
    assert curves_figure([]).axes == []


def test_bars_of_the_classes_are_sorted() -> None:
    (axes,) = class_figure(evaluation()).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat (12)", "<dog> (3)"]
    behind, front = axes.containers
    assert [bar.get_width() for bar in front] == [0.2, 0.6]
    assert [bar.get_width() for bar in behind] == [0.4, 0.8]


def test_precision_over_recall_of_each_class_and_their_mean() -> None:
    (axes,) = precision_recall_figure(evaluation()).axes
    assert [line.get_label() for line in axes.lines] == ["cat", "<dog>", "mean of the classes"]
    np.testing.assert_allclose(axes.lines[2].get_xydata()[[0, 100]], [[0, 1], [1, 0.75]])
    many = tuple(ClassFigures(number, f"class {number}", 0.5, 0.5, 1, (1.0, 0.0)) for number in range(30))
    figure = precision_recall_figure(Evaluation("many", {}, many, 1, 30, 0, 0))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["mean of the classes"]


def test_a_report_of_a_result_file_with_pictures(shared: Path, tmp_path: Path) -> None:
    results = shared / "data/evaluator/coco_val_detections_deimv2_hgnetv2_femto.json"
    dataset = open_dataset(shared / "data/coco", "val")
    evaluation_of_file = evaluate_detections(shared / "data/coco/annotations/instances_val.json", results)
    entries: list[dict[str, Any]] = json.loads(results.read_text())
    pictures = example_pictures(dataset, entries, threshold=evaluation_of_file.best_threshold or 0.5, count=3)
    assert len(pictures) == 3
    sections = [*evaluation_sections(evaluation_of_file), Section("Examples", (), pictures)]
    file = write_report(tmp_path / "report.html", "A result file", sections)
    assert ["AP", "0.332", "mean AP over IoU 0.50 to 0.95"] in Page(file.read_text()).rows
    assert file.stat().st_size < 2_000_000


def test_examples_are_spread_over_the_data_set_and_show_what_passes_the_threshold(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[Any, list[str], list[list[float]], int]] = []

    def record(image: Image.Image, predictions: Any, truth: Any) -> Image.Image:
        shown.append((image.size, predictions.data["class_name"].tolist(), predictions.xyxy.tolist(), len(truth)))
        return image

    monkeypatch.setattr("detrkit.evaluation.report.side_by_side", record)
    dataset = open_dataset(shared / "data/coco", "val")
    last = int(dataset.image_ids[-1])
    entries = [{"image_id": last, "category_id": 90, "bbox": [1, 2, 3, 4], "score": score} for score in (0.5, 0.4)]
    example_pictures(dataset, entries, threshold=0.5, count=2)
    assert [(names, boxes) for _, names, boxes, _ in shown] == [([], []), (["toothbrush"], [[1, 2, 4, 6]])]
    for (size, _, _, objects), index in zip(shown, (0, len(dataset) - 1), strict=True):
        assert size == tuple(dataset.sizes[index][::-1])
        assert objects == len(dataset.objects(index))
    assert len(example_pictures(dataset.subset([4]), [], threshold=0.5)) == 1


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/report\.html cannot be written"):
        write_report(tmp_path / "file" / "report.html", "Report", [])
