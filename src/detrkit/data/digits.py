"""The built-in data set: real handwritten digits (scikit-learn's, 8 × 8) drawn over crops of its two sample photographs.

It needs no download and can be learned in minutes, so it is the place to try everything first. Training and validation images share nothing:
digits are split by their index (scikit-learn's file is ordered by writer), photographs by region.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from detrkit.cards import Category
from detrkit.data.dataset import DetectionDataset, array_image_name
from detrkit.data.wording import counted
from detrkit.errors import DataError, closest

DIGIT_SPLITS = ("train", "val")
DEFAULT_COUNTS = {"train": 5000, "val": 200}
_DIGIT_RANGES = {"train": (0, 1400), "val": (1400, 1797)}
_PHOTO_ROWS = {"train": (0, 267), "val": (267, 427)}  # both parts show building and leaves, flower and dark background
_PHOTO_CROP = (96, 160)  # side of the square that becomes one background, in pixels of the photograph
_MAX_DIGITS = 6
_RELATIVE_SIDE = (0.15, 0.48)  # height of a digit as a share of the image's side
_MAX_COVERED = 0.3  # share of a digit's box that other boxes may cover
_ATTEMPTS = 12
_LEAST_INK, _RAMP = 0.4, 0.25  # a glyph's values from which on there is ink, and over which it grows to full ink
_MARGIN = 4  # empty cells around the 8 × 8 cells of a digit, so that it can be rotated


@dataclass(frozen=True, eq=False)
class DigitSources:
    """What the images of one split are made of.

    Attributes:
        glyphs: (n, 16, 16) float32 in 0..1, one digit each with a margin.
        labels: (n,) int64, the digits, 0 to 9.
        photographs: uint8 RGB arrays, the part of each photograph that belongs to the split.
    """

    glyphs: np.ndarray
    labels: np.ndarray
    photographs: tuple[np.ndarray, ...]


def read_digits(split: str, *, images: int | None = None, size: int = 128, seed: int = 0) -> DetectionDataset:
    """The built-in data set; image i of a split depends only on `size`, `seed` and i.

    Args:
        split: `train` or `val`.
        images: how many images; by default 5000 for training and 200 for validation.
        size: side of the square images in pixels, at least 64.
        seed: a different number gives different images of the same digits and photographs.

    Raises:
        DataError: an unknown split, or a number out of range.
    """
    if split not in DIGIT_SPLITS:
        raise DataError(f"The built-in digits have no split '{split}': {closest(split, DIGIT_SPLITS)}")
    count = DEFAULT_COUNTS[split] if images is None else images
    if count < 1 or size < 64 or seed < 0:
        raise DataError(
            f"The built-in digits need images ≥ 1, size ≥ 64 and seed ≥ 0, not {count}, {size} and {seed}: change the number."
        )
    pictures = DigitImages.of(digit_sources(split), size, _seeds(split, count, seed))
    # A layout takes more memory than its image, so only boxes and labels are kept.
    digits = [[(digit.box, digit.label) for digit in pictures.layout(index).digits] for index in range(count)]
    boxes_xyxy = np.array([box for image in digits for box, _ in image], dtype=np.float64)
    return DetectionDataset(
        name=f"digits {split}",
        images=pictures,
        image_ids=np.arange(1, count + 1, dtype=np.int64),
        sizes=np.full((count, 2), size, dtype=np.int64),
        categories=tuple(Category(id=digit, name=str(digit), index=digit) for digit in range(10)),
        offsets=np.concatenate([[0], np.cumsum([len(image) for image in digits])]).astype(np.int64),
        boxes_xyxy=boxes_xyxy,
        labels=np.array([label for image in digits for _, label in image], dtype=np.int64),
        crowd=np.zeros(len(boxes_xyxy), dtype=np.bool_),
        areas=(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1),
        annotation_ids=np.arange(1, len(boxes_xyxy) + 1, dtype=np.int64),
    )


def digit_sources(split: str) -> DigitSources:
    """The digits and the parts of the photographs that one split is made of."""
    # Imported here because it takes longer than all other imports.
    from sklearn.datasets import load_digits, load_sample_images

    digits, (first, last) = load_digits(), _DIGIT_RANGES[split]
    glyphs = np.pad(digits.images[first:last] / 16, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))
    top, bottom = _PHOTO_ROWS[split]
    photographs = tuple(photograph[top:bottom] for photograph in load_sample_images().images)
    return DigitSources(glyphs.astype(np.float32), digits.target[first:last].astype(np.int64), photographs)


def _seeds(split: str, count: int, seed: int) -> np.ndarray:
    numbers = np.arange(count, dtype=np.int64)
    return np.stack([np.full_like(numbers, seed), np.full_like(numbers, DIGIT_SPLITS.index(split)), numbers], axis=1)


@dataclass(frozen=True, eq=False)
class DigitImages:
    """The images of the built-in set; each is drawn when it is asked for the first time, and kept.

    Attributes:
        sources: what they are made of.
        size: side of the images in pixels.
        seeds: (I, 3) int64, of each image what its random numbers depend on: the seed, the split and its number.
        pixels: (I, size, size, 3) uint8, RGB, of those that were drawn. Worker processes share this memory, so that none draws an image again.
        drawn: (I,) bool, which were.
    """

    sources: DigitSources
    size: int
    seeds: np.ndarray
    pixels: np.ndarray
    drawn: np.ndarray

    @classmethod
    def of(cls, sources: DigitSources, size: int, seeds: np.ndarray) -> DigitImages:
        """Images none of which is drawn; memory is taken only by those that are."""
        pixels = np.zeros((len(seeds), size, size, 3), dtype=np.uint8)
        return cls(sources, size, seeds, pixels, np.zeros(len(seeds), dtype=np.bool_))

    def __repr__(self) -> str:
        return f"<DigitImages {counted(len(self), 'image')} of {self.size} × {self.size} pixels>"

    def __len__(self) -> int:
        return len(self.seeds)

    def name(self, index: int) -> str:
        """A name for messages and result files."""
        return array_image_name(index)

    def open(self, index: int) -> Image.Image:
        """The picture, in RGB."""
        if not self.drawn[index]:
            self.pixels[index] = self.layout(index).draw()
            self.drawn[index] = True  # comes last: another process may look at it
        return Image.fromarray(self.pixels[index])

    def subset(self, indices: np.ndarray) -> DigitImages:
        """Some of the images, in the given order."""
        return self.of(self.sources, self.size, self.seeds[indices])

    def layout(self, index: int) -> Layout:
        """What the image will show, without drawing it."""
        return _layout(self.sources, self.size, np.random.default_rng(self.seeds[index].tolist()))


@dataclass(frozen=True, eq=False)
class Background:
    """A square piece of a photograph.

    Attributes:
        piece: (s, s, 3) uint8.
        mirrored: whether left and right are exchanged.
        light: by what its levels are multiplied.
    """

    piece: np.ndarray
    mirrored: bool
    light: float


@dataclass(frozen=True, eq=False)
class DrawnDigit:
    """One digit of an image.

    Attributes:
        label: 0 to 9.
        box: left, top, right and bottom, in whole pixels; tight around the ink.
        enlarged: (h, w) float32, the glyph as large as its box.
        hue: (3,) in 0..1, red, green and blue of its colour, before that is made to stand out.
        contrast: in 0..1, how far it stands out.
        opacity: of the ink.
    """

    label: int
    box: tuple[int, int, int, int]
    enlarged: np.ndarray
    hue: np.ndarray
    contrast: float
    opacity: float


@dataclass(frozen=True, eq=False)
class Layout:
    """One image before it is drawn; everything random is decided.

    Attributes:
        size: its side in pixels.
        background: what is behind the digits.
        digits: later ones are drawn over earlier ones.
    """

    size: int
    background: Background
    digits: tuple[DrawnDigit, ...]

    def draw(self) -> np.ndarray:
        """The image, (size, size, 3) uint8."""
        canvas = _enlarged_piece(self.background, self.size)
        for digit in self.digits:
            _write(canvas, digit)
        pixels: np.ndarray = np.rint(canvas).astype(np.uint8)
        return pixels


def _layout(sources: DigitSources, size: int, generator: np.random.Generator) -> Layout:
    """One image; the order of the calls of the generator is part of what a seed means."""
    background = _background(sources.photographs, generator)
    digits: list[DrawnDigit] = []
    for _ in range(generator.integers(1, _MAX_DIGITS, endpoint=True)):
        chosen = int(generator.integers(len(sources.labels)))
        enlarged = _enlarged(sources.glyphs[chosen], size, generator)
        box = _free_box(enlarged.shape, [digit.box for digit in digits], size, generator)
        if box is None:
            continue
        hue, contrast = generator.uniform(0, 1, size=3), generator.random()
        opacity = generator.uniform(0.92, 1)
        digits.append(DrawnDigit(int(sources.labels[chosen]), box, enlarged, hue, contrast, opacity))
    return Layout(size, background, tuple(digits))


def _background(photographs: tuple[np.ndarray, ...], generator: np.random.Generator) -> Background:
    """A square piece of a photograph, sometimes mirrored, slightly lighter or darker."""
    photograph = photographs[generator.integers(len(photographs))]
    height, width = photograph.shape[:2]
    side = int(generator.integers(_PHOTO_CROP[0], _PHOTO_CROP[1], endpoint=True))
    top, left = generator.integers(height - side, endpoint=True), generator.integers(width - side, endpoint=True)
    mirrored, light = generator.random() < 0.5, generator.uniform(0.75, 1.15)
    return Background(photograph[top : top + side, left : left + side], mirrored, light)


def _enlarged_piece(background: Background, size: int) -> np.ndarray:
    """The canvas, (size, size, 3) float32 in 0..255."""
    piece = Image.fromarray(background.piece)
    canvas = np.asarray(piece.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    if background.mirrored:
        canvas = canvas[:, ::-1]
    relit: np.ndarray = np.clip(canvas * np.float32(background.light), 0, 255)
    return relit


def _enlarged(glyph: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """A digit, smoothly enlarged and slightly rotated, as far as there is ink: (h, w) float32."""
    low, high = np.log(_RELATIVE_SIDE)
    scale = size * np.exp(generator.uniform(low, high)) / 8  # pixels for one cell of the glyph
    angle, slant, stretch = generator.uniform(-0.2, 0.2), generator.uniform(-0.15, 0.15), generator.uniform(0.85, 1.15)
    side = int(np.ceil(scale * 12))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    inverse = turn @ np.array([[1 / stretch, slant], [0, 1]]) / scale
    offset = glyph.shape[0] / 2 - inverse @ np.array([side / 2, side / 2])
    affine = (*inverse[0], offset[0], *inverse[1], offset[1])
    enlarged = np.asarray(
        Image.fromarray(glyph).transform(
            (side, side), Image.Transform.AFFINE, affine, resample=Image.Resampling.BICUBIC
        )
    )
    covered = enlarged > _LEAST_INK + _RAMP / 2  # more than half
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    return enlarged[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _free_box(
    shape: tuple[int, ...], others: list[tuple[int, int, int, int]], size: int, generator: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """A box of this shape that neither hides other boxes nor is hidden by them, or None if every attempt failed."""
    height, width = shape
    if height > size or width > size:
        return None
    for _ in range(_ATTEMPTS):
        top, left = (
            int(generator.integers(size - height, endpoint=True)),
            int(generator.integers(size - width, endpoint=True)),
        )
        box = (left, top, left + width, top + height)
        if _largest_covered_share([*others, box]) <= _MAX_COVERED:
            return box
    return None


def _largest_covered_share(boxes: list[tuple[int, int, int, int]]) -> float:
    """The largest share of any box that the other boxes cover; overlaps are added up."""
    shares = []
    for place, (left, top, right, bottom) in enumerate(boxes):
        shared = 0
        for x0, y0, x1, y1 in boxes[:place] + boxes[place + 1 :]:
            shared += max(0, min(right, x1) - max(left, x0)) * max(0, min(bottom, y1) - max(top, y0))
        shares.append(shared / ((right - left) * (bottom - top)))
    return max(shares)


def _write(canvas: np.ndarray, digit: DrawnDigit) -> None:
    """Draws a digit's ink on the canvas, in a colour that stands out from the background."""
    left, top, right, bottom = digit.box
    below = canvas[top:bottom, left:right]
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    background = float((below @ weights).mean()) / 255
    colour = digit.hue
    lightness = float(colour @ weights)
    if background < 0.5:
        target = _between(max(0.8, background + 0.45), 1, digit.contrast)
        colour = 1 - (1 - colour) * min(1, (1 - target) / (1 - lightness + 1e-6))
    else:
        target = _between(0, min(0.2, background - 0.45), digit.contrast)
        colour = colour * min(1, target / (lightness + 1e-6))
    # The 8 × 8 values are counts of a finer black and white drawing: a steep ramp restores its edges.
    ink = np.clip((digit.enlarged - _LEAST_INK) / _RAMP, 0, 1)
    opacity = ink[..., None] * np.float32(digit.opacity)
    below += (colour.astype(np.float32) * 255 - below) * opacity


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
