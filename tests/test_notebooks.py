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
import torch
from evaluation.made_analysis import made_analysis, made_evaluation
from IPython.core.formatters import DisplayFormatter
from PIL import Image

import detrkit
from detrkit.cards import Category, ModelCard
from detrkit.data import DetectionDataset, read_digits
from detrkit.errors import ConfigurationError
from detrkit.evaluation import Evaluation
from detrkit.notebooks import in_notebook, paragraph, shown, table
from detrkit.prediction import Outcome
from detrkit.training import TrainingResult, dry_run

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


def test_a_model_shows_its_size_and_its_card() -> None:
    model = detrkit.build("light-detr-compact", classes=["cat", "dog"])
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert (
        repr(model) == f"<Detector light-detr-compact: 2 classes, threshold 0.500, {millions:.1f} million parameters>"
    )
    assert str(model) == torch.nn.Module.__repr__(model)
    page = Page(model._repr_html_())
    assert page.paragraphs[0] == f"A detector with {millions:.1f} million parameters:"
    assert page.rows[-2:] == [["cat", "0", "0.500"], ["dog", "1", "0.500"]]


def test_a_dry_run_shows_what_a_run_would_take(digits_folder: Path) -> None:
    outcome = dry_run("light-detr-compact", digits_folder, steps=10, batch_size=2, short_side=64, flip=0.0)
    assert re.fullmatch(
        rf"<DryRun light-detr-compact on {digits_folder}: 2 epochs, 10 steps with batches of 2 images, about \d+ s, \d\.\d GB>",
        repr(outcome),
    )
    page = Page(outcome._repr_html_())
    assert ["length", "2 epochs, 10 steps with batches of 2 images"] in page.rows
    assert ["short_side", "64"] in page.rows
    assert [row for row in page.rows if row[0] == "val_split"] == [
        ["val_split", "val"]
    ]  # the last option is there, too


def test_every_result_is_one_line_of_text(digits_folder: Path) -> None:
    digits = read_digits("val", images=3, size=64)
    model = detrkit.build("light-detr-compact")
    batch = detrkit.ImageBatch(torch.zeros(1, 3, 64, 64), original_sizes=torch.tensor([[64, 64]]))
    targets = [detrkit.Target(torch.tensor([1]), torch.full((1, 4), 0.5))]
    output = model(batch, targets)
    losses = detrkit.criterion_for(model)(output, targets)
    expected = {
        f"<Inspection {digits_folder}: fine": detrkit.inspect_data(digits_folder, quick=True),
        f"<ModelCard light-detr-compact: 80 classes, threshold {model.card.threshold:.3f}>": model.card,
        f"<Objects {len(digits.objects(0))} objects, 0 crowd regions>": digits.objects(0),
        "<DigitImages 3 images of 64 × 64 pixels>": digits.images,
        f"<ImageFiles 5 files in {digits_folder}": detrkit.open_dataset(digits_folder, "val").images,
        "<Outcome 3 of 5 images done, 7 detections, 1 problem, stopped>": Outcome(
            5, 3, 7, problems=["a\nb"], stopped=True
        ),
        "ImageBatch(pixels=<(1, 3, 64, 64) float32>, padding=None, image_ids=None, original_sizes=<(1, 2) int64>)": batch,
        "Target(labels=<(1,) int64>, boxes_cxcywh=<(1, 4) float32>, masks=None)": targets[0],
        "Output(logits=<(2, 1, 30, 91) float32>, boxes_cxcywh=<(2, 1, 30, 4) float32>, proposals=Proposals(": output,
        f"<Losses total {losses.total.item():.3f}, {len(losses.terms)} terms>": losses,
    }
    for begins, result in expected.items():
        assert repr(result).startswith(begins)
        assert "\n" not in repr(result)


def test_an_evaluation_draws_precision_over_recall() -> None:
    evaluation = made_evaluation()
    (axes,) = evaluation.plot().axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    assert list(lines) == ["cat", "dog", "mean of the classes"]
    np.testing.assert_allclose(lines["cat"][:, 0], np.linspace(0, 1, 101))
    np.testing.assert_allclose(lines["cat"][:, 1], evaluation.classes[0].precisions)
    np.testing.assert_allclose(lines["mean of the classes"][-1], (1.0, 0.3))  # of 0.2 and 0.4


def test_an_evaluation_without_precisions_says_so() -> None:
    stored = Evaluation.from_json(made_evaluation().to_json())
    with pytest.raises(ConfigurationError, match="pets val: there is no precision to draw"):
        stored.plot()


def test_an_analysis_draws_what_thresholds_do() -> None:
    analysis = made_analysis()
    (axes,) = analysis.plot().axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(lines["recall"][:, 1], analysis.curve.recall)
    np.testing.assert_allclose(lines["mean F1 of the classes"][:, 1], analysis.mean_f1)
    assert any(np.allclose(points[:, 0], analysis.threshold) for points in lines.values())


def test_figures_show_themselves_on_white_whoever_has_imported_what() -> None:
    """IPython knows matplotlib's figures only where pyplot is in use, so these know it themselves."""
    figures = [made_evaluation().plot(), made_analysis().plot(), TrainingResult(Path("a"), Path("a/b"), None).plot()]
    for figure in figures:
        content = DisplayFormatter().format(figure)[0]["image/png"]
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.width == 500
            assert picture.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
        assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)  # as pyplot's own formatter takes it


def test_a_program_is_no_notebook() -> None:
    assert not in_notebook()
