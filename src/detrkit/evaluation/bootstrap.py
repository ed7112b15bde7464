"""How far average precision would vary with other images: intervals by the bootstrap."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """Where a figure lies with some confidence.

    Attributes:
        low: lower end, in [0, 1].
        high: upper end, in [0, 1].
    """

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Intervals of AP by the percentile bootstrap over images.

    As many images as there are, are drawn from them with replacement, AP is computed on the drawn ones, and this is repeated; an interval
    holds the middle part of the results. It says how much AP depends on which images happen to be in the data set, not how much it depends
    on the training. A class counts in the draws that have objects of it.

    Attributes:
        confidence: share of the draws inside each interval, such as 0.95.
        resamples: number of draws.
        figures: of "AP", "AP50" and "AP75"; a figure without ground truth is missing.
        class_ap: of AP by category id; classes without ground truth are missing.
        class_ap50: the same of AP50.
    """

    confidence: float
    resamples: int
    figures: dict[str, Interval]
    class_ap: dict[int, Interval]
    class_ap50: dict[int, Interval]
