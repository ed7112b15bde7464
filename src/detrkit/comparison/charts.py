"""AP against epochs and minutes, and the differences with their intervals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from detrkit.comparison.differences import Difference
from detrkit.comparison.figures import ContestantFigures, Training
from detrkit.comparison.lengths import epochs_at
from detrkit.evaluation.report.colors import INK, MARKERS, PAPER, line_color, line_style
from detrkit.evaluation.report.drawing import chart, finish, legend, plain

_MARKED_POINTS = 30
_LONGEST_NAME = 40


def course_figure(contestants: Sequence[ContestantFigures], unit: str) -> Figure:
    """AP of every training against its length; the trainings of a contestant have the same colour.

    Args:
        contestants: those without a course are left out, and keep their colour.
        unit: "epochs", or "minutes" of training without evaluations.
    """
    figure = chart(3.0 + 0.2 * len(contestants))
    axes = figure.add_subplot()
    for number, contestant in enumerate(contestants):
        label = plain(contestant.name, _LONGEST_NAME)
        for training in contestant.finished:
            points = course_points(training, unit)
            if not points:
                continue
            axes.plot(
                *zip(*points, strict=True),
                color=line_color(number),
                linestyle=line_style(number),
                marker=MARKERS[number % len(MARKERS)] if len(points) < _MARKED_POINTS else None,
                markersize=3.5,
                label=label,
                clip_on=False,
            )
            label = f"_{label}"  # named once
    finish(axes, unit, "AP")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=1)  # names may be long
    return figure


def course_points(training: Training, unit: str) -> list[tuple[float, float]]:
    """Length and AP after each epoch that was evaluated.

    Args:
        training: with its course.
        unit: as for `course_figure`.
    """
    rows = training.course
    if unit == "epochs":
        lengths = [epochs_at(row, training.epoch_steps) for row in rows]
    else:
        lengths = list(itertools.accumulate(row.get("seconds", 0.0) / 60 for row in rows))
    return [(length, row["AP"]) for length, row in zip(lengths, rows, strict=True) if "AP" in row]


def difference_figure(differences: Sequence[Difference]) -> Figure:
    """The differences of all pairs with their intervals, and the line of no difference.

    Args:
        differences: each with an interval.
    """
    figure = chart(1.0 + 0.62 * len(differences))
    axes = figure.add_subplot()
    heights = np.arange(len(differences))[::-1]
    for height, each in zip(heights.tolist(), differences, strict=True):
        assert each.interval is not None
        color = line_color(0) if each.better is not None else INK
        axes.plot((each.interval.low, each.interval.high), (height, height), color=color, linewidth=2.5)
        axes.plot(each.ap, height, "o" if each.better is not None else "D", color=color, markersize=6)
        axes.annotate(
            f"{plain(each.first, _LONGEST_NAME)} − {plain(each.second, _LONGEST_NAME)}",
            (0.0, height + 0.18),
            xycoords=("axes fraction", "data"),
            va="bottom",
            fontsize=9,
            color=INK,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},  # over the line of no difference
        )
    axes.axvline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks([])
    axes.set_ylim(-0.5, len(differences) - 0.2)
    finish(axes, "difference of AP", "")
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.05)
    return figure
