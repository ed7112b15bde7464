"""Shows how training is going: means over a window of steps, so that a single unusual batch matters little."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from detrkit.layers.processes import process_count
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


@dataclass
class _Sums:
    """Added-up numbers of steps."""

    steps: int = 0
    total: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    percentages: list[str] = field(default_factory=list)

    def add(self, total: float, shown: Mapping[str, tuple[float, float, bool]]) -> None:
        """Adds one step, in which each name has a sum, a count and whether it is a share."""
        self.steps += 1
        self.total += total
        for name, (value, count, percentage) in shown.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0.0) + count
            if percentage and name not in self.percentages:
                self.percentages.append(name)


class LearningWindow:
    """Collects the numbers that the criterion shows, on their device, and adds them up only when asked.

    Args:
        size: number of steps that are kept, the most recent ones; None keeps all.
        shared: whether the numbers are those of all processes of a run. All of them then have to ask at the same steps.
    """

    def __init__(self, size: int | None, *, shared: bool = False) -> None:
        self._steps: deque[tuple[Tensor, dict[str, Shown]]] = deque(maxlen=size)
        self._shared = shared
        self._before = _Sums()  # of earlier steps

    def add(self, losses: Losses) -> None:
        """Adds one step."""
        values = [losses.total, *(entry.sum for entry in losses.shown.values())]
        table = torch.stack([value.detach().to(losses.total.device, torch.float32) for value in values])
        self._steps.append((table, losses.shown))

    def clear(self) -> None:
        """Forgets everything."""
        self._steps.clear()
        self._before = _Sums()

    def __len__(self) -> int:
        return self._before.steps + len(self._steps)

    def learning(self) -> Learning:
        """Means over the steps that are kept, of which there must be at least one."""
        added = self._added()
        counts = added.counts
        means = {name: value / counts[name] if counts[name] else None for name, value in added.sums.items()}
        return Learning(added.total / added.steps, means, frozenset(added.percentages))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that the means of an epoch go on exactly; only of a window that keeps all steps."""
        self._before = self._added()
        self._steps.clear()
        return dataclasses.asdict(self._before)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on with what `state` returned."""
        self._steps.clear()
        self._before = _Sums(**copy.deepcopy(dict(state)))

    def _added(self) -> _Sums:
        """Earlier steps and those that are kept, one after the other, so that the sums are the same wherever they were interrupted."""
        added = copy.deepcopy(self._before)
        if not self._steps:
            return added
        values = torch.cat([table for table, _ in self._steps]).cpu().double()  # one copy from the device
        counts = values.new_tensor([float(entry.count) for _, shown in self._steps for entry in shown.values()])
        processes = process_count() if self._shared else 1
        if processes > 1:
            both = torch.cat([values, counts])
            torch.distributed.all_reduce(both)
            values, counts = both[: len(values)], both[len(values) :]
        next_value, next_count = iter(values.tolist()), iter(counts.tolist())
        for _, shown in self._steps:
            total = next(next_value) / processes
            added.add(
                total,
                {name: (next(next_value), next(next_count), entry.percentage) for name, entry in shown.items()},
            )
        return added
