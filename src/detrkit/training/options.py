"""Everything that can be set for a training run, and what stands in for what was not."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from detrkit.errors import ConfigurationError
from detrkit.models.catalog import changed_config, find_variant

_Value = TypeVar("_Value")

# Pixels of one forward pass above which a batch is taken in pieces: about two images of 800 x 1333.
_PIXELS_AT_ONCE = 2.2e6


@dataclass(frozen=True)
class TrainingOptions:
    """What a run does. None stands for the variant's own recipe, or for what suits the machine.

    Attributes:
        variant: a name in the catalog.
        data: a data set's folder or annotation file, or "digits".
        output: the run's folder; None makes a new one under `runs`.
        epochs: passes over the training images.
        steps: optimizer steps; wins over `epochs`.
        batch_size: images for one optimizer step, over all devices and pieces.
        accumulate: forward passes that one step is taken in, to save memory.
        lr: learning rate of everything but the backbone.
        backbone_lr: learning rate of the backbone.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.
        schedule: "step" drops the rates to a tenth once, "cosine" lets them fall to zero.
        drop_after: share of the run after which "step" drops.
        warmup_steps: steps over which the rates rise from zero.
        short_side: largest short side of an image in pixels; evaluation uses it, too.
        long_side: limit of the longer side in pixels.
        flip: probability of mirroring an image; 0 where left and right matter.
        vertical_flip: probability of turning an image upside down, for pictures without an up and down.
        crop: whether half of the images are cut, as DETR does.
        multi_scale: whether images are resized to one of several sizes rather than to the largest.
        backbone_weights: file with pretrained weights of the backbone.
        settings: fields of the model's configuration that shall differ, such as {"queries": 300}.
        precision: "float32", or "bf16" for mixed precision.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        workers: processes that load images; None suits the device.
        seed: of weights, order, augmentation, dropout and noise.
        evaluate_every: epochs between two evaluations.
        train_split: split to learn from.
        val_split: split to evaluate on.
    """

    variant: str
    data: str
    output: str | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    lr: float | None = None
    backbone_lr: float | None = None
    weight_decay: float | None = None
    gradient_clip: float | None = None
    schedule: Literal["step", "cosine"] | None = None
    drop_after: float | None = None
    warmup_steps: int | None = None
    short_side: int | None = None
    long_side: int | None = None
    flip: float = 0.5
    vertical_flip: float = 0.0
    crop: bool = True
    multi_scale: bool = True
    backbone_weights: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    precision: Literal["float32", "bf16"] = "float32"
    device: str = "auto"
    workers: int | None = None
    seed: int = 0
    evaluate_every: int = 1
    train_split: str = "train"
    val_split: str = "val"


@dataclass(frozen=True)
class Schedule:
    """How long a run lasts, in the units that its parts count in.

    Attributes:
        epochs: passes over the data, the last one perhaps cut short.
        steps: optimizer steps in all.
        steps_per_epoch: optimizer steps of a full pass.
        piece_size: images of one forward pass.
        accumulate: forward passes of one step.
    """

    epochs: int
    steps: int
    steps_per_epoch: int
    piece_size: int
    accumulate: int

    @property
    def batch_size(self) -> int:
        """Images of one step."""
        return self.piece_size * self.accumulate


def resolve(options: TrainingOptions) -> TrainingOptions:
    """The options with every None filled in, so that they say all that a run depends on.

    Raises:
        ConfigurationError: an unknown variant, or a number that cannot be.
    """
    _check(options)
    line = find_variant(options.variant)
    recipe, usual = line.recipe, line.preprocessing
    short_side = _or(options.short_side, usual.short_side)
    long_side = _or(options.long_side, max(short_side, round(short_side * usual.long_side / usual.short_side)))
    on_cpu = choose_device(options.device).startswith("cpu")
    batch_size = _or(options.batch_size, recipe.batch_size)
    filled = dataclasses.replace(
        options,
        data=_absolute(options.data) if Path(options.data).exists() else options.data,
        backbone_weights=None if options.backbone_weights is None else _absolute(options.backbone_weights),
        epochs=_or(options.epochs, recipe.epochs),
        batch_size=batch_size,
        accumulate=_or(options.accumulate, _pieces(batch_size, short_side * long_side)),
        lr=_or(options.lr, recipe.learning_rate),
        backbone_lr=_or(options.backbone_lr, recipe.backbone_learning_rate),
        weight_decay=_or(options.weight_decay, recipe.weight_decay),
        gradient_clip=_or(options.gradient_clip, recipe.gradient_clip),
        schedule=_or(options.schedule, recipe.schedule),
        drop_after=_or(options.drop_after, recipe.drop_after),
        warmup_steps=_or(options.warmup_steps, recipe.warmup_steps),
        short_side=short_side,
        long_side=long_side,
        settings=_all_settings(line.config, options.settings),
        workers=_or(options.workers, 0 if on_cpu else min(8, os.cpu_count() or 1)),
    )
    if batch_size % (filled.accumulate or 1):
        raise ConfigurationError(
            f"a batch of {batch_size} images cannot be taken in {filled.accumulate} equal pieces: change one of the two"
        )
    return filled


def choose_device(device: str) -> str:
    """The device that "auto" stands for; any other name as it is.

    Raises:
        ConfigurationError: a device that this machine lacks.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    kind, _, index = device.partition(":")
    if not available.get(kind, False) or (index and (kind != "cuda" or not index.isdigit())):
        offered = ", ".join(name for name, there in available.items() if there)
        raise ConfigurationError(f"the device '{device}' is not to be had here: choose auto or {offered}")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise ConfigurationError(f"there is no '{device}': this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def plan(options: TrainingOptions, images: int) -> Schedule:
    """How long a run over that many images lasts.

    Args:
        options: resolved.
        images: in the training split; fewer than a batch make the batch shrink.
    """
    assert options.batch_size is not None
    assert options.accumulate is not None
    assert options.epochs is not None
    piece_size = max(1, min(options.batch_size // options.accumulate, images))
    pieces = max(1, images // piece_size)
    accumulate = min(options.accumulate, pieces)
    steps_per_epoch = math.ceil(pieces / accumulate)
    steps = options.steps or options.epochs * steps_per_epoch
    return Schedule(math.ceil(steps / steps_per_epoch), steps, steps_per_epoch, piece_size, accumulate)


def _pieces(batch_size: int, pixels: int) -> int:
    """The least number of equal pieces of a batch whose images fit into `_PIXELS_AT_ONCE`."""
    at_once = max(1, int(_PIXELS_AT_ONCE / pixels))
    return next(
        count for count in range(1, batch_size + 1) if batch_size % count == 0 and batch_size // count <= at_once
    )


def _all_settings(config: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """A run that is gone on with has the model that it began with, whatever its variant has become by then."""
    settings = dataclasses.asdict(changed_config(config, changes))
    del settings["classes"]  # follows from the data set
    return settings


def _absolute(path: str) -> str:
    """A run has to be gone on with from any folder."""
    return str(Path(path).absolute())


def _or(given: _Value | None, otherwise: _Value) -> _Value:
    return otherwise if given is None else given


def _check(options: TrainingOptions) -> None:
    """Refuses numbers that cannot be; None is left alone."""
    positive = (
        "epochs",
        "steps",
        "batch_size",
        "accumulate",
        "evaluate_every",
        "lr",
        "gradient_clip",
        "short_side",
        "long_side",
    )
    for name in positive:
        value = getattr(options, name)
        if value is not None and not value > 0:  # NaN is not above 0 either
            raise ConfigurationError(f"{name} must be above 0, not {value}")
    for name in ("backbone_lr", "weight_decay", "warmup_steps", "seed", "workers"):
        value = getattr(options, name)
        if value is not None and not value >= 0:
            raise ConfigurationError(f"{name} must not be below 0, but is {value}")
    if options.drop_after is not None and not 0 < options.drop_after <= 1:
        raise ConfigurationError(f"drop_after is a share of the run, above 0 and at most 1, not {options.drop_after}")
    if "classes" in options.settings:
        raise ConfigurationError("settings.classes follows from the data set: leave it out")
    for name, allowed in (("schedule", ("step", "cosine")), ("precision", ("float32", "bf16"))):
        value = getattr(options, name)
        if value is not None and value not in allowed:
            raise ConfigurationError(f"{name} must be one of {', '.join(allowed)}, not '{value}'")
