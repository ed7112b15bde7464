"""A training run from beginning to end: check everything, train, save the models, write a report."""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from detrkit.checkpoints import load_backbone_weights, load_detector, load_queries
from detrkit.data import DetectionDataset, TrainingData, TrainingTransform
from detrkit.data.wording import are, counted
from detrkit.errors import ConfigurationError, NonFiniteError, closest
from detrkit.models.catalog import CATALOG, build, criterion_for, find_variant
from detrkit.models.detector import Detector
from detrkit.models.detr_segmentation import MaskDetector
from detrkit.prediction.devices import choose_device
from detrkit.terminal import terminal
from detrkit.training.averaging import Averaging
from detrkit.training.before_data import augmentation, check_before_data
from detrkit.training.epoch_images import EpochImages
from detrkit.training.epochs import EpochEnds
from detrkit.training.ground_truth import RunData, open_run_data
from detrkit.training.keywords import TrainingKeywords, with_keywords
from detrkit.training.module import NonFiniteStepError, TrainingModule
from detrkit.training.options import Schedule, check_single_process, plan, resolve
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
from detrkit.training.scaling import scaling_in_words
from detrkit.training.sessions import begin_session, end_session
from detrkit.training.stopping import Stopping, check_patience
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
        resume: folder of a run to continue instead; its own options apply, of which `data`, `epochs`, `steps` and `patience` may be given anew,
            for data that were moved and to train longer.
        console: the console that shows progress; None means the terminal.
        **options: any other field of `TrainingOptions`; `help(detrkit.train)` shows them all.

    Returns:
        The paths of the run's files and the evaluation of its best model.

    Raises:
        ConfigurationError: invalid options, or several processes.
        DataError: the data set cannot be used.
        OutputError: the run's folder cannot be written.
        NonFiniteError: a loss or weight became NaN or infinite.
        WorkerError: the system ended a process that reads images.
    """
    check_single_process(os.environ)
    console = console or terminal()
    if resume is not None:
        given = {"variant": variant, "data": data, **options}
        return _resume(resume, {name: value for name, value in given.items() if value is not None}, console)
    if variant is None or data is None:
        raise ConfigurationError("training needs a variant and data, or the folder of a run to resume")
    return _run(new_options(variant, data, dict(options)), None, console)


with_keywords(train)


def _resume(path: str | Path, given: dict[str, Any], console: Console) -> TrainingResult:
    """Goes on with a run; one that is finished only gets its report, if that is missing."""
    check_changeable(list(given))
    folder, before = reopen(path)
    done = progress_of(folder)
    now = changed_options(before, folder, done, given=given)
    if not is_finished(now, folder, done):
        return _run(now, Resumed(folder, before, done), console)
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


def prepare(options: TrainingOptions, earlier: Resumed | None, console: Console) -> tuple[TrainingModule, RunData]:
    """Everything that a run needs before its first step: checks, opens the data and builds the model; writes nothing.

    Args:
        options: the resolved options.
        earlier: what is resumed; None for a new run.
        console: where notes and warnings about the data are printed.

    Raises:
        DetrkitError: something cannot be used.
    """
    if earlier is None:
        check_before_data(options)
    else:
        choose_device(options.device)
        check_data_are_there(options, earlier.folder, earlier.options)
    data = open_run_data(options, console)
    check_patience(options, data.validation)
    training = data.training
    torch.manual_seed(options.seed)
    model = _build(options, training, resumed=earlier is not None)
    transform = TrainingTransform(augmentation(options), model.card.preprocessing)
    check_rates((name for name, _ in model.named_parameters()), options.rates)
    count = len(EpochImages(options, training))
    if earlier is None:
        schedule = plan(options, count)
    else:
        check_same_data(earlier.folder, training)
        schedule = continued(options, count, earlier.done)
    learned = TrainingData(training, transform, options.seed)
    return TrainingModule(model, criterion_for(model), learned, options, schedule), data


def _run(options: TrainingOptions, earlier: Resumed | None, console: Console) -> TrainingResult:
    module, data = prepare(options, earlier, console)
    budget = None if options.minutes is None else fit_to_time(module, data.validation)
    options = module.options
    folder = create(options, data.training) if earlier is None else earlier.folder
    if budget is not None:
        console.print(budget.in_words())
        note_budget(folder.config, budget)
    _announce(console, options, module, folder, earlier is not None)
    if earlier is not None:
        record(folder, earlier.options, options, earlier.done)
        before = continued(earlier.options, len(module.images), earlier.done)
        note = length_note(before, module.schedule)
        if note is not None:
            console.print(note)
    begin_session(folder.config)
    try:
        is_over = _fit(module, folder, data.validation, console, resumed=earlier is not None)
    finally:
        end_session(folder.config)
    if not is_over:
        _end_early(folder, data, options, console, epochs=module.schedule.epochs)
        raise KeyboardInterrupt("")  # said there
    return _end(folder, data, options, console)


def _fit(
    module: TrainingModule, folder: RunFolder, validation: DetectionDataset | None, console: Console, *, resumed: bool
) -> bool:
    """Trains to the end, or until it is stopped; returns whether it was the end."""
    with _quiet_lightning():
        progress = ProgressLines(console, evaluates=validation is not None)
        averaging = None if module.options.ema is None else Averaging(module.options.ema)
        ends = EpochEnds(folder, validation, progress, averaging)
        callbacks: list[Callback] = [progress, ends, Stopping(folder, progress)]
        if averaging is not None:
            callbacks.insert(0, averaging)  # before the end of an epoch, which evaluates
        trainer = _trainer(module.options, module.schedule, folder, callbacks)
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


def _trainer(options: TrainingOptions, schedule: Schedule, folder: RunFolder, callbacks: list[Callback]) -> Trainer:
    kind, _, index = choose_device(options.device).partition(":")
    return Trainer(
        accelerator="gpu" if kind == "cuda" else kind,
        devices=[int(index)] if index else 1,
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        max_epochs=schedule.epochs,  # not max_steps, with which Lightning resumes a run in the wrong epoch
        accumulate_grad_batches=schedule.accumulate,
        gradient_clip_val=options.gradient_clip,
        callbacks=callbacks,
        plugins=LightningEnvironment(),  # one process, whatever a cluster's environment variables say
        logger=TensorBoardLogger(folder.path, name="tensorboard", version=""),
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
    if resumed:
        return model  # all weights come from the run
    if options.detector_from is not None:
        load_detector(model, options.detector_from)
    if options.backbone_weights is not None:
        load_backbone_weights(model.backbone, options.backbone_weights)
    if options.queries_from is not None:
        load_queries(model, options.queries_from)
    return model


def _announce(
    console: Console, options: TrainingOptions, module: TrainingModule, folder: RunFolder, resumed: bool
) -> None:
    schedule = module.schedule
    trainable = sum(parameter.numel() for parameter in module.model.parameters() if parameter.requires_grad)
    pieces = f" in {schedule.accumulate} pieces of {schedule.piece_size}" if schedule.accumulate != 1 else ""
    console.print(
        f"{'Resuming' if resumed else 'Training'} {options.variant} ({trainable / 1e6:.1f} million trainable parameters) on "
        f"{choose_device(options.device)} in {options.precision}: {counted(schedule.epochs, 'epoch')}, {counted(schedule.steps, 'step')}, batches of "
        f"{counted(schedule.batch_size, 'image')}{pieces}, images up to {options.short_side} × {options.long_side}, "
        f"learning rate {options.lr:g} (backbone {options.backbone_lr:g}, {options.schedule}){scaling_in_words(options, find_variant(options.variant).recipe)}",
    )
    repeated = module.images.note()
    if repeated is not None:
        console.print(repeated)
    if schedule.batch_size < (options.batch_size or 1):
        console.print(
            f"Note: there {are(len(module.data))} only {counted(len(module.data), 'image')}, so batches are smaller than {options.batch_size}."
        )
    if not resumed and not options.settings.get("learn_queries", True) and options.queries_from is None:
        console.print(
            "Note: queries stay as they were drawn, since learn_queries is off and queries_from was not given."
        )
    console.print(f"Run folder: {folder.path}")


def _end(folder: RunFolder, data: RunData, options: TrainingOptions, console: Console) -> TrainingResult:
    """Writes the report of a run whose training is over; says how to get it if that is stopped."""
    try:
        return write_everything(folder, data, options, console)
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
            f"Stopped before the first epoch was finished, so nothing was kept: train again into {folder.path}",
            soft_wrap=True,
        )
        return
    # First, since the system may give a process that it ends little time.
    console.print(
        f"Stopped; kept up to the end of epoch {progress_of(folder).epochs} of {epochs}. Continue with: detrkit train --resume {path}",
        soft_wrap=True,
    )
    write_without_evaluation(folder, data, options)
    console.print(
        f"Report so far: {folder.report} (with evaluation and pictures: detrkit report {path})", soft_wrap=True
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silences Lightning's messages that duplicate detrkit's own or do not apply; restores everything afterwards."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    interrupt = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    try:
        with warnings.catch_warnings():
            for message in (
                ".*does not have many workers.*",
                ".*number of training batches.*",
                ".*module\\(s\\) in eval mode.*",  # a frozen detector
                ".*`isinstance\\(treespec.*",
            ):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if interrupt is not None:  # after Ctrl-C Lightning ignores the signal for the rest of the process
            signal.signal(signal.SIGINT, interrupt)
