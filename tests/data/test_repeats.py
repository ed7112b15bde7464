"""Images of rare classes come several times in an epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detrkit.data import DetectionDataset, read_digits
from detrkit.data.repeats import images_per_epoch, repeat_factors, repeated_order


def dataset(labels: list[list[int]], crowds: tuple[int, ...] = ()) -> DetectionDataset:
    """One with these classes in its images; objects at the given positions are crowd regions."""
    whole = read_digits("train", images=len(labels), size=64)
    flat = np.array([label for image in labels for label in image], dtype=np.int64)
    crowd = np.isin(np.arange(len(flat)), crowds)
    offsets = np.cumsum([0, *map(len, labels)]).astype(np.int64)
    return replace(whole, labels=flat, crowd=crowd, offsets=offsets)


def test_factors_are_those_of_the_rule() -> None:
    images = dataset([[0], [0, 0], [0, 1], [0], [], [0], [0, 2], [0, 2], [0], [0]], crowds=(4,))
    # Of ten images nine show class 0, two class 2; class 1 has only a crowd region.
    assert repeat_factors(images, 0.8).tolist() == pytest.approx([1, 1, 1, 1, 1, 1, 2, 2, 1, 1])
    images = dataset([[0], [0, 0], [0, 1], [0], [], [0], [0, 2], [0, 2], [0], [0]])
    assert repeat_factors(images, 0.9).tolist() == pytest.approx([1, 1, 3, 1, 1, 1, 4.5**0.5, 4.5**0.5, 1, 1])
    assert repeat_factors(images, 0.05).tolist() == [1.0] * 10


def test_every_epoch_has_the_same_number_of_images() -> None:
    factors = np.array([1.0, 1.0, 2.3, 1.5, 1.9, 3.0])
    orders = [repeated_order(factors, seed=1, epoch=epoch) for epoch in range(400)]
    assert {len(order) for order in orders} == {images_per_epoch(factors)} == {10}
    counts = np.array([np.bincount(np.array(order) % 6, minlength=6) for order in orders])
    assert (counts >= np.floor(factors)).all()
    assert (counts <= np.ceil(factors)).all()
    # 1.7 images are to come once more, and one is whole, so each of them does so a bit more rarely.
    assert counts.mean(axis=0) == pytest.approx([1, 1, 2 + 0.3 / 1.7, 1 + 0.5 / 1.7, 1 + 0.9 / 1.7, 3], abs=0.08)
    assert all(len(set(order)) == len(order) for order in orders)  # each copy has a number of its own


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    factors = np.array([1.0, 2.5, 1.5, 1.0] * 5)
    order = repeated_order(factors, seed=3, epoch=7)
    assert order == repeated_order(factors, seed=3, epoch=7)
    assert order != repeated_order(factors, seed=3, epoch=8)
    assert order != repeated_order(factors, seed=4, epoch=7)
    assert order != sorted(order)
    assert sorted(index % 20 for index in order if index < 20) == list(range(20))
