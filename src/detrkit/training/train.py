"""Training from the first line to the last: check everything, run, keep, report."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from detrkit.checkpoints import load, load_backbone_weights
from detrkit.data import (
    Augmentation,
    DetectionDataset,
    TrainingData,
    TrainingTransform,
    available_splits,
    open_dataset,
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
from detrkit.models.catalog import build, criterion_for, find_variant
from detrkit.models.detector import Detector
from detrkit.prediction import save_image
from detrkit.structures import Preprocessing
from detrkit.terminal import terminal
from detrkit.training.epochs import EpochEnds, evaluation_batch
from detrkit.training.module import TrainingModule
from detrkit.training.options import TrainingOptions, choose_device, plan, resolve
from detrkit.training.progress import ProgressLines
from detrkit.training.run_folder import RunFolder, check_same_data, create, read_log, reopen


@dataclass(frozen=True)
class TrainingResult:
    """What a run leaves behind.

    Attributes:
        folder: everything it wrote.
        best: the checkpoint with the highest AP, to be loaded or handed on.
        evaluation: of that checkpoint on the validation split; None where there is no such split.
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
        resume: folder of a run to go on with instead; its own options hold.
        console: where progress is shown; None means the terminal.
        **options: any other field of `TrainingOptions`.

    Returns:
        Where the run's files lie, and how good its best model is.

    Raises:
        ConfigurationError: options that cannot work.
        DataError: the data set cannot be used.
        OutputError: the run's folder cannot be written.
        NonFiniteError: training left the finite numbers.
    """
    console = console or terminal()
    if resume is not None:
        if variant is not None or data is not None or options:
            given = [name for name, value in (("variant", variant), ("data", data)) if value is not None] + list(
                options
            )
            raise ConfigurationError(f"resume goes on with the run's own options: leave out {', '.join(given)}")
        folder, known = reopen(resume)
        return _run(known, folder, console)
    if variant is None or data is None:
        raise ConfigurationError("training needs a variant and data, or the folder of a run to resume")
    known_names = [entry.name for entry in dataclasses.fields(TrainingOptions)]
    for name in options:
        if name not in known_names:
            raise ConfigurationError(f"there is no training option '{name}': {closest(name, known_names)}")
    return _run(resolve(TrainingOptions(variant=variant, data=str(data), **options)), None, console)


def _run(options: TrainingOptions, folder: RunFolder | None, console: Console) -> TrainingResult:
    device = choose_device(options.device)
    training, validation = _open(options, console)
    torch.manual_seed(options.seed)
    model = _build(options, training, resumed=folder is not None)
    schedule = plan(options, len(training))
    transform = TrainingTransform(_augmentation(options), model.card.preprocessing)
    module = TrainingModule(
        model, criterion_for(model), TrainingData(training, transform, options.seed), options, schedule
    )
    resumed = folder is not None
    if folder is None:
        folder = create(options, training)
    else:
        check_same_data(folder, training)
    _announce(console, options, module, folder, resumed)
    kind, _, index = device.partition(":")
    with _quiet_lightning():
        trainer = Trainer(
            accelerator="gpu" if kind == "cuda" else kind,
            devices=[int(index)] if index else 1,
            precision="bf16-mixed" if options.precision == "bf16" else "32-true",
            max_epochs=schedule.epochs,  # not max_steps: Lightning resumes runs that are counted in steps in the wrong epoch
            accumulate_grad_batches=schedule.accumulate,
            gradient_clip_val=options.gradient_clip,
            callbacks=[ProgressLines(console), EpochEnds(folder, validation, console)],
            logger=TensorBoardLogger(folder.path, name="tensorboard", version=""),
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_autolog_hparams=False,
        )
        try:
            trainer.fit(module, ckpt_path=folder.state if resumed else None, weights_only=True if resumed else None)
        except SystemExit as end:  # Lightning's way of ending on Ctrl-C and SIGTERM, the latter even with success
            console.print(f"Stopped. Go on with: detrkit train --resume {folder.path}")
            raise KeyboardInterrupt from end
    return _finish(folder, validation, options)


def _open(options: TrainingOptions, console: Console) -> tuple[DetectionDataset, DetectionDataset | None]:
    training = open_dataset(options.data, options.train_split)
    validation = None
    if options.val_split != "val" or "val" in available_splits(options.data):  # one that was asked for must be there
        validation = open_dataset(options.data, options.val_split)
    for dataset in (training, validation):
        if dataset is not None:
            console.print(dataset.description())
            for note in dataset.notes:
                console.print(f"Note: {note}")
    if validation is None:
        console.print(
            f"Note: {options.data} has no split '{options.val_split}', so nothing is evaluated and the lowest loss counts as best."
        )
    return training, validation


def _build(options: TrainingOptions, training: DetectionDataset, *, resumed: bool) -> Detector:
    assert options.short_side is not None
    assert options.long_side is not None
    variant = find_variant(options.variant)
    usual, settings = variant.preprocessing, dict(options.settings)
    if resumed:  # a setting that the run's version of detrkit did not know is off, whatever the variant has now
        settings = {**dataclasses.asdict(type(variant.config)()), **settings}
        del settings["classes"]
    preprocessing = Preprocessing(options.short_side, options.long_side, usual.mean, usual.deviation)
    model = build(options.variant, classes=training.categories, preprocessing=preprocessing, **settings)
    if resumed:
        return model  # all weights come from the run
    if options.backbone_weights is not None:
        load_backbone_weights(model.backbone, options.backbone_weights)  # type: ignore[arg-type]
    elif model.backbone.frozen_norms:
        raise ConfigurationError(
            f"{options.variant} has frozen norms, and over random weights such a backbone never learns: give pretrained weights with "
            "--backbone-weights FILE, or train detr-compact, whose norms learn"
        )
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
    learned = sum(parameter.numel() for parameter in module.model.parameters() if parameter.requires_grad)
    pieces = f" in {schedule.accumulate} pieces of {schedule.piece_size}" if schedule.accumulate != 1 else ""
    console.print(
        f"{'Going on with' if resumed else 'Training'} {options.variant} ({learned / 1e6:.1f} million trainable parameters) on "
        f"{choose_device(options.device)} in {options.precision}: {schedule.epochs} epochs, {schedule.steps} steps, batches of "
        f"{schedule.batch_size} images{pieces}, images up to {options.short_side} × {options.long_side}, "
        f"learning rate {options.lr:g} (backbone {options.backbone_lr:g}, {options.schedule})",
    )
    if schedule.batch_size < (options.batch_size or 1):
        console.print(
            f"Note: there are only {len(module.data)} images, so batches are smaller than {options.batch_size}."
        )
    console.print(f"Run folder: {folder.path}")


def _finish(folder: RunFolder, validation: DetectionDataset | None, options: TrainingOptions) -> TrainingResult:
    """Looks at the best model once more, and puts curves, figures and pictures on one page."""
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
    """Keeps Lightning from saying what detrkit says itself; everything is as before afterwards."""
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
        if interrupt is not None:  # after Ctrl-C Lightning ignores it for the rest of the process
            signal.signal(signal.SIGINT, interrupt)
