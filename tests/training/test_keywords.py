"""The keywords of `detrkit.train` are the fields of its options, for type checkers and for `help()`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import detrkit
from detrkit.errors import DetrkitError
from detrkit.training.keywords import TrainingKeywords

PATHS = ("output", "weights", "backbone_weights", "queries_from", "detector_from")


def test_the_keywords_are_the_options() -> None:
    options = get_type_hints(detrkit.TrainingOptions)
    keywords = get_type_hints(TrainingKeywords)
    assert [*keywords] == [name for name in options if name not in ("variant", "data")]
    for name, hint in keywords.items():
        expected = set(get_args(options[name])) | {Path} if name in PATHS else options[name]
        assert (set(get_args(hint)) if name in PATHS else hint) == expected, name


def test_help_shows_every_option_with_default_and_meaning() -> None:
    parameters = inspect.signature(detrkit.train).parameters
    assert [*parameters] == ["variant", "data", "resume", "console", *TrainingKeywords.__annotations__]
    assert parameters["flip"].default is None
    assert parameters["seed"].default == 0
    assert parameters["settings"].default == {}
    text = inspect.getdoc(detrkit.train) or ""
    assert "    epochs: passes over the training images." in text
    assert "    lr: the recipe's." in text
    assert "    flip: the policy's." in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": "3"}, "epochs must be of type int or none, not str ('3')"),
        ({"lr": "x"}, "lr must be of type float or none, not str ('x')"),
        ({"flip": "x"}, "flip must be of type float or none, not str ('x')"),
        ({"augmentation": "hard"}, "augmentation must be one of detr, sizes, light, strong, none, not 'hard'"),
        ({"loggers": "wandb"}, "loggers must be of type list, not str ('wandb')"),
        ({"flip": 2.0}, "flip is a probability, from 0 to 1, not 2.0"),
        ({"imgsz": 640}, "there is no training option 'imgsz': help(detrkit.train) shows all"),
        ({"batchsize": 4}, "there is no training option 'batchsize': did you mean 'batch_size'?"),
    ],
    ids=str,
)
def test_wrong_values_give_one_sentence_with_python_names(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DetrkitError) as caught:
        detrkit.train("detr-compact", "digits", **options)
    assert str(caught.value) == message
