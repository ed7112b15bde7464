"""Charts of training and of figures; all take the page's colours and can be read without colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from detrkit.evaluation.figures import Evaluation
from detrkit.evaluation.report.colors import INK, LINE_COLORS, MARKERS, line_color, line_style
from detrkit.evaluation.report.drawing import chart, finish, legend, plain
from detrkit.measures import AP, LAYERED, LEARNING_RATE, LOSS, MASK_AP, PQ, REPEATED_SHARE, Measure, layer_of, name_of

MAX_NAMED_CURVES = len(LINE_COLORS)
_CLOSEST_LABELS = 0.075  # of the height of a chart
_MARKED_POINTS = 30
_LEGEND_WIDTH = 64  # letters beside each other in a chart
LAST_LAYER = "loss of the last layer"


def _layers_of(measure: Measure) -> Callable[[str], bool]:
    """Whether a column is of a layer."""
    return lambda name: layer_of(name, measure) is not None


# What the charts of a run show: a label, and which columns of the log belong to it.
_PANELS: dict[str, Callable[[str], bool]] = {
    LOSS.name: lambda name: name == LOSS.column,
    LAST_LAYER: lambda name: name.endswith("_loss"),
    AP.name: lambda name: name in (AP.column, "AP50", "AP75", MASK_AP.column),
    PQ.name: lambda name: name == PQ.column,
    REPEATED_SHARE.name: lambda name: name == REPEATED_SHARE.column,
    **{measure.name: _layers_of(measure) for measure in LAYERED},
    LEARNING_RATE.name: lambda name: name == LEARNING_RATE.column,
}

Rows = Sequence[Mapping[str, float | None]]


def curves_figure(rows: Rows) -> Figure:
    """What a run measures over the epochs, below each other in one picture that a phone has room for.

    From the top: the total loss, its parts, AP, panoptic quality, repeated detections, what a watched run measures of each decoder layer, and the
    learning rate.

    Args:
        rows: one per epoch, with `epoch`, `loss`, parts of it (names that end in "_loss"), `AP`, `AP50`, `AP75`, `mask_AP`, `PQ`,
            `repeated_share`, those of `LAYERED` with the number of a layer behind them, and `learning_rate`; all but `epoch` may be missing or None. Other columns are not drawn.
    """
    panels = _panels(rows)
    figure = chart(2.5 * max(1, len(panels)))
    for number, (label, columns) in enumerate(panels.items(), start=1):
        _draw_rows(figure.add_subplot(len(panels), 1, number), rows, label, columns)
    return figure


def training_curves(rows: Rows) -> dict[str, Figure]:
    """The panels of `curves_figure`, each as a figure of its own, by what it shows."""
    figures = {}
    for label, columns in _panels(rows).items():
        figures[label] = chart()
        _draw_rows(figures[label].add_subplot(), rows, label, columns)
    return figures


def class_figure(evaluation: Evaluation, intervals: Mapping[int, tuple[float, float]] | None = None) -> Figure:
    """AP and AP50 of each class that has ground truth, best first.

    Args:
        evaluation: its classes are drawn.
        intervals: lowest and highest AP that the images allow, by category id.
    """
    entries = sorted(
        (entry for entry in reversed(evaluation.classes) if entry.ap is not None), key=lambda entry: entry.ap or 0.0
    )
    figure = chart(1.1 + 0.21 * len(entries))
    axes = figure.add_subplot()
    heights = np.arange(len(entries))
    for height, entry in zip(heights, entries, strict=True):
        if intervals and entry.id in intervals:
            axes.plot(intervals[entry.id], (height, height), color=line_color(0), linewidth=3, alpha=0.35)
    axes.plot([entry.ap or 0.0 for entry in entries], heights, "o", color=line_color(0), markersize=5, label="AP")
    axes.plot(
        [entry.ap50 or 0.0 for entry in entries],
        heights,
        "D",
        color=line_color(1),
        markersize=4,
        label="AP50",
        fillstyle="none",
    )
    axes.set_yticks(heights, [f"{plain(entry.name)} ({entry.objects})" for entry in entries])
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.7, len(entries) - 0.3))
    finish(axes, AP.name, "")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=9, labelcolor=INK
    )
    return figure


def precision_recall_figure(evaluation: Evaluation) -> Figure:
    """Precision over recall at IoU 0.50 of each class, and their mean. A few classes are named; if there are many, all are grey."""
    entries = [entry for entry in evaluation.classes if entry.precisions]
    figure = chart()
    axes = figure.add_subplot()
    recalls = np.linspace(0, 1, len(entries[0].precisions)) if entries else np.zeros(0)
    named = len(entries) <= MAX_NAMED_CURVES
    for number, entry in enumerate(entries):
        style = (
            {"color": line_color(number), "linestyle": line_style(number), "label": plain(entry.name)}
            if named
            else {"color": INK, "alpha": 0.18, "linewidth": 0.7}
        )
        axes.plot(recalls, entry.precisions, **style)
    if len(entries) > 1:
        mean = np.mean([entry.precisions for entry in entries], axis=0)
        axes.plot(recalls, mean, color=INK, linewidth=2.4, label="mean of the classes")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    finish(axes, "recall (IoU 0.50)", "precision")
    longest = max(
        (len(str(line.get_label())) for line in axes.lines if not str(line.get_label()).startswith("_")), default=0
    )
    columns = max(1, min(3, _LEGEND_WIDTH // (longest + 6)))  # a line and gaps are as wide as six letters
    legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=columns)  # below, since curves are everywhere
    return figure


def bars_figure(bars: Sequence[tuple[str, float, str]], label: str, *, numbers: Sequence[int] | None = None) -> Figure:
    """A few horizontal bars, the first on top.

    Args:
        bars: name, length, and the text at its end.
        label: of the axis.
        numbers: which of the line colours each bar has; by default all have the first.
    """
    figure = chart(0.8 + 0.36 * len(bars))
    axes = figure.add_subplot()
    heights = np.arange(len(bars))[::-1]
    lengths = [length for _, length, _ in bars]
    colors = [line_color(number) for number in numbers or [0] * len(bars)]
    axes.barh(heights, lengths, height=0.62, color=colors)
    for height, (_, length, text) in zip(heights, bars, strict=True):
        axes.annotate(text, (length, height), (4, 0), textcoords="offset points", va="center", fontsize=9, color=INK)
    axes.set_yticks(heights, [plain(name) for name, _, _ in bars])
    axes.set_xlim(0, (max(lengths, default=0) or 1) * 1.02)
    finish(axes, label, "")
    axes.grid(axis="y", visible=False)
    return figure


def name_line_ends(axes: Axes) -> None:
    """Writes the name of each line at its right end, behind a dot in its colour, far enough from each other."""
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    low, high = axes.get_ylim()
    wanted = [(float(np.asarray(line.get_ydata())[-1]) - low) / (high - low) for line in lines]
    for line, height in zip(lines, spread(wanted, _CLOSEST_LABELS), strict=True):
        # Not all colours are dark or light enough for letters.
        for text, right, color, size in (("●", 4, line.get_color(), 6), (str(line.get_label()), 12, INK, 9)):
            axes.annotate(
                text,
                (1.0, height),
                (right, 0),
                xycoords="axes fraction",
                textcoords="offset points",
                va="center",
                fontsize=size,
                color=color,
            )


def spread(wanted: Sequence[float], distance: float) -> list[float]:
    """Heights close to the wanted ones, in the same order, with at least this distance between neighbours; in [0, 1] if there is room."""
    order = np.argsort(wanted, kind="stable")
    heights = np.asarray(wanted, dtype=float)[order]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + distance)
    if len(heights) and heights[-1] > 1:
        heights[-1] = 1.0
        for index in range(len(heights) - 2, -1, -1):
            heights[index] = min(heights[index], heights[index + 1] - distance)
    placed = np.empty(len(heights))
    placed[order] = heights
    return [float(height) for height in placed]


def _panels(rows: Rows) -> dict[str, list[str]]:
    names = list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))
    panels = {label: [name for name in names if belongs(name)] for label, belongs in _PANELS.items()}
    return {label: columns for label, columns in panels.items() if columns}


def _draw_rows(axes: Axes, rows: Rows, label: str, columns: Sequence[str]) -> None:
    for number, column in enumerate(columns):
        points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
        marker = MARKERS[number % len(MARKERS)] if len(points) < _MARKED_POINTS else None
        axes.plot(
            *zip(*points, strict=True),
            color=line_color(number),
            linestyle=line_style(number),
            label=_line_name(label, column),
            marker=marker,
            markersize=3.5,
            clip_on=False,  # else the highest marker may be cut in half
        )
    finish(axes, "epoch", label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    epochs = [row["epoch"] or 0.0 for row in rows] or [0.0, 1.0]
    room = 0.02 * (max(epochs) - min(epochs)) or 0.5  # a single epoch stands in the middle
    axes.set_xlim(min(epochs) - room, max(epochs) + room)
    if axes.dataLim.y0 < 0:  # zero is the largest that it can be
        axes.set_ylim(top=0)
    else:
        axes.set_ylim(bottom=0)
    if len(columns) > 1:
        name_line_ends(axes)


def _line_name(label: str, column: str) -> str:
    """The name of a column in the chart with this label, which need not be said again."""
    name = name_of(column).replace("_", " ")
    return f"layer {name.removeprefix(label).strip()}" if label in {measure.name for measure in LAYERED} else name
