"""What users see during training: a progress bar, and an estimate of the duration after 50 steps."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from detrkit.data.wording import counted
from detrkit.training.learning import LearningWindow
from detrkit.training.module import TrainingModule

_ESTIMATE_AFTER = 50
_REFRESH_EVERY = 5  # steps, since reading losses from a GPU makes it wait
_WINDOW = 50  # steps that the means are taken over


class ProgressLines(Callback):
    """A progress bar with losses and, once it is known, the remaining time.

    Args:
        console: the console that shows it.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("steps · {task.fields[words]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._window = LearningWindow(_WINDOW)
        self._task: Any = None
        self._started, self._first_step, self._step = 0.0, 0, -1

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Shows the bar."""
        self._started, self._first_step = time.perf_counter(), trainer.global_step
        self._step = trainer.global_step
        self._task = self.bar.add_task(
            "",
            total=pl_module.schedule.steps,
            completed=trainer.global_step,
            epoch=self._epoch(trainer, pl_module),
            words="starting",
        )
        self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: TrainingModule, *_: object) -> None:  # type: ignore[override]
        """Advances the bar; after 50 steps, prints how long the whole run will take."""
        assert pl_module.losses is not None
        self._window.add(pl_module.losses)
        step = trainer.global_step
        if step == self._step:
            return  # only a piece of a batch
        self._step = step
        if step % _REFRESH_EVERY == 0:
            words = self._window.learning().in_words()
            self.bar.update(self._task, completed=step, words=words, epoch=self._epoch(trainer, pl_module))
        done = step - self._first_step
        if done == _ESTIMATE_AFTER and self._started:
            self.console.print(self._estimate(pl_module, step))
            self._started = 0.0

    def on_exception(self, *_: object) -> None:
        """Leaves the terminal as it was."""
        self.bar.stop()

    def on_train_end(self, *_: object) -> None:
        """Takes the bar away."""
        self.bar.stop()

    def _estimate(self, module: TrainingModule, step: int) -> str:
        seconds = time.perf_counter() - self._started
        steps = module.schedule.steps
        images = _ESTIMATE_AFTER * module.schedule.batch_size / seconds
        left = duration((steps - step) * seconds / _ESTIMATE_AFTER)
        return f"{counted(steps, 'step')} in all, {images:.1f} images/s: about {left} left (without evaluations)"

    @staticmethod
    def _epoch(trainer: Trainer, module: TrainingModule) -> str:
        return f"{trainer.current_epoch + 1}/{module.schedule.epochs}"


def duration(seconds: float) -> str:
    """Seconds in readable units: "40 s", "12 min", "3 h 20 min", "2 days 4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"
