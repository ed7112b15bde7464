"""What is seen of a photo, or of several, while it is varied: its levels, its objects, and where their masks come from.

Masks are picked once, from the photo, at the centres of the final image's pixels: a mask then ends where its box does, to half a pixel. Only
where photos are put together, or one is put on a larger canvas, are masks decoded before: at the size of the result, which is the one that
the model gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from detrkit.boxes import xyxy_to_cxcywh
from detrkit.data.dataset import Objects
from detrkit.data.masks import ArrayMasks, Axis, ObjectMasks
from detrkit.structures import Target


@dataclass(frozen=True, eq=False)
class Scene:
    """What is seen.

    Attributes:
        levels: (3, H, W) uint8.
        objects: none is a crowd; corners are in pixels of the scene and clipped to it, areas are the photo's, and masks are those that `rows`
            and `columns` are about.
        rows: the photo's rows that are seen.
        columns: likewise.
    """

    levels: Tensor
    objects: Objects
    rows: Axis
    columns: Axis

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.levels.shape[1:]
        return height, width

    def masks(self) -> np.ndarray | None:
        """(N, H, W) bool, decoded; None for objects without masks.

        Raises:
            DataError: a mask cannot be read.
        """
        if self.objects.masks is None:
            return None
        return self.objects.masks.picked(self.rows.picked(), self.columns.picked())

    def target(self) -> Target:
        """What a model has to find.

        Raises:
            DataError: a mask cannot be read.
        """
        return target_of(self.objects, *self.size, self.rows, self.columns)


def scene_of(image: Image.Image, objects: Objects) -> Scene:
    """A whole photo.

    Args:
        image: RGB.
        objects: as annotated.
    """
    height, width = image.height, image.width
    return Scene(levels_of(image), single(objects, height, width), Axis.whole(height), Axis.whole(width))


def levels_of(image: Image.Image) -> Tensor:
    """Levels (3, H, W) uint8, which lie pixel by pixel as in the image: what resizing is fastest with."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def single(objects: Objects, height: int, width: int) -> Objects:
    """Those that are no crowds, with corners clipped to the image."""
    alone = subset(objects, ~objects.crowd)
    return replace(alone, boxes_xyxy=_within(alone.boxes_xyxy, height, width))


def subset(objects: Objects, kept: np.ndarray) -> Objects:
    """Some of the objects, given (M,) int64 indices or an (N,) bool selection."""
    return Objects(
        objects.boxes_xyxy[kept],
        objects.labels[kept],
        objects.crowd[kept],
        objects.areas[kept],
        None if objects.masks is None else objects.masks.subset(kept),
    )


def joined(objects: Sequence[Objects], masks: np.ndarray | None) -> Objects:
    """The objects of several scenes, one scene after the other, with their masks (N, H, W) bool in the scene that they are put into."""
    return Objects(
        np.concatenate([each.boxes_xyxy for each in objects]),
        np.concatenate([each.labels for each in objects]),
        np.concatenate([each.crowd for each in objects]),
        np.concatenate([each.areas for each in objects]),
        None if masks is None else ArrayMasks(masks),
    )


def mirrored(scene: Scene) -> Scene:
    """Left and right exchanged."""
    boxes = _opposite(scene.objects.boxes_xyxy, scene.columns.count, axis=0)
    return Scene(scene.levels.flip(2), _moved(scene, boxes), scene.rows, scene.columns.mirrored())


def upside_down(scene: Scene) -> Scene:
    """Top and bottom exchanged."""
    boxes = _opposite(scene.objects.boxes_xyxy, scene.rows.count, axis=1)
    return Scene(scene.levels.flip(1), _moved(scene, boxes), scene.rows.mirrored(), scene.columns)


def resized(scene: Scene, size: tuple[int, int]) -> Scene:
    """The scene with another height and width."""
    (old_height, old_width), (height, width) = scene.size, size
    factors = np.array(
        [width / old_width, height / old_height] * 2, np.float32
    )  # as torchvision has them; boxes stay float64
    objects = _moved(scene, scene.objects.boxes_xyxy * factors)
    return Scene(with_size(scene.levels, size), objects, scene.rows.resized(height), scene.columns.resized(width))


def with_size(levels: Tensor, size: tuple[int, int]) -> Tensor:
    """The image (3, H, W) resized; bytes stay bytes."""
    if levels.shape[1:] == size:
        return levels
    by_pixel = levels.permute(1, 2, 0)
    if 1 in (*levels.shape[1:], *size):  # PyTorch's values are wrong for a width of 1, unless there is AVX2
        image = Image.fromarray(np.ascontiguousarray(by_pixel.numpy()))
        return levels_of(image.resize(size[::-1], Image.Resampling.BILINEAR))
    # The new axis comes before the permutation, so that PyTorch sees pixels that lie together and leaves them so: half of the time.
    return F.interpolate(by_pixel[None].permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)[0]


def cut(scene: Scene, top: int, left: int, size: tuple[int, int], *, least_visible: float = 0.0) -> Scene:
    """A window of the scene, and what of the boxes is in it.

    Args:
        scene: contains the window.
        top: the window's first row.
        left: its first column.
        size: its height and width.
        least_visible: share of a box that must be in the window; objects with less are left out.
    """
    height, width = size
    window = scene.levels[:, top : top + height, left : left + width]
    whole = scene.objects.boxes_xyxy - (left, top, left, top)
    inside = _within(whole, height, width)
    part = Scene(window, _moved(scene, inside), scene.rows.cut(top, height), scene.columns.cut(left, width))
    if not least_visible:
        return part
    return replace(part, objects=subset(part.objects, _area(inside) >= least_visible * _area(whole)))


def placed(scene: Scene, size: tuple[int, int], top: int, left: int, fill: tuple[int, int, int]) -> Scene:
    """The scene on a larger canvas.

    Args:
        scene: fits onto the canvas at its place.
        size: height and width of the canvas.
        top: the scene's first row on the canvas.
        left: its first column.
        fill: levels of red, green and blue around it.
    """
    if scene.size == size:
        return scene
    levels = empty_levels(size)
    levels[:] = torch.tensor(fill, dtype=torch.uint8)[:, None, None]
    return together([scene], [(top, left)], levels)


def together(scenes: Sequence[Scene], places: Sequence[tuple[int, int]], levels: Tensor) -> Scene:
    """Scenes on one canvas, none of which lies on another.

    Args:
        scenes: all with masks, or all without.
        places: of each scene, the row and column of the canvas where it begins.
        levels: (3, H, W) uint8 of the canvas; the scenes are written into it.
    """
    height, width = levels.shape[1:]
    count = sum(len(scene.objects) for scene in scenes)
    with_masks = all(scene.objects.masks is not None for scene in scenes)
    masks = np.zeros((count, height, width), np.bool_) if with_masks else None
    moved, first = [], 0
    for scene, (top, left) in zip(scenes, places, strict=True):
        rows, columns = slice(top, top + scene.size[0]), slice(left, left + scene.size[1])
        levels[:, rows, columns] = scene.levels
        offset = np.array([left, top, left, top])
        moved.append(_moved(scene, scene.objects.boxes_xyxy + offset))
        if masks is not None:
            masks[first : first + len(scene.objects), rows, columns] = scene.masks()
        first += len(scene.objects)
    return Scene(levels, joined(moved, masks), Axis.whole(height), Axis.whole(width))


def empty_levels(size: tuple[int, int]) -> Tensor:
    """Levels (3, H, W) uint8 still to be written, which lie pixel by pixel as in an image."""
    return torch.empty((*size, 3), dtype=torch.uint8).permute(2, 0, 1)


def target_of(objects: Objects, height: int, width: int, rows: Axis, columns: Axis) -> Target:
    """Drops objects of which nothing is visible, and makes the boxes of the others relative; boxes keep no area once they have lost it.

    Args:
        objects: without crowds; corners in pixels of the image.
        height: of the image.
        width: of the image.
        rows: the photo's rows that masks consist of; not used for objects without masks.
        columns: likewise.
    """
    boxes = objects.boxes_xyxy
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    masks = None
    if objects.masks is not None:
        visible, masks = _visible_masks(objects.masks, visible, rows, columns)
    relative = torch.from_numpy(boxes[visible] / (width, height, width, height))
    return Target(torch.from_numpy(objects.labels[visible]), xyxy_to_cxcywh(relative).float(), masks)


def _visible_masks(masks: ObjectMasks, visible: np.ndarray, rows: Axis, columns: Axis) -> tuple[np.ndarray, Tensor]:
    """Which of the N objects have a pixel in the image, (N,) bool, and their masks (M, H, W) bool."""
    candidates = np.flatnonzero(visible)
    picked = masks.subset(candidates).picked(rows.picked(), columns.picked())
    left = picked.any(axis=(1, 2))
    visible = np.zeros_like(visible)
    visible[candidates[left]] = True
    return visible, torch.from_numpy(picked if left.all() else picked[left])


def _moved(scene: Scene, boxes: np.ndarray) -> Objects:
    return replace(scene.objects, boxes_xyxy=boxes)


def _within(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    return boxes.clip(0, np.array([width, height, width, height]))


def _area(boxes: np.ndarray) -> np.ndarray:
    area: np.ndarray = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return area


def _opposite(boxes: np.ndarray, side: int, *, axis: int) -> np.ndarray:
    """Boxes of the mirrored image: axis 0 is along its width, 1 along its height; `side` is the one or the other."""
    swapped = boxes.copy()
    swapped[:, [axis, axis + 2]] = side - boxes[:, [axis + 2, axis]]
    return swapped
