"""Small panoptic segmentations, and the real ones of COCO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detrkit.cards import Category
from detrkit.panoptic import VOID, PanopticSegmentation, Segment
from detrkit.prediction.panoptic_files import PanopticFile, read_panoptic

PERSON, DOG = Category(1, "person", 0), Category(18, "dog", 1)
SKY, GRASS = Category(119, "sky", 2, thing=False), Category(193, "grass", 3, thing=False)
CATEGORIES = (PERSON, DOG, SKY, GRASS)


def segmentation(
    ids: Sequence[Sequence[int]] | np.ndarray,
    classes: dict[int, Category],
    *,
    crowds: Sequence[int] = (),
    scores: dict[int, float] | None = None,
) -> PanopticSegmentation:
    """From a map and the class of each id in it."""
    array = np.array(ids, dtype=np.int32)
    segments = tuple(
        Segment(number, category, int((array == number).sum()), (scores or {}).get(number), number in crowds)
        for number, category in sorted(classes.items())
    )
    return PanopticSegmentation(array, segments)


def row(*parts: tuple[int, int]) -> np.ndarray:
    """A map of one row from pairs of an id and a number of pixels."""
    return np.concatenate([np.full(number, value) for value, number in parts])[None]


def coco_panoptic(shared: Path, split: str) -> PanopticFile:
    """The panoptic annotations of the COCO sample."""
    return read_panoptic(shared / f"data/coco/annotations/panoptic_{split}.json")


def perturbed(image: PanopticSegmentation, seed: int) -> PanopticSegmentation:
    """A prediction that is wrong in some ways: moved, segments left out, classes changed, a part of each a segment of its own."""
    generator = np.random.default_rng(seed)
    ids = np.roll(image.ids, (3, 5), axis=(0, 1))
    classes = {segment.id: segment.category for segment in image.segments}
    every = list(classes.values())
    highest = max(classes)
    for place, segment in enumerate(image.segments):
        choice = generator.random()
        if choice < 0.15:
            ids[ids == segment.id] = VOID
        elif choice < 0.3:
            classes[segment.id] = every[int(generator.integers(len(every)))]
        elif choice < 0.5:
            rows, columns = np.nonzero(ids == segment.id)
            upper = rows < np.quantile(rows, generator.random()) if len(rows) else rows
            ids[rows[upper], columns[upper]] = highest + 1 + place
            classes[highest + 1 + place] = segment.category
    there = set(np.unique(ids).tolist())
    return segmentation(ids, {number: each for number, each in classes.items() if number in there})
