"""Repeat-factor sampling, the rule of LVIS: images that show a rare class come several times in an epoch."""

from __future__ import annotations

import numpy as np

from detrkit.data.batching import REPEATS, epoch_order
from detrkit.data.dataset import DetectionDataset


def repeat_factors(dataset: DetectionDataset, threshold: float) -> np.ndarray:
    """How often each image comes in an epoch, on average.

    A class that a share f of the images show has the factor √(threshold / f), but at least 1; an image has the largest factor of its
    classes. Crowd regions do not count, since nothing is learned of them.

    Args:
        dataset: its I images may be without objects.
        threshold: share of the images below which a class is rare, above 0 and below 1.

    Returns:
        (I,) float64, 1 or more.
    """
    classes = len(dataset.categories)
    images = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))[~dataset.crowd]
    pairs = np.unique(images * classes + dataset.labels[~dataset.crowd])
    shown_by, shown = np.divmod(pairs, classes)
    shares = np.bincount(shown, minlength=classes) / max(1, len(dataset))
    of_class = np.sqrt(np.maximum(1.0, threshold / np.maximum(shares, np.finfo(np.float64).tiny)))
    factors = np.ones(len(dataset))
    np.maximum.at(factors, shown_by, of_class[shown])
    return factors


def images_per_epoch(factors: np.ndarray) -> int:
    """The number of images in an epoch, each counted as often as it comes; it is the same in every epoch.

    Args:
        factors: (I,) as from `repeat_factors`.
    """
    whole = np.floor(factors)
    return int(whole.sum()) + _extra(factors - whole)


def repeated_order(factors: np.ndarray, seed: int, epoch: int) -> list[int]:
    """The order of an epoch's images, which depends on seed and epoch alone.

    An image with the factor 2.3 comes two or three times, three times in 30 % of the epochs.

    Args:
        factors: (I,) as from `repeat_factors`.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        Indices of images as `TrainingData` takes them: i + I · k is copy k of image i.
    """
    count = len(factors)
    whole = np.floor(factors)
    fractions = factors - whole
    copies = whole.astype(np.int64)
    extra = _extra(fractions)
    if extra:
        generator = np.random.default_rng((seed, REPEATS, epoch))
        # In random order, as many evenly spaced marks as there are copies to be had: each image gets one with its own probability.
        images = generator.permutation(count)
        ends = np.cumsum(fractions[images]) * (extra / fractions.sum())
        marks = generator.random() + np.arange(extra)
        copies[images[np.minimum(np.searchsorted(ends, marks, side="right"), count - 1)]] += 1
    images = np.repeat(np.arange(count), copies)
    copy = np.arange(len(images)) - np.repeat(np.cumsum(copies) - copies, copies)
    indices = images + count * copy
    return indices[epoch_order(len(indices), seed, epoch)].tolist()  # type: ignore[no-any-return]


def _extra(fractions: np.ndarray) -> int:
    """How many images come once more than the whole part of their factor says; 1e-9 is for sums that rounding makes too small."""
    return int(fractions.sum() + 1e-9)
