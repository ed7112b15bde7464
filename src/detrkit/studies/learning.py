"""Trains one detector of a study, and notes what it came to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from safetensors.torch import load_file

from detrkit.data import DetectionDataset
from detrkit.evaluation import Evaluation, evaluate
from detrkit.models.detector import Detector
from detrkit.studies.study import Figures, Trial
from detrkit.training.ground_truth import RunData
from detrkit.training.module import TrainingModule
from detrkit.training.preparing import module_of, prepare
from detrkit.training.run import fit, new_options
from detrkit.training.run_folder import RunFolder, create, read_log
from detrkit.training.time_budget import fit_to_time
from detrkit.training.training_options import TrainingOptions

_MUCH_SMALLER = 0.5  # than the median of all objects


@dataclass(frozen=True)
class Job:
    """A trial with one seed, as its process gets it.

    Attributes:
        trial: what to train.
        options: of training.
        seed: of weights and order.
        single_class: see `Study`.
        run: folder of its training.
        earlier: folders of the trainings that come before.
    """

    trial: Trial
    options: Mapping[str, Any]
    seed: int
    single_class: bool
    run: Path
    earlier: tuple[Path, ...] = ()

    def change(self, module: TrainingModule) -> None:
        """Makes of a new run what the trial is about."""
        if self.trial.change is not None:
            self.trial.change(module, *self.earlier)


def learn(job: Job, console: Console) -> Figures:
    """Trains a trial's detector in a new run folder, whose checkpoints hold the model as the trial has changed it.

    Args:
        job: what to do.
        console: shows progress.

    Returns:
        The figures of the last epoch, and the log.

    Raises:
        KeyboardInterrupt: training was stopped.
    """
    module, data = made(job, output=job.run, console=console)
    if module.options.minutes is not None:  # the speed is that of the model before it is changed
        fit_to_time(module, data.validation)
        module = module_of(module.model, module.options, data.training, module.schedule, module.processes)
    job.change(module)
    run = create(module.options, data.training, data.validation)
    if not fit(module, run, data, console, None):
        raise KeyboardInterrupt("stopped before its end")
    _load_last(module.model, run)
    rows = read_log(run.log)
    evaluation = None if data.validation is None else evaluate(module.model, data.validation)
    return {
        "figures": {} if evaluation is None else evaluation.figures,
        "smallest": None if evaluation is None else _smallest_class(evaluation, data),
        "steps": int(rows[-1]["step"]),
        "log": rows,
    }


def trained(job: Job) -> tuple[Detector, RunData]:
    """A trial's detector as it was after its last epoch, in eval mode, and its data."""
    module, data = made(job)
    job.change(module)
    _load_last(module.model, RunFolder(job.run))
    return module.model.eval(), data


def _load_last(model: Detector, run: RunFolder) -> None:
    """Gives a model what its training ended with: an average of the weights, where one is kept, and nothing that only training needs."""
    model.supervision = None
    model.load_state_dict(load_file(run.last))


def made(job: Job, *, output: Path | None = None, console: Console | None = None) -> tuple[TrainingModule, RunData]:
    """A trial's detector as it is before its change, with the data.

    Args:
        job: of the trial.
        output: folder of a training that follows, which must be free.
        console: where notes about the data are printed; None prints nothing.
    """
    chosen = options_of_run(job.options, job.seed, output)
    module, data = prepare(chosen, None, console or Console(quiet=True))
    if job.single_class:
        validation = None if data.validation is None else of_one_class(data.validation)
        data = dataclasses.replace(data, training=of_one_class(data.training), validation=validation)
        module = module_of(module.model, module.options, data.training, module.schedule, module.processes)
    return module, data


def options_of_run(options: Mapping[str, Any], seed: int, output: Path | None) -> TrainingOptions:
    """The resolved options of a trial's training.

    Args:
        options: as the study and the command give them.
        seed: of weights and order.
        output: folder of it; None for none.

    Raises:
        ConfigurationError: an unknown option, or an impossible value.
    """
    given = {name: value for name, value in options.items() if name not in ("variant", "data")}
    return new_options(options["variant"], options["data"], {**given, "seed": seed, "output": output})


def of_one_class(dataset: DetectionDataset) -> DetectionDataset:
    """The same objects, all of the first class."""
    return dataclasses.replace(dataset, labels=np.zeros_like(dataset.labels))


def _smallest_class(evaluation: Evaluation, data: RunData) -> Figures | None:
    """AP of the class whose objects are smallest in the median; None where no class has much smaller ones than others."""
    assert data.validation is not None
    labels, areas = data.validation.labels, data.validation.areas
    medians = {int(label): float(np.median(areas[labels == label])) for label in np.unique(labels)}
    smallest = min(medians, key=medians.__getitem__)
    if medians[smallest] > _MUCH_SMALLER * float(np.median(areas)):
        return None
    name = next(each.name for each in data.validation.categories if each.index == smallest)
    return {"name": name, "AP": next(each.ap for each in evaluation.classes if each.name == name)}
