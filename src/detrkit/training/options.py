"""The options of a run: fills in those that were not given, and refuses impossible ones."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch

from detrkit.cards import Recipe
from detrkit.data.augmentation import POLICIES
from detrkit.errors import ConfigurationError, OptionError
from detrkit.files import expanded
from detrkit.models.catalog import build, changed_config, find_variant, has_masks
from detrkit.models.settings import check_type
from detrkit.models.supervision import parse, supervise
from detrkit.prediction.devices import choose_device
from detrkit.training.learning_checks import check_learning
from detrkit.training.pieces import pieces
from detrkit.training.scaling import scaled_rates
from detrkit.training.starting import IMAGENET, NONE, check_start, chosen_weights, located_weights
from detrkit.training.training_options import TrainingOptions

_Value = TypeVar("_Value")


# Options that the variant's recipe fills in, and what the recipe calls them.
_FROM_RECIPE = {
    "epochs": "epochs",
    "lr": "learning_rate",
    "backbone_lr": "backbone_learning_rate",
    "weight_decay": "weight_decay",
    "gradient_clip": "gradient_clip",
    "schedule": "schedule",
    "drop_after": "drop_after",
    "warmup_steps": "warmup_steps",
    "augmentation": "augmentation",
}

# Options that the policy of augmentation fills in.
_FROM_POLICY = ("flip", "vertical_flip", "crop", "multi_scale")


WARMUP_SHARE = 0.1  # of the steps, at most, where the recipe's warm-up is for longer runs


@dataclass(frozen=True)
class Schedule:
    """The length of a run in epochs and steps, and how batches are split.

    Attributes:
        epochs: passes over the data; the last one may be incomplete.
        steps: total number of optimizer steps.
        steps_per_epoch: optimizer steps per full pass; images that fill no batch are left out of it.
        piece_size: images per forward pass.
        accumulate: forward passes per optimizer step.
    """

    epochs: int
    steps: int
    steps_per_epoch: int
    piece_size: int
    accumulate: int

    @property
    def batch_size(self) -> int:
        """Images per optimizer step."""
        return self.piece_size * self.accumulate


def resolve(options: TrainingOptions) -> TrainingOptions:
    """The options with every None filled in, so that they state everything that the result of a run depends on.

    Raises:
        ConfigurationError: an unknown variant, a value of the wrong type, or an impossible value.
    """
    check_values(options)
    variant = find_variant(options.variant)
    recipe, preprocessing = variant.recipe, variant.preprocessing
    short_side = _or(options.short_side, preprocessing.short_side)
    long_side = _or(
        options.long_side, max(short_side, round(short_side * preprocessing.long_side / preprocessing.short_side))
    )
    choose_device(options.device)  # refuses one that is not there
    batch_size = _or(options.batch_size, recipe.batch_size)
    config = changed_config(variant.config, options.settings)
    policy = POLICIES[_or(options.augmentation, recipe.augmentation)]
    resolved = dataclasses.replace(
        options,
        data=located(options.data),
        weights=chosen_weights(options, config),
        backbone_weights=_located(options.backbone_weights),
        queries_from=_located(options.queries_from),
        detector_from=_located(options.detector_from),
        supervision=None if options.supervision is None else str(parse(options.supervision)),
        batch_size=batch_size,
        accumulate=_or(
            options.accumulate,
            pieces(
                config,
                batch_size,
                short_side,
                long_side,
                processes=options.devices * options.nodes,
                more_queries=added_queries(options, config),
                mosaics=policy.mosaic > 0,
            ),
        ),
        **{name: _or(getattr(options, name), getattr(recipe, source)) for name, source in _FROM_RECIPE.items()},
        **{name: _or(getattr(options, name), getattr(policy, name)) for name in _FROM_POLICY},
        short_side=short_side,
        long_side=long_side,
        settings=_all_settings(variant.config, options.settings),
    )
    if resolved.supervision is not None:
        _check_supervision(resolved)
    if options.scale_lr:
        resolved = dataclasses.replace(resolved, **scaled_rates(options, batch_size, recipe))
    if batch_size % (resolved.accumulate or 1):
        raise OptionError(
            f"a batch of {batch_size} images cannot be split into {resolved.accumulate} equal pieces: change batch_size or accumulate",
            "batch_size",
            "accumulate",
        )
    return resolved


def worker_count(options: TrainingOptions) -> int:
    """How many workers read images for each process of a run: as many as were asked for, otherwise as suit the machine and its processes.

    It is not among the options that a run keeps, since nothing but time depends on it: a run goes on with what suits the machine then.

    Args:
        options: the resolved options.
    """
    if options.workers is not None:
        return options.workers
    if choose_device(options.device).startswith("cpu"):
        return 0
    return min(8, max(1, (os.cpu_count() or 1) // options.devices))


def plan(options: TrainingOptions, images: int) -> Schedule:
    """The length of a run.

    Args:
        options: the resolved options.
        images: number of images in the training split; batches are never larger than this.
    """
    assert options.batch_size is not None
    assert options.accumulate is not None
    assert options.epochs is not None
    piece_size = max(1, min(options.batch_size // options.accumulate, images))
    accumulate = min(options.accumulate, max(1, images // piece_size))
    # Whole batches only, however many pieces they are taken in: a step with fewer pieces would be a shorter one.
    steps_per_epoch = max(1, images // (piece_size * accumulate))
    steps = options.steps or options.epochs * steps_per_epoch
    return Schedule(math.ceil(steps / steps_per_epoch), steps, steps_per_epoch, piece_size, accumulate)


def fitting_warmup(options: TrainingOptions, recipe: Recipe, steps: int) -> int:
    """Steps of warm-up: those of the options, but at most a tenth of a run of which the recipe's would take more than half.

    Args:
        options: the resolved options.
        recipe: of the run.
        steps: of the whole run.
    """
    warmup = options.warmup_steps or 0
    is_own = warmup != recipe.warmup_steps
    return warmup if is_own or 2 * warmup <= steps else int(WARMUP_SHARE * steps)


def added_queries(options: TrainingOptions, config: Any) -> int:
    """The most queries that supervision adds to an image.

    Raises:
        OptionError: there is no such supervision.
    """
    return 0 if options.supervision is None else parse(options.supervision).rows(config.queries)


def _check_supervision(options: TrainingOptions) -> None:
    """Refuses supervision that the model cannot take, before anything is read or downloaded; a model of names and shapes is enough for that."""
    with torch.device("meta"):
        model = build(options.variant, **options.settings)
    assert options.supervision is not None
    try:
        with torch.device("meta"):
            supervise(model, options.supervision)
    except OptionError:
        raise
    except ConfigurationError as problem:
        raise OptionError(str(problem), "supervision") from problem


def located(data: str) -> str:
    """The absolute path of a data set, so that the run can be resumed from any working directory; a name stays as it is."""
    return _absolute(data) if expanded(data).exists() else data


def check_values(options: TrainingOptions) -> None:
    """Refuses values of the wrong type and impossible ones.

    Raises:
        ConfigurationError: there is such a value.
    """
    _check_types(options)
    _check(options)
    check_learning(options)


def _all_settings(config: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Every setting of the model with its value, so that a resumed run keeps its model even if the variant has changed."""
    settings = dataclasses.asdict(changed_config(config, changes))
    del settings["class_count"]  # follows from the data set
    return settings


def _absolute(path: str) -> str:
    return str(expanded(path).absolute())


def _located(weights: str | None) -> str | None:
    return weights if weights in (None, IMAGENET) else located_weights(weights)


def _or(given: _Value | None, otherwise: _Value) -> _Value:
    return otherwise if given is None else given


def _check_types(options: TrainingOptions) -> None:
    """Refuses values of the wrong type, names that an option does not have, and numbers that are not finite."""
    for name, hint in get_type_hints(TrainingOptions).items():
        value = getattr(options, name)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if value is None and NoneType in kinds:
            continue
        choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        if choices and value not in choices:
            raise OptionError(f"{name} must be one of {', '.join(choices)}, not '{value}'", name)
        if name in ("weights", "queries_from", "detector_from") and isinstance(value, torch.nn.Module):
            raise ConfigurationError(
                f"{name} must be a file, not a model: save the model with detrkit.save and give its path"
            )
        if not choices:
            check_type(name, value, tuple(get_origin(kind) or kind for kind in kinds))
        if isinstance(value, float) and not math.isfinite(value):
            raise OptionError(f"{name} must be a finite number, not {value}", name)


def _check(options: TrainingOptions) -> None:
    """Refuses impossible values; None is always allowed."""
    positive = (
        "epochs",
        "steps",
        "batch_size",
        "accumulate",
        "evaluate_every",
        "checkpoint_minutes",
        "devices",
        "nodes",
        "lr",
        "gradient_clip",
        "short_side",
        "long_side",
    )
    for name in positive:
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise OptionError(f"{name} must be above 0, not {value}", name)
    for name in ("backbone_lr", "weight_decay", "warmup_steps", "seed", "workers"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise OptionError(f"{name} must be at least 0, not {value}", name)
    if options.drop_after is not None and not 0 < options.drop_after <= 1:
        raise OptionError(
            f"drop_after is a share of the run, above 0 and at most 1, not {options.drop_after}", "drop_after"
        )
    for name in ("flip", "vertical_flip"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise OptionError(f"{name} is a probability, from 0 to 1, not {value}", name)
    if options.masks == "instances" and not has_masks(options.variant):
        raise OptionError(
            f"masks=instances is for models with masks, such as detr-r50-panoptic, and {options.variant} has none: leave it out",
            "masks",
        )
    if options.detector_from is not None and not has_masks(options.variant):
        raise OptionError(
            f"detector_from is for models with masks, such as detr-r50-panoptic, and {options.variant} has none: leave it out",
            "detector_from",
        )
    beginnings = [
        name for name in ("weights", "backbone_weights", "queries_from") if getattr(options, name) not in (None, NONE)
    ]
    if options.detector_from is not None and beginnings:
        raise OptionError(
            f"detector_from gives the whole detector, so {beginnings[0]} would change what must stay as it is: leave one of them out",
            "detector_from",
            beginnings[0],
        )
    check_start(options)
    if "class_count" in options.settings:
        raise OptionError("class_count follows from the data set: leave it out", "class_count")
