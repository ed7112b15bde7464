"""A run of so many minutes: the speed is measured before the first step, and fixes the number of steps.

So the learning rates are those of a run of that length from the first step on, and the same run can be had again from its number of steps,
on any machine.
"""

from __future__ import annotations

import bisect
import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from detrkit.data import DetectionDataset
from detrkit.data.wording import counted
from detrkit.errors import OptionError
from detrkit.evaluation import evaluate, evaluate_panoptic
from detrkit.files import write_json
from detrkit.models.catalog import find_variant
from detrkit.prediction.devices import choose_device
from detrkit.progress import duration
from detrkit.training.averaging import average_of
from detrkit.training.epochs import evaluation_batch
from detrkit.training.module import TrainingModule
from detrkit.training.options import WARMUP_SHARE, plan, worker_count
from detrkit.training.processes import ALONE, Processes
from detrkit.training.shared_evaluation import evaluate_together
from detrkit.training.timing import time_evaluation, time_pieces
from detrkit.training.watching import ConvergenceWatch

_SHARE = 0.03  # of the time goes into measuring pieces of batches
_MOST_PIECES = 30


@dataclasses.dataclass(frozen=True)
class Speed:
    """Seconds that the parts of a run take.

    Attributes:
        step: an optimizer step with all pieces of its batch.
        epoch: what comes on top of an epoch's steps: the wait for its first images, and the look at watched images after it.
        evaluation: of the validation split; 0 where there is none.
    """

    step: float
    epoch: float
    evaluation: float


@dataclasses.dataclass(frozen=True)
class TimeBudget:
    """What a time makes of a run.

    Attributes:
        minutes: that were given.
        steps: that they hold.
        epochs: that these are, the last one perhaps incomplete.
        warmup_steps: of them.
        speed: that was measured.
        pieces: of batches that it was measured with.
    """

    minutes: float
    steps: int
    epochs: int
    warmup_steps: int
    speed: Speed
    pieces: int

    def in_words(self) -> str:
        """What was measured, and what follows."""
        warmup = f", the first {self.warmup_steps} with rising learning rates" if self.warmup_steps else ""
        evaluation = f", an evaluation {duration(self.speed.evaluation)}" if self.speed.evaluation else ""
        return (
            f"{self.minutes:g} min hold {counted(self.steps, 'step')} ({counted(self.epochs, 'epoch')}){warmup}: "
            f"a step takes {self.speed.step:.3g} s{evaluation} (measured with {counted(self.pieces, 'piece')} of batches)."
        )


def fit_to_time(
    module: TrainingModule,
    validation: DetectionDataset | None,
    clock: Callable[[], float] = time.perf_counter,
    *,
    processes: Processes = ALONE,
) -> TimeBudget:
    """Measures a run's speed, and gives the module the options and the schedule of a run that fits into its minutes.

    Weights and random numbers are afterwards what they were.

    Args:
        module: of a new run, whose options have `minutes`.
        validation: what it is evaluated on.
        clock: seconds since any moment.
        processes: those of the run, which all have to call this. They measure together, and all have what the first one finds.

    Raises:
        OptionError: there is not even time for one step and its evaluations.
    """
    options, schedule = module.options, module.schedule
    assert options.minutes is not None
    seconds, began = 60 * options.minutes, clock()
    measured = _measured(module, validation, _SHARE * seconds, processes, clock)
    speed, pieces, left = processes.from_first((*measured, seconds - (clock() - began)))
    every = None if validation is None else options.evaluate_every
    steps = fitting_steps(left, speed, schedule.steps_per_epoch, every)
    if steps == 0:
        least = seconds - left + seconds_of(1, speed, schedule.steps_per_epoch, every)
        raise OptionError(
            f"minutes={options.minutes:g} is too short: one step and its evaluations take about {duration(max(1.0, least))}, with what must be measured "
            "before: give the run more time",
            "minutes",
        )
    warmup = options.warmup_steps or 0
    if warmup == find_variant(options.variant).recipe.warmup_steps:
        warmup = min(warmup, int(WARMUP_SHARE * steps))
    module.options = dataclasses.replace(options, steps=steps, minutes=None, warmup_steps=warmup)
    module.schedule = plan(module.options, len(module.images))
    return TimeBudget(options.minutes, steps, module.schedule.epochs, warmup, speed, pieces)


def seconds_of(steps: int, speed: Speed, steps_per_epoch: int, every: int | None) -> float:
    """How long so many steps take, with the evaluations of their epochs and that of the best model after them.

    Args:
        steps: 1 or more.
        speed: of the run.
        steps_per_epoch: optimizer steps of a full epoch.
        every: epochs between two evaluations; None if nothing is evaluated.
    """
    epochs = math.ceil(steps / steps_per_epoch)
    evaluations = 0 if every is None else math.ceil(epochs / every) + 1
    return steps * speed.step + epochs * speed.epoch + evaluations * speed.evaluation


def fitting_steps(seconds: float, speed: Speed, steps_per_epoch: int, every: int | None) -> int:
    """The largest number of steps that a time holds; arguments as for `seconds_of`."""
    most = max(0, int(seconds / speed.step)) + 1
    return bisect.bisect_right(
        range(1, most + 1), seconds, key=lambda steps: seconds_of(steps, speed, steps_per_epoch, every)
    )


def note_budget(config: Path, budget: TimeBudget) -> None:
    """Writes into a run's configuration what its number of steps comes from."""
    content = json.loads(config.read_text(encoding="utf-8"))
    write_json(config, {**content, "time_budget": dataclasses.asdict(budget)})


def _measured(
    module: TrainingModule,
    validation: DetectionDataset | None,
    seconds: float,
    processes: Processes,
    clock: Callable[[], float],
) -> tuple[Speed, int]:
    device = processes.device(choose_device(module.options.device))
    module.to(device)
    weights = copy.deepcopy(module.model.state_dict())
    modes = {name: part.training for name, part in module.named_modules()}
    own = torch.device(device)
    with torch.random.fork_rng([own.index or 0] if own.type == "cuda" else []):
        shared: dict[str, Any] = {"seconds": seconds, "processes": processes, "clock": clock}
        times = time_pieces(module, device, pieces=_MOST_PIECES, update=_resting_update(module), **shared)
        evaluated = partial(_evaluate, module, processes)
        evaluation = 0.0 if validation is None else time_evaluation(evaluated, validation, **shared)
        watch = 0.0 if module.options.watch is None else _watch_seconds(module, processes, clock)
    module.model.load_state_dict(weights)
    for name, part in module.named_modules():
        part.training = modes[name]
    module.losses = None
    step = module.schedule.accumulate * times.piece + times.update
    start = times.start if worker_count(module.options) else 0.0
    return Speed(step, start + watch, evaluation), times.pieces


def _evaluate(module: TrainingModule, processes: Processes, images: DetectionDataset) -> None:
    """What follows an epoch, on some images."""
    options: dict[str, Any] = {
        "batch_size": evaluation_batch(module.options),
        "workers": worker_count(module.options),
    }
    if processes.count == 1:
        evaluate(module.model, images, **options)
    else:
        evaluate_together(module.model, images, processes, **options)
    if images.is_panoptic and processes.is_first:
        evaluate_panoptic(module.model, images, **options)


def _watch_seconds(module: TrainingModule, processes: Processes, clock: Callable[[], float]) -> float:
    """Seconds of a look at the watched images, which the first process takes while the others wait."""
    if not processes.is_first:
        return 0.0
    watch = ConvergenceWatch(module.data.dataset, batch_size=evaluation_batch(module.options))
    began = clock()
    watch.figures(module.model)
    return clock() - began


def _resting_update(module: TrainingModule) -> Callable[[], None]:
    """What follows the last piece of a batch, with rates of 0."""
    options = module.options
    optimizer: torch.optim.Optimizer = module.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    average = None if options.ema is None else average_of(module.model, options.ema)

    def update() -> None:
        module.configure_gradient_clipping(optimizer, options.gradient_clip)
        optimizer.step()
        if average is not None:
            average.update_parameters(module.model)

    return update
