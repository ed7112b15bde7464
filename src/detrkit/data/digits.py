"""The built-in data set: real handwritten digits (scikit-learn's, 8 × 8) drawn over crops of its two sample photographs.

It needs no download and can be learned in minutes, so it is the place to try everything first. Training and validation images share nothing:
digits are split by their index (scikit-learn's file is ordered by writer), photographs by region.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from detrkit.cards import Category
from detrkit.data.dataset import ArrayImages, DetectionDataset
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
    pixels, boxes, labels = _compose_all(split, count, size, seed)
    boxes_xyxy = np.concatenate(boxes).astype(np.float64)
    return DetectionDataset(
        name=f"digits {split}",
        images=ArrayImages(pixels),
        image_ids=np.arange(1, count + 1, dtype=np.int64),
        sizes=np.full((count, 2), size, dtype=np.int64),
        categories=tuple(Category(id=digit, name=str(digit), index=digit) for digit in range(10)),
        offsets=np.concatenate([[0], np.cumsum([len(each) for each in labels])]).astype(np.int64),
        boxes_xyxy=boxes_xyxy,
        labels=np.concatenate(labels).astype(np.int64),
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


def _compose_all(split: str, count: int, size: int, seed: int) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """All images (I, size, size, 3) uint8, with the boxes and the labels of each."""
    sources = digit_sources(split)
    pixels = np.empty((count, size, size, 3), dtype=np.uint8)
    boxes: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for index in range(count):
        generator = np.random.default_rng((seed, DIGIT_SPLITS.index(split), index))
        pixels[index], image_boxes, image_labels = _compose(sources, size, generator)
        boxes.append(image_boxes)
        labels.append(image_labels)
    return pixels, boxes, labels


def _compose(
    sources: DigitSources, size: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image (size, size, 3) uint8, its boxes (n, 4) xyxy and its labels (n,)."""
    canvas = _background(sources.photographs, size, generator)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for _ in range(generator.integers(1, _MAX_DIGITS, endpoint=True)):
        chosen = int(generator.integers(len(sources.labels)))
        ink = _ink(sources.glyphs[chosen], size, generator)
        box = _free_box(ink.shape, boxes, size, generator)
        if box is None:
            continue
        _write(canvas, ink, box, generator)
        boxes.append(box)
        labels.append(int(sources.labels[chosen]))
    return np.rint(canvas).astype(np.uint8), np.array(boxes), np.array(labels)


def _background(photographs: tuple[np.ndarray, ...], size: int, generator: np.random.Generator) -> np.ndarray:
    """A square piece of a photograph, (size, size, 3) float32 in 0..255, sometimes mirrored, slightly lighter or darker."""
    photograph = photographs[generator.integers(len(photographs))]
    height, width = photograph.shape[:2]
    side = int(generator.integers(_PHOTO_CROP[0], _PHOTO_CROP[1], endpoint=True))
    top, left = generator.integers(height - side, endpoint=True), generator.integers(width - side, endpoint=True)
    piece = Image.fromarray(photograph[top : top + side, left : left + side])
    canvas = np.asarray(piece.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    if generator.random() < 0.5:
        canvas = canvas[:, ::-1]
    relit: np.ndarray = np.clip(canvas * np.float32(generator.uniform(0.75, 1.15)), 0, 255)
    return relit


def _ink(glyph: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """How much ink covers each pixel of a digit's tight box, (h, w) float32 in 0..1, smoothly enlarged and slightly rotated."""
    low, high = np.log(_RELATIVE_SIDE)
    scale = size * np.exp(generator.uniform(low, high)) / 8  # pixels for one cell of the glyph
    angle, slant, stretch = generator.uniform(-0.2, 0.2), generator.uniform(-0.15, 0.15), generator.uniform(0.85, 1.15)
    side = int(np.ceil(scale * 12))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    inverse = turn @ np.array([[1 / stretch, slant], [0, 1]]) / scale
    offset = glyph.shape[0] / 2 - inverse @ np.array([side / 2, side / 2])
    affine = (*inverse[0], offset[0], *inverse[1], offset[1])
    enlarged = Image.fromarray(glyph).transform(
        (side, side), Image.Transform.AFFINE, affine, resample=Image.Resampling.BICUBIC
    )
    # The 8 × 8 values are counts of a finer black and white drawing: a steep ramp restores its edges.
    ink = np.clip((np.asarray(enlarged) - 0.4) / 0.25, 0, 1)
    rows, columns = np.flatnonzero((ink > 0.5).any(axis=1)), np.flatnonzero((ink > 0.5).any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


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
    corners = np.array(boxes)
    low, high = (
        np.maximum(corners[:, None, :2], corners[None, :, :2]),
        np.minimum(corners[:, None, 2:], corners[None, :, 2:]),
    )
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = np.diagonal(shared)
    return float(((shared.sum(axis=1) - areas) / areas).max())


def _write(canvas: np.ndarray, ink: np.ndarray, box: tuple[int, int, int, int], generator: np.random.Generator) -> None:
    """Draws a digit's ink on the canvas, in a colour that stands out from the background."""
    left, top, right, bottom = box
    below = canvas[top:bottom, left:right]
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    background = float((below @ weights).mean()) / 255
    colour = generator.uniform(0, 1, size=3)
    lightness = float(colour @ weights)
    if background < 0.5:
        target = generator.uniform(max(0.8, background + 0.45), 1)
        colour = 1 - (1 - colour) * min(1, (1 - target) / (1 - lightness + 1e-6))
    else:
        target = generator.uniform(0, min(0.2, background - 0.45))
        colour = colour * min(1, target / (lightness + 1e-6))
    opacity = ink[..., None] * np.float32(generator.uniform(0.92, 1))
    below += (colour.astype(np.float32) * 255 - below) * opacity
