"""Checks of a new run that need no data, so that a big data set is not read in vain."""

from __future__ import annotations

from rich.console import Console

from detrkit.backbones import build_backbone
from detrkit.checkpoints import load_backbone_weights
from detrkit.checkpoints.published import imagenet_offer
from detrkit.data import Augmentation, TrainingData
from detrkit.errors import OptionError
from detrkit.files import expanded
from detrkit.models.catalog import has_masks
from detrkit.prediction.devices import choose_device
from detrkit.training.loggers import check_loggers
from detrkit.training.run_folder import RunFolder, check_free
from detrkit.training.starting import NONE, StartingFiles, starting_files
from detrkit.training.training_options import TrainingOptions


def check_before_data(options: TrainingOptions, console: Console, *, download: bool = True) -> StartingFiles:
    """Refuses what can be refused without data: device, loggers, image sizes, output folder, weight files. Published weights are downloaded.

    Args:
        options: the resolved options of a new run.
        console: shows how far a download is.
        download: False to leave downloads to the run.

    Returns:
        The weights that the run starts from.

    Raises:
        ConfigurationError: the device or a logger is not there, sizes that do not fit each other, a folder that holds a run, or a backbone with frozen
            norms and without weights.
        CheckpointError: weights that are not there, cannot be downloaded, or do not fit.
    """
    choose_device(options.device)
    check_loggers(options.loggers)
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
            f"{options.variant} has frozen norms, and such a backbone cannot learn from random numbers: {_pretrained(options.settings['backbone'])}, "
            f"or train {trained}, whose norms are trained",
            "weights",
            "backbone_weights",
        )
    files = starting_files(options, console, download=download)
    if files.backbone is not None:
        load_backbone_weights(backbone, files.backbone)
    return files


def _pretrained(backbone: str) -> str:
    """How a backbone gets its pretrained weights."""
    file = "a file of the pretrained backbone as backbone_weights"
    if imagenet_offer(backbone) is not None:
        return f"choose weights=backbone, give {file}"
    if backbone.endswith("-caffe"):
        other = backbone.removesuffix("-caffe")
        return f"give {file} (its authors took detectron2's), or --settings.backbone {other}, which is downloaded"
    return f"give {file}"


def augmentation(options: TrainingOptions) -> Augmentation:
    """How training images vary.

    Args:
        options: the resolved options.

    Raises:
        ConfigurationError: sides that do not fit each other.
    """
    assert options.short_side is not None
    assert options.long_side is not None
    assert options.augmentation is not None
    return Augmentation.named(
        options.augmentation,
        options.short_side,
        options.long_side,
        flip=options.flip,
        vertical_flip=options.vertical_flip,
        crop=options.crop,
        multi_scale=options.multi_scale,
    )


def mixing_note(data: TrainingData, epochs: int) -> str | None:
    """What is said of a run whose images are mixed only at first; None where they are not, or to the end.

    Args:
        data: the training images.
        epochs: of the run.
    """
    mixed = data.mixed_epochs
    if not data.transform.augmentation.mixes or mixed is None or mixed >= epochs:
        return None
    return f"Mosaics and pasted objects up to epoch {mixed}; the last {epochs - mixed} without them."
