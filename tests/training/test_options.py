"""What stands in for settings that were not given, and which settings are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from detrkit.errors import ConfigurationError
from detrkit.models.catalog import find_variant
from detrkit.training.options import TrainingOptions, choose_device, plan, resolve


def resolved(variant: str = "detr-r50", **options: Any) -> TrainingOptions:
    return resolve(TrainingOptions(variant=variant, data="somewhere", **options))


def test_the_recipe_fills_in_what_was_not_given() -> None:
    options = resolved()
    assert (options.lr, options.backbone_lr, options.weight_decay, options.gradient_clip) == (1e-4, 1e-5, 1e-4, 0.1)
    assert (options.epochs, options.batch_size, options.schedule) == (500, 64, "step")
    assert (options.short_side, options.long_side) == (800, 1333)
    assert options.accumulate == 32  # two images of 800 x 1333 at once


def test_given_values_stay() -> None:
    options = resolved(lr=0.5, batch_size=6, accumulate=3, short_side=320, schedule="cosine", backbone_lr=0.0)
    assert (options.lr, options.batch_size, options.accumulate, options.backbone_lr) == (0.5, 6, 3, 0.0)
    assert (options.short_side, options.long_side) == (320, 533)
    assert options.schedule == "cosine"


def test_settings_are_the_whole_configuration() -> None:
    settings = resolved("deformable-detr-mobilenetv2-light", settings={"queries": 7}).settings
    expected = dataclasses.asdict(find_variant("deformable-detr-mobilenetv2-light").config) | {"queries": 7}
    del expected["classes"]
    assert settings == expected


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="there is no setting 'querys' in this family: did you mean 'queries'"):
        resolved(settings={"querys": 7})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs must be above 0"),
        ({"steps": 0}, "steps must be above 0"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"drop_after": 2.0}, "drop_after is a share of the run"),
        ({"settings": {"classes": 3}}, "follows from the data set"),
        ({"device": "cpu:0"}, "not to be had here"),
        ({"short_side": 0}, "short_side must be above 0"),
        ({"workers": -1}, "workers must not be below 0"),
        ({"schedule": "linear"}, "schedule must be one of step, cosine"),
        ({"precision": "int8"}, "precision must be one of"),
        ({"batch_size": 6, "accumulate": 4}, "6 images cannot be taken in 4 equal pieces"),
        ({"device": "tpu"}, "the device 'tpu' is not to be had here"),
    ],
)
def test_numbers_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        resolved(**options)


def test_plan_counts_steps_and_epochs() -> None:
    by_epochs = plan(resolved(epochs=3, batch_size=8, accumulate=2), images=50)
    assert (by_epochs.piece_size, by_epochs.steps_per_epoch, by_epochs.steps, by_epochs.epochs) == (4, 6, 18, 3)
    by_steps = plan(resolved(steps=7, batch_size=8, accumulate=2), images=50)
    assert (by_steps.steps, by_steps.epochs) == (7, 2)


def test_plan_shrinks_the_batch_to_the_images() -> None:
    small = plan(resolved(epochs=2, batch_size=16, accumulate=1), images=3)
    assert (small.piece_size, small.steps_per_epoch, small.steps) == (3, 1, 2)
    pieces = plan(resolved(epochs=2, batch_size=64, accumulate=32), images=16)
    assert (pieces.piece_size, pieces.accumulate, pieces.batch_size, pieces.steps) == (2, 8, 16, 2)


def test_auto_chooses_a_device_that_is_there() -> None:
    assert choose_device("auto") in ("cpu", "cuda", "mps")
    assert choose_device("cpu") == "cpu"
    with pytest.raises(ConfigurationError, match="not to be had here"):
        choose_device("cpu:x")
