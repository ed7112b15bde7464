"""The table of a study, and AP against epochs and minutes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Group, RenderableType

from detrkit.evaluation.report.colors import line_style
from detrkit.measures import AP
from detrkit.studies.study import PACE, Column, Figures, Results, Study
from detrkit.terminal import Prose, add_numbers, narrow_table

_PANEL = (4.6, 3.9)  # inches
_PANELS_IN_A_ROW = 3
_LEAST_NAME, _GAP = 20, 2  # characters of a trial's name before it folds, and between columns
_WIDTH = 80 - _LEAST_NAME
_COLORS = 10  # of matplotlib's own cycle


def study_table(study: Study, results: Results) -> Group:
    """For a terminal: the means of all seeds, in as many tables below each other as its width needs."""
    parts: list[RenderableType] = []
    for columns in _that_fit(shown_columns(study, results)):
        table = narrow_table("" if parts else study.title)
        table.add_column("", overflow="fold", min_width=_LEAST_NAME)
        add_numbers(table, *(column.title for column in columns))
        for name, runs in results.items():
            table.add_row(name, *(column.mean(runs) for column in columns))
        parts.append(table)
    return Group(*parts, Prose(f"What the papers say: {study.claim}"))


def _that_fit(columns: Sequence[Column]) -> Iterator[list[Column]]:
    """The columns in parts whose titles need not be cut in a terminal of usual width."""
    part: list[Column] = []
    for column in columns:
        if part and sum(len(each.title) + _GAP for each in [*part, column]) > _WIDTH:
            yield part
            part = []
        part.append(column)
    if part:
        yield part


def markdown_table(study: Study, results: Results) -> str:
    """The same for a document, with the figure of each seed behind the mean."""
    columns = shown_columns(study, results)
    rows = [["", *(column.title for column in columns)], ["---"] * (1 + len(columns))]
    rows += [[name, *(column.each(runs) for column in columns)] for name, runs in results.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def shown_columns(study: Study, results: Results) -> list[Column]:
    """The columns of which any trial has a figure."""
    return [column for column in study.columns if any(column.values(runs) for runs in results.values())]


def draw_curves(study: Study, results: Results, target: Path, *, title: str | None = None) -> None:
    """AP against epochs and against minutes, and the study's measures against epochs: the seeds' means thick, each seed thin.

    Args:
        study: whose results they are.
        results: of its trials.
        target: PNG file.
        title: another title than the study's.
    """
    panels = [(AP, "epoch"), (AP, "minutes"), *((measure, "epoch") for measure in study.panels)]
    rows = -(-len(panels) // _PANELS_IN_A_ROW)
    columns = min(len(panels), _PANELS_IN_A_ROW)
    legend_rows = -(-len(results) // columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows + 0.25 * legend_rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for (measure, against), each in zip(panels, axes, strict=False):
        for number, (name, runs) in enumerate(results.items()):
            _draw(each, [_points(run, measure.column, against) for run in runs], name, number)
        each.set(xlabel=against, ylabel=measure.name)
        if against == "epoch":
            each.xaxis.set_major_locator(MaxNLocator(integer=True))
        each.grid(alpha=0.3)
    for each in axes[len(panels) :]:
        each.set_visible(False)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title or study.title)
    figure.savefig(target, dpi=110, facecolor="white")


def _points(run: Figures, column: str, against: str) -> list[tuple[float, float]]:
    """Where a measure stood after each epoch that has it."""
    minutes_a_step = run[PACE] / 60
    return [
        (row["epoch"] if against == "epoch" else row["step"] * minutes_a_step, row[column])
        for row in run["log"]
        if column in row
    ]


def _draw(axes: Axes, curves: Sequence[list[tuple[float, float]]], name: str, number: int) -> None:
    if not all(curves):
        axes.plot([], [], color=f"C{number % _COLORS}", label=name)
        return
    color, style = f"C{number % _COLORS}", line_style(number // _COLORS)
    if len(curves) > 1:
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=color, alpha=0.3, linewidth=0.9, linestyle=style)
    means = [
        [statistics.fmean(values) for values in zip(*places, strict=True)] for places in zip(*curves, strict=False)
    ]
    axes.plot(
        *zip(*means, strict=True), color=color, linestyle=style, marker="." if len(means) == 1 else None, label=name
    )
