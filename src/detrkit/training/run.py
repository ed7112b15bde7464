"""A training run from beginning to end: check everything, train, save the models, write a report."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from rich.console import Console

from detrkit.data import DetectionDataset, TrainingData, TrainingTransform
from detrkit.data.augmentation import mixed_epochs
from detrkit.data.wording import counted
from detrkit.errors import ConfigurationError, NonFiniteError, OutputError, closest
from detrkit.models.catalog import CATALOG, build, criterion_for, find_variant
from detrkit.models.detector import Detector
from detrkit.models.detr_segmentation import MaskDetector
from detrkit.prediction.devices import choose_device
from detrkit.terminal import terminal
from detrkit.training.announcing import announce
from detrkit.training.averaging import Averaging
from detrkit.training.before_data import augmentation, check_before_data
from detrkit.training.diagnosis import Diagnosis
from detrkit.training.epoch_images import EpochImages
from detrkit.training.epochs import EpochEnds
from detrkit.training.ground_truth import RunData, not_said_again, open_run_data
from detrkit.training.keywords import TrainingKeywords, with_keywords
from detrkit.training.launching import follow_starter, other_processes
from detrkit.training.loggers import Curves, end_loggers, start_loggers
from detrkit.training.module import NonFiniteStepError, TrainingModule
from detrkit.training.options import Schedule, plan, resolve
from detrkit.training.processes import (
    ALONE,
    Agreement,
    Processes,
    check_images,
    check_processes,
    joined,
    losing_no_process,
    processes_of,
    with_processes,
)
from detrkit.training.progress import ProgressLines
from detrkit.training.rates import check_rates
from detrkit.training.reporting import best_of, write_everything, write_without_evaluation
from detrkit.training.result import TrainingResult
from detrkit.training.resuming import (
    Progress,
    changed_options,
    check_changeable,
    check_data_are_there,
    check_same_data,
    continued,
    early_end,
    is_finished,
    length_note,
    progress_of,
    record,
)
from detrkit.training.run_folder import RunFolder, create, reopen
from detrkit.training.sessions import begin_session, end_session
from detrkit.training.starting import begin
from detrkit.training.stopping import Stopping, check_patience
from detrkit.training.strategies import EndAtOnce, quiet_lightning, trainer_options
from detrkit.training.time_budget import fit_to_time, note_budget
from detrkit.training.training_options import TrainingOptions


@dataclass(frozen=True)
class Resumed:
    """What a run that goes on was.

    Attributes:
        folder: the run's.
        options: those that it had so far.
        done: how far it came.
    """

    folder: RunFolder
    options: TrainingOptions
    done: Progress


def train(
    variant: str | None = None,
    data: str | Path | None = None,
    *,
    resume: str | Path | None = None,
    console: Console | None = None,
    **options: Unpack[TrainingKeywords],
) -> TrainingResult:
    """Trains a detector.

    Args:
        variant: a name in the catalog, such as "detr-r50".
        data: a data set's folder or annotation file, or "digits".
        resume: folder of a run to continue instead; its own options apply, of which `data`, `epochs`, `steps`, `patience`, `devices` and `nodes` may be
            given anew, for data that were moved, to train longer, and for another number of processes.
        console: the console that shows progress; None means the terminal.
        **options: any other field of `TrainingOptions`; `help(detrkit.train)` shows them all.

    Returns:
        The paths of the run's files and the evaluation of its best model.

    Raises:
        ConfigurationError: invalid options, or processes that cannot train together.
        DataError: the data set cannot be used.
        OutputError: the run's folder cannot be written.
        NonFiniteError: a loss or weight became NaN or infinite.
        WorkerError: the system ended a process that reads images.
        LostProcessError: another process that trains with this one ended.
    """
    processes = processes_of(os.environ)
    follow_starter(os.environ)
    console = processes.console(console or terminal())
    with joined(processes):
        agreement = Agreement(processes)
        with agreement.until_reached():
            given = with_processes(dict(options), processes)
            if resume is not None:
                given = {"variant": variant, "data": data, **given}
                given = {name: value for name, value in given.items() if value is not None}
                result = _resume(resume, given, console, agreement)
            elif variant is None or data is None:
                raise ConfigurationError("training needs a variant and data, or the folder of a run to resume")
            else:
                result = _run(new_options(variant, data, given), None, console, agreement)
    if processes.launcher == "detrkit":
        raise SystemExit(0)  # the rest of a script is for the process that started this one
    return result


with_keywords(train)


def _resume(path: str | Path, given: dict[str, Any], console: Console, agreement: Agreement) -> TrainingResult:
    """Goes on with a run; one that is finished only gets its report, if that is missing."""
    check_changeable(list(given))
    folder, before = reopen(path)
    done = progress_of(folder)
    now = changed_options(before, folder, done, given=given)
    if not is_finished(now, folder, done):
        return _run(now, Resumed(folder, before, done), console, agreement)
    if not agreement.processes.is_first:
        return TrainingResult(folder.path, best_of(folder), None)
    if now.data != before.data:
        check_data_are_there(now, folder, before)
    early = early_end(now, folder, done)
    if early is None:
        how, remedy = "is finished: it has", "number of epochs or steps"
    else:
        how, remedy = f"stopped early, since {early.in_words()}: it has", "patience"
    console.print(
        f"{folder.path} {how} trained for {counted(done.epochs, 'epoch')} ({counted(done.steps, 'step')}). "
        f"To train longer, give a larger {remedy}."
    )
    is_complete = folder.report.is_file()
    if not is_complete:
        console.print("Its report is missing and is written again.")
        check_data_are_there(now, folder, before)
    elif now.data == before.data:
        record(folder, before, now, done)
        return TrainingResult(folder.path, best_of(folder), None)
    data = open_run_data(now, console)
    check_same_data(folder, data.training)
    record(folder, before, now, done)
    if is_complete:
        return TrainingResult(folder.path, best_of(folder), None)
    return _end(folder, data, now, console)


def new_options(variant: str, data: str | Path, given: dict[str, Any]) -> TrainingOptions:
    """The resolved options of a new run; paths may be given as objects.

    Raises:
        ConfigurationError: an unknown option or an impossible value.
    """
    known_names = [entry.name for entry in dataclasses.fields(TrainingOptions)]
    for name in given:
        if name not in known_names and variant in CATALOG and hasattr(CATALOG[variant].config, name):
            raise ConfigurationError(
                f"'{name}' is a setting of the model: give settings={{'{name}': ...}} (--settings.{name.replace('_', '-')})"
            )
        if name not in known_names:
            listing = "help(detrkit.train) shows all"
            raise ConfigurationError(
                f"there is no training option '{name}': {closest(name, known_names, listing=listing)}"
            )
    given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    return resolve(TrainingOptions(variant=variant, data=str(data), **given))


def prepare(
    options: TrainingOptions,
    earlier: Resumed | None,
    console: Console,
    processes: Processes = ALONE,
    *,
    download: bool = True,
) -> tuple[TrainingModule, RunData]:
    """Everything that a run needs before its first step: checks, opens the data and builds the model; writes nothing.

    Args:
        options: the resolved options.
        earlier: what is resumed; None for a new run.
        console: where notes and warnings about the data are printed.
        processes: those that share the batches.
        download: False to leave the download of published weights to the run.

    Raises:
        DetrkitError: something cannot be used.
    """
    files = None  # a run that goes on has its weights from its folder
    check_processes(options, choose_device(options.device))
    if earlier is None:
        files = check_before_data(options, console, download=download)
    else:
        choose_device(options.device)
        check_data_are_there(options, earlier.folder, earlier.options)
    data = open_run_data(options, console)
    check_patience(options, data.validation)
    training = data.training
    check_images(len(training), processes.count)
    torch.manual_seed(options.seed)
    model = _build(options, training, resumed=earlier is not None)
    if files is not None:
        console.print(begin(model, options, files))
    check_rates((name for name, _ in model.named_parameters()), options.rates)
    count = len(EpochImages(options, training))
    if earlier is None:
        schedule = plan(options, count)
    else:
        check_same_data(earlier.folder, training)
        schedule = continued(options, count, earlier.done)
    return _module(model, options, training, schedule, processes), data


def _module(
    model: Detector, options: TrainingOptions, training: DetectionDataset, schedule: Schedule, processes: Processes
) -> TrainingModule:
    """The detector with its loss and the images as they vary in a run of this length."""
    transform = TrainingTransform(augmentation(options), model.card.preprocessing)
    learned = TrainingData(training, transform, options.seed, mixed_epochs=mixed_epochs(schedule.epochs))
    return TrainingModule(model, criterion_for(model), learned, options, schedule, processes)


def _run(options: TrainingOptions, earlier: Resumed | None, console: Console, agreement: Agreement) -> TrainingResult:
    processes = agreement.processes
    if options.devices * options.nodes > processes.count:
        return _run_in_processes(options, earlier, console)
    module, data = prepare(options, earlier, console, processes)
    budget = None
    if options.minutes is not None:  # of a new run in one process
        with not_said_again(data, options):
            budget = fit_to_time(module, data.validation)
        options = module.options
        module = _module(module.model, options, data.training, module.schedule, processes)
    folder = None if earlier is None else earlier.folder
    if folder is None and processes.is_first:
        folder = create(options, data.training)
    agreement.reach()
    folder = processes.from_first(folder)
    assert folder is not None
    if not processes.is_first:
        return _accompany(module, folder, data, earlier)
    if budget is not None:
        console.print(budget.in_words())
        note_budget(folder.config, budget)
    announce(console, options, module, folder, earlier is not None)
    if earlier is not None:
        record(folder, earlier.options, options, earlier.done)
        before = continued(earlier.options, len(module.images), earlier.done)
        note = length_note(before, module.schedule)
        if note is not None:
            console.print(note)
    others = start_loggers(options, folder, without=None if earlier is None else console.print)
    begin_session(folder.config)
    try:
        is_over = _fit(module, folder, data, console, earlier, others)
    finally:
        with contextlib.suppress(OSError):  # without room, or where the folder is gone, another error is on its way
            end_session(folder.config)
        end_loggers(others)
    if not is_over:
        _end_early(folder, data, options, console, epochs=module.schedule.epochs)
        raise KeyboardInterrupt("")  # said there
    return _end(folder, data, options, console)


def _run_in_processes(options: TrainingOptions, earlier: Resumed | None, console: Console) -> TrainingResult:
    """Starts the other processes of this machine, and trains with them."""
    check_processes(options, choose_device(options.device))
    if earlier is None:
        check_before_data(options, console)
    with other_processes(options.devices, options.nodes, os.environ) as processes, joined(processes):
        agreement = Agreement(processes)
        with agreement.until_reached():
            result = _run(options, earlier, processes.console(console), agreement)
    if not processes.is_first:
        raise SystemExit(0)  # the first node says what there is to say
    return result


def _accompany(module: TrainingModule, folder: RunFolder, data: RunData, earlier: Resumed | None) -> TrainingResult:
    """Trains as one of several processes that neither print nor write."""
    if not _fit(module, folder, data, module.processes.console(Console()), earlier):
        raise KeyboardInterrupt("")
    return TrainingResult(folder.path, best_of(folder), None)


def _fit(
    module: TrainingModule,
    folder: RunFolder,
    data: RunData,
    console: Console,
    earlier: Resumed | None,
    others: Sequence[Logger] = (),
) -> bool:
    """Trains to the end, or until it is stopped; returns whether it was the end."""
    processes, resumed, validation = module.processes, earlier is not None, data.validation
    said = not_said_again(data, module.options)
    with quiet_lightning(), said, losing_no_process(processes, _after_a_loss(folder)):
        progress = ProgressLines(console, evaluates=validation is not None)
        averaging = None if module.options.ema is None else Averaging(module.options.ema)
        ends = EpochEnds(folder, validation, progress, processes, averaging)
        stopping = Stopping(ends, progress, processes)
        loggers: list[Logger] = [Curves(folder.path, name="tensorboard", version=""), *others]
        if earlier is not None and earlier.done.lacks_end:
            ends.catch_up(module, loggers)
            if stopping.at_standstill(module.options):
                loggers[0].finalize("success")
                return True
        callbacks: list[Callback] = [progress, ends, stopping, Diagnosis(progress.line.print, folder.path)]
        if averaging is not None:
            callbacks.insert(0, averaging)  # before the end of an epoch, which evaluates
        if processes.count > 1:
            callbacks.append(EndAtOnce())
        trainer = _trainer(module, callbacks, loggers)
        try:
            trainer.fit(module, ckpt_path=folder.state if resumed else None, weights_only=True if resumed else None)
        except SystemExit:  # raised by Lightning on Ctrl-C and on SIGTERM, for the latter even with exit code 0
            return False
        except NonFiniteStepError:
            raise
        except NonFiniteError as problem:  # in an evaluation, which knows of weights only
            raise NonFiniteError(
                f"after step {module.global_step} the model's predictions are NaN or infinite, with the learning rate {module.options.lr:g}: "
                f"lower the learning rate, and train again into another folder than {folder.path}"
            ) from problem
    return True


def _after_a_loss(folder: RunFolder) -> str:
    path = shlex.quote(str(folder.path))
    return f"its own message says why; continue, also with another number of processes, with: detrkit train --resume {path}"


def _trainer(module: TrainingModule, callbacks: list[Callback], loggers: Sequence[Logger]) -> Trainer:
    options, schedule = module.options, module.schedule
    return Trainer(
        **trainer_options(choose_device(options.device), module.processes),
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        max_epochs=schedule.epochs,  # not max_steps, with which Lightning resumes a run in the wrong epoch
        accumulate_grad_batches=schedule.accumulate,
        gradient_clip_val=options.gradient_clip,
        callbacks=callbacks,
        logger=list(loggers),
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_autolog_hparams=False,
    )


def _build(options: TrainingOptions, training: DetectionDataset, *, resumed: bool) -> Detector:
    assert options.short_side is not None
    assert options.long_side is not None
    variant = find_variant(options.variant)
    settings = dict(options.settings)
    if resumed:  # settings that did not exist when the run began keep their defaults, whatever the variant says now
        settings = {**dataclasses.asdict(type(variant.config)()), **settings}
        del settings["class_count"]
    preprocessing = dataclasses.replace(
        variant.preprocessing, short_side=options.short_side, long_side=options.long_side
    )
    model = build(options.variant, classes=training.categories, preprocessing=preprocessing, **settings)
    if options.detector_from is not None:
        assert isinstance(model, MaskDetector)  # otherwise the option was refused
        model.freeze_detector()
    return model


def _end(folder: RunFolder, data: RunData, options: TrainingOptions, console: Console) -> TrainingResult:
    """Writes the report of a run whose training is over; says how to get it if that is stopped."""
    try:
        return write_everything(folder, data, options, console)
    except OutputError as problem:
        what, path = str(problem).rpartition(": ")[0], shlex.quote(str(folder.path))
        raise OutputError(
            f"{what}: training itself is finished, so make room or correct permissions, and write the report with: detrkit report {path}"
        ) from problem
    except KeyboardInterrupt as stop:
        console.print(
            f"Stopped. The training itself is finished; write its report with: detrkit report {shlex.quote(str(folder.path))}",
            soft_wrap=True,
        )
        raise KeyboardInterrupt("") from stop  # said above


def _end_early(folder: RunFolder, data: RunData, options: TrainingOptions, console: Console, *, epochs: int) -> None:
    """Says how a run that was stopped goes on, and writes the report of what was done so far."""
    path = shlex.quote(str(folder.path))
    if not folder.state.is_file():
        console.print(
            f"Stopped before the first checkpoint was written, so nothing was kept: train again into {folder.path}",
            soft_wrap=True,
        )
        return
    # First, since the system may give a process that it ends little time.
    done = progress_of(folder)
    where = (
        f"step {done.steps}, in epoch {done.epochs + 1}" if done.steps_into_epoch else f"the end of epoch {done.epochs}"
    )
    console.print(
        f"Stopped; kept up to {where} of {epochs}. Continue with: detrkit train --resume {path}", soft_wrap=True
    )
    if not folder.log.is_file():
        return
    try:
        write_without_evaluation(folder, data, options)
    except OutputError as problem:
        what = str(problem).rpartition(": ")[0]
        console.print(
            f"No report so far, since {what}: make room, and write it with: detrkit report {path}", soft_wrap=True
        )
        return
    console.print(
        f"Report so far: {folder.report} (with evaluation and pictures: detrkit report {path})", soft_wrap=True
    )
