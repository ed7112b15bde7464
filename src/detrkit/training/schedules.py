"""How the learning rates change over a run, as a factor that depends on the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal


def rate_factor(
    schedule: Literal["step", "cosine", "flat-cosine"],
    *,
    steps: int,
    drop_after: float,
    warmup_steps: int,
    second_drop_after: float | None = None,
) -> Callable[[int], float]:
    """The factor that learning rates are multiplied by at each step.

    Args:
        schedule: "step" is 1, then 0.1; "cosine" falls from 1 to 0 along half a cosine wave; "flat-cosine" is 1, then falls likewise.
        steps: number of steps of the whole run.
        drop_after: share of the run after which "step" drops to 0.1, and "flat-cosine" begins to fall.
        second_drop_after: share of the run after which "step" drops to 0.01; None for a single drop.
        warmup_steps: steps at the beginning over which the factor rises from near 0 to 1.

    Returns:
        A function from the step (counted from 0) to the factor in [0, 1].
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "step":
            drops = [share for share in (drop_after, second_drop_after) if share is not None]
            return float(0.1 ** sum(step >= share * steps for share in drops))
        start = warmup_steps if schedule == "cosine" else max(warmup_steps, drop_after * steps)
        progress = min(1.0, max(0.0, step - start) / max(1, steps - start))
        return 0.5 * (1 + math.cos(math.pi * progress))

    return factor
