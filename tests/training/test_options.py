"""The values of options that were not given, and which options are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from detrkit.errors import ConfigurationError
from detrkit.models.catalog import find_variant
from detrkit.prediction.devices import choose_device
from detrkit.training.options import plan, resolve
from detrkit.training.pieces import pieces
from detrkit.training.training_options import TrainingOptions


def resolved(variant: str = "detr-r50", **options: Any) -> TrainingOptions:
    return resolve(TrainingOptions(variant=variant, data="somewhere", **options))


def test_the_recipe_fills_in_what_was_not_given() -> None:
    options = resolved()
    assert (options.lr, options.backbone_lr, options.weight_decay, options.gradient_clip) == (1e-4, 1e-5, 1e-4, 0.1)
    assert (options.epochs, options.batch_size, options.schedule) == (500, 64, "step")
    assert (options.short_side, options.long_side) == (800, 1333)
    assert options.accumulate == pieces(find_variant("detr-r50").config, 64, 800, 1333)


def test_given_values_stay() -> None:
    options = resolved(lr=0.5, batch_size=6, accumulate=3, short_side=320, schedule="cosine", backbone_lr=0.0)
    assert (options.lr, options.batch_size, options.accumulate, options.backbone_lr) == (0.5, 6, 3, 0.0)
    assert (options.short_side, options.long_side) == (320, 533)
    assert options.schedule == "cosine"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("detr", 0.5, 0.0, True, True)),
        ({"augmentation": "light"}, ("light", 0.5, 0.0, False, True)),
        ({"augmentation": "strong", "crop": True}, ("strong", 0.5, 0.0, True, True)),
        ({"augmentation": "none", "vertical_flip": 0.5}, ("none", 0.0, 0.5, False, False)),
        ({"flip": 0.0, "multi_scale": False}, ("detr", 0.0, 0.0, True, False)),
    ],
    ids=str,
)
def test_the_policy_fills_in_what_was_not_given(given: dict[str, Any], expected: tuple[object, ...]) -> None:
    options = resolved(**given)
    names = ("augmentation", "flip", "vertical_flip", "crop", "multi_scale")
    assert tuple(getattr(options, name) for name in names) == expected


def test_settings_are_the_whole_configuration() -> None:
    settings = resolved("light-detr-mobilenetv2", settings={"queries": 7}).settings
    expected = dataclasses.asdict(find_variant("light-detr-mobilenetv2").config) | {"queries": 7}
    del expected["class_count"]
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
        ({"lr": float("nan")}, "lr must be a finite number, not nan"),
        ({"lr": float("inf")}, "lr must be a finite number, not inf"),
        ({"flip": float("nan")}, "flip must be a finite number, not nan"),
        ({"drop_after": 2.0}, "drop_after is a share of the run"),
        ({"settings": {"class_count": 3}}, "follows from the data set"),
        ({"device": "cpu:0"}, "is not available"),
        ({"short_side": 0}, "short_side must be above 0"),
        ({"workers": -1}, "workers must be at least 0, not -1"),
        ({"schedule": "linear"}, "schedule must be one of step, cosine, flat-cosine"),
        ({"precision": "int8"}, "precision must be one of"),
        ({"batch_size": 6, "accumulate": 4}, "6 images cannot be split into 4 equal pieces"),
        ({"device": "tpu"}, "the device 'tpu' is not available"),
    ],
)
def test_numbers_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        resolved(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": "3"}, "epochs must be of type int or none, not str ('3')"),
        (
            {"device": list(range(100))},
            "device must be of type str, not list ([0, 1, 2, 3, 4, 5, ...])",
        ),
        ({"batch_size": 2.5}, "batch_size must be of type int or none, not float (2.5)"),
        ({"steps": 1.5}, "steps must be of type int or none, not float (1.5)"),
        ({"lr": "fast"}, "lr must be of type float or none, not str ('fast')"),
        ({"seed": None}, "seed must be of type int, not NoneType (None)"),
        ({"crop": 1}, "crop must be of type bool or none, not int (1)"),
        ({"evaluate_every": True}, "evaluate_every must be of type int, not bool (True)"),
        ({"settings": ["queries"]}, "settings must be of type dict, not list (['queries'])"),
        ({"schedule": ["step"]}, "schedule must be one of step, cosine, flat-cosine, not '['step']'"),
        ({"precision": None}, "precision must be one of float32, bf16, not 'None'"),
    ],
    ids=str,
)
def test_values_of_a_wrong_type_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolved(**options)
    assert str(caught.value) == message


def test_whole_numbers_are_fine_where_fractions_are() -> None:
    options = resolved(lr=1, flip=0, drop_after=1)
    assert (options.lr, options.flip, options.drop_after) == (1, 0, 1)


def test_plan_counts_steps_and_epochs() -> None:
    by_epochs = plan(resolved(epochs=3, batch_size=8, accumulate=2), images=50)
    assert (by_epochs.piece_size, by_epochs.steps_per_epoch, by_epochs.steps, by_epochs.epochs) == (4, 6, 18, 3)
    for accumulate in (1, 2, 4, 8):  # the same steps however a batch is split: the last five images fill none
        assert plan(resolved(epochs=3, batch_size=8, accumulate=accumulate), images=53).steps == 18
    by_steps = plan(resolved(steps=7, batch_size=8, accumulate=2), images=50)
    assert (by_steps.steps, by_steps.epochs) == (7, 2)


def test_plan_shrinks_the_batch_to_the_images() -> None:
    small = plan(resolved(epochs=2, batch_size=16, accumulate=1), images=3)
    assert (small.piece_size, small.steps_per_epoch, small.steps) == (3, 1, 2)
    few = plan(resolved(epochs=2, batch_size=64, accumulate=32), images=16)
    assert (few.piece_size, few.accumulate, few.batch_size, few.steps) == (2, 8, 16, 2)


def test_auto_chooses_a_device_that_is_there() -> None:
    assert choose_device("auto") in ("cpu", "cuda", "mps")
    assert choose_device("cpu") == "cpu"
    with pytest.raises(ConfigurationError, match="is not available"):
        choose_device("cpu:x")
