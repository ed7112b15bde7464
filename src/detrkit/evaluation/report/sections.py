"""One HTML file with everything in it: figures, curves, pictures. It loads nothing else, so it can be mailed and archived."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv
from jinja2 import Environment, PackageLoader
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from detrkit.data.dataset import DetectionDataset
from detrkit.evaluation.figures import MEANINGS, Evaluation, shown_value
from detrkit.files import write_text
from detrkit.prediction.drawing import side_by_side, truth_of

LINE_COLORS = ("#1971C2", "#D9480F", "#2B8A3E", "#7048E8", "#D6336C", "#0B7285", "#8F5A00", "#5F7A00")
MAX_NAMED_CURVES = len(LINE_COLORS)


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        columns: headings.
        rows: one cell for each column.
        folded: whether it stays hidden until a reader unfolds it.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a report under one heading, shown in the order of the attributes.

    Attributes:
        title: the heading.
        paragraphs: plain text.
        pictures: photos (kept as JPEG) and diagrams (kept as PNG).
        tables: below the pictures.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    pictures: tuple[Image.Image | Figure, ...] = ()
    tables: tuple[Table, ...] = ()


def write_report(path: str | Path, title: str, sections: Iterable[Section]) -> Path:
    """Writes a report as one self-contained HTML file.

    Args:
        path: of the file.
        title: of the whole report.
        sections: its parts, in order.

    Raises:
        OutputError: the file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("detrkit.evaluation", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = _data_uri
    environment.tests["diagram"] = lambda picture: isinstance(picture, Figure)
    page = environment.get_template("report.html.jinja").render(title=title, sections=list(sections))
    return write_text(Path(path), page)


def evaluation_sections(evaluation: Evaluation) -> list[Section]:
    """The figures of an evaluation and its classes, as two sections of a report."""
    rows = tuple((name, shown_value(name, value), MEANINGS[name]) for name, value in evaluation.figures.items())
    paragraphs = [evaluation.basis()]
    if evaluation.best_threshold is not None:
        paragraphs.append(
            f"Keeping detections from score {evaluation.best_threshold:.3f} gives the best mean F1 (IoU 0.50)."
        )
    figures = Section(
        f"Figures: {evaluation.name}",
        (*paragraphs, *evaluation.notes),
        tables=(Table(("figure", "value", "meaning"), rows),),
    )
    measured = [entry for entry in evaluation.classes if entry.ap is not None]
    if not measured:
        return [figures]
    missing = len(evaluation.classes) - len(measured)
    note = (f"{missing} of {len(evaluation.classes)} classes have no objects here, so no figures.",) if missing else ()
    class_rows = tuple(
        (
            entry.name,
            str(entry.id),
            str(entry.objects),
            *(f"{value:.3f}" for value in (entry.ap, entry.ap50) if value is not None),
        )
        for entry in measured
    )
    table = Table(("class", "category id", "objects", "AP", "AP50"), class_rows, folded=True)
    return [
        figures,
        Section("Classes", note, (class_figure(evaluation), precision_recall_figure(evaluation)), (table,)),
    ]


def training_section(rows: Sequence[Mapping[str, float | None]]) -> Section:
    """The losses and figures of every epoch, as a section of a report.

    Args:
        rows: as for `curves_figure`.
    """
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    cells = tuple(tuple(_short(row.get(name)) for name in columns) for row in rows)
    return Section("Training", (), (curves_figure(rows),), (Table(columns, cells, folded=True),))


def example_pictures(
    dataset: DetectionDataset, entries: Iterable[Mapping[str, Any]], *, threshold: float, count: int = 8
) -> tuple[Image.Image, ...]:
    """Predictions beside the ground truth, for images that are evenly spaced in a data set.

    Args:
        dataset: the images and their ground truth.
        entries: COCO result entries with the data set's ids, from a model or a file.
        threshold: score from which a detection is drawn.
        count: maximum number of pictures.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int))
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        if entry["score"] >= threshold:
            by_image[entry["image_id"]].append(entry)
    return tuple(
        side_by_side(
            dataset.image(index),
            _detections_of(by_image[int(dataset.image_ids[index])], dataset),
            truth_of(dataset, index),
        )
        for index in chosen.tolist()
    )


def _detections_of(entries: Sequence[Mapping[str, Any]], dataset: DetectionDataset) -> sv.Detections:
    names = {category.id: category.name for category in dataset.categories}
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return sv.Detections(
        xyxy=boxes,
        confidence=np.array([entry["score"] for entry in entries], dtype=np.float64),
        class_id=np.array([entry["category_id"] for entry in entries], dtype=np.int64),
        data={"class_name": np.array([names[entry["category_id"]] for entry in entries], dtype=str)},
    )


def curves_figure(rows: Sequence[Mapping[str, float | None]]) -> Figure:
    """The total loss, its parts, and AP over the epochs, each in its own panel.

    Args:
        rows: one per epoch, with `epoch`, `loss`, parts of it (names that end in "_loss"), `AP`, `AP50` and `AP75`; all but `epoch` may be
            missing or None. Other columns are not drawn.
    """
    names = list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))
    panels = {
        "loss": [name for name in names if name == "loss"],
        "loss of the last layer": [name for name in names if name.endswith("_loss")],
        "average precision": [name for name in names if name in ("AP", "AP50", "AP75")],
    }
    panels = {label: columns for label, columns in panels.items() if columns}
    figure = Figure(figsize=(4.6 * max(1, len(panels)), 3.2), layout="constrained")
    for panel, (label, columns) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), panel)
        for number, column in enumerate(columns):
            points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
            marker = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), color=_line_color(number), label=column, marker=marker, markersize=3)
        _finish(axes, "epoch", label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
    return figure


def class_figure(evaluation: Evaluation) -> Figure:
    """AP and AP50 of each class that has ground truth, best first."""
    entries = sorted(
        (entry for entry in reversed(evaluation.classes) if entry.ap is not None), key=lambda entry: entry.ap or 0.0
    )
    figure = Figure(figsize=(7.5, 1.2 + 0.24 * len(entries)), layout="constrained")
    axes = figure.add_subplot()
    heights = np.arange(len(entries))
    axes.barh(heights, [entry.ap50 or 0.0 for entry in entries], height=0.75, color="#BBD6EE", label="AP50")
    axes.barh(heights, [entry.ap or 0.0 for entry in entries], height=0.75, color=LINE_COLORS[0], label="AP")
    axes.set_yticks(heights, [f"{entry.name} ({entry.objects})" for entry in entries])
    axes.set(xlim=(0, 1), ylim=(-0.6, len(entries) - 0.4))
    _finish(axes, "average precision", "class (objects)")
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure


def precision_recall_figure(evaluation: Evaluation) -> Figure:
    """Precision over recall at IoU 0.50 of each class, and their mean. A few classes are named; if there are many, all are grey."""
    entries = [entry for entry in evaluation.classes if entry.precisions]
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    recalls = np.linspace(0, 1, len(entries[0].precisions)) if entries else np.zeros(0)
    named = len(entries) <= MAX_NAMED_CURVES
    for number, entry in enumerate(entries):
        style = (
            {"color": _line_color(number), "label": entry.name}
            if named
            else {"color": "#999999", "alpha": 0.35, "linewidth": 0.8}
        )
        axes.plot(recalls, entry.precisions, **style)
    if len(entries) > 1:
        axes.plot(
            recalls,
            np.mean([entry.precisions for entry in entries], axis=0),
            color="black",
            linewidth=2,
            label="mean of the classes",
        )
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    _finish(axes, "recall (IoU 0.50)", "precision")
    if entries:
        axes.legend(frameon=False, fontsize=8)
    return figure


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _line_color(number: int) -> str:
    return LINE_COLORS[number % len(LINE_COLORS)]


def _finish(axes: Axes, horizontal: str, vertical: str) -> None:
    axes.set_xlabel(horizontal, fontsize=9)
    axes.set_ylabel(vertical, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def _data_uri(picture: Image.Image | Figure) -> str:
    buffer = BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(buffer, format="png", dpi=150)
        kind = "png"
    else:
        picture.convert("RGB").save(buffer, format="JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
