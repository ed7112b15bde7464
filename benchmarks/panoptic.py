"""Seconds that panoptic quality takes, from files and from memory.

    python benchmarks/panoptic.py annotations/panoptic_val.json annotations/panoptic_train.json --images 200

The images of the annotation files are repeated as often as needed. Their predictions are made from the ground truth: moved by some pixels, with
some segments left out and some of another class.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from detrkit.cards import Category
from detrkit.evaluation.panoptic import panoptic_quality
from detrkit.panoptic import VOID, PanopticSegmentation
from detrkit.prediction.panoptic_files import PanopticFile, read_panoptic, write_panoptic

_MOVED = 4  # pixels
_LEFT_OUT, _OTHER_CLASS = 0.1, 0.1  # shares of the segments


def main() -> None:
    """Measures and prints a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    sources = [read_panoptic(file) for file in options.files]
    truth = list(itertools.islice(itertools.cycle(itertools.chain(*sources)), options.images))
    generator = np.random.default_rng(0)
    predictions = [perturbed(image, sources[0].categories, generator) for image in truth]
    with tempfile.TemporaryDirectory() as folder:
        written = [
            write(Path(folder) / name, images, sources[0].categories)
            for name, images in (("truth.json", truth), ("predictions.json", predictions))
        ]
        began = time.perf_counter()
        evaluation = panoptic_quality(*written, name="from files")
        report(evaluation.summary(), time.perf_counter() - began, options.images)
    began = time.perf_counter()
    evaluation = panoptic_quality(truth, predictions, name="from memory")
    report(evaluation.summary(), time.perf_counter() - began, options.images)


def write(path: Path, images: Sequence[PanopticSegmentation], categories: Sequence[Category]) -> PanopticFile:
    """Writes images numbered from 1, and opens the file."""
    numbered: Iterator[tuple[int, str, PanopticSegmentation]] = (
        (number, f"{number:06d}.jpg", image) for number, image in enumerate(images, start=1)
    )
    return read_panoptic(write_panoptic(path, numbered, categories))


def perturbed(
    image: PanopticSegmentation, categories: Sequence[Category], generator: np.random.Generator
) -> PanopticSegmentation:
    """A prediction that is wrong in some ways."""
    ids = np.roll(image.ids, (_MOVED, _MOVED), axis=(0, 1))
    segments = []
    for segment in image.segments:
        if generator.random() < _LEFT_OUT:
            ids[ids == segment.id] = VOID
            continue
        category = segment.category
        if generator.random() < _OTHER_CLASS:
            category = categories[int(generator.integers(len(categories)))]
        segments.append(replace(segment, category=category, crowd=False, score=float(generator.random())))
    return PanopticSegmentation(ids, tuple(segments))


def report(summary: str, seconds: float, images: int) -> None:
    """Prints the figures, and how long they took."""
    print(f"{summary}\n  {seconds:.2f} s, {images / seconds:.0f} images/s")


if __name__ == "__main__":
    main()
