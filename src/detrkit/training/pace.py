"""How fast a run goes, and how long the rest of it takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from detrkit.training.options import Schedule

_WINDOW = 50  # steps that the speed is taken from


class Pace:
    """Measures steps and evaluations apart from each other.

    Args:
        schedule: of the run.
        evaluate_every: epochs between two evaluations; None if nothing is evaluated.
        step: number of steps that were taken before.
        clock: seconds since any moment.
    """

    def __init__(
        self, schedule: Schedule, evaluate_every: int | None, step: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.schedule = schedule
        self._every, self._clock = evaluate_every, clock
        self._paused = 0.0  # seconds that did not go into steps
        self._evaluations: list[float] = []
        self._ends = deque([(clock(), step)], maxlen=_WINDOW + 1)

    def add(self, step: int) -> None:
        """Notes that the step with this number has ended."""
        self._ends.append((self._clock() - self._paused, step))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """What happens inside is an evaluation; after an error it counts for nothing."""
        began = self._clock()
        yield
        seconds = self._clock() - began
        self._paused += seconds
        self._evaluations.append(seconds)

    @property
    def knows_evaluations(self) -> bool:
        """Whether `left` includes evaluations, or there are none."""
        return self._every is None or bool(self._evaluations)

    def seconds_per_step(self) -> float | None:
        """Mean over the last steps; None before the first one has ended."""
        (first, first_step), (last, last_step) = self._ends[0], self._ends[-1]
        return (last - first) / (last_step - first_step) if last_step > first_step else None

    def images_per_second(self) -> float | None:
        """Likewise; None as for `seconds_per_step`."""
        seconds = self.seconds_per_step()
        return self.schedule.batch_size / seconds if seconds else None

    def left(self, epochs: int) -> float | None:
        """Seconds that the rest of the run takes; None before the first step has ended.

        Args:
            epochs: number of epochs that have ended, with their evaluations.
        """
        seconds = self.seconds_per_step()
        if seconds is None:
            return None
        steps = max(0, self.schedule.steps - self._ends[-1][1])
        return steps * seconds + self._evaluations_left(epochs) * self._seconds_per_evaluation()

    def _evaluations_left(self, epochs: int) -> int:
        if self._every is None:
            return 0
        whole, every = self.schedule.epochs, self._every
        return whole // every - epochs // every + (1 if whole % every else 0)

    def _seconds_per_evaluation(self) -> float:
        return sum(self._evaluations) / len(self._evaluations) if self._evaluations else 0.0
