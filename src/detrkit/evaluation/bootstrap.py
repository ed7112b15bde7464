"""How far average precision would vary with other images: intervals by the bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from detrkit.evaluation.outcomes import IOU_THRESHOLDS, Outcomes
from detrkit.evaluation.precision import average_precision, mean_over_classes

CONFIDENCE = 0.95
MOST_RESAMPLES, FEWEST_RESAMPLES = 1000, 200
_Key = TypeVar("_Key", str, int)
_WORK = 100_000_000  # steps that take a few seconds


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


def resamples_within_reason(outcomes: Outcomes) -> int:
    """1000 draws, or for large data sets, whose intervals are narrow anyway, as many as take some seconds, but at least 200."""
    steps = len(outcomes.rows) + len(IOU_THRESHOLDS) * len(outcomes.object_images)
    return int(np.clip(_WORK // max(1, steps), FEWEST_RESAMPLES, MOST_RESAMPLES))


def bootstrap_intervals(
    outcomes: Outcomes, ids: Sequence[int], *, resamples: int, confidence: float = CONFIDENCE, seed: int = 0
) -> Intervals:
    """Intervals of AP; see `Intervals` for the method. The same seed gives the same intervals.

    Args:
        outcomes: at COCO's ten IoU thresholds.
        ids: (K,) category ids.
        resamples: number of draws.
        confidence: above 0 and below 1.
        seed: of the draws.
    """
    images = outcomes.shape[0]
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(images, np.full(images, 1 / images), size=resamples).T  # (I, R)
    values = average_precision(outcomes, draws)  # (T, K, R)
    class_ap, class_ap50 = values.mean(0), values[_level(0.5)]
    figures = {
        "AP": mean_over_classes(values).mean(0),
        "AP50": mean_over_classes(class_ap50),
        "AP75": mean_over_classes(values[_level(0.75)]),
    }
    return Intervals(
        confidence=confidence,
        resamples=resamples,
        figures=_known({name: _interval(drawn, confidence) for name, drawn in figures.items()}),
        class_ap=_known(
            {int(number): _interval(drawn, confidence) for number, drawn in zip(ids, class_ap, strict=True)}
        ),
        class_ap50=_known(
            {int(number): _interval(drawn, confidence) for number, drawn in zip(ids, class_ap50, strict=True)}
        ),
    )


def _level(threshold: float) -> int:
    return int(np.abs(IOU_THRESHOLDS - threshold).argmin())


def _interval(drawn: NDArray[np.float64], confidence: float) -> Interval | None:
    """The middle part of the draws that have a value; None if none has."""
    drawn = drawn[~np.isnan(drawn)]
    if not drawn.size:
        return None
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def _known(intervals: dict[_Key, Interval | None]) -> dict[_Key, Interval]:
    return {key: interval for key, interval in intervals.items() if interval is not None}
