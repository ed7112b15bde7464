"""Checks of a new run that need no data, so that a big data set is not read in vain."""

from __future__ import annotations

import dataclasses

from rich.console import Console

from detrkit.backbones import build_backbone
from detrkit.checkpoints import load_backbone_weights
from detrkit.data import Augmentation
from detrkit.errors import OptionError
from detrkit.files import expanded
from detrkit.models.catalog import has_masks
from detrkit.prediction.devices import choose_device
from detrkit.training.run_folder import RunFolder, check_free
from detrkit.training.starting import NONE, StartingFiles, starting_files
from detrkit.training.training_options import TrainingOptions


def check_before_data(options: TrainingOptions, console: Console, *, download: bool = True) -> StartingFiles:
    """Refuses what can be refused without data: device, image sizes, output folder, weight files. Published weights are downloaded.

    Args:
        options: the resolved options of a new run.
        console: shows how far a download is.
        download: False to leave downloads to the run.

    Returns:
        The weights that the run starts from.

    Raises:
        ConfigurationError: the device is not there, sizes that do not fit each other, a folder that holds a run, or a backbone with frozen
            norms and without weights.
        CheckpointError: weights that are not there, cannot be downloaded, or do not fit.
    """
    choose_device(options.device)
    augmentation(options)
    if options.output is not None:
        check_free(RunFolder(expanded(options.output)))
    backbone = build_backbone(options.settings["backbone"])
    begins_at_random = (
        options.weights in (None, NONE) and options.backbone_weights is None and options.detector_from is None
    )
    if begins_at_random and backbone.frozen_norms:
        trained = "deformable-detr-compact-panoptic" if has_masks(options.variant) else "light-detr-compact"
        raise OptionError(
            f"{options.variant} has frozen norms, and such a backbone cannot learn from random numbers: choose weights=backbone, give a file of the "
            f"pretrained backbone as backbone_weights, or train {trained}, whose norms are trained",
            "weights",
            "backbone_weights",
        )
    files = starting_files(options, console, download=download)
    if files.backbone is not None:
        load_backbone_weights(backbone, files.backbone)
    return files


def augmentation(options: TrainingOptions) -> Augmentation:
    """How training images vary.

    Args:
        options: the resolved options.

    Raises:
        ConfigurationError: sides that do not fit each other.
    """
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
