"""Several images in one: four beside each other (mosaic), and objects of one pasted onto another (copy-paste).

A pasted object hides what lies under it. Masks lose the hidden pixels, boxes end where their visible part does, and objects of which next to
nothing is left are no longer counted. Where data have no masks, the pixels of whole boxes are pasted; objects that lie in them come along.

Stuff such as sky is one segment of an image, so that of several images becomes one, and only things are pasted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch

from detrkit.data.dataset import Objects
from detrkit.data.masks import ArrayMasks, Axis
from detrkit.data.scenes import Scene, empty_levels, joined, subset, together

_COMES_ALONG = 0.3  # share of a box in pasted pixels from which its object is pasted, too
_LEAST_OF_A_BOX = 0.3  # share of a box that must be left of an object without a mask: where less is, the object itself is mostly hidden


def quadrants(size: tuple[int, int], center: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of the four parts of a picture, row by row.

    Args:
        size: height and width of the picture.
        center: row and column where the parts meet.
    """
    (height, width), (row, column) = size, center
    return [
        (0, 0, row, column),
        (0, column, row, width - column),
        (row, 0, height - row, column),
        (row, column, height - row, width - column),
    ]


def mosaic(scenes: Sequence[Scene], size: tuple[int, int], center: tuple[int, int], stuff: Collection[int]) -> Scene:
    """Four scenes as one.

    Args:
        scenes: four, of the sizes that `quadrants` gives.
        size: height and width of the result.
        center: row and column where the four meet.
        stuff: labels that are one segment of an image.
    """
    places = [(top, left) for top, left, _, _ in quadrants(size, center)]
    return with_merged_stuff(together(scenes, places, empty_levels(size)), stuff)


def with_merged_stuff(scene: Scene, stuff: Collection[int]) -> Scene:
    """The scene with one segment for each kind of stuff: the union of their masks, and the box around their boxes.

    Args:
        scene: may have several segments of a kind.
        stuff: labels of stuff.
    """
    objects, masks = scene.objects, scene.masks()
    kept = np.ones(len(objects), np.bool_)
    boxes = objects.boxes_xyxy.copy()
    for label in stuff:
        places = np.flatnonzero(objects.labels == label)
        if len(places) < 2:
            continue
        first, others = places[0], places[1:]
        boxes[first, :2], boxes[first, 2:] = boxes[places, :2].min(axis=0), boxes[places, 2:].max(axis=0)
        if masks is not None:
            masks[first] = masks[places].any(axis=0)
        kept[others] = False
    if kept.all():
        return scene
    merged = replace(objects, boxes_xyxy=boxes, masks=None if masks is None else ArrayMasks(masks))
    return _on_canvas(scene, subset(merged, kept))


def pasted(scene: Scene, other: Scene, chosen: np.ndarray, *, least_visible: float) -> Scene:
    """A scene with objects of another one on top, at the same places.

    Args:
        scene: below.
        other: of the same size.
        chosen: (M,) int64, the objects of `other`.
        least_visible: share of an object's mask that must stay visible.

    Returns:
        The scene's own objects as far as they are visible, followed by those that were pasted; the scene itself where none has a pixel.
    """
    taken = subset(other.objects, chosen)
    with_masks = scene.objects.masks is not None and taken.masks is not None
    shapes = replace(other, objects=taken).masks() if with_masks else None
    if shapes is None:
        taken = subset(other.objects, _with_neighbours(other.objects.boxes_xyxy, chosen))
        covered = _painted(taken.boxes_xyxy, scene.size)
    else:
        seen = np.asarray(shapes.any(axis=(1, 2)))
        shapes, taken = shapes[seen], subset(taken, seen)
        covered = np.asarray(shapes.any(axis=0))
    if not covered.any():
        return scene
    below, masks = _uncovered(scene, covered, least_visible if with_masks else _LEAST_OF_A_BOX)
    levels = torch.where(torch.from_numpy(covered), other.levels, scene.levels)
    both = None if masks is None or shapes is None else np.concatenate([masks, shapes])
    return _on_canvas(replace(scene, levels=levels), joined([below, taken], both))


def _on_canvas(scene: Scene, objects: Objects) -> Scene:
    """The scene with other objects, whose masks are of its own pixels."""
    height, width = scene.size
    return Scene(scene.levels, objects, Axis.whole(height), Axis.whole(width))


def _with_neighbours(boxes: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen objects, and all that lie in their boxes to a good part, or in the boxes of those: otherwise they would be pasted unnamed."""
    taken = np.zeros(len(boxes), np.bool_)
    taken[chosen] = True
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    while True:
        low = np.maximum(boxes[:, None, :2], boxes[None, taken, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, taken, 2:])
        shared = np.prod((high - low).clip(0), axis=2).max(axis=1, initial=0.0)
        along = taken | ((areas > 0) & (shared >= _COMES_ALONG * areas))
        if (along == taken).all():
            return np.flatnonzero(taken)
        taken = along


def _painted(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, the pixels that boxes touch."""
    painted = np.zeros(size, np.bool_)
    for box in boxes:
        painted[_touched(box)] = True
    return painted


def _touched(box: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of pixels that a box (4,) xyxy touches."""
    left, top = np.floor(box[:2]).astype(int).tolist()
    right, bottom = np.ceil(box[2:]).astype(int).tolist()
    return slice(top, bottom), slice(left, right)


def _uncovered(scene: Scene, covered: np.ndarray, least_visible: float) -> tuple[Objects, np.ndarray | None]:
    """What stays visible of a scene's objects below the pixels of `covered` (H, W), and their masks."""
    masks, boxes = scene.masks(), scene.objects.boxes_xyxy.copy()
    kept = np.ones(len(boxes), np.bool_)
    for place, box in enumerate(boxes):
        part = _touched(box)
        hidden = covered[part]
        if not hidden.any():
            continue
        shape = np.ones(hidden.shape, np.bool_) if masks is None else masks[place][part]
        left = shape & ~hidden
        kept[place] = left.any() and left.sum() >= least_visible * shape.sum()
        if kept[place]:
            boxes[place] = _trimmed(box, part, shape, left)
    objects = subset(replace(scene.objects, boxes_xyxy=boxes, masks=None), kept)
    return objects, None if masks is None else masks[kept] & ~covered


def _trimmed(box: np.ndarray, part: tuple[slice, slice], before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """A box whose object has lost pixels; sides that still have theirs stay as they are, to the last digit.

    Args:
        box: (4,) xyxy.
        part: the rows and columns of pixels that it touches.
        before: (h, w) bool, the object's pixels among them.
        after: likewise, those that are left.
    """
    trimmed = box.copy()
    for axis, low in ((0, 1), (1, 0)):  # rows are the second coordinate
        first, last = _extent(before, axis)
        now_first, now_last = _extent(after, axis)
        start = part[axis].start
        if now_first > first:
            trimmed[low] = start + now_first
        if now_last < last:
            trimmed[low + 2] = start + now_last + 1
    return trimmed


def _extent(shape: np.ndarray, axis: int) -> tuple[int, int]:
    """The first and the last row (axis 0) or column (axis 1) of a shape (h, w) bool in which it has a pixel; it has one."""
    places = np.flatnonzero(shape.any(axis=1 - axis))
    return int(places[0]), int(places[-1])
