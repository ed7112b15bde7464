"""Trains one detector of a study, and notes what it came to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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


def learn(
    trial: Trial,
    options: Mapping[str, Any],
    *,
    seed: int,
    single_class: bool,
    folder: Path,
    earlier: Sequence[Path],
    console: Console,
) -> Figures:
    """Trains a trial's detector in a run folder, whose checkpoints hold the model as the trial has changed it.

    Args:
        trial: what to train.
        options: of training.
        seed: of weights and order.
        single_class: see `Study`.
        folder: is created.
        earlier: folders of the runs of the trials that come before.
        console: shows progress.

    Returns:
        The figures of the last epoch, and the log.

    Raises:
        KeyboardInterrupt: training was stopped.
    """
    module, data = made(options, seed=seed, single_class=single_class, folder=folder, console=console)
    if module.options.minutes is not None:  # the speed is that of the model before it is changed
        fit_to_time(module, data.validation)
        module = module_of(module.model, module.options, data.training, module.schedule, module.processes)
    if trial.change is not None:
        trial.change(module, *earlier)
    run = create(module.options, data.training)
    if not fit(module, run, data, console, None):
        raise KeyboardInterrupt("stopped before its end")
    module.model.load_state_dict(load_file(run.last))  # an average of the weights, where one is kept
    rows = read_log(run.log)
    evaluation = None if data.validation is None else evaluate(module.model, data.validation)
    return {
        "figures": {} if evaluation is None else evaluation.figures,
        "smallest": None if evaluation is None else _smallest_class(evaluation, data),
        "steps": int(rows[-1]["step"]),
        "log": rows,
    }


def options_of_run(options: Mapping[str, Any], seed: int, folder: Path | None = None) -> TrainingOptions:
    """The resolved options of a trial's training.

    Args:
        options: as the study and the command give them.
        seed: of weights and order.
        folder: of its run.

    Raises:
        ConfigurationError: an unknown option, or an impossible value.
    """
    given = {name: value for name, value in options.items() if name not in ("variant", "data")}
    return new_options(options["variant"], options["data"], {**given, "seed": seed, "output": folder})


def made(
    options: Mapping[str, Any],
    *,
    seed: int,
    single_class: bool,
    folder: Path | None = None,
    console: Console | None = None,
) -> tuple[TrainingModule, RunData]:
    """A trial's detector as it is before its change, with the data.

    Args:
        options: of training.
        seed: of weights and order.
        single_class: see `Study`.
        folder: of its run; None for none.
        console: where notes about the data are printed; None prints nothing.
    """
    module, data = prepare(options_of_run(options, seed, folder), None, console or Console(quiet=True))
    if single_class:
        validation = None if data.validation is None else of_one_class(data.validation)
        data = dataclasses.replace(data, training=of_one_class(data.training), validation=validation)
        module = module_of(module.model, module.options, data.training, module.schedule, module.processes)
    return module, data


def trained(
    trial: Trial,
    options: Mapping[str, Any],
    *,
    seed: int,
    single_class: bool,
    folder: Path,
    earlier: Sequence[Path],
) -> tuple[Detector, RunData]:
    """A trial's detector as it was after its last epoch, in eval mode, and its data; arguments as for `learn`."""
    module, data = made(options, seed=seed, single_class=single_class)
    if trial.change is not None:
        trial.change(module, *earlier)
    module.model.load_state_dict(load_file(RunFolder(folder).last))
    return module.model.eval(), data


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
