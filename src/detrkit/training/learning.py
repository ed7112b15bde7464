"""Shows how training is going: means over a window of steps, so that a single unusual batch matters little."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from detrkit.measures import LOSS, Measure
from detrkit.structures import Losses, Shown


@dataclass(frozen=True)
class Learning:
    """Means over a window of steps.

    Attributes:
        total: weighted sum of all terms, which training minimises.
        means: the other numbers that the criterion shows, by name; None if there was nothing to count.
        percentages: names of the means that are shares.
    """

    total: float
    means: dict[str, float | None]
    percentages: frozenset[str] = frozenset()

    def parts(self) -> tuple[str, ...]:
        """Each number with its name, the loss first."""
        means = [
            f"{name} {mean:.0%}" if name in self.percentages else f"{name} {_number(mean)}"
            for name, mean in self.means.items()
            if mean is not None
        ]
        unseen = ["no objects seen yet"] if None in self.means.values() else []
        return (f"{LOSS.name} {self.total:.2f}", *means, *unseen)

    def in_words(self) -> str:
        """One line of text with all numbers."""
        return ", ".join(self.parts())

    def row(self) -> dict[str, float]:
        """The same numbers as columns of a log: `loss`, and the names with underscores."""
        columns = {Measure(name, "").column: mean for name, mean in self.means.items() if mean is not None}
        return {LOSS.column: self.total, **columns}


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


class LearningWindow:
    """Collects the numbers that the criterion shows, on their device, and adds them up only when asked.

    Args:
        size: number of steps that are kept, the most recent ones; None keeps all.
    """

    def __init__(self, size: int | None) -> None:
        self._steps: deque[tuple[Tensor, dict[str, Shown]]] = deque(maxlen=size)

    def add(self, losses: Losses) -> None:
        """Adds one step."""
        values = [losses.total, *(entry.sum for entry in losses.shown.values())]
        table = torch.stack([value.detach().to(losses.total.device, torch.float32) for value in values])
        self._steps.append((table, losses.shown))

    def clear(self) -> None:
        """Forgets everything."""
        self._steps.clear()

    def __len__(self) -> int:
        return len(self._steps)

    def learning(self) -> Learning:
        """Means over the steps that are kept, of which there must be at least one."""
        rows = torch.cat([table for table, _ in self._steps]).tolist()  # one copy from the device
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        percentages, total, values = set(), 0.0, iter(rows)
        for _, shown in self._steps:
            total += next(values)
            for name, entry in shown.items():
                sums[name] = sums.get(name, 0.0) + next(values)
                counts[name] = counts.get(name, 0.0) + float(entry.count)
                percentages |= {name} if entry.percentage else set()
        means = {name: sums[name] / counts[name] if counts[name] else None for name in sums}
        return Learning(total / len(self._steps), means, frozenset(percentages))
