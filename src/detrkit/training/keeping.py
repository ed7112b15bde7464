"""The checkpoint that a run goes on from: how it is written, and at which moments."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from detrkit.checkpoints.own_format import write_pickled
from detrkit.errors import OutputError

KEPT = "EpochEnds"  # the name of what is kept about the epoch, among the callbacks' parts of a checkpoint


class StateFile(TorchCheckpointIO):
    """Writes a checkpoint as a whole or not at all: the previous one stays until the new one is complete.

    Attributes:
        problem: why the last one could not be written; None if it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.problem: OutputError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002 - of remote folders
        """Notes a problem instead of raising it: other processes wait for this one."""
        try:
            # Lightning's own way needs as much room again in the system's folder for temporary files.
            write_pickled(Path(path), checkpoint)
        except OutputError as problem:
            self.problem = problem
        else:
            self.problem = None


class SaveMoments:
    """At which steps the state is kept within an epoch: about every so many seconds, and in all processes at the same step.

    The first process looks at its clock at some steps and decides for all: whether it is time, and when to look again, at half of the time
    that is left.

    Args:
        seconds: between two checkpoints.
        decided: gives what the first process gives it.
        clock: seconds since any moment.
    """

    def __init__(
        self,
        seconds: float,
        decided: Callable[[tuple[bool, int]], tuple[bool, int]],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._seconds, self._decided, self._clock = seconds, decided, clock
        self._kept, self._kept_at = clock(), 0
        self._next_look = 1

    def kept(self, step: int) -> None:
        """Notes that the state was kept after a step, or that training begins there."""
        self._kept, self._kept_at = self._clock(), step
        self._next_look = step + 1

    def is_due(self, step: int) -> bool:
        """Whether the state is to be kept after this step; all processes have to ask at each step."""
        if step < self._next_look:
            return False
        passed = self._clock() - self._kept
        taken = step - self._kept_at
        left = (self._seconds - passed) / max(passed, 1e-9) * taken
        ahead = int(max(1, min(left / 2, taken)))  # the first steps say little about the others
        is_due, self._next_look = self._decided((passed >= self._seconds, step + ahead))
        return is_due
