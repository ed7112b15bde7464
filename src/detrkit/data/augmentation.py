"""How much training images may vary: named policies, and the numbers that they come down to for images of a certain size.

A policy is what a user names. An `Augmentation` is that policy in pixels. `detrkit.data.transforms` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from detrkit.cards import PolicyName
from detrkit.errors import ConfigurationError, OptionError


@dataclass(frozen=True)
class ColourJitter:
    """How far colours may vary. Each of the four is drawn for about half of the images, in random order.

    Attributes:
        brightness: share by which it may rise or fall.
        contrast: likewise.
        saturation: likewise.
        hue: part of the circle of hues by which it may turn either way, at most 0.5.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float = 0.0


@dataclass(frozen=True)
class Policy:
    """A way to vary training images, whatever their size.

    Attributes:
        flip: probability of mirroring left and right.
        vertical_flip: probability of mirroring top and bottom.
        crop: whether half of the images are cut, as in DETR.
        multi_scale: whether images are resized to one of several sizes instead of the largest.
        smallest: the least short side among these sizes, as a share of the largest; 0 keeps all that DETR has, from 60 % on.
        zoom: least and largest factor by which an image is made smaller or larger within its final size; None leaves that out.
        colours: how far colours may vary; None leaves them as they are.
        mosaic: probability that four images are put together to one.
        copy_paste: probability that objects of another image are pasted.
        least_visible: share of an object's box that zoom, mosaic and pasted objects must leave visible; otherwise the object is no longer
            counted as one.
    """

    flip: float = 0.0
    vertical_flip: float = 0.0
    crop: bool = False
    multi_scale: bool = False
    smallest: float = 0.0
    zoom: tuple[float, float] | None = None
    colours: ColourJitter | None = None
    mosaic: float = 0.0
    copy_paste: float = 0.0
    least_visible: float = 0.0


POLICIES: Mapping[PolicyName, Policy] = {
    "detr": Policy(flip=0.5, crop=True, multi_scale=True),
    "sizes": Policy(flip=0.5, multi_scale=True, smallest=0.8),
    "light": Policy(
        flip=0.5,
        multi_scale=True,
        smallest=0.8,
        zoom=(0.8, 1.25),
        colours=ColourJitter(0.2, 0.2, 0.2),
        least_visible=0.1,
    ),
    "strong": Policy(
        flip=0.5,
        multi_scale=True,
        zoom=(0.4, 2.0),
        colours=ColourJitter(0.4, 0.4, 0.4, 0.05),
        mosaic=0.5,
        copy_paste=0.5,
        least_visible=0.1,
    ),
    "none": Policy(),
}


@dataclass(frozen=True)
class Augmentation:
    """How much a training image may vary, in pixels; the defaults are DETR's.

    The image is mirrored with probability `flip`, and turned upside down with probability `vertical_flip`. If `crop` is set, then with
    probability 0.5 it is first resized to one of `crop_short_sides` and cut to a window whose width and height are each drawn from
    `crop_range`. Last, it is resized to one of `short_sides`. Where `zoom`, `mosaic`, `copy_paste` or `colours` are given, they follow:
    either three other images join it in its final size, or it is zoomed within this size; then objects of another image are pasted; then
    colours change.

    Attributes:
        short_sides: pixels, one is drawn for the shorter side.
        long_side: limit of the longer side in pixels; it wins over `short_sides`.
        flip: probability of mirroring left and right. Where left and right matter (letters, digits, traffic signs) use 0.
        crop: whether half of the images are cut.
        crop_short_sides: pixels, one is drawn for the shorter side before cutting; the longer side has no limit there.
        crop_range: smallest and largest side of the window in pixels, both included; the image's own side limits it further.
        vertical_flip: probability of mirroring top and bottom, for pictures without an up and down (cells, ground seen from above).
        zoom: as of a `Policy`.
        colours: as of a `Policy`.
        mosaic: as of a `Policy`.
        copy_paste: as of a `Policy`.
        least_visible: as of a `Policy`.

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
    zoom: tuple[float, float] | None = None
    colours: ColourJitter | None = None
    mosaic: float = 0.0
    copy_paste: float = 0.0
    least_visible: float = 0.0

    def __post_init__(self) -> None:
        sides = (*self.short_sides, *self.crop_short_sides, *self.crop_range, self.long_side)
        if not self.short_sides or not self.crop_short_sides or min(sides) < 1:
            raise ConfigurationError("An augmentation needs sides of at least 1 pixel, and one or more short sides")
        for name in ("flip", "vertical_flip", "mosaic", "copy_paste", "least_visible"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(
                    f"The probability {name}={getattr(self, name)} is not within 0..1: choose one that is", name
                )
        smallest, largest = self.crop_range
        if smallest > largest or smallest > min(self.crop_short_sides):
            raise ConfigurationError(
                f"crop_range={self.crop_range} must rise and begin no higher than the smallest of crop_short_sides={self.crop_short_sides}"
            )
        if self.zoom is not None and not 0 < self.zoom[0] <= self.zoom[1]:
            raise ConfigurationError(f"zoom={self.zoom} must be two factors above 0 that do not fall")

    @property
    def mixes(self) -> bool:
        """Whether other images take part in an image."""
        return self.mosaic > 0 or self.copy_paste > 0

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

    @classmethod
    def named(
        cls,
        name: PolicyName,
        short_side: int,
        long_side: int,
        *,
        flip: float | None = None,
        vertical_flip: float | None = None,
        crop: bool | None = None,
        multi_scale: bool | None = None,
    ) -> Augmentation:
        """A policy for images of a size.

        Args:
            name: of the policy.
            short_side: the largest short side in pixels.
            long_side: limit of the longer side in pixels.
            flip: replaces the policy's; None keeps it.
            vertical_flip: likewise.
            crop: likewise.
            multi_scale: likewise.

        Raises:
            ConfigurationError: an unknown policy, or sizes as for `for_sizes`.
        """
        if name not in POLICIES:
            raise ConfigurationError(f"there is no augmentation '{name}': choose one of {', '.join(POLICIES)}")
        policy = _with_given(POLICIES[name], flip, vertical_flip, crop, multi_scale)
        sized = cls.for_sizes(short_side, long_side)
        several = tuple(side for side in sized.short_sides if side >= policy.smallest * short_side)
        return replace(
            sized,
            short_sides=several if policy.multi_scale else (short_side,),
            flip=policy.flip,
            vertical_flip=policy.vertical_flip,
            crop=policy.crop,
            zoom=policy.zoom,
            colours=policy.colours,
            mosaic=policy.mosaic,
            copy_paste=policy.copy_paste,
            least_visible=policy.least_visible,
        )


def _with_given(
    policy: Policy, flip: float | None, vertical_flip: float | None, crop: bool | None, multi_scale: bool | None
) -> Policy:
    """The policy with single values that were given."""
    return replace(
        policy,
        flip=policy.flip if flip is None else flip,
        vertical_flip=policy.vertical_flip if vertical_flip is None else vertical_flip,
        crop=policy.crop if crop is None else crop,
        multi_scale=policy.multi_scale if multi_scale is None else multi_scale,
    )


def mixed_epochs(epochs: int) -> int:
    """How many of a run's epochs have mosaics and pasted objects, where its policy has any: all but the last tenth.

    Such images look like no photo, so the last epochs are of images as the model will see them. A run of fewer than ten epochs has them to
    its end.

    Args:
        epochs: of the run.
    """
    return epochs - epochs // 10
