"""A run without its training: everything is checked and built, a few steps are timed, and nothing is written."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Unpack

import torch
from rich.console import Console

from detrkit.checkpoints.downloads import place_of
from detrkit.data.wording import counted
from detrkit.errors import OptionError
from detrkit.models.catalog import config_of
from detrkit.notebooks import paragraph, shown, table
from detrkit.prediction.devices import choose_device
from detrkit.progress import duration
from detrkit.terminal import terminal
from detrkit.training.ground_truth import not_said_again, with_kind_of_masks
from detrkit.training.keywords import TrainingKeywords
from detrkit.training.memory_probe import probe_memory
from detrkit.training.module import TrainingModule
from detrkit.training.options import Schedule, added_queries, worker_count
from detrkit.training.pieces import step_memory
from detrkit.training.preparing import prepare
from detrkit.training.processes import Processes
from detrkit.training.run import new_options
from detrkit.training.starting import missing_offer
from detrkit.training.time_budget import fit_to_time
from detrkit.training.timing import time_pieces
from detrkit.training.training_options import TrainingOptions

_TIMED = 3  # pieces of batches, after one that is not counted


@dataclasses.dataclass(frozen=True)
class DryRun:
    """What a run would be.

    Attributes:
        options: every option with its value.
        schedule: epochs, steps and how batches are split.
        memory: estimated peak of a step in GB, as for a CPU in float32.
        gpu_memory: peak of a step on the GPU in GB, measured but for the optimizer's numbers; None without a GPU.
        seconds: estimated length without evaluations, from a few steps.
        missing: what the run downloads first, in words; empty where nothing is missing.
    """

    options: TrainingOptions
    schedule: Schedule
    memory: float
    gpu_memory: float | None
    seconds: float
    missing: str = ""

    def __repr__(self) -> str:
        return f"<DryRun {self.options.variant} on {self.options.data}: {self._length()}, about {duration(self.seconds)}, {self.memory:.1f} GB>"

    def _repr_html_(self) -> str:
        """What notebooks show: length, time and memory, and every option."""
        figures = [
            ("length", self._length()),
            ("memory", self._memory()),
            ("time", f"about {duration(self.seconds)}"),
        ]
        options = [(name, str(value)) for name, value in self._given().items() if value is not None]
        words = f"Time is without evaluations. Both are estimates: memory for a CPU in float32, time from a few steps. {self._unchecked()}".rstrip()
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
        given = self._given()
        if self.options.steps is not None:
            given["epochs"] = f"{self.schedule.epochs} (as many as the steps take)"
        values = [f"  {name} = {value}" for name, value in given.items()]
        return "\n".join(
            (
                "Options:",
                *values,
                f"Length: {self._length()}",
                f"Memory: {self._memory()}",
                f"Time: about {duration(self.seconds)}, without evaluations (an estimate from {counted(_TIMED, 'forward and backward pass', 'forward and backward passes')})",
                self._unchecked() or "Everything was checked, nothing was written.",
            )
        )

    def _given(self) -> dict[str, object]:
        return {**dataclasses.asdict(self.options), "workers": worker_count(self.options)}

    def _unchecked(self) -> str:
        return (
            self.missing
            and f"Everything else was checked, nothing was written: the run first downloads {self.missing}."
        )

    def _memory(self) -> str:
        if self.gpu_memory is None:
            return f"about {self.memory:.1f} GB (an estimate for a CPU in float32)"
        return f"about {self.gpu_memory:.1f} GB on the GPU (measured, with room for the optimizer)"


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
    console = console or terminal()
    processes = Processes(resolved.devices * resolved.nodes, local_count=resolved.devices)
    module, opened = prepare(resolved, None, console, processes, download=False)
    if resolved.minutes is not None and processes.count > 1:
        raise OptionError(
            "a dry run is one process, and cannot measure how many steps of several fit into minutes: give steps, or devices=1",
            *("minutes", "devices"),
        )
    if resolved.minutes is not None:
        with not_said_again(opened, resolved):
            budget = fit_to_time(module, opened.validation)
        console.print(budget.in_words())
        resolved = module.options
    assert resolved.short_side is not None
    assert resolved.long_side is not None
    share = math.ceil(module.schedule.piece_size / processes.count)
    config = config_of(module.model)
    memory = step_memory(
        config,
        share,
        resolved.short_side,
        resolved.long_side,
        more_queries=added_queries(resolved, config),
        mosaics=module.data.transform.augmentation.mosaic > 0,
    )
    device = choose_device(resolved.device)
    with not_said_again(opened, resolved):
        if resolved.memory_probe:
            probe_memory(module, console)
        seconds = time_pieces(module, device, pieces=_TIMED).piece
    schedule = module.schedule
    missing = missing_offer(resolved)
    return DryRun(
        with_kind_of_masks(resolved),
        schedule,
        memory,
        _gpu_memory(module, device),
        seconds * schedule.accumulate * schedule.steps,
        "" if missing is None else f"the {missing.what} from {missing.address} to {place_of(missing)}",
    )


def _gpu_memory(module: TrainingModule, device: str) -> float | None:
    """The peak of what was done on a GPU so far, in GB, and two numbers more for each parameter, which AdamW keeps."""
    if torch.device(device).type != "cuda":
        return None
    learned = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return (torch.cuda.max_memory_allocated(torch.device(device)) + 2 * 4 * learned) / 1e9
