"""Options about learning: which values are possible, which make sense together, and rates that follow the batch."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from detrkit.errors import OptionError
from detrkit.models.catalog import find_variant
from detrkit.training.announcing import announce
from detrkit.training.options import resolve
from detrkit.training.preparing import prepare
from detrkit.training.run import new_options
from detrkit.training.run_folder import RunFolder
from detrkit.training.scaling import scaling_in_words
from detrkit.training.training_options import TrainingOptions


def resolved(**options: Any) -> TrainingOptions:
    return resolve(TrainingOptions("detr-r50", "somewhere", **options))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"minutes": 0}, "minutes must be above 0, not 0"),
        ({"patience": -1}, "patience must be above 0, not -1"),
        ({"ema": 1.0}, "ema is a decay, above 0 and below 1, such as 0.9998, not 1.0"),
        ({"ema": float("nan")}, "ema must be a finite number, not nan"),
        ({"layer_decay": 1.5}, "layer_decay is a factor, above 0 and at most 1, not 1.5"),
        ({"repeat_rare": 1.0}, "repeat_rare is a share of the images, above 0 and below 1, such as 0.01, not 1.0"),
        ({"rates": {"offsets": -1.0}}, "rates has a factor of 0 or more for each part of the model, such as offsets=0.1, not offsets=-1.0"),
        ({"rates": {"offsets": "0.1x"}}, "rates has a factor of 0 or more for each part of the model, such as offsets=0.1, not offsets=0.1x"),
        ({"rates": {"offsets": math.inf}}, "rates has a factor of 0 or more for each part of the model, such as offsets=0.1, not offsets=inf"),
        ({"rates": "offsets=0.1"}, "rates must be of type dict, not str ('offsets=0.1')"),
        ({"minutes": 5, "epochs": 2}, "minutes decides the length of the run, and so does epochs: leave one of them out"),
        ({"minutes": 5, "steps": 2}, "minutes decides the length of the run, and so does steps: leave one of them out"),
        (
            {"layer_decay": 0.8, "backbone_lr": 0.0},
            "layer_decay is about the rates of the backbone, which backbone_lr=0 leaves unchanged: leave one of them out",
        ),
        (
            {"scale_lr": True, "batch_size": 16, "lr": 1e-3},
            "scale_lr makes lr 5e-05 for batches of 16, but lr 0.001 was given: leave out lr, or scale_lr",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        resolved(**options)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("batch_size", "factor"), [(64, 1.0), (16, 0.5), (256, 2.0), (32, math.sqrt(0.5))])
def test_rates_follow_the_square_root_of_the_batch(batch_size: int, factor: float) -> None:
    options = resolved(scale_lr=True, batch_size=batch_size)
    assert (options.lr, options.backbone_lr) == (1e-4 * factor, 1e-5 * factor)
    assert resolve(options) == options  # what a run's configuration says can be used again
    assert scaling_in_words(options, find_variant("detr-r50").recipe) == (
        f", {factor:.3g} × the recipe's for batches of {batch_size} instead of 64"
    )


def test_rates_of_plain_gradient_descent_do_not_follow() -> None:
    with pytest.raises(
        OptionError, match=r"tsp-fcos-r50 learns mostly by plain gradient descent, .*: leave out scale_lr"
    ):
        resolve(TrainingOptions("tsp-fcos-r50", "somewhere", scale_lr=True))


def test_a_recipe_with_two_optimizers_and_two_drops(digits_folder: Path) -> None:
    small = {
        "short_side": 64,
        "long_side": 64,
        "batch_size": 4,
        "steps": 100,
        "warmup_steps": 0,
        "schedule": "step",
        "device": "cpu",
    }
    for given, rates in (({}, [1.0, 0.1, 0.01]), ({"drop_after": 0.8}, [1.0, 1.0, 0.1])):
        text = io.StringIO()
        chosen = new_options(
            "tsp-fcos-compact", digits_folder, small | {"lr": 2e-4, "backbone_lr": 3e-4, "drop_after": 0.5} | given
        )
        module, _ = prepare(chosen, None, Console(file=text, width=1000))
        module.recipe = replace(
            module.recipe, adamw_parts=("encoder",), sgd_factor=100.0, drop_after=0.5, second_drop_after=0.9
        )
        (factor, *_) = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas
        assert [factor(step) for step in (49, 79, 99)] == pytest.approx(rates)
        announce(Console(file=text, width=1000), chosen, module, RunFolder(Path("run")), resumed=False)
        assert (
            "The learning rate and the clipping are those of encoder, which AdamW trains; SGD trains everything else at 0.02, and the backbone at "
            "0.0003.\n"
        ) in text.getvalue()


def test_rates_stay_unless_they_are_to_follow() -> None:
    options = resolved(batch_size=16)
    assert (options.lr, options.backbone_lr) == (1e-4, 1e-5)
    assert scaling_in_words(options, find_variant("detr-r50").recipe) == ""
