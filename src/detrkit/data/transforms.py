"""From an image and its objects to the pixels and the target of a detector.

In training, size, flip and crop are random as in DETR (Carion et al. 2020, section 4), unless another policy is named; evaluation resizes by
the same arithmetic and does nothing else. All random numbers come from the generator that is passed in.

Images are resized by PyTorch (bilinear, antialiased), in bytes. That is the arithmetic of PIL, with which published weights were trained and
measured, but with weights of fewer digits: a value is the same or differs by one level of 255. In photos that are enlarged 0.03 % of the
values differ, in reduced ones about 4 %, and up to a quarter where a side is just halved, since many values then lie between two levels. On a
processor with AVX2 this takes an eighth to a third of PIL's time; elsewhere it gives the same bytes and takes about twice PIL's time.

Masks are picked once, at the centres of the final image's pixels (`detrkit.data.scenes`). DETR's authors resize masks as often as the image,
by the upper left corners of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrkit.cards import Preprocessing
from detrkit.data.augmentation import Augmentation
from detrkit.data.colours import with_other_colours
from detrkit.data.dataset import Objects
from detrkit.data.masks import Axis
from detrkit.data.mixing import mosaic, pasted, quadrants
from detrkit.data.scenes import (
    Scene,
    cut,
    levels_of,
    mirrored,
    placed,
    resized,
    scene_of,
    single,
    target_of,
    upside_down,
    with_size,
)
from detrkit.structures import Target

_CROP_PROBABILITY = 0.5
_PASTE_PROBABILITY = 0.5  # of each object of an image from which objects are pasted
_CENTERS = (0.3, 0.7)  # shares of height and width between which the four images of a mosaic meet
_CLOSER = 1.5  # factor by which an image of a mosaic may be larger than its part
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


class OtherImages(Protocol):
    """The images that may take part in another one."""

    @property
    def stuff(self) -> Collection[int]:
        """Labels that are one segment of an image, such as sky."""

    def draw(self, generator: torch.Generator) -> tuple[Image.Image, Objects]:
        """One of them, in RGB, with its objects as annotated.

        Raises:
            DataError: it cannot be read.
        """


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

    def __call__(
        self, image: Image.Image, objects: Objects, generator: torch.Generator, others: OtherImages | None = None
    ) -> tuple[Tensor, Target]:
        """Varies one image.

        Args:
            image: RGB.
            objects: as annotated; crowds are left out, boxes are clipped to what remains visible, and dropped where nothing does.
            generator: the only source of random numbers.
            others: the images that may take part in this one; None leaves out mosaics and pasted objects.

        Returns:
            Normalised pixels (3, H, W) float32, and the target: labels as they were, boxes relative to the final image.
        """
        levels, target = self.varied(image, objects, generator, others)
        return normalise(levels, self.preprocessing), target

    def varied(
        self, image: Image.Image, objects: Objects, generator: torch.Generator, others: OtherImages | None = None
    ) -> tuple[Tensor, Target]:
        """The same without the normalising: levels (3, H, W) uint8, and the target."""
        for _, step in self.steps(image, objects, generator, others):
            scene = step
        return scene.levels, scene.target()

    def steps(
        self, image: Image.Image, objects: Objects, generator: torch.Generator, others: OtherImages | None = None
    ) -> Iterator[tuple[str, Scene]]:
        """What is done to one image, step by step: what happened, and what is then seen; steps that chance left out are not among them.

        Args:
            image: as for a call.
            objects: likewise.
            generator: likewise.
            others: likewise.
        """
        policy, scene = self.augmentation, scene_of(image, objects)
        yield "as annotated", scene
        for name, changed in self._turned(scene, generator):
            scene = changed
            yield name, scene
        if policy.crop and _happens(_CROP_PROBABILITY, generator):
            scene = resized(scene, resized_size(*scene.size, _choice(policy.crop_short_sides, generator)))
            scene = _random_window(scene, policy.crop_range, generator)
            yield "cut", scene
        size = resized_size(*scene.size, _choice(policy.short_sides, generator), policy.long_side)
        if others is not None and policy.mosaic and min(size) > 1 and _happens(policy.mosaic, generator):
            scene = self._mosaic(scene, size, generator, others)
            yield "four images in one", scene
        else:
            name, scene = self._zoomed(scene, size, generator)
            yield name, scene
        if others is not None and policy.copy_paste and _happens(policy.copy_paste, generator):
            more = self._pasted(scene, generator, others)
            if more is not scene:
                scene = more
                yield "objects of another image pasted", scene
        if policy.colours is not None:
            scene = replace(scene, levels=with_other_colours(scene.levels, policy.colours, generator))
            yield "colours changed", scene

    def _turned(self, scene: Scene, generator: torch.Generator) -> Iterator[tuple[str, Scene]]:
        policy = self.augmentation
        if _happens(policy.flip, generator):
            scene = mirrored(scene)
            yield "mirrored", scene
        if policy.vertical_flip and _happens(policy.vertical_flip, generator):
            yield "upside down", upside_down(scene)

    def _zoomed(self, scene: Scene, size: tuple[int, int], generator: torch.Generator) -> tuple[str, Scene]:
        """The scene in its final size, and within it larger or smaller at random."""
        if self.augmentation.zoom is None:
            return "resized", resized(scene, size)
        least, most = map(math.log, self.augmentation.zoom)
        factor = math.exp(least + (most - least) * _uniform(generator))  # as often half as large as twice as large
        if factor >= 1:  # cut before resizing, so that only pixels that are seen are computed
            window = _share(scene.size, 1 / factor)
            return "made larger", resized(_anywhere(scene, window, generator, self.augmentation.least_visible), size)
        scene = resized(scene, _share(size, factor))
        top, left = (_integer(0, whole - part, generator) for whole, part in zip(size, scene.size, strict=True))
        return "made smaller", placed(scene, size, top, left, self._fill())

    def _mosaic(self, scene: Scene, size: tuple[int, int], generator: torch.Generator, others: OtherImages) -> Scene:
        """The scene with three others in its final size, in random order."""
        least, most = _CENTERS
        row, column = (
            min(max(1, round(side * (least + (most - least) * _uniform(generator)))), max(1, side - 1)) for side in size
        )
        own, parts = _integer(0, 3, generator), []
        for place, (_, _, height, width) in enumerate(quadrants(size, (row, column))):
            part = scene if place == own else self._other(generator, others)
            parts.append(self._filling(part, (height, width), generator))
        return mosaic(parts, size, (row, column), others.stuff)

    def _filling(self, scene: Scene, size: tuple[int, int], generator: torch.Generator) -> Scene:
        """A random window of the scene that fills a part of a mosaic."""
        scale = max(part / whole for part, whole in zip(size, scene.size, strict=True))
        scale *= 1 + (_CLOSER - 1) * _uniform(generator)
        window = min(scene.size[0], max(1, round(size[0] / scale))), min(scene.size[1], max(1, round(size[1] / scale)))
        return resized(_anywhere(scene, window, generator, self.augmentation.least_visible), size)

    def _pasted(self, scene: Scene, generator: torch.Generator, others: OtherImages) -> Scene:
        """The scene with some things of another image, which is zoomed into the same size."""
        _, other = self._zoomed(self._other(generator, others), scene.size, generator)
        chances = torch.rand(len(other.objects), generator=generator, dtype=torch.float64).numpy()
        things = ~np.isin(other.objects.labels, list(others.stuff))
        chosen = np.flatnonzero(things & (chances < _PASTE_PROBABILITY))
        return pasted(scene, other, chosen, least_visible=self.augmentation.least_visible)

    def _other(self, generator: torch.Generator, others: OtherImages) -> Scene:
        """Another image, mirrored as this policy mirrors images."""
        scene = scene_of(*others.draw(generator))
        for _, changed in self._turned(scene, generator):
            scene = changed
        return scene

    def _fill(self) -> tuple[int, int, int]:
        """The mean colour, which is about 0 for the model, as padding is."""
        red, green, blue = (round(mean * _WHITE) for mean in self.preprocessing.mean)
        return red, green, blue


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
        return with_size(levels_of(image), self.output_size(image.height, image.width))


def normalise(levels: Tensor, preprocessing: Preprocessing, into: Tensor | None = None) -> Tensor:
    """Pixels (3, H, W) float32 with the colours that a model expects, in its order.

    Args:
        levels: (3, H, W) uint8, red first, in any order in memory.
        preprocessing: mean and deviation of the colours.
        into: (3, H, W) float32 that gets the pixels; None means a new tensor.
    """
    pixels = torch.empty(levels.shape) if into is None else into
    # Channel by channel, so that what one step writes is still in the processor's cache for the next.
    planes = list(pixels) if preprocessing.channels == "rgb" else list(pixels)[::-1]
    for plane, channel, mean, deviation in zip(
        planes, levels, preprocessing.mean, preprocessing.deviation, strict=True
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
        return target_of(single(replace(objects, masks=None), height, width), height, width, rows, columns)
    return target_of(single(objects, height, width), height, width, rows.resized(size[0]), columns.resized(size[1]))


def _random_window(scene: Scene, sides: tuple[int, int], generator: torch.Generator) -> Scene:
    """A window of random size at a random place, as DETR cuts."""
    smallest, largest = sides
    old_height, old_width = scene.size
    width = _integer(smallest, min(old_width, largest), generator)
    height = _integer(smallest, min(old_height, largest), generator)
    return _anywhere(scene, (height, width), generator)


def _anywhere(scene: Scene, window: tuple[int, int], generator: torch.Generator, least_visible: float = 0.0) -> Scene:
    """A window of a given height and width at a random place."""
    (height, width), (old_height, old_width) = window, scene.size
    top, left = _integer(0, old_height - height, generator), _integer(0, old_width - width, generator)
    return cut(scene, top, left, window, least_visible=least_visible)


def _share(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """A size in proportion, at most as large and at least 1."""
    height, width = (max(1, min(side, round(side * factor))) for side in size)
    return height, width


def _happens(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _uniform(generator: torch.Generator) -> float:
    """A number in [0, 1)."""
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """A uniform integer, both limits included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _choice(values: tuple[int, ...], generator: torch.Generator) -> int:
    return values[_integer(0, len(values) - 1, generator)]
