"""Masks of detections and the segments of a panoptic result, in soft colours on their picture."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from detrkit.cards import Category
from detrkit.errors import DataError
from detrkit.panoptic import PanopticSegmentation, Segment

FILL = 0.42  # opacity of the masks of detections
_THING, _STUFF = 0.55, 0.5  # opacity of segments
_EDGE = 0.95
_LIGHT = 0.6  # share of white in the outlines of things
_TURN = 0.61803398875  # of the circle of hues from one class id to the next: neighbours differ clearly
# Of the segments of a class: what is added to the hue (in [0, 1]) and to the brightness.
_SHADES = ((0.0, 0.0), (0.035, -0.3), (-0.035, 0.0), (0.02, -0.15), (-0.02, -0.3), (0.05, 0.0))
_PLACING_SIDE = 480  # pixels of the map on which places for names are looked for
_MOST_COVERED = 0.25  # share of a name that may lie on others, for a segment that is smaller than its name
Color = tuple[int, int, int]


def paint_masks(scene: Image.Image, masks: np.ndarray, colors: Sequence[Color], *, thickness: int) -> None:
    """Fills masks softly and draws their outlines, on the picture itself; later masks lie above earlier ones.

    Args:
        scene: in RGB, of the size of the masks.
        masks: (N, H, W) bool.
        colors: of each mask.
        thickness: of the outlines in pixels, which lie inside the masks.

    Raises:
        DataError: the picture has another size than the masks.
    """
    if len(masks):
        _check_size(scene, masks.shape[1:], "masks")
    pixels = np.asarray(scene).astype(np.float32)
    for mask, color in zip(masks, colors, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        # With a pixel around it, to which the mask's edge is one.
        part = (slice(max(0, rows[0] - 1), rows[-1] + 2), slice(max(0, columns[0] - 1), columns[-1] + 2))
        opacity = np.where(_edges(mask[part].astype(np.int8), thickness), _EDGE, FILL) * mask[part]
        pixels[part] += opacity[..., None] * (np.array(color, dtype=np.float32) - pixels[part])
    scene.paste(Image.fromarray(np.round(pixels).astype(np.uint8)))


def draw_panoptic(image: Image.Image, segmentation: PanopticSegmentation) -> Image.Image:
    """A copy of a picture with its segments: each in a shade of its class's colour, with the name on its largest part.

    Things are strong and have outlines, and their names stand on plates; stuff is pale, without either. A class has the same hue in every
    picture. Names of small segments are left out where they would hide others.

    Args:
        image: in any mode, of the size of the segmentation.
        segmentation: what is drawn; void stays as it is.

    Raises:
        DataError: the picture has another size than the segmentation.
    """
    _check_size(image, segmentation.ids.shape, "segmentation")
    scene = image.convert("RGB")  # always a copy
    ids = np.array([segment.id for segment in segmentation.segments], dtype=np.int64)
    order = np.argsort(ids)
    places = np.searchsorted(ids[order], segmentation.ids.ravel())
    known = np.append(ids[order], -1)[places] == segmentation.ids.ravel()
    # 0 is void, and the segments count from 1.
    index = np.where(known, np.append(order, 0)[places] + 1, 0).reshape(segmentation.ids.shape).astype(np.int32)
    things = np.array([False, *(segment.category.thing for segment in segmentation.segments)])
    colors = np.array([(0, 0, 0), *segment_colors(segmentation.segments)], dtype=np.float32)
    opacity = np.where(things, _THING, _STUFF)
    opacity[0] = 0.0
    side = (scene.width * scene.height) ** 0.5
    blended = opacity[index][..., None].astype(np.float32)
    pixels = np.asarray(scene).astype(np.float32)
    pixels += blended * (colors[index] - pixels)
    edges = _edges(index, max(1, round(side / 400))) & things[index]
    pixels[edges] = 255 * _LIGHT + (1 - _LIGHT) * colors[index[edges]]
    scene = Image.fromarray(np.round(pixels).astype(np.uint8))
    _write_names(scene, segmentation, index, colors[1:].astype(int).tolist())
    return scene


def class_color(category: Category, shade: tuple[float, float] = (0.0, 0.0)) -> Color:
    """The colour of a class: its hue follows from its id, and stuff is paler than things.

    Args:
        category: the class.
        shade: what is added to its hue and to its brightness, which are in [0, 1].
    """
    saturation, value = (0.72, 0.92) if category.thing else (0.34, 0.82)
    rgb = colorsys.hsv_to_rgb((category.id * _TURN + shade[0]) % 1.0, saturation, value + shade[1])
    red, green, blue = (round(255 * part) for part in rgb)
    return red, green, blue


def segment_colors(segments: Sequence[Segment]) -> list[Color]:
    """A shade of its class's colour for each segment; neighbours in the list differ."""
    seen: Counter[int] = Counter()
    colors = []
    for segment in segments:
        colors.append(class_color(segment.category, _SHADES[seen[segment.category.id] % len(_SHADES)]))
        seen[segment.category.id] += 1
    return colors


def _check_size(image: Image.Image, size: Sequence[int], what: str) -> None:
    height, width = size
    if image.size != (width, height):
        raise DataError(
            f"The picture has {image.width} × {image.height} pixels, and the {what} {width} × {height}: give the picture that belongs to the "
            f"{what}, at its original size and as it is shown (detrkit.data.read_image turns photos by their EXIF data)."
        )


def _edges(index: np.ndarray, thickness: int) -> np.ndarray:
    """(H, W) bool, the pixels of each region that are at most `thickness` pixels from another one; the picture's edge is none."""
    edges = np.zeros(index.shape, dtype=np.bool_)
    for axis in (0, 1):
        moved, marked = np.moveaxis(index, axis, 0), np.moveaxis(edges, axis, 0)
        for distance in range(1, thickness + 1):
            differs = moved[distance:] != moved[:-distance]
            marked[distance:] |= differs
            marked[:-distance] |= differs
    return edges


@dataclass(frozen=True)
class _Name:
    """The name of a segment: the text, the centre of the segment's largest part, and whether it may be left out."""

    text: str
    center: tuple[float, float]
    small: bool
    thing: bool
    color: list[int]


def _write_names(
    scene: Image.Image, segmentation: PanopticSegmentation, index: np.ndarray, colors: list[list[int]]
) -> None:
    """Writes the names of the segments, the largest first, where they hide as little of each other as possible."""
    size = max(10, round((scene.width * scene.height) ** 0.5 / 42))
    font, canvas = ImageFont.load_default(size), ImageDraw.Draw(scene)
    padding = max(1, size // 5)
    taken: list[tuple[float, float, float, float]] = []
    order = sorted(range(len(segmentation.segments)), key=lambda place: -segmentation.segments[place].area)
    for place in order:
        segment = segmentation.segments[place]
        center = _center(index, place + 1)
        if center is None:
            continue
        text = _text_of(segment)
        width, height = font.getlength(text) + 2 * padding, size + 2 * padding
        name = _Name(text, center, segment.area < width * height, segment.category.thing, colors[place])
        box = _free_box(name, width, height, scene.size, taken)
        if box is None:
            continue
        taken.append(box)
        _write(canvas, name, box, font, padding)


def _text_of(segment: Segment) -> str:
    name = f"{segment.category.name} (crowd)" if segment.crowd else segment.category.name
    return name if segment.score is None else f"{name} {segment.score:.2f}"


def _write(
    canvas: ImageDraw.ImageDraw,
    name: _Name,
    box: tuple[float, float, float, float],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    padding: int,
) -> None:
    """A thing's name on a plate of its colour, darkened; that of stuff with a dark rim."""
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    red, green, blue = (round(0.5 * part) for part in name.color)
    if name.thing:
        canvas.rounded_rectangle(box, radius=2 * padding, fill=(red, green, blue))
        canvas.text(middle, name.text, fill=(255, 255, 255), font=font, anchor="mm")
    else:
        canvas.text(
            middle, name.text, fill=(255, 255, 255), font=font, anchor="mm", stroke_width=2, stroke_fill=(45, 45, 45)
        )


def _center(index: np.ndarray, place: int) -> tuple[float, float] | None:
    """The point of a segment's largest connected part that lies deepest in it, as x and y; None without pixels."""
    step = max(1, -(-max(index.shape) // _PLACING_SIDE))
    coarse = index[::step, ::step] == place
    if not coarse.any():  # too small for the coarse map
        step, coarse = 1, index == place
    rows, columns = np.flatnonzero(coarse.any(axis=1)), np.flatnonzero(coarse.any(axis=0))
    if not len(rows):
        return None
    part = np.pad(coarse[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    parts, number = ndimage.label(part)
    if number > 1:
        part = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    row, column = np.unravel_index(int(np.argmax(ndimage.distance_transform_edt(part))), part.shape)
    return (float(column + columns[0] - 1) + 0.5) * step, (float(row + rows[0] - 1) + 0.5) * step


def _free_box(
    name: _Name,
    width: float,
    height: float,
    size: tuple[int, int],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float] | None:
    """Where a name hides least of others, near its segment; None where a small segment's name would hide too much."""
    best, best_covered = None, float("inf")
    for down in (0.0, -1.05, 1.05, -2.1, 2.1):
        for across in (0.0, -0.5, 0.5):
            left = min(max(0.0, name.center[0] - width / 2 + across * width), max(0.0, size[0] - width))
            top = min(max(0.0, name.center[1] - height / 2 + down * height), max(0.0, size[1] - height))
            box = (left, top, left + width, top + height)
            covered = sum(_shared(box, other) for other in taken) / (width * height)
            if covered < best_covered - 1e-9:
                best, best_covered = box, covered
            if covered == 0:
                return box
    return None if name.small and best_covered > _MOST_COVERED else best


def _shared(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """The area that two boxes share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, down)
