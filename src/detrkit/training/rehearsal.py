"""A run without its training: everything is checked and built, a few steps are timed, and nothing is written."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import torch
from rich.console import Console

from detrkit.data.wording import counted
from detrkit.models.catalog import config_of
from detrkit.notebooks import paragraph, shown, table
from detrkit.prediction.devices import choose_device
from detrkit.progress import duration
from detrkit.structures import ImageBatch, Target
from detrkit.terminal import terminal
from detrkit.training.keywords import TrainingKeywords
from detrkit.training.module import TrainingModule
from detrkit.training.options import Schedule
from detrkit.training.pieces import step_memory
from detrkit.training.run import new_options, prepare
from detrkit.training.training_options import TrainingOptions

_TIMED = 3  # pieces of batches, after one that is not counted


@dataclasses.dataclass(frozen=True)
class DryRun:
    """What a run would be.

    Attributes:
        options: every option with its value.
        schedule: epochs, steps and how batches are split.
        memory: estimated peak of a step in GB, as for a CPU in float32.
        seconds: estimated length without evaluations, from a few steps.
    """

    options: TrainingOptions
    schedule: Schedule
    memory: float
    seconds: float

    def __repr__(self) -> str:
        return f"<DryRun {self.options.variant} on {self.options.data}: {self._length()}, about {duration(self.seconds)}, {self.memory:.1f} GB>"

    def _repr_html_(self) -> str:
        """What notebooks show: length, time and memory, and every option."""
        figures = [
            ("length", self._length()),
            ("memory", f"about {self.memory:.1f} GB"),
            ("time", f"about {duration(self.seconds)}"),
        ]
        options = [(name, str(value)) for name, value in dataclasses.asdict(self.options).items() if value is not None]
        words = "Time is without evaluations. Both are estimates: memory for a CPU in float32, time from a few steps."
        return shown(
            f"{self.options.variant} on {self.options.data}",
            table(("what", "value"), figures),
            paragraph(words),
            table(("option", "value"), options, longest=len(options)),
        )

    def _length(self) -> str:
        """Epochs and steps, and how batches are split."""
        schedule = self.schedule
        pieces = f", each in {schedule.accumulate} pieces" if schedule.accumulate > 1 else ""
        return (
            f"{counted(schedule.epochs, 'epoch')}, {counted(schedule.steps, 'step')} with batches of "
            f"{counted(schedule.batch_size, 'image')}{pieces}"
        )

    def __str__(self) -> str:
        values = [f"  {name} = {value}" for name, value in dataclasses.asdict(self.options).items()]
        return "\n".join(
            (
                "Options:",
                *values,
                f"Length: {self._length()}",
                f"Memory: about {self.memory:.1f} GB (an estimate for a CPU in float32)",
                f"Time: about {duration(self.seconds)}, without evaluations (an estimate from {counted(_TIMED, 'forward and backward pass', 'forward and backward passes')})",
                "Everything was checked, nothing was written.",
            )
        )


def dry_run(
    variant: str, data: str | Path, *, console: Console | None = None, **options: Unpack[TrainingKeywords]
) -> DryRun:
    """Checks all that `train` checks, builds the model and times a few steps; trains nothing and writes nothing.

    Args:
        variant: a name in the catalog, such as "detr-r50".
        data: a data set's folder or annotation file, or "digits".
        console: the console for what is found in the data; None means the terminal.
        **options: as for `train`.

    Returns:
        The options with their values, and what the run would take. It prints as text.

    Raises:
        DetrkitError: what `train` would raise before its first step.
    """
    resolved = new_options(variant, data, dict(options))
    module, _ = prepare(resolved, None, console or terminal())
    assert resolved.short_side is not None
    assert resolved.long_side is not None
    memory = step_memory(config_of(module.model), module.schedule.piece_size, resolved.short_side, resolved.long_side)
    seconds = _seconds_per_piece(module, choose_device(resolved.device))
    return DryRun(resolved, module.schedule, memory, seconds * module.schedule.accumulate * module.schedule.steps)


def _seconds_per_piece(module: TrainingModule, device: str) -> float:
    """Time that reading, a forward and a backward pass take for one piece of a batch, on real images."""
    module.to(device).train()
    half = module.options.precision == "bf16"
    began, done = time.perf_counter(), 0
    for index, (images, targets) in enumerate(_repeated(module)):
        batch = images.to(torch.device(device)), [target.to(torch.device(device)) for target in targets]
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            loss = module.training_step(batch, index)
        loss.backward()  # type: ignore[no-untyped-call]
        loss.item()  # waits for the device
        module.zero_grad()
        if index == 0:
            began = time.perf_counter()  # the first one compiles and reserves memory
            continue
        done += 1
        if done == _TIMED:
            break
    return (time.perf_counter() - began) / done


def _repeated(module: TrainingModule) -> Iterator[tuple[ImageBatch, list[Target]]]:
    """Pieces of batches without end, also of a data set with few images."""
    while True:
        yield from module.train_dataloader()
