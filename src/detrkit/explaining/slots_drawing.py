"""What the queries of a model are for, as a figure: a square for each query, with the centres of its boxes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from detrkit.evaluation.report.colors import INK, LINE_COLORS
from detrkit.evaluation.report.drawing import chart, finish, on_white, plain
from detrkit.explaining.records import Floats
from detrkit.explaining.slots import QueryUses
from detrkit.explaining.writing import JSON_FILE, write_arrays, write_figure
from detrkit.files import write_json

SMALL = 0.2  # root of the share of an image's area below which a box is small
# Of small boxes, wide ones and tall ones: the marker says it, too.
KINDS = (("small box", LINE_COLORS[2], "."), ("wide box", LINE_COLORS[1], "_"), ("tall box", LINE_COLORS[0], "|"))
_MOST = 200  # boxes that are drawn of each query
_NAMED = 144  # queries, at most, whose commonest class is written into their squares
_GAP = 0.12  # between squares
_TEXT = 8.0


def uses_figure(uses: QueryUses) -> Figure:
    """A square for each query with the centres of its boxes, strong where it found something; below, how often each did. Notebooks show the figure.

    Args:
        uses: what the queries did.
    """
    queries = len(uses.counts)
    columns = math.ceil(math.sqrt(queries * 1.3))
    rows = math.ceil(queries / columns)
    wide = float(np.clip(columns * 0.75, 7, 18))
    figure = chart(wide * rows / columns + 2.4, width=wide)
    squares, bars = figure.subplots(2, 1, height_ratios=(wide * rows / columns, 1.6))
    _draw_squares(squares, uses, columns)
    figure.suptitle(plain(uses.sentence(), 160), fontsize=_TEXT, color=INK)
    bars.bar(range(queries), np.sort(uses.counts)[::-1], color=LINE_COLORS[0], width=0.9)
    finish(bars, "ranks of proposals, most used first" if uses.ranks else "queries, most used first", "images")
    return on_white(figure)


def kind_of(boxes_cxcywh: Floats) -> NDArray[np.int64]:
    """(N,) 0 for small boxes, 1 for wide and 2 for tall ones, of boxes (N, 4) as fractions of their images."""
    small = np.sqrt(np.prod(boxes_cxcywh[:, 2:], axis=1)) < SMALL
    return np.where(small, 0, np.where(boxes_cxcywh[:, 2] >= boxes_cxcywh[:, 3], 1, 2))


def write_uses(uses: QueryUses, folder: Path) -> tuple[Path, Path]:
    """Writes the figure, the numbers, and the boxes of all images.

    Args:
        uses: what the queries did.
        folder: for the files.

    Returns:
        The files of the figure and of the numbers.

    Raises:
        OutputError: a file cannot be written.
    """
    arrays = {"boxes_cxcywh": uses.boxes_cxcywh, "found": uses.found, "classes": uses.classes}
    stored = write_arrays(folder / "queries.npz", arrays)
    numbers: dict[str, Any] = {**uses.to_json(), "arrays": stored.name}
    return write_figure(folder / "queries.png", uses_figure(uses)), write_json(folder / JSON_FILE, numbers)


def _draw_squares(axes: Axes, uses: QueryUses, columns: int) -> None:
    """The squares in one axes, since hundreds of axes would take a minute."""
    queries, step = len(uses.counts), 1 + _GAP
    corners = np.array([(query % columns * step, query // columns * (step + _GAP)) for query in range(queries)])
    frame = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
    axes.add_collection(LineCollection(corners[:, None] + frame, colors="#C8CDD2", linewidths=0.6))
    # Some of the images, evenly spread.
    chosen = np.unique(np.linspace(0, len(uses.found) - 1, min(_MOST, len(uses.found))).round().astype(int))
    boxes, found = uses.boxes_cxcywh[chosen], uses.found[chosen]
    places = np.broadcast_to(corners, (len(chosen), queries, 2)) + np.clip(boxes[..., :2], 0, 1)
    known = ~np.isnan(boxes[..., 0])
    boxes, places, found = boxes[known], places[known], found[known]
    kinds = kind_of(boxes)
    for kind, (name, color, marker) in enumerate(KINDS):
        for strong in (False, True):
            shown = places[(kinds == kind) & (found == strong)]
            look: dict[str, Any] = {"alpha": 0.9, "s": 14, "label": name} if strong else {"alpha": 0.18, "s": 6}
            axes.scatter(shown[:, 0], shown[:, 1], color=color, marker=marker, linewidths=0.8, **look)
    _write_names(axes, uses, corners)
    axes.set_xlim(-_GAP, columns * step)
    axes.set_ylim(float(corners[:, 1].max()) + 1 + _GAP, -2 * _GAP)
    axes.set_aspect("equal")
    axes.set_axis_off()
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=color, label=name) for name, color, marker in KINDS
    ]
    title = "where the boxes' centres lie; strong: a detection was reported"
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.01),
        ncols=3,
        frameon=False,
        fontsize=_TEXT,
        labelcolor=INK,
        title=title,
        title_fontsize=_TEXT,
    )


def _write_names(axes: Axes, uses: QueryUses, corners: NDArray[np.float64]) -> None:
    """The number of each query above its square, and its commonest class."""
    named = len(corners) <= _NAMED
    for query, (left, top) in enumerate(corners):
        name = ""
        if named and uses.classes[query].any():
            name = f" {plain(uses.categories[int(uses.classes[query].argmax())].name, 9)}"
        axes.text(left, top - 0.02, f"{query}{name}", fontsize=5 if named else 3.5, color=INK, va="bottom")
