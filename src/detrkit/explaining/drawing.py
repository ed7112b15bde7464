"""Explanations as figures: the photo in grey, what was looked at in colour. Everything is in pixels of the original picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from detrkit.evaluation.report.colors import INK, LINE_COLORS, MARKERS, line_color
from detrkit.evaluation.report.drawing import chart, finish, legend, on_white, plain
from detrkit.explaining.records import (
    ExplainedQuery,
    ExplainedToken,
    Explanation,
    Floats,
    LayerLook,
    Maps,
    Points,
    Start,
)

BOX, MAP, REFERENCE, START, SALIENT = LINE_COLORS[0], LINE_COLORS[1], LINE_COLORS[3], LINE_COLORS[4], LINE_COLORS[2]
_CELL = 1.5  # inches of the wider side of a small picture
_TOP = 2.9  # inches of the row above them
_LARGEST = 640  # pixels of a photo's longer side as it is drawn
_LARGEST_POINT = 40  # square points of the area of the heaviest point
_TEXT = 8.0


@dataclass(frozen=True, eq=False)
class Wanted:
    """An annotated object that a query is compared with.

    Attributes:
        box_xyxy: (4,) in pixels.
        ious: (L,) of the query's boxes with it.
        sentence: what became of it.
    """

    box_xyxy: Floats
    ious: Floats
    sentence: str


def query_figure(explanation: Explanation, query: ExplainedQuery, wanted: Wanted | None = None) -> Figure:
    """How a query came to its box, and below it where each layer (row) and head (column) looked. Notebooks show the figure.

    Args:
        explanation: has the picture and the classes.
        query: one of its queries.
        wanted: an object that it is compared with; None for none.
    """
    photo, columns = Photo.of(explanation.picture), _columns(query.looks)
    figure, rows = _grid(explanation, max(1, len(columns)), len(query.looks))
    top = rows[0].subgridspec(1, 2, width_ratios=(1, 1.2))
    _draw_way(way := figure.add_subplot(top[0]), photo, explanation, query)
    _draw_scores(scores := figure.add_subplot(top[1]), explanation, query)
    if wanted is not None:
        _draw_wanted(figure, way, scores, wanted)
    for row, look in zip(rows[1:], query.looks, strict=True):
        prediction = query.predictions[look.layer] if query.looked_in == "decoder" else query.predictions[-1]
        name = plain(explanation.categories[prediction.label].name)
        said = f"\n{name} {prediction.scores[prediction.label]:.2f}" if query.looked_in == "decoder" else ""
        _draw_look(figure, row, photo, look, columns, f"{query.looked_in}\nlayer {look.layer}{said}", query)
    _explain_colors(figure, query.looks)
    return on_white(figure)


def place_figure(explanation: Explanation) -> Figure:
    """What the encoder's tokens at a place looked at: a row for each layer of the token of each level. Notebooks show the figure.

    Args:
        explanation: of a place.
    """
    place = explanation.place
    if place is None:
        raise ValueError("this explanation is of queries: draw each with query_figure")
    looks = [(token, look) for token in place.tokens for look in token.looks]
    photo, columns = Photo.of(explanation.picture), _columns([look for _, look in looks])
    figure, rows = _grid(explanation, max(1, len(columns)), len(looks))
    axes = figure.add_subplot(rows[0])
    show_photo(axes, photo, pale=False)
    for token in place.tokens:
        _mark_token(axes, token)
    axes.plot(*place.xy, marker="+", color=INK, markersize=14, linestyle="none", label="place")
    axes.set_title("the encoder's tokens at the place", fontsize=_TEXT + 1, color=INK)
    legend(axes, loc="center left", bbox_to_anchor=(1.02, 0.5))
    for row, (token, look) in zip(rows[1:], looks, strict=True):
        level = "" if token.level is None else f"\nlevel {token.level}"
        _draw_look(figure, row, photo, look, columns, f"encoder\nlayer {look.layer}{level}", token)
    _explain_colors(figure, [look for _, look in looks])
    return on_white(figure)


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture as it is drawn, which is made once for all of a figure.

    Attributes:
        colored: (h, w, 3) in [0, 1], a little paler than the picture.
        pale: (h, w, 3) in [0, 1], in pale grey, so that colours on it can be seen.
        size: width and height of the picture in pixels.
    """

    colored: Floats
    pale: Floats
    size: tuple[int, int]

    @classmethod
    def of(cls, picture: Image.Image) -> Photo:
        """Makes it of a picture in RGB."""
        small = picture.copy()
        small.thumbnail((_LARGEST, _LARGEST))
        grey = small.convert("L").convert("RGB")
        return cls(_paler(small, 0.85), _paler(grey, 0.65), picture.size)


def _paler(picture: Image.Image, strength: float) -> Floats:
    """(h, w, 3) in [0, 1], nearer to white the lower the strength."""
    pixels = 1 - (1 - np.asarray(picture, dtype=np.float32) / 255) * strength
    return pixels.astype(np.float32)


def show_photo(axes: Axes, photo: Photo, *, pale: bool = True) -> None:
    """A photo; the axes have the pixels of its original.

    Args:
        axes: to draw on.
        photo: what is shown.
        pale: whether it is in pale grey.
    """
    width, height = photo.size
    axes.imshow(photo.pale if pale else photo.colored, extent=(0, width, height, 0), interpolation="nearest")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_box(axes: Axes, box_xyxy: Floats, color: str, **options: Any) -> None:
    """A box in pixels.

    Args:
        axes: to draw on.
        box_xyxy: (4,).
        color: of its line.
        **options: as for matplotlib's `Rectangle`.
    """
    left, top, right, bottom = box_xyxy.tolist()
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, **options))


def combined(maps: Maps, head: int | None) -> Floats:
    """All levels as one map with the cells of the finest, (h, w), which sums to what the levels sum to.

    Args:
        maps: of some heads.
        head: place of one of them; None is their mean.
    """
    weights = [each.mean(0) if head is None else each[head] for each in maps.weights]
    height, width = max(each.shape[0] for each in weights), max(each.shape[1] for each in weights)
    total = np.zeros((height, width), dtype=np.float32)
    for each in weights:
        lines, columns = (np.arange(side) * own // side for side, own in zip((height, width), each.shape, strict=True))
        shares = np.bincount(lines, minlength=each.shape[0])[:, None] * np.bincount(columns, minlength=each.shape[1])
        total += (each / shares)[lines[:, None], columns]
    return total


def draw_map(axes: Axes, values: Floats, size: tuple[int, int]) -> None:
    """A map over a photo: the more, the less of the photo is seen.

    Args:
        axes: with the photo.
        values: (h, w), not negative.
        size: width and height of the photo.
    """
    strength = (values / max(float(values.max()), 1e-12)) ** 0.7 * 0.9
    colored = np.empty((*values.shape, 4), dtype=np.float32)
    colored[..., :3], colored[..., 3] = to_rgb(MAP), strength
    axes.imshow(colored, extent=(0, size[0], size[1], 0), interpolation="nearest")


def draw_points(axes: Axes, points: Points, head: int | None) -> None:
    """Points, the larger the more they count; levels differ in colour and shape.

    Args:
        axes: with the photo.
        points: of some heads.
        head: place of one of them; None draws those of all.
    """
    xy, weights = (points.xy, points.weights) if head is None else (points.xy[[head]], points.weights[[head]])
    levels = np.zeros(xy.shape[1], dtype=np.int64) if points.levels is None else points.levels
    heaviest = max(float(weights.max()), 1e-12)
    for level in np.unique(levels):
        of_level, counts = xy[:, levels == level].reshape(-1, 2), weights[:, levels == level].ravel()
        axes.scatter(
            of_level[:, 0],
            of_level[:, 1],
            s=_LARGEST_POINT * counts / heaviest,
            color=line_color(level),
            marker=MARKERS[level % len(MARKERS)],
            alpha=0.75,
            linewidths=0,
        )


def _grid(explanation: Explanation, columns: int, rows: int) -> tuple[Figure, list[Any]]:
    """A figure with a row for the overview and `rows` of small pictures; and the places of the rows."""
    width, height = explanation.picture.size
    cell_width, cell_height = _CELL * min(1, width / height), _CELL * min(1, height / width)
    figure = chart(_TOP + rows * (cell_height + 0.12) + 0.3, width=max(8.0, columns * cell_width + 0.9))
    places = figure.add_gridspec(rows + 1, 1, height_ratios=[_TOP, *[cell_height] * rows])
    return figure, [places[row] for row in range(rows + 1)]


def _columns(looks: Sequence[LayerLook]) -> list[str | int]:
    """What is drawn of each layer: all heads together, the Gaussians, and each head by its place."""
    if not looks:
        return []
    first = looks[0]
    heads: list[str | int] = list(range(len(first.heads))) if len(first.heads) > 1 else []
    return ["all", *(["Gaussians"] if first.gaussians is not None else []), *heads]


def _draw_look(
    figure: Figure,
    place: Any,
    photo: Photo,
    look: LayerLook,
    columns: Sequence[str | int],
    name: str,
    of: ExplainedQuery | ExplainedToken,
) -> None:
    """A row of small pictures: all heads, and each of them."""
    for column, (what, spot) in enumerate(zip(columns, place.subgridspec(1, len(columns)), strict=True)):
        axes = figure.add_subplot(spot)
        show_photo(axes, photo)
        head = what if isinstance(what, int) else None
        maps = look.gaussians if what == "Gaussians" else look.seen
        if isinstance(maps, Maps):
            draw_map(axes, combined(maps, head), photo.size)
        elif isinstance(maps, Points):
            draw_points(axes, maps, head)
        if look.salient is not None:
            xy = look.salient.xy if head is None else look.salient.xy[[head]]
            axes.scatter(xy[:, 0], xy[:, 1], s=14, color=SALIENT, marker="x", linewidths=1)
        _mark(axes, look, of)
        together = "heads together" if len(look.heads) > 1 else f"head {look.heads[0]}"
        title = {"all": together, "Gaussians": "Gaussians"}.get(str(what), f"head {look.heads[head or 0]}")
        axes.set_title(title, fontsize=_TEXT - 1, color=INK, pad=2)
        if column == 0:
            axes.set_ylabel(name, fontsize=_TEXT, color=INK, rotation=0, ha="right", va="center", labelpad=4)


def _mark(axes: Axes, look: LayerLook, of: ExplainedQuery | ExplainedToken) -> None:
    """Whose look it is: the layer's box and reference, or the token."""
    if isinstance(of, ExplainedToken):
        axes.plot(*of.xy, marker="+", color=INK, markersize=8, linestyle="none")
        return
    prediction = of.predictions[look.layer if of.looked_in == "decoder" else -1]
    draw_box(axes, prediction.box_xyxy, BOX, linewidth=1.2)
    _draw_reference(axes, prediction.reference, linewidth=0.9)
    if of.looked_in == "encoder" and of.start is not None:
        axes.plot(*of.start.xy, marker="+", color=INK, markersize=7, linestyle="none")


def _draw_reference(axes: Axes, reference: Floats | None, **options: Any) -> None:
    if reference is not None and len(reference) == 4:
        draw_box(axes, reference, REFERENCE, linestyle="--", **options)
    elif reference is not None:
        axes.plot(*reference, marker="D", markersize=3.5, color=REFERENCE, linestyle="none")


def _draw_way(axes: Axes, photo: Photo, explanation: Explanation, query: ExplainedQuery) -> None:
    """The photo with the boxes of all layers, the references, and where the query started."""
    show_photo(axes, photo, pale=False)
    count = len(query.predictions)
    for number, prediction in enumerate(query.predictions):
        last = number == count - 1
        draw_box(
            axes,
            query.box_xyxy if last else prediction.box_xyxy,
            BOX,
            linewidth=2 if last else 0.8,
            alpha=0.4 + 0.6 * (number + 1) / count,
        )
        _draw_reference(axes, prediction.reference, linewidth=0.8, alpha=0.4 + 0.6 * (number + 1) / count)
    if query.start is not None:
        _draw_start(axes, query.start)
    label = plain(explanation.categories[query.label].name)
    name = f"query {query.query}" if query.detection is None else f"detection {query.detection} (query {query.query})"
    axes.set_title(f"{name}: {label} {query.score:.2f}", fontsize=_TEXT + 2, color=INK)
    axes.legend(
        handles=_way_handles(query),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.01),
        ncols=2,
        fontsize=_TEXT - 1,
        frameon=False,
        labelcolor=INK,
    )


def _way_handles(query: ExplainedQuery) -> list[Any]:
    """What the legend of the photo names."""

    def line(color: str, style: str, label: str) -> Rectangle:
        return Rectangle((0, 0), 1, 1, fill=False, edgecolor=color, linestyle=style, label=label)

    def mark(color: str, marker: str, label: str) -> Line2D:
        return Line2D([], [], linestyle="none", color=color, marker=marker, markersize=5, label=label)

    handles: list[Any] = [line(BOX, "-", "box of each layer" if len(query.predictions) > 1 else "box")]
    reference, start = query.predictions[0].reference, query.start
    if reference is not None:
        name = "reference of each layer"
        handles.append(line(REFERENCE, "--", name) if len(reference) == 4 else mark(REFERENCE, "D", name))
    if start is not None:
        name = "proposed region" if start.level is None else f"from a token of level {start.level}"
        handles.append(mark(START, "*", name) if start.box_xyxy is None else line(START, ":", name))
    return handles


def _draw_wanted(figure: Figure, way: Axes, scores: Axes, wanted: Wanted) -> None:
    """The object's box, and the overlap with it from layer to layer."""
    draw_box(way, wanted.box_xyxy, SALIENT, linewidth=2, linestyle="-.")
    way.set_title("dash-dotted in green: the annotated object", fontsize=_TEXT, color=INK)
    figure.suptitle(plain(wanted.sentence, 160), fontsize=_TEXT + 2, color=INK)
    if len(wanted.ious) > 1:
        scores.plot(wanted.ious, color=INK, linestyle="--", label="IoU with the object")
        scores.set_ylabel("score, IoU", fontsize=_TEXT + 2, color=INK)
        legend(scores, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_start(axes: Axes, start: Start) -> None:
    if start.cell_xyxy is not None:  # as large as its level's cells are
        left, top, right, bottom = start.cell_xyxy.tolist()
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, facecolor=START, alpha=0.4, linewidth=0))
    axes.plot(*start.xy, marker="*", markersize=8, color=START, linestyle="none")
    if start.box_xyxy is not None:
        draw_box(axes, start.box_xyxy, START, linestyle=":", linewidth=1.4)


def _draw_scores(axes: Axes, explanation: Explanation, query: ExplainedQuery) -> None:
    """The scores of the classes that were best in some layer, from layer to layer; of a single layer the best classes."""
    scores = np.stack([each.scores for each in query.predictions])  # (L, K)
    names = [category.name for category in explanation.categories]
    shown = [query.label, *dict.fromkeys(each.label for each in query.predictions)]
    more = np.argsort(-scores[-1], kind="stable").tolist()
    chosen = list(dict.fromkeys([*shown, *more]))[: max(4, len(set(shown)))][: len(LINE_COLORS)]
    if len(scores) > 1:
        for number, label in enumerate(chosen):
            axes.plot(scores[:, label], marker=MARKERS[number], color=line_color(number), label=plain(names[label]))
        axes.set_xticks(range(len(scores)))
        axes.set_ylim(0, 1.02)
        finish(axes, "decoder layer", "score")
        legend(axes, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return
    axes.barh(range(len(chosen)), scores[0, chosen], color=BOX)
    axes.set_yticks(range(len(chosen)), [plain(names[label]) for label in chosen])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    finish(axes, "score", "")


def _mark_token(axes: Axes, token: ExplainedToken) -> None:
    level = token.level or 0
    axes.plot(
        *token.xy,
        marker=MARKERS[level % len(MARKERS)],
        color=line_color(level),
        linestyle="none",
        label="nearest region" if token.level is None else f"token of level {token.level}",
    )


def _explain_colors(figure: Figure, looks: Sequence[LayerLook]) -> None:
    """What colours and sizes in the small pictures mean."""
    points = [look.seen for look in looks if isinstance(look.seen, Points)]
    levels = sorted({int(level) for each in points if each.levels is not None for level in each.levels})
    words = "in each small picture, full colour is its largest weight"
    if points:
        words = "in each small picture, larger points have more weight"
    if len(levels) > 1:
        handles = [
            Line2D(
                [],
                [],
                linestyle="none",
                marker=MARKERS[level % len(MARKERS)],
                color=line_color(level),
                label=f"level {level}",
            )
            for level in levels
        ]
        title = f"{words}; level 0 is the finest"
        options = {"fontsize": _TEXT, "title_fontsize": _TEXT, "labelcolor": INK, "frameon": False}
        figure.legend(handles=handles, loc="outside lower center", ncols=len(levels), title=title, **options)
    elif looks:
        figure.supxlabel(words, fontsize=_TEXT, color=INK)
