"""One tree of errors, and the suggestion after an unknown name."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import detrkit
from detrkit import errors
from detrkit.data.dataset import NoImagesError
from detrkit.data.inspection import KINDS as FINDINGS

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


def raised(*kinds: str) -> Iterator[tuple[str, str]]:
    """Place and last words of every message in the source whose end is written there."""
    for file in sorted(Path(detrkit.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in kinds and node.args:
                message = node.args[0]
                last = message.values[-1] if isinstance(message, ast.JoinedStr) else message
                if isinstance(last, ast.Constant):
                    yield f"{file.name}:{node.lineno}", str(last.value)[-40:]


def test_what_is_said_of_data_ends_with_a_period_and_what_refuses_options_and_files_does_not() -> None:
    of_data = list(raised("DataError", NoImagesError.__name__, "NonFiniteError", "WorkerError"))
    of_options = list(raised("ConfigurationError", "OptionError", "CheckpointError", "OutputError"))
    assert len(of_data) > 100
    assert len(of_options) > 140
    assert [found for found in of_data if not found[1].endswith(".")] == []
    assert [found for found in of_options if found[1].endswith(".")] == []


def test_findings_end_with_a_period() -> None:
    sentences = [sentence for kind in FINDINGS.values() for sentence in (kind.meaning, kind.remedy)]
    assert [sentence for sentence in sentences if not sentence.endswith(".")] == []
