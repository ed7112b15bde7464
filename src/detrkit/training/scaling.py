"""Learning rates that follow the batch size."""

from __future__ import annotations

import math
from typing import Any

from detrkit.cards import Recipe
from detrkit.errors import OptionError
from detrkit.training.training_options import TrainingOptions

_RATES = {"lr": "learning_rate", "backbone_lr": "backbone_learning_rate"}


def batch_factor(batch_size: int, recipe: Recipe) -> float:
    """What the recipe's learning rates are multiplied by for batches of another size: the square root of the ratio.

    AdamW divides by the size of the gradients it has seen. Where noise makes up most of a gradient, as in small batches, four times as
    many images halve it, so steps of the same rate are about as long as before but less random: twice the rate gives the same noise over
    the same number of images. Plain gradient descent, whose steps are not divided, would need four times the rate.

    Args:
        batch_size: images per optimizer step.
        recipe: of the variant.
    """
    return math.sqrt(batch_size / recipe.batch_size)


def scaled_rates(options: TrainingOptions, batch_size: int, recipe: Recipe) -> dict[str, Any]:
    """The recipe's learning rates for this batch size, by the names of the options.

    Options that were filled in already have these rates, which is fine.

    Args:
        options: those that were given, with `scale_lr`.
        batch_size: images per optimizer step.
        recipe: of the variant.

    Raises:
        OptionError: a learning rate was given, too, and is another one; or the recipe has plain gradient descent beside AdamW.
    """
    if recipe.adamw_parts:
        raise OptionError(
            f"scale_lr is for AdamW, and {options.variant} learns mostly by plain gradient descent, which a batch changes otherwise: leave out "
            "scale_lr and give lr",
            "scale_lr",
        )
    factor = batch_factor(batch_size, recipe)
    rates = {name: getattr(recipe, source) * factor for name, source in _RATES.items()}
    for name, rate in rates.items():
        given = getattr(options, name)
        if given is not None and given != rate:
            raise OptionError(
                f"scale_lr makes {name} {rate:g} for batches of {batch_size}, but {name} {given:g} was given: leave out {name}, or scale_lr",
                *("scale_lr", name),
            )
    return rates


def scaling_in_words(options: TrainingOptions, recipe: Recipe) -> str:
    """How the learning rates follow from the recipe's, to stand after them; empty where they do not follow the batch size.

    Args:
        options: the resolved options.
        recipe: of the variant.
    """
    if not options.scale_lr or options.batch_size is None:
        return ""
    factor = batch_factor(options.batch_size, recipe)
    return f", {factor:.3g} × the recipe's for batches of {options.batch_size} instead of {recipe.batch_size}"
