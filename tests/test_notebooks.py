"""What notebooks show: short, escaped and self-contained."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from evaluation.made_analysis import made_analysis, made_evaluation
from PIL import Image

from detrkit.cards import Category, ModelCard
from detrkit.data import DetectionDataset, read_digits
from detrkit.notebooks import paragraph, shown, table
from detrkit.training import TrainingResult

NASTY = '<b onclick="x">&amp;</b>'


class Page(HTMLParser):
    """The rows of all tables, the paragraphs, and whether tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.paragraphs: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)
        elif self.open[-1] == "p":
            self.paragraphs.append(data)


def nasty_dataset() -> DetectionDataset:
    digits = read_digits("val", images=3, size=64)
    categories = tuple(replace(entry, name=f"{NASTY} {entry.index}") for entry in digits.categories)
    labels = np.where(np.arange(len(digits.labels)) == 0, 7, 3)
    crowd = np.arange(len(digits.labels)) == 0
    return replace(digits, name=NASTY, categories=categories, labels=labels, crowd=crowd, notes=(NASTY,))


def everything() -> dict[str, str]:
    evaluation = made_evaluation((NASTY, "dog", "cow"))
    analysis = made_analysis((NASTY, "dog", "cow"))
    card = ModelCard("detr", NASTY, {}, (Category(3, NASTY, 0),), metrics={NASTY: 0.5})
    return {
        "evaluation": replace(evaluation, name=NASTY, notes=(NASTY,))._repr_html_(),
        "analysis": replace(analysis, name=NASTY, notes=(NASTY,))._repr_html_(),
        "dataset": nasty_dataset()._repr_html_(),
        "result": TrainingResult(Path(NASTY), Path(NASTY) / "best.safetensors", evaluation)._repr_html_(),
        "card": card._repr_html_(),
    }


@pytest.mark.parametrize("name", ["evaluation", "analysis", "dataset", "result", "card"])
def test_texts_are_escaped_and_nothing_is_loaded(name: str) -> None:
    text = everything()[name]
    page = Page(text)
    assert page.tags <= {"div", "strong", "p", "table", "thead", "tbody", "tr", "th", "td"}
    assert "&lt;b onclick=&quot;x&quot;&gt;&amp;amp;&lt;/b&gt;" in text
    assert not re.search(r"https?:|src=|href=", text)
    assert len(text) < 12_000


def test_an_evaluation_shows_figures_and_the_worst_classes_first() -> None:
    page = Page(made_evaluation()._repr_html_())
    assert ["AP", "0.432", "mean AP over IoU 0.50 to 0.95"] in page.rows
    assert ["AP_large", "no ground truth of this size", "AP, from 96 × 96 pixels"] in page.rows
    assert page.rows[-2:] == [["cat", "10", "0.200", "0.300"], ["dog", "20", "0.400", "0.500"]]
    assert page.paragraphs == ["20 images, 30 objects, 800 detections.", "Note: A note & a half."]


def test_an_analysis_shows_errors_and_thresholds() -> None:
    page = Page(made_analysis()._repr_html_())
    assert ["missed", "7", "0.170"] in [row[:3] for row in page.rows]
    assert ["dog", "20", "0.300", "0.750", "0.600", "0.667"] in page.rows
    assert page.paragraphs[0] == (
        "At the thresholds of the classes (IoU 0.50), 12 of 27 detections are correct and 12 of 30 objects found."
    )


def test_a_data_set_counts_objects_and_images_of_its_classes() -> None:
    dataset = nasty_dataset()
    page = Page(dataset._repr_html_())
    objects = len(dataset.labels) - 1
    with_three = int(np.sum(np.diff(dataset.offsets) - np.array([1, 0, 0]) > 0))
    assert page.rows[0] == ["class", "objects", "images"]
    assert page.rows[1] == [f"{NASTY} 3", str(objects), str(with_three)]
    assert f"3 images (0 without objects), {objects} objects, 1 crowd region, 10 classes." in page.paragraphs


def test_a_result_says_where_things_are() -> None:
    text = TrainingResult(Path("runs/one"), Path("runs/one/best.safetensors"), None)._repr_html_()
    assert Page(text).rows[1:] == [["best model", "runs/one/best.safetensors"], ["report", "runs/one/report.html"]]


def test_a_result_shows_its_curves(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,step,loss,AP\n1.0,3.0,4.0,0.1\n2.0,6.0,2.0,0.3\n")
    result = TrainingResult(tmp_path, tmp_path / "best.safetensors", made_evaluation())
    lines = [axes.lines[0].get_xydata().tolist() for axes in result.plot().axes]
    assert lines == [[[1.0, 4.0], [2.0, 2.0]], [[1.0, 0.1], [2.0, 0.3]]]
    text = result._repr_html_()
    page = Page(text)
    assert ["AP", "0.432", "mean AP over IoU 0.50 to 0.95"] in page.rows
    (address,) = re.findall(r'src="data:image/png;base64,([^"]*)"', text)
    with Image.open(io.BytesIO(base64.b64decode(address))) as picture:
        assert picture.size == (500, 500)


def test_a_result_is_one_line_of_text() -> None:
    result = TrainingResult(Path("runs/one"), Path("runs/one/best.safetensors"), made_evaluation())
    assert repr(result) == "TrainingResult('runs/one', best 'best.safetensors', AP 0.432, AP50 0.250)"
    assert repr(replace(result, evaluation=None)) == "TrainingResult('runs/one', best 'best.safetensors')"


def test_a_card_shows_classes_with_their_thresholds() -> None:
    categories = (Category(3, "cat", 0), Category(9, "dog", 1))
    card = ModelCard(
        "detr", "detr-r50", {}, categories, threshold=0.4, class_thresholds={1: 0.25}, metrics={"AP": 0.42}
    )
    page = Page(card._repr_html_())
    assert page.rows[1] == ["AP", "0.420"]
    assert page.rows[-2:] == [["cat", "3", "0.400"], ["dog", "9", "0.250"]]
    assert page.paragraphs == ["Images are resized to 800 × 1333 pixels at most; threshold 0.400."]


def test_long_tables_are_cut() -> None:
    text = table(("number", "value"), [(number, None) for number in range(25)])
    page = Page(shown("Numbers", paragraph(""), text))
    assert page.rows[-1] == ["19", "–"]
    assert page.paragraphs == ["and 5 more"]
