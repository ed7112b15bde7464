"""Charts of an analysis: curves against the threshold, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from detrkit.evaluation.analysis import Analysis
from detrkit.evaluation.confusion import ConfusionMatrix
from detrkit.evaluation.report.colors import INK, line_color, line_style
from detrkit.evaluation.report.drawing import CHART_WIDTH, chart, finish, legend, plain
from detrkit.evaluation.thresholds import Curve

MAX_CHOICES = 100  # classes whose curves are kept: the curves of a thousand would be megabytes
MAX_COUNTED = 12  # classes whose confusion matrix has room for numbers
MAX_MATRIX = 90  # classes in a confusion matrix
_POINTS = 51


def overall_curve_figure(analysis: Analysis) -> Figure:
    """Precision, recall and F1 of all classes together, the mean F1 of the classes, and the chosen threshold."""
    figure = chart()
    axes = figure.add_subplot()
    _draw_curve(axes, analysis.curve, "")
    if analysis.mean_f1:
        axes.plot(
            analysis.curve.thresholds,
            analysis.mean_f1,
            color=INK,
            linestyle=line_style(3),
            label="mean F1 of the classes",
        )
    _mark_threshold(axes, analysis.threshold, "")
    _finish_curves(axes)
    return figure


def chosen_classes(analysis: Analysis) -> list[int]:
    """Ids of the classes that have curves in a report: those with objects, at most `MAX_CHOICES` with the most, in their order."""
    entries = [entry for entry in analysis.classes if entry.objects and entry.id in analysis.class_curves]
    most = sorted(entries, key=lambda entry: -entry.objects)[:MAX_CHOICES]
    kept = {entry.id for entry in most}
    return [entry.id for entry in entries if entry.id in kept]


def class_curves_figure(analysis: Analysis) -> Figure:
    """The curves of all `chosen_classes` over each other; their lines have the gid "choice-NUMBER-name", so that a page shows one class."""
    thresholds = {entry.id: entry.threshold for entry in analysis.classes}
    figure = chart()
    axes = figure.add_subplot()
    for number, category_id in enumerate(chosen_classes(analysis)):
        _draw_curve(axes, analysis.class_curves[category_id], f"choice-{number}-", named=number == 0)
        _mark_threshold(axes, thresholds[category_id], f"choice-{number}-", named=number == 0)
    _finish_curves(axes)
    return figure


def matrix_classes(confusion: ConfusionMatrix) -> list[int]:
    """Positions of the classes in the picture of a confusion matrix: those that occur, at most `MAX_MATRIX` with the most confusions."""
    counts = np.array(confusion.counts)
    occurs = counts.sum(axis=0) + counts.sum(axis=1) > 0
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    positions = [index for index in range(len(confusion.ids)) if occurs[index]]
    kept = set(sorted(positions, key=lambda index: -wrong[index])[:MAX_MATRIX])
    return [index for index in positions if index in kept]


def confusion_figure(confusion: ConfusionMatrix) -> Figure:
    """The confusion matrix as a picture; the brighter a cell, the larger its share of the row. A few classes get numbers, too."""
    shown = matrix_classes(confusion)
    chosen = [*shown, len(confusion.ids)]
    counts = np.array(confusion.counts)[np.ix_(chosen, chosen)]
    sums = np.array(confusion.counts)[chosen].sum(axis=1, keepdims=True)
    shares = counts / np.maximum(sums, 1)
    names = [plain(confusion.names[index], 16) for index in shown]
    few = len(shown) <= MAX_COUNTED
    side = CHART_WIDTH if few else max(CHART_WIDTH, 2.2 + 0.112 * len(chosen))
    figure = chart(side * 0.92 if not few else max(2.8, 1.6 + 0.34 * len(chosen)), width=side)
    axes = figure.add_subplot()
    # The root makes small shares visible.
    image = axes.imshow(
        shares, cmap="cividis", norm=PowerNorm(0.5, 0, 1), interpolation="none", aspect="auto" if few else "equal"
    )
    size = 9.0 if few else max(6.0, 9.0 - 0.06 * len(chosen))
    axes.set_xticks(range(len(chosen)), [*names, "missed"], rotation=90 if len(chosen) > 5 else 0)
    axes.set_yticks(range(len(chosen)), [*names, "background"])
    finish(axes, "detected as", "true class")
    axes.tick_params(labelsize=size, length=0)
    axes.grid(visible=False)
    if few:
        for (row, column), count in np.ndenumerate(counts):
            color = "black" if shares[row, column] > 0.3 else "white"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02, ticks=[0, 0.05, 0.2, 0.5, 1])
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)
    bar.set_label("share of the row", fontsize=9, color=INK)
    return figure


def confused_pairs(confusion: ConfusionMatrix, most: int = 15) -> list[tuple[str, str, int, float]]:
    """True class, detected class, count and share of the true class's objects, most frequent first."""
    size = len(confusion.ids)
    counts = np.array(confusion.counts).reshape(size + 1, size + 1)
    pairs = [
        (
            confusion.names[row],
            confusion.names[column],
            int(counts[row, column]),
            counts[row, column] / counts[row].sum(),
        )
        for row in range(size)
        for column in range(size)
        if row != column and counts[row, column]
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[3]))[:most]


def _draw_curve(axes: Axes, curve: Curve, prefix: str, *, named: bool = True) -> None:
    step = max(1, (len(curve.thresholds) - 1) // (_POINTS - 1)) if prefix else 1
    lines: Sequence[tuple[str, Sequence[float | None]]] = (
        ("precision", curve.precision),
        ("recall", curve.recall),
        ("F1", curve.f1),
    )
    for number, (name, values) in enumerate(lines):
        if not values:
            continue
        heights = [np.nan if value is None else value for value in values]
        axes.plot(
            curve.thresholds[::step],
            heights[::step],
            color=line_color(number),
            linestyle=line_style(number),
            linewidth=1.8,
            label=name if named else f"_{name}",
            gid=f"{prefix}{name}" if prefix else None,
        )


def _mark_threshold(axes: Axes, threshold: float, prefix: str, *, named: bool = True) -> None:
    label = "threshold" if named else "_threshold"
    axes.axvline(
        threshold, color=INK, linewidth=1, alpha=0.7, label=label, gid=f"{prefix}threshold" if prefix else None
    )


def _finish_curves(axes: Axes) -> None:
    finish(axes, "threshold of the score", "at IoU 0.50")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    legend(axes, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
