"""A training run from beginning to end: check everything, train, save the models, write a report."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from detrkit.checkpoints import load, load_backbone_weights, load_queries
from detrkit.data import (
    Augmentation,
    DetectionDataset,
    TrainingData,
    TrainingTransform,
)
from detrkit.errors import ConfigurationError, closest
from detrkit.evaluation import Evaluation, compare, detect
from detrkit.evaluation.report import (
    Section,
    curves_figure,
    evaluation_sections,
    example_pictures,
    training_section,
    write_report,
)
from detrkit.files import write_json
from detrkit.models.catalog import CATALOG, build, criterion_for, find_variant
from detrkit.models.detector import Detector
from detrkit.prediction import save_image
from detrkit.terminal import terminal
from detrkit.training.epochs import EpochEnds, evaluation_batch
from detrkit.training.ground_truth import open_splits
from detrkit.training.module import TrainingModule
from detrkit.training.options import Schedule, check_single_process, choose_device, plan, resolve
from detrkit.training.progress import ProgressLines
from detrkit.training.run_folder import RunFolder, check_same_data, create, read_log, reopen
from detrkit.training.training_options import TrainingOptions


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run.

    Attributes:
        folder: the folder with everything that the run wrote.
        best: the checkpoint with the highest AP, or without a validation split the one with the lowest loss.
        evaluation: evaluation of that checkpoint on the validation split; None if there is no such split.
    """

    folder: Path
    best: Path
    evaluation: Evaluation | None


def train(
    variant: str | None = None,
    data: str | Path | None = None,
    *,
    resume: str | Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> TrainingResult:
    """Trains a detector.

    Args:
        variant: a name in the catalog, such as "detr-r50".
        data: a data set's folder or annotation file, or "digits".
        resume: folder of a run to continue instead; its own options apply.
        console: the console that shows progress; None means the terminal.
        **options: any other field of `TrainingOptions`.

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
        given = {"variant": variant, "data": data}
        _check_nothing_else([name for name, value in given.items() if value is not None] + list(options))
        folder, earlier = reopen(resume)
        return _run(earlier, folder, console)
    if variant is None or data is None:
        raise ConfigurationError("training needs a variant and data, or the folder of a run to resume")
    return _run(resolve(_new_options(variant, data, options)), None, console)


def _check_nothing_else(given: list[str]) -> None:
    """Refuses options beside the folder of a run to resume."""
    if given:
        raise ConfigurationError(f"resume continues a run with its own options: leave out {', '.join(given)}")


def _new_options(variant: str, data: str | Path, given: dict[str, Any]) -> TrainingOptions:
    """The options of a new run; paths may be given as objects."""
    known_names = [entry.name for entry in dataclasses.fields(TrainingOptions)]
    for name in given:
        if name not in known_names and variant in CATALOG and hasattr(CATALOG[variant].config, name):
            raise ConfigurationError(
                f"'{name}' is a setting of the model: give settings={{'{name}': ...}} (--settings.{name.replace('_', '-')})"
            )
        if name not in known_names:
            raise ConfigurationError(f"there is no training option '{name}': {closest(name, known_names)}")
    given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    return TrainingOptions(variant=variant, data=str(data), **given)


def _run(options: TrainingOptions, folder: RunFolder | None, console: Console) -> TrainingResult:
    resumed = folder is not None
    choose_device(options.device)  # refuses an unavailable device before any data are read
    training, validation = open_splits(options, console)
    torch.manual_seed(options.seed)
    model = _build(options, training, resumed=resumed)
    schedule = plan(options, len(training))
    transform = TrainingTransform(_augmentation(options), model.card.preprocessing)
    module = TrainingModule(
        model, criterion_for(model), TrainingData(training, transform, options.seed), options, schedule
    )
    if folder is None:
        folder = create(options, training)
    else:
        check_same_data(folder, training)
    _announce(console, options, module, folder, resumed)
    with _quiet_lightning():
        trainer = _trainer(options, schedule, folder, [ProgressLines(console), EpochEnds(folder, validation, console)])
        try:
            trainer.fit(module, ckpt_path=folder.state if resumed else None, weights_only=True if resumed else None)
        except SystemExit as end:  # raised by Lightning on Ctrl-C and on SIGTERM, for the latter even with exit code 0
            if folder.state.is_file():
                console.print(f"Stopped. Continue with: detrkit train --resume {folder.path}")
            else:
                console.print(
                    f"Stopped before the first epoch was finished, so nothing was kept: train again into {folder.path}"
                )
            raise KeyboardInterrupt from end
    return _finish(folder, validation, options)


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
    if resumed:
        return model  # all weights come from the run
    if options.backbone_weights is not None:
        load_backbone_weights(model.backbone, options.backbone_weights)
    elif model.backbone.frozen_norms:
        raise ConfigurationError(
            f"{options.variant} has frozen norms, and such a backbone cannot learn from random weights: give pretrained weights with "
            "--backbone-weights FILE, or train light-detr-compact, whose norms are trained"
        )
    if options.queries_from is not None:
        load_queries(model, options.queries_from)
    return model


def _augmentation(options: TrainingOptions) -> Augmentation:
    assert options.short_side is not None
    assert options.long_side is not None
    if (options.short_side, options.long_side) == (800, 1333):
        policy = Augmentation()
    else:
        policy = Augmentation.for_sizes(options.short_side, options.long_side)
    sides = policy.short_sides if options.multi_scale else (options.short_side,)
    return dataclasses.replace(
        policy, flip=options.flip, vertical_flip=options.vertical_flip, crop=options.crop, short_sides=sides
    )


def _announce(
    console: Console, options: TrainingOptions, module: TrainingModule, folder: RunFolder, resumed: bool
) -> None:
    schedule = module.schedule
    trainable = sum(parameter.numel() for parameter in module.model.parameters() if parameter.requires_grad)
    pieces = f" in {schedule.accumulate} pieces of {schedule.piece_size}" if schedule.accumulate != 1 else ""
    console.print(
        f"{'Resuming' if resumed else 'Training'} {options.variant} ({trainable / 1e6:.1f} million trainable parameters) on "
        f"{choose_device(options.device)} in {options.precision}: {schedule.epochs} epochs, {schedule.steps} steps, batches of "
        f"{schedule.batch_size} images{pieces}, images up to {options.short_side} × {options.long_side}, "
        f"learning rate {options.lr:g} (backbone {options.backbone_lr:g}, {options.schedule})",
    )
    if schedule.batch_size < (options.batch_size or 1):
        console.print(
            f"Note: there are only {len(module.data)} images, so batches are smaller than {options.batch_size}."
        )
    if not resumed and not options.settings.get("learn_queries", True) and options.queries_from is None:
        console.print(
            "Note: queries stay as they were drawn, since learn_queries is off and queries_from was not given."
        )
    console.print(f"Run folder: {folder.path}")


def _finish(folder: RunFolder, validation: DetectionDataset | None, options: TrainingOptions) -> TrainingResult:
    """Evaluates the best model once more, and writes the report with curves, metrics and example images."""
    best = folder.best if folder.best.exists() else folder.last
    rows = read_log(folder.log)
    sections: list[Section] = [training_section(rows)]
    curves_figure(rows).savefig(folder.curves, dpi=150)
    evaluation = None
    if validation is not None:
        model = load(best).to(choose_device(options.device))
        workers = options.workers or 0
        entries = detect(model, validation, batch_size=evaluation_batch(options), workers=workers, progress=True)
        evaluation = compare(model, validation, entries)
        pictures = example_pictures(validation, entries, threshold=model.card.threshold)
        for number, picture in enumerate(pictures, start=1):
            save_image(folder.pictures / f"{number}.png", picture)
        sections = [*evaluation_sections(evaluation), *sections, Section("Examples", (), pictures)]
        metrics = json.loads(folder.metrics.read_text(encoding="utf-8"))
        write_json(folder.metrics, {**metrics, "evaluation": evaluation.to_json()})
    write_report(folder.report, f"Run {folder.path.name}", sections)
    return TrainingResult(folder.path, best, evaluation)


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
                ".*`isinstance\\(treespec.*",
            ):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if interrupt is not None:  # after Ctrl-C Lightning ignores the signal for the rest of the process
            signal.signal(signal.SIGINT, interrupt)
