"""Which of two contestants is better on these images, as far as the images can tell: the paired bootstrap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.evaluation.bootstrap import (
    CONFIDENCE,
    LEAST_IMAGES,
    Interval,
    around_figure,
    drawn_ap,
    middle,
    over_trainings,
    resamples_within_reason,
)
from detrkit.evaluation.outcomes import Outcomes

Draws = NDArray[np.float64]
_LEAST_DIGITS = 3


@dataclass(frozen=True)
class Difference:
    """The difference of the APs of two contestants on the same images.

    Attributes:
        first: the one with the higher AP.
        second: the other.
        ap: by how much, in [0, 1].
        interval: where the difference lies: the middle 95 % of draws in which both APs are of the same drawn images, and of drawn trainings
            where there are several; None if fewer than 5 images have objects, which say nothing about others.
    """

    first: str
    second: str
    ap: float
    interval: Interval | None

    @property
    def better(self) -> str | None:
        """Who is better than the other by more than the choice of images explains; None where the interval holds 0, or is not there."""
        if self.interval is None or self.interval.low <= 0 <= self.interval.high:
            return None
        return self.first if self.interval.low > 0 else self.second

    def verdict(self) -> str:
        """What follows, in a few words."""
        if self.better is not None:
            worse = self.second if self.better == self.first else self.first
            return f"{self.better} is better than {worse}"
        return f"{self.first} and {self.second} cannot be ranked"

    def basis(self) -> str:
        """The difference and its interval, as a part of a sentence."""
        if self.interval is None:
            return f"AP {self.ap_text} on too few images for an interval"
        return f"AP {self.ap_text}, {CONFIDENCE:.0%} interval {self.interval_text}"

    @property
    def ap_text(self) -> str:
        """The difference with its sign."""
        return f"{self.ap:+.{self._digits}f}"

    @property
    def interval_text(self) -> str | None:
        """Both ends of the interval with their signs."""
        interval, digits = self.interval, self._digits
        return None if interval is None else f"{interval.low:+.{digits}f} to {interval.high:+.{digits}f}"

    @property
    def _digits(self) -> int:
        """As many decimals as it takes to see that an interval leaves out 0."""
        if self.better is None or self.interval is None:
            return _LEAST_DIGITS
        nearest = min(abs(self.interval.low), abs(self.interval.high))
        return max(_LEAST_DIGITS, math.ceil(-math.log10(nearest)))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        interval = None if self.interval is None else [self.interval.low, self.interval.high]
        return {
            "first": self.first,
            "second": self.second,
            "AP": self.ap,
            "interval": interval,
            "better": self.better,
        }


@dataclass(frozen=True)
class Ranking:
    """Contestants beside each other on the same images.

    Attributes:
        intervals: of each AP, by name; empty if there are too few images.
        differences: of all pairs, highest APs first.
        resamples: number of draws.
    """

    intervals: dict[str, Interval]
    differences: tuple[Difference, ...]
    resamples: int


def ranking(outcomes: Mapping[str, Sequence[Outcomes]], *, resamples: int | None = None, seed: int = 0) -> Ranking:
    """Compares the APs of all pairs.

    Args:
        outcomes: at COCO's ten IoU thresholds, of each training of each contestant, by the contestant's name; all of the same images.
        resamples: number of draws; None means 1000, or fewer where these would take long.
        seed: of the draws.
    """
    every = [one for each in outcomes.values() for one in each]
    draws = min(map(resamples_within_reason, every)) if resamples is None else resamples
    drawn: dict[str, Draws] = {}
    for place, (name, trainings) in enumerate(outcomes.items()):
        values = np.stack([drawn_ap(each, resamples=draws, seed=seed) for each in trainings])
        drawn[name] = over_trainings(values, seed=seed + 1 + place)  # trainings of two contestants are no pairs
    enough = len(np.unique(every[0].object_images)) >= LEAST_IMAGES
    best_first = sorted(drawn, key=lambda name: -drawn[name][0])
    differences = tuple(
        _difference(first, second, drawn, enough=enough) for first, second in itertools.combinations(best_first, 2)
    )
    intervals = {name: around_figure(values) for name, values in drawn.items()} if enough else {}
    return Ranking(intervals, differences, draws)


def _difference(first: str, second: str, drawn: Mapping[str, Draws], *, enough: bool) -> Difference:
    values = drawn[first] - drawn[second]
    return Difference(first, second, float(values[0]), middle(values[1:]) if enough else None)
