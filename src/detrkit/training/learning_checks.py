"""Which values of the options about learning are possible, and which of them make sense together."""

from __future__ import annotations

import math

from detrkit.errors import OptionError
from detrkit.training.training_options import TrainingOptions


def check_learning(options: TrainingOptions) -> None:
    """Refuses impossible values, and options that contradict each other.

    Args:
        options: their types are right.

    Raises:
        OptionError: there are such values.
    """
    _check_numbers(options)
    _check_rates(options)
    _check_together(options)


def _check_numbers(options: TrainingOptions) -> None:
    for name in ("minutes", "patience"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise OptionError(f"{name} must be above 0, not {value}", name)
    if options.ema is not None and not 0 < options.ema < 1:
        raise OptionError(f"ema is a decay, above 0 and below 1, such as 0.9998, not {options.ema}", "ema")
    if options.layer_decay is not None and not 0 < options.layer_decay <= 1:
        raise OptionError(f"layer_decay is a factor, above 0 and at most 1, not {options.layer_decay}", "layer_decay")
    if options.repeat_rare is not None and not 0 < options.repeat_rare < 1:
        raise OptionError(
            f"repeat_rare is a share of the images, above 0 and below 1, such as 0.01, not {options.repeat_rare}",
            "repeat_rare",
        )


def _check_rates(options: TrainingOptions) -> None:
    for part, factor in options.rates.items():
        is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
        if not (isinstance(part, str) and part and is_number and math.isfinite(factor) and factor >= 0):
            raise OptionError(
                f"rates has a factor of 0 or more for each part of the model, such as offsets=0.1, not {part}={factor}",
                "rates",
            )


def _check_together(options: TrainingOptions) -> None:
    for name in ("epochs", "steps"):
        if options.minutes is not None and getattr(options, name) is not None:
            raise OptionError(
                f"minutes decides the length of the run, and so does {name}: leave one of them out", "minutes", name
            )
    if options.layer_decay is None:
        return
    if options.backbone_lr == 0:
        raise OptionError(
            "layer_decay is about the rates of the backbone, which backbone_lr=0 leaves unchanged: leave one of them out",
            *("layer_decay", "backbone_lr"),
        )
    if options.detector_from is not None:
        raise OptionError(
            "layer_decay is about the rates of the backbone, which stays as it is with detector_from: leave layer_decay out",
            *("layer_decay", "detector_from"),
        )
