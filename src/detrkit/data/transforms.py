"""From an image and its objects to the pixels and the target of a detector.

In training, size, flip and crop are random as in DETR (Carion et al. 2020, section 4); evaluation resizes by the same arithmetic and does
nothing else. All random numbers come from the generator that is passed in.

Images are resized by PyTorch (bilinear, antialiased), in bytes. That is the arithmetic of PIL, with which published weights were trained and
measured, but with weights of fewer digits: a value is the same or differs by one level of 255. In photos that are enlarged 0.03 % of the
values differ, in reduced ones about 4 %, and up to a quarter where a side is just halved, since many values then lie between two levels. On a
processor with AVX2 this takes an eighth to a third of PIL's time; elsewhere it gives the same bytes and takes about twice PIL's time.

Masks are picked once, from the photo, at the centres of the final image's pixels: a mask then ends where its box does, to half a pixel. DETR's
authors resize masks as often as the image, by the upper left corners of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from detrkit.boxes import xyxy_to_cxcywh
from detrkit.cards import Preprocessing
from detrkit.data.dataset import Objects
from detrkit.data.masks import Axis, ObjectMasks
from detrkit.errors import ConfigurationError, OptionError
from detrkit.structures import Target

_CROP_PROBABILITY = 0.5
_WHITE = 255  # the highest value of 8 bits


def resized_size(height: int, width: int, short_side: int, long_side: int | None = None) -> tuple[int, int]:
    """The size that an image gets, by the arithmetic of DETR's authors.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        short_side: pixels that its shorter side is resized to.
        long_side: limit of the longer side; it wins over `short_side`. Where it does, the shorter side is rounded first and the longer one
            follows from it, so that it can exceed the limit by a few pixels. None means no limit.

    Returns:
        New height and width, at least 1.
    """
    short, long = min(height, width), max(height, width)
    if long_side is not None and long / short * short_side > long_side:
        short_side = max(1, round(long_side * short / long))
    other_side = int(short_side * long / short)
    return (other_side, short_side) if width < height else (short_side, other_side)


@dataclass(frozen=True)
class Augmentation:
    """How much a training image may vary; the defaults are DETR's.

    The image is mirrored with probability `flip`, and turned upside down with probability `vertical_flip`. If `crop` is set, then with
    probability 0.5 it is first resized to one of `crop_short_sides` and cut to a window whose width and height are each drawn from
    `crop_range`. Last, it is resized to one of `short_sides`.

    Attributes:
        short_sides: pixels, one is drawn for the shorter side.
        long_side: limit of the longer side in pixels; it wins over `short_sides`.
        flip: probability of mirroring left and right. Where left and right matter (letters, digits, traffic signs) use 0.
        crop: whether half of the images are cut.
        crop_short_sides: pixels, one is drawn for the shorter side before cutting; the longer side has no limit there.
        crop_range: smallest and largest side of the window in pixels, both included; the image's own side limits it further.
        vertical_flip: probability of mirroring top and bottom, for pictures without an up and down (cells, ground seen from above).

    Raises:
        ConfigurationError: numbers that no image can follow.
    """

    short_sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    long_side: int = 1333
    flip: float = 0.5
    crop: bool = True
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_range: tuple[int, int] = (384, 600)
    vertical_flip: float = 0.0

    def __post_init__(self) -> None:
        sides = (*self.short_sides, *self.crop_short_sides, *self.crop_range, self.long_side)
        if not self.short_sides or not self.crop_short_sides or min(sides) < 1:
            raise ConfigurationError("An augmentation needs sides of at least 1 pixel, and one or more short sides")
        for name in ("flip", "vertical_flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(
                    f"The probability {name}={getattr(self, name)} is not within 0..1: choose one that is", name
                )
        smallest, largest = self.crop_range
        if smallest > largest or smallest > min(self.crop_short_sides):
            raise ConfigurationError(
                f"crop_range={self.crop_range} must rise and begin no higher than the smallest of crop_short_sides={self.crop_short_sides}"
            )

    @classmethod
    def for_sizes(cls, short_side: int, long_side: int) -> Augmentation:
        """DETR's policy in proportion, for images whose largest size in training is another than 800 × 1333.

        Args:
            short_side: the largest short side in pixels; the others go down to 60 % of it in steps of 32 (16 or 8 for small images).
            long_side: limit of the longer side in pixels.

        Raises:
            ConfigurationError: a side below 16 pixels, or a limit below the short side.
        """
        if short_side < 16 or long_side < short_side:
            raise ConfigurationError(
                f"Training needs 16 ≤ short side ≤ long side, not {short_side} and {long_side} pixels: choose larger ones"
            )
        step = 32 if short_side >= 256 else 16 if short_side >= 96 else 8
        lowest = -(-short_side * 480 // 800 // step) * step  # rounded up to a multiple of the step
        smallest, *between, largest = (round(short_side * side / 800) for side in (384, 400, 500, 600))
        return cls(
            short_sides=(*range(lowest, short_side, step), short_side),
            long_side=long_side,
            crop_short_sides=(*between, largest),
            crop_range=(smallest, largest),
        )


class TrainingTransform:
    """Varies an image and its objects at random, and makes pixels and a target of them."""

    def __init__(self, augmentation: Augmentation, preprocessing: Preprocessing) -> None:
        """Sets the policy.

        Args:
            augmentation: what may vary, sizes included.
            preprocessing: mean and deviation of the colours; its sides are for evaluation and are not used here.
        """
        self.augmentation = augmentation
        self.preprocessing = preprocessing

    def __call__(self, image: Image.Image, objects: Objects, generator: torch.Generator) -> tuple[Tensor, Target]:
        """Varies one image.

        Args:
            image: RGB.
            objects: as annotated; crowds are left out, boxes are clipped to what remains visible, and dropped where nothing does.
            generator: the only source of random numbers.

        Returns:
            Normalised pixels (3, H, W) float32, and the target: labels as they were, boxes relative to the final image.
        """
        levels, target = self.varied(image, objects, generator)
        return normalise(levels, self.preprocessing), target

    def varied(self, image: Image.Image, objects: Objects, generator: torch.Generator) -> tuple[Tensor, Target]:
        """The same without the normalising: levels (3, H, W) uint8, and the target."""
        policy, single = self.augmentation, _single(objects, image.height, image.width)
        view = _View(_levels(image), single.boxes_xyxy, Axis.whole(image.height), Axis.whole(image.width))
        if _happens(policy.flip, generator):
            view = _mirrored(view)
        if policy.vertical_flip and _happens(policy.vertical_flip, generator):
            view = _upside_down(view)
        if policy.crop and _happens(_CROP_PROBABILITY, generator):
            view = _resized(view, _choice(policy.crop_short_sides, generator), None)
            view = _cut(view, policy.crop_range, generator)
        view = _resized(view, _choice(policy.short_sides, generator), policy.long_side)
        (height, width), seen = view.levels.shape[1:], replace(single, boxes_xyxy=view.boxes)
        return view.levels, _target(seen, height, width, view.rows, view.columns)


class EvaluationTransform:
    """Makes pixels of an image; nothing is random."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        """Sets sizes and colours.

        Args:
            preprocessing: that of the model that gets the pixels.
        """
        self.preprocessing = preprocessing

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image of this size is resized to."""
        return resized_size(height, width, self.preprocessing.short_side, self.preprocessing.long_side)

    def __call__(self, image: Image.Image) -> Tensor:
        """Normalised pixels (3, H, W) float32 of an RGB image."""
        return normalise(self.resized(image), self.preprocessing)

    def resized(self, image: Image.Image) -> Tensor:
        """The same without the normalising: levels (3, H, W) uint8."""
        return _with_size(_levels(image), self.output_size(image.height, image.width))


def normalise(levels: Tensor, preprocessing: Preprocessing, into: Tensor | None = None) -> Tensor:
    """Pixels (3, H, W) float32 with the colours that a model expects.

    Args:
        levels: (3, H, W) uint8, in any order in memory.
        preprocessing: mean and deviation of the colours.
        into: (3, H, W) float32 that gets the pixels; None means a new tensor.
    """
    pixels = torch.empty(levels.shape) if into is None else into
    # Channel by channel, so that what one step writes is still in the processor's cache for the next.
    for plane, channel, mean, deviation in zip(
        pixels, levels, preprocessing.mean, preprocessing.deviation, strict=True
    ):
        plane.copy_(channel).mul_(1 / _WHITE).sub_(mean).div_(deviation)
    return pixels


def relative_target(objects: Objects, height: int, width: int, size: tuple[int, int] | None = None) -> Target:
    """The target of an image that is resized only: without crowds, boxes clipped and relative to the image.

    Args:
        objects: as annotated.
        height: of the image that they were annotated on, in pixels.
        width: of the same.
        size: height and width that masks get; None leaves masks out.
    """
    rows, columns = Axis.whole(height), Axis.whole(width)
    if size is None:
        return _target(_single(replace(objects, masks=None), height, width), height, width, rows, columns)
    return _target(_single(objects, height, width), height, width, rows.resized(size[0]), columns.resized(size[1]))


@dataclass(frozen=True, eq=False)
class _View:
    """What is seen of a photo.

    Attributes:
        levels: (3, H, W) uint8, which lie pixel by pixel as in the image.
        boxes: (N, 4) float64 corners in pixels of the view, clipped to it.
        rows: the photo's rows that are seen.
        columns: likewise.
    """

    levels: Tensor
    boxes: np.ndarray
    rows: Axis
    columns: Axis


def _levels(image: Image.Image) -> Tensor:
    """Levels (3, H, W) uint8, which lie pixel by pixel as in the image: what resizing is fastest with."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _single(objects: Objects, height: int, width: int) -> Objects:
    """Those that are no crowds, with corners clipped to the image."""
    single = ~objects.crowd
    return Objects(
        _within(objects.boxes_xyxy[single], height, width),
        objects.labels[single],
        objects.crowd[single],
        objects.areas[single],
        None if objects.masks is None else objects.masks.subset(single),
    )


def _within(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    return boxes.clip(0, np.array([width, height, width, height]))


def _mirrored(view: _View) -> _View:
    """Left and right exchanged."""
    boxes = _opposite(view.boxes, view.columns.count, axis=0)
    return replace(view, levels=view.levels.flip(2), boxes=boxes, columns=view.columns.mirrored())


def _upside_down(view: _View) -> _View:
    boxes = _opposite(view.boxes, view.rows.count, axis=1)
    return replace(view, levels=view.levels.flip(1), boxes=boxes, rows=view.rows.mirrored())


def _opposite(boxes: np.ndarray, side: int, *, axis: int) -> np.ndarray:
    """Boxes of the mirrored image: axis 0 is along its width, 1 along its height; `side` is the one or the other."""
    mirrored = boxes.copy()
    mirrored[:, [axis, axis + 2]] = side - boxes[:, [axis + 2, axis]]
    return mirrored


def _resized(view: _View, short_side: int, long_side: int | None) -> _View:
    """The view with another short side."""
    old_height, old_width = view.levels.shape[1:]
    height, width = resized_size(old_height, old_width, short_side, long_side)
    factors = np.array(
        [width / old_width, height / old_height] * 2, np.float32
    )  # as torchvision has them; boxes stay float64
    levels = _with_size(view.levels, (height, width))
    return _View(levels, view.boxes * factors, view.rows.resized(height), view.columns.resized(width))


def _with_size(levels: Tensor, size: tuple[int, int]) -> Tensor:
    """The image (3, H, W) resized; bytes stay bytes."""
    if levels.shape[1:] == size:
        return levels
    by_pixel = levels.permute(1, 2, 0)
    if 1 in (*levels.shape[1:], *size):  # PyTorch's values are wrong for a width of 1, unless there is AVX2
        image = Image.fromarray(np.ascontiguousarray(by_pixel.numpy()))
        return _levels(image.resize(size[::-1], Image.Resampling.BILINEAR))
    # The new axis comes before the permutation, so that PyTorch sees pixels that lie together and leaves them so: half of the time.
    return F.interpolate(by_pixel[None].permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)[0]


def _cut(view: _View, sides: tuple[int, int], generator: torch.Generator) -> _View:
    """A random window of the view, and what of the boxes is in it."""
    smallest, largest = sides
    old_height, old_width = view.levels.shape[1:]
    width = _integer(smallest, min(old_width, largest), generator)
    height = _integer(smallest, min(old_height, largest), generator)
    top, left = _integer(0, old_height - height, generator), _integer(0, old_width - width, generator)
    window = view.levels[:, top : top + height, left : left + width]
    boxes = _within(view.boxes - (left, top, left, top), height, width)
    return _View(window, boxes, view.rows.cut(top, height), view.columns.cut(left, width))


def _target(objects: Objects, height: int, width: int, rows: Axis, columns: Axis) -> Target:
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


def _happens(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """A uniform integer, both limits included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _choice(values: tuple[int, ...], generator: torch.Generator) -> int:
    return values[_integer(0, len(values) - 1, generator)]
