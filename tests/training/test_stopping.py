"""Early stopping: when a run stands still, what it says, and that a run that was resumed counts on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from training.small_runs import rows, run, without_reports

import detrkit
from detrkit.errors import OptionError
from detrkit.training.report import state_in_words
from detrkit.training.stopping import check_patience, standstill, stopped_early
from detrkit.training.training_options import TrainingOptions

OPTIONS = TrainingOptions("detr-compact", "digits", epochs=9, patience=2)


def log(*figures: float | None, column: str = "AP") -> list[dict[str, float]]:
    """One row for each epoch; None where nothing was evaluated."""
    return [
        {"epoch": epoch, "step": 3.0 * epoch, "loss": 1.0} | ({} if figure is None else {"AP": 0.5, column: figure})
        for epoch, figure in enumerate(figures, start=1)
    ]


@pytest.mark.parametrize(
    ("figures", "evaluations", "epoch"),
    [((0.1,), 0, 1), ((0.1, 0.2), 0, 2), ((0.2, 0.1, 0.2), 2, 1), ((0.3, None, 0.2, None, 0.1), 2, 1), ((0.0, 0.0), 1, 1)],
)  # fmt: skip
def test_evaluations_since_the_best_are_counted(
    figures: tuple[float | None, ...], evaluations: int, epoch: int
) -> None:
    found = standstill(log(*figures))
    assert found is not None
    assert (found.evaluations, found.epoch) == (evaluations, epoch)


def test_without_an_evaluation_nothing_stands_still() -> None:
    assert standstill(log(None, None)) is None
    assert stopped_early(OPTIONS, []) is None


def test_the_figure_that_decides_is_that_of_the_best_model() -> None:
    found = standstill(log(0.3, 0.2, 0.4, column="PQ"))
    assert found is not None
    assert (found.evaluations, found.name, found.best) == (0, "PQ", 0.4)


def test_patience_decides() -> None:
    few, many = log(0.4, 0.3), log(0.4, 0.3, 0.4)
    assert stopped_early(OPTIONS, few) is None
    found = stopped_early(OPTIONS, many)
    assert found is not None
    assert found.in_words() == "2 evaluations in a row have brought no better AP than 0.400 of epoch 1"
    assert stopped_early(replace(OPTIONS, patience=3), many) is None
    assert stopped_early(replace(OPTIONS, patience=None), many) is None
    assert state_in_words(OPTIONS, many) == f"stopped early after 3 epochs, 9 steps: {found.in_words()}"
    assert state_in_words(replace(OPTIONS, epochs=3), many) == "finished after 3 epochs, 9 steps"


def test_patience_needs_evaluations() -> None:
    check_patience(replace(OPTIONS, patience=None), None)
    with pytest.raises(OptionError, match="patience counts evaluations, and digits has nothing to evaluate on"):
        check_patience(OPTIONS, None)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Values of AP that the next evaluations of epochs give, whatever the model finds."""
    from detrkit.training import epochs

    evaluate, values = epochs.evaluate, []

    def given(*arguments: Any, **named: Any) -> Any:
        found = evaluate(*arguments, **named)
        return replace(found, figures=found.figures | {"AP": values.pop(0)})

    monkeypatch.setattr(epochs, "evaluate", given)
    yield values
    assert not values


def test_a_run_stops_early_and_may_go_on(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: list[float]
) -> None:
    without_reports(monkeypatch)
    figures += [0.2, 0.1, 0.2]
    _, printed = run(digits_folder, tmp_path / "run", epochs=6, patience=2)
    words = "2 evaluations in a row have brought no better AP than 0.200 of epoch 1"
    assert f"Training stops early: {words}." in printed
    assert len(rows(tmp_path / "run")) == 3

    text = io.StringIO()
    detrkit.train(resume=tmp_path / "run", console=Console(file=text, width=2000))
    assert text.getvalue() == (
        f"{tmp_path / 'run'} stopped early, since {words}: it has trained for 3 epochs (9 steps). To train longer, give a larger patience.\n"
    )
    figures += [0.1]
    detrkit.train(resume=tmp_path / "run", patience=3, console=Console(file=text, width=2000))
    assert f"Training stops early: {words.replace('2 e', '3 e')}." in text.getvalue()
    assert len(rows(tmp_path / "run")) == 4
