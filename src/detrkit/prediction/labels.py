"""Labels of boxes, placed so that none covers another: beside their boxes, smaller in dense pictures, and left out where there is no room."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Color = str | tuple[int, int, int]
_Rectangles = NDArray[np.float64]  # (number, 4) as x1, y1, x2, y2 in pixels

_SMALLER = (1.0, 0.8, 0.64)  # shares of the usual size that are tried
_LEAST_SIZE = 10  # pixels of letters that can still be read
_PER_EDGE = 5  # places along an edge that are tried
_RANK_COST = 0.03  # of a place, for each that is usual more than it; to cover all of a box costs 1


@dataclass(frozen=True)
class Labels:
    """Where labels lie.

    Attributes:
        size: of the letters in pixels.
        padding: around them in pixels.
        places: a rectangle for each label, as x1, y1, x2, y2 in pixels; None where there is no room.
    """

    size: int
    padding: int
    places: tuple[tuple[int, int, int, int] | None, ...]


def draw_labels(
    scene: Image.Image,
    boxes_xyxy: NDArray[np.number],
    texts: Sequence[str],
    fills: Sequence[Color],
    *,
    ink: Color,
    size: int,
) -> None:
    """Writes labels onto a picture, those that find room.

    Args:
        scene: RGB; it is changed.
        boxes_xyxy: (number, 4), in pixels; the most important first.
        texts: of the labels.
        fills: the colour of each label.
        ink: the colour of the letters.
        size: of the letters in pixels, where there is room for it.
    """
    labels = place_labels(boxes_xyxy, texts, scene.size, size=size)
    font, canvas = ImageFont.load_default(labels.size), ImageDraw.Draw(scene)
    for text, place, fill in zip(texts, labels.places, fills, strict=True):
        if place is not None:
            canvas.rectangle((*place[:2], place[2] - 1, place[3] - 1), fill=fill)
            middle = (place[0] + labels.padding, (place[1] + place[3]) // 2)
            canvas.text(middle, text, font=font, fill=ink, anchor="lm")


def place_labels(boxes_xyxy: NDArray[np.number], texts: Sequence[str], frame: tuple[int, int], *, size: int) -> Labels:
    """Finds places beside the boxes, inside the picture, of which none covers another.

    A label lies above the left corner of its box if it can. Letters shrink, down to `_LEAST_SIZE`, while some label has no room; what has
    none then is left out, of the most frequent names first.

    Args:
        boxes_xyxy: (number, 4), in pixels; the most important first.
        texts: of the labels; those that differ in numbers alone have the same name.
        frame: width and height of the picture in pixels.
        size: of the letters in pixels, where there is room for it.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    order = _rare_first(texts)
    best: Labels | None = None
    for letters in dict.fromkeys(max(min(size, _LEAST_SIZE), round(size * share)) for share in _SMALLER):
        labels = _placed(boxes, texts, frame, order, letters)
        if best is None or labels.places.count(None) < best.places.count(None):
            best = labels
        if None not in best.places:
            break
    assert best is not None
    return best


def _rare_first(texts: Sequence[str]) -> list[int]:
    """Positions of labels: the first of every name, then the second, and so on."""
    seen: Counter[str] = Counter()
    turns = []
    for text in texts:
        name = re.sub(r"[\d.]+", "", text)
        turns.append(seen[name])
        seen[name] += 1
    return sorted(range(len(texts)), key=turns.__getitem__)


def _placed(
    boxes: _Rectangles, texts: Sequence[str], frame: tuple[int, int], order: Sequence[int], size: int
) -> Labels:
    """Labels with letters of one size, each at the best place that is left."""
    font, padding = ImageFont.load_default(size), max(2, size // 4)
    height = size + 2 * padding
    widths = {text: round(font.getlength(text)) + 2 * padding for text in set(texts)}
    areas = np.maximum(1.0, (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    taken = np.empty((len(texts), 4))
    places: list[tuple[int, int, int, int] | None] = [None] * len(texts)
    count = 0
    for index in order:
        candidates = _candidates(boxes[index], widths[texts[index]], height, frame)
        free = (_shared(candidates, taken[:count]) == 0).all(axis=1)
        if not free.any():
            continue
        hidden = (_shared(candidates, boxes) / areas).sum(axis=1)
        costs = np.where(free, hidden + _RANK_COST * np.arange(len(candidates)), np.inf)
        taken[count] = candidates[costs.argmin()]
        left, top, right, bottom = taken[count].astype(int).tolist()
        places[index] = (left, top, right, bottom)
        count += 1
    return Labels(size, padding, tuple(places))


def _candidates(box: NDArray[np.float64], width: int, height: int, frame: tuple[int, int]) -> _Rectangles:
    """Places for a label that touch its box, the usual one first, all in whole pixels inside the picture."""
    left, top, right, bottom = np.clip(box, 0, [*frame, *frame])
    steps = np.unique(np.linspace(left, max(left, right - width), _PER_EDGE))
    corners = [
        *((x, top - height) for x in steps),
        *((x, bottom) for x in steps),
        (right - width, top - height),
        (right - width, bottom),
        (right, top),
        (left - width, top),
        (right, bottom - height),
        (left - width, bottom - height),
        *((x, top) for x in steps),
        *((x, bottom - height) for x in steps),
    ]
    most = [max(0, frame[0] - width), max(0, frame[1] - height)]
    starts = np.clip(np.round(np.array(corners)), 0, most)
    return np.concatenate([starts, starts + np.array([width, height])], axis=1)


def _shared(first: _Rectangles, second: _Rectangles) -> NDArray[np.float64]:
    """The area that each rectangle of one list shares with each of another, in pixels."""
    starts = np.maximum(first[:, None, :2], second[None, :, :2])
    ends = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.asarray(np.maximum(0.0, ends - starts).prod(axis=-1))
