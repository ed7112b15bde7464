"""One tree of errors, and the suggestion after an unknown name."""

from __future__ import annotations

import inspect

import pytest

from detrkit import errors

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, Exception) and kind is not errors.DetrkitError
]


def test_the_drawing_shows_the_whole_tree() -> None:
    assert errors.__doc__ is not None
    drawn = {
        line.lstrip("│ ").split()[1]
        for line in errors.__doc__.splitlines()
        if line.lstrip("│ ").startswith(("├──", "└──"))
    }
    assert drawn == {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_every_error_can_be_caught_as_one(kind: type[Exception]) -> None:
    with pytest.raises(errors.DetrkitError, match="what and why"):
        raise kind("what and why")


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.DataError, ValueError),
        (errors.CheckpointError, ValueError),
        (errors.OutputError, OSError),
        (errors.NonFiniteError, ArithmeticError),
    ],
)
def test_errors_are_also_errors_of_python(kind: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)


def test_a_non_finite_error_knows_its_image() -> None:
    assert errors.NonFiniteError("text", 3).image == 3
    assert str(errors.NonFiniteError("text", 3)) == "text"
    assert errors.NonFiniteError("text").image is None


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("detr-r5", "did you mean 'detr-r50'?"),
        ("quantum", "choose one of 'detr-r50', 'dino'"),
        ("", "choose one of 'detr-r50', 'dino'"),
        ("dina", "did you mean 'dino'?"),
    ],
)
def test_closest(name: str, sentence: str) -> None:
    assert errors.closest(name, (known for known in ("detr-r50", "dino"))) == sentence


def test_an_error_from_a_worker_process_keeps_only_its_sentence() -> None:
    traceback = (
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "fetch.py", line 1, in fetch\n    raise\ndetrkit.errors.DataError: a.jpg: is cut off, remove it\n'
    )
    assert str(errors.DataError(traceback)) == "a.jpg: is cut off, remove it"
