"""What users see during training: a line that says how far the run is, and an estimate of its duration after 50 steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from detrkit.data.wording import counted
from detrkit.progress import Activity, ProgressLine, duration
from detrkit.training.learning import LearningWindow
from detrkit.training.module import TrainingModule
from detrkit.training.pace import Pace

_Item = TypeVar("_Item")

_ESTIMATE_AFTER = 50
_READ_EVERY = 1.0  # seconds, since reading losses from a GPU makes it wait
_SOON = 120.0  # seconds; whoever stops a run earlier loses little
_WINDOW = 50  # steps that the means are taken over


class ProgressLines(Callback):
    """A line with epoch, step, remaining time, losses and speed.

    Args:
        console: the console that shows it.
        evaluates: whether epochs end with evaluations, which take time, too.
        clock: seconds since any moment.
    """

    def __init__(
        self, console: Console, *, evaluates: bool = False, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.line = ProgressLine(console, clock)
        self.pace: Pace | None = None
        self._evaluates, self._clock = evaluates, clock
        self._window = LearningWindow(_WINDOW)
        self._learning: tuple[str, ...] = ()
        self._read = float("-inf")
        self._first_step = self._step = 0
        self._epoch = self._figure = ""

    def evaluated(self, figure: str) -> None:
        """Notes what the last evaluation said, such as "AP 0.31", for the line."""
        self._figure = f"last {figure}"

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Shows the line."""
        every = pl_module.options.evaluate_every if self._evaluates else None
        self._first_step = self._step = trainer.global_step
        self.pace = Pace(pl_module.schedule, every, trainer.global_step, self._clock)
        self.line.start()
        self._show(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, *_: object) -> None:  # type: ignore[override]
        """Shows the step; after 50 of them, prints how long the whole run will take."""
        assert pl_module.losses is not None
        assert self.pace is not None
        self._window.add(pl_module.losses)
        step = trainer.global_step
        if step == self._step:
            return  # only a piece of a batch
        self._step = step
        self.pace.add(step)
        if self._clock() - self._read >= _READ_EVERY:
            self._learning = self._window.learning().parts()
            self._read = self._clock()
        self._show(trainer, pl_module)
        if step - self._first_step == _ESTIMATE_AFTER:
            self.line.print(self._estimate(trainer, pl_module))

    def on_exception(self, *_: object) -> None:
        """Leaves the terminal as it was."""
        self.line.stop()

    def on_train_end(self, *_: object) -> None:
        """Takes the line away."""
        self.line.stop()

    def follow(
        self,
        items: Iterable[_Item],
        what: str,
        *,
        unit: str,
        total: int,
        size: Callable[[_Item], int] = lambda _: 1,
    ) -> Iterator[_Item]:
        """Shows what happens at the end of an epoch in the same line; see `detrkit.progress.Follow`."""
        return self.line.follow(items, ", ".join(filter(None, (self._epoch, what))), unit=unit, total=total, size=size)

    def _show(self, trainer: Trainer, module: TrainingModule) -> None:
        assert self.pace is not None
        self._epoch = f"epoch {trainer.current_epoch + 1}/{module.schedule.epochs}"
        speed, seconds = self.pace.images_per_second(), self.pace.seconds_per_step()
        first, *others = self._learning or ("",)
        speeds = () if speed is None else (f"{speed:.3g} images/s", f"{seconds:.3g} s/step")
        extras = (first, self._figure, *speeds, *others)
        self.line.show(
            Activity(
                self._epoch,
                "step",
                self._step,
                module.schedule.steps,
                self.pace.left(trainer.current_epoch),
                tuple(filter(None, extras)),
            )
        )

    def _estimate(self, trainer: Trainer, module: TrainingModule) -> str:
        assert self.pace is not None
        left = duration(self.pace.left(trainer.current_epoch) or 0.0)
        without = "" if self.pace.knows_evaluations else " (without evaluations)"
        return (
            f"{counted(module.schedule.steps, 'step')} in all, {self.pace.images_per_second() or 0.0:.3g} images/s: "
            f"about {left} left{without}{self._keeps_nothing(trainer, module.options.checkpoint_minutes)}"
        )

    def _keeps_nothing(self, trainer: Trainer, minutes: float) -> str:
        """A warning where the first checkpoint, at the end of the epoch or after some minutes, is far away."""
        assert self.pace is not None
        per_step = self.pace.seconds_per_step() or 0.0
        to_the_end = (self.pace.schedule.steps_per_epoch - self._step) * per_step
        seconds = min(to_the_end, 60 * minutes - self._step * per_step)
        if self._first_step or trainer.current_epoch or seconds < _SOON:
            return ""
        return f"; a stop before the first checkpoint, in about {duration(seconds)}, keeps nothing"
