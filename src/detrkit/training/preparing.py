"""Everything that a run needs before its first step."""

from __future__ import annotations

import dataclasses

import torch
from rich.console import Console

from detrkit.checkpoints.detector_weights import take_colours
from detrkit.data import DetectionDataset, TrainingData, TrainingTransform
from detrkit.data.augmentation import mixed_epochs
from detrkit.data.wording import counted
from detrkit.errors import OptionError
from detrkit.models.catalog import build, criterion_for, find_variant
from detrkit.models.detector import Detector
from detrkit.models.detr_segmentation import MaskDetector
from detrkit.models.supervision import supervise
from detrkit.prediction.devices import choose_device
from detrkit.training.before_data import augmentation, check_before_data
from detrkit.training.epoch_images import EpochImages
from detrkit.training.ground_truth import RunData, open_run_data
from detrkit.training.module import TrainingModule
from detrkit.training.options import Schedule, fitting_warmup, plan
from detrkit.training.processes import ALONE, Processes, check_images, check_processes
from detrkit.training.rates import check_rates
from detrkit.training.resuming import Resumed, annotation_notes, check_data_are_there, check_same_data, continued
from detrkit.training.run_folder import colours_of, recipe_of
from detrkit.training.starting import begin
from detrkit.training.stopping import check_patience
from detrkit.training.training_options import TrainingOptions


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
    if earlier is not None:
        take_colours(model, colours_of(earlier.folder))
    if options.supervision is not None:  # after the weights, of which it has none
        supervise(model, options.supervision)
    check_rates((name for name, _ in model.named_parameters()), options.rates)
    count = len(EpochImages(options, training))
    if earlier is None:
        schedule = plan(options, count)
        _check_scaling(options, schedule, count)
        _announce_warmup(options, schedule, console)
    else:
        check_same_data(earlier.folder, training)
        for note in annotation_notes(earlier.folder, training, data.validation):
            console.print(f"Note: {note}", soft_wrap=True, markup=False)
        schedule = continued(options, count, earlier.done)
    module = module_of(model, options, training, schedule, processes)
    if earlier is not None:
        module.recipe = recipe_of(earlier.folder, options.variant)
    return module, data


def _check_scaling(options: TrainingOptions, schedule: Schedule, images: int) -> None:
    """Refuses rates that follow a batch that no step has."""
    if options.scale_lr and schedule.batch_size < (options.batch_size or 1):
        raise OptionError(
            f"scale_lr would follow batches of {options.batch_size}, and the training split has only {counted(images, 'image')}: give "
            f"batch_size={schedule.batch_size}, or leave out scale_lr",
            *("scale_lr", "batch_size"),
        )


def _announce_warmup(options: TrainingOptions, schedule: Schedule, console: Console) -> None:
    """Says that a run is too short for the recipe's warm-up; where its length is measured first, the warm-up is chosen there."""
    warmup = fitting_warmup(options, find_variant(options.variant).recipe, schedule.steps)
    if options.minutes is None and warmup != options.warmup_steps:
        console.print(
            f"Note: the recipe's {options.warmup_steps} steps of warm-up are shortened to {warmup}, since the run has "
            f"{counted(schedule.steps, 'step')} in all; another --warmup-steps is kept."
        )


def module_of(
    model: Detector, options: TrainingOptions, training: DetectionDataset, schedule: Schedule, processes: Processes
) -> TrainingModule:
    """The detector with its loss and the images as they vary in a run of this length."""
    transform = TrainingTransform(augmentation(options), model.card.preprocessing)
    learned = TrainingData(training, transform, options.seed, mixed_epochs=mixed_epochs(schedule.epochs))
    return TrainingModule(model, criterion_for(model), learned, options, schedule, processes)


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
