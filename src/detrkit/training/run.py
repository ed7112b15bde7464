"""A training run from beginning to end: check everything, train, save the models, write a report."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from rich.console import Console

from detrkit.data.wording import counted
from detrkit.errors import ConfigurationError, NonFiniteError, OptionError, OutputError, closest
from detrkit.models.catalog import CATALOG
from detrkit.prediction.devices import choose_device
from detrkit.terminal import terminal
from detrkit.training.announcing import announce
from detrkit.training.averaging import Averaging
from detrkit.training.before_data import check_before_data
from detrkit.training.diagnosis import Diagnosis, Remains
from detrkit.training.epochs import EpochEnds, evaluation_batch
from detrkit.training.ground_truth import RunData, not_said_again, open_run_data
from detrkit.training.keywords import TrainingKeywords, with_keywords
from detrkit.training.launching import follow_starter, other_processes
from detrkit.training.loggers import Curves, end_loggers, start_loggers
from detrkit.training.memory_probe import probe_memory
from detrkit.training.module import NonFiniteStepError, TrainingModule
from detrkit.training.options import resolve
from detrkit.training.preparing import module_of, prepare
from detrkit.training.processes import (
    Agreement,
    check_processes,
    joined,
    losing_no_process,
    processes_of,
    with_processes,
)
from detrkit.training.progress import ProgressLines
from detrkit.training.reporting import best_of, write_everything, write_without_evaluation
from detrkit.training.result import TrainingResult
from detrkit.training.resuming import (
    Resumed,
    changed_options,
    check_changeable,
    check_data_are_there,
    check_same_data,
    check_weights,
    continued,
    early_end,
    is_finished,
    length_note,
    progress_of,
    record,
    record_annotations,
)
from detrkit.training.run_folder import RunFolder, create, note_colours, reopen
from detrkit.training.sessions import begin_session, end_session
from detrkit.training.sharding import WholeModel
from detrkit.training.starting import missing_offer, wanted_offer
from detrkit.training.stopping import Stopping
from detrkit.training.strategies import EndAtOnce, quiet_lightning, trainer_options
from detrkit.training.time_budget import TimeBudget, fit_to_time, note_budget
from detrkit.training.training_options import TrainingOptions
from detrkit.training.watching import ConvergenceWatch


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
        resume: folder of a run to continue instead; its own options apply, of which `data`, `epochs`, `steps`, `patience`, `device`,
            `devices`, `nodes`, `strategy` and `workers` may be given anew, for data that were moved, to train longer, and for another machine.
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
    folder.remove_unfinished()
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


def _run(options: TrainingOptions, earlier: Resumed | None, console: Console, agreement: Agreement) -> TrainingResult:
    processes = agreement.processes
    if options.devices * options.nodes > processes.count:
        return _run_in_processes(options, earlier, console)
    if earlier is None:
        options = _same_start(options, agreement)
        _download_once(options, console, agreement)
    module, data = prepare(options, earlier, console, processes)
    if earlier is not None:
        check_weights(earlier.folder, module.model)
    budget = None
    if options.minutes is not None:  # of a new run
        budget = _measure(module, data, agreement)
        options = module.options
        module = module_of(module.model, options, data.training, module.schedule, processes)
    if options.memory_probe:
        with not_said_again(data, options):
            probe_memory(module, console)
    folder = None if earlier is None else earlier.folder
    if folder is None and processes.is_first:
        folder = create(options, data.training, data.validation)
        note_colours(folder, module.model.card.preprocessing.colours)
    agreement.reach()
    folder = processes.from_first(folder)
    assert folder is not None
    if not processes.is_first:
        return _accompany(module, folder, data, earlier)
    if budget is not None:
        console.print(budget.in_words())
        note_budget(folder.config, budget)
    announce(console, options, module, folder, earlier is not None)
    folder.remove_unfinished()
    if earlier is not None:
        record(folder, earlier.options, options, earlier.done)
        record_annotations(folder, data.training, data.validation)
        before = continued(earlier.options, len(module.images), earlier.done)
        note = length_note(before, module.schedule)
        if note is not None:
            console.print(note)
    others = start_loggers(options, folder, without=None if earlier is None else console.print)
    begin_session(folder.config)
    try:
        is_over = fit(module, folder, data, console, earlier, others)
    finally:
        with contextlib.suppress(OSError):  # without room, or where the folder is gone, another error is on its way
            end_session(folder.config)
        end_loggers(others)
        agreement.release()
    if not is_over:
        _end_early(folder, data, options, console, epochs=module.schedule.epochs)
        raise KeyboardInterrupt("")  # said there
    return _end(folder, data, options, console)


def _measure(module: TrainingModule, data: RunData, agreement: Agreement) -> TimeBudget:
    """Gives the module the length that fits into its minutes; all processes measure together."""
    processes = agreement.processes
    agreement.reach()  # a process that fails from here on ends without telling the others, which notice
    with losing_no_process(processes, "its own message says why"), not_said_again(data, module.options):
        try:
            return fit_to_time(module, data.validation, processes=processes)
        except OptionError as problem:  # all have it
            if not processes.is_first:
                raise SystemExit(2) from problem
            raise


def _same_start(options: TrainingOptions, agreement: Agreement) -> TrainingOptions:
    """Gives all processes what the first one starts from, since it may depend on what is in the cache of a node."""
    if agreement.processes.count == 1:
        return options
    agreement.meet()
    return dataclasses.replace(options, weights=agreement.processes.from_first(options.weights))


def _download_once(options: TrainingOptions, console: Console, agreement: Agreement) -> None:
    """Lets one process of each node download what the run starts from; where it cannot, the others do not try as well."""
    processes = agreement.processes
    if processes.count == 1 or wanted_offer(options) is None:
        return
    if processes.local_rank == 0 and missing_offer(options) is not None:
        check_processes(options, choose_device(options.device))
        check_before_data(options, console)
    agreement.meet()


def _run_in_processes(options: TrainingOptions, earlier: Resumed | None, console: Console) -> TrainingResult:
    """Starts the other processes of this machine, and trains with them."""
    check_processes(options, choose_device(options.device))
    if earlier is None:
        check_before_data(options, console)
    with other_processes(options.devices, options.nodes, os.environ) as (processes, release), joined(processes):
        agreement = Agreement(processes, release)
        with agreement.until_reached():
            result = _run(options, earlier, processes.console(console), agreement)
    if not processes.is_first:
        raise SystemExit(0)  # the first node says what there is to say
    return result


def _accompany(module: TrainingModule, folder: RunFolder, data: RunData, earlier: Resumed | None) -> TrainingResult:
    """Trains as one of several processes that neither print nor write."""
    if not fit(module, folder, data, module.processes.console(Console()), earlier):
        raise KeyboardInterrupt("")
    return TrainingResult(folder.path, best_of(folder), None)


def fit(
    module: TrainingModule,
    folder: RunFolder,
    data: RunData,
    console: Console,
    earlier: Resumed | None,
    others: Sequence[Logger] = (),
) -> bool:
    """Trains to the end, or until it is stopped.

    Args:
        module: of the run.
        folder: of the run.
        data: what it learns from and is evaluated on.
        console: shows progress.
        earlier: what is resumed; None for a new run.
        others: loggers besides the log and TensorBoard.

    Returns:
        Whether it was the end.
    """
    processes, resumed, validation = module.processes, earlier is not None, data.validation
    said = not_said_again(data, module.options)
    remains = Remains(folder.path, processes.count)
    with quiet_lightning(), said, losing_no_process(processes, _after_a_loss(folder), remains.in_words):
        progress = ProgressLines(console, evaluates=validation is not None)
        averaging: Averaging | WholeModel | None = None if module.options.ema is None else Averaging(module.options.ema)
        if module.is_shared_out:
            averaging = WholeModel()
            averaging.begin(module)
        watch = None
        if module.options.watch is not None:
            watch = ConvergenceWatch(data.training, batch_size=evaluation_batch(module.options))
        ends = EpochEnds(folder, validation, progress, processes, averaging, watch)
        stopping = Stopping(ends, progress, processes)
        loggers: list[Logger] = [Curves(folder.path, name="tensorboard", version=""), *others]
        if earlier is not None and earlier.done.lacks_end:
            ends.catch_up(module, loggers)
            if stopping.at_standstill(module.options):
                loggers[0].finalize("success")
                return True
        diagnosis = Diagnosis(progress.line.print, folder.path, rank=processes.rank)
        callbacks: list[Callback] = [progress, ends, stopping, diagnosis]
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
        **trainer_options(choose_device(options.device), module.processes, shares_out=module.is_shared_out),
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
