"""Runs of so many minutes: how many steps they get, and that the same run can be had from that number."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel
from training.small_runs import NOISY, SMALL, run, without_reports

from detrkit.errors import OptionError
from detrkit.training import dry_run, time_budget
from detrkit.training.time_budget import Speed, fitting_steps, seconds_of
from detrkit.training.timing import PieceTimes
from detrkit.training.watching import ConvergenceWatch

SPEED = Speed(step=2.0, epoch=1.0, evaluation=30.0)


@pytest.mark.parametrize(
    ("steps", "every", "seconds"),
    [
        (1, None, 3.0),
        (10, None, 21.0),
        (11, None, 24.0),
        (10, 1, 21.0 + 2 * 30.0),  # after the epoch, and of the best model
        (11, 1, 24.0 + 3 * 30.0),
        (30, 2, 63.0 + 3 * 30.0),  # after epochs 2 and 3
    ],
)
def test_a_run_takes_its_steps_its_epochs_and_its_evaluations(steps: int, every: int | None, seconds: float) -> None:
    assert seconds_of(steps, SPEED, 10, every) == seconds


@pytest.mark.parametrize("every", [None, 1, 3])
@pytest.mark.parametrize("seconds", [100.0, 333.0, 4000.0])
def test_the_number_of_steps_is_the_largest_that_fits(seconds: float, every: int | None) -> None:
    steps = fitting_steps(seconds, SPEED, 10, every)
    assert seconds_of(steps, SPEED, 10, every) <= seconds < seconds_of(steps + 1, SPEED, 10, every)


def test_a_time_may_be_too_short_for_anything() -> None:
    assert fitting_steps(10.0, SPEED, 10, 1) == 0


def fixed_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for each step, which is really taken, and nothing for evaluations."""
    timed = time_budget.time_pieces

    def pieces(*arguments: Any, **named: Any) -> PieceTimes:
        timed(*arguments, **named | {"pieces": 2})
        return PieceTimes(piece=0.4, update=0.1, start=9.0, pieces=2)

    monkeypatch.setattr(time_budget, "time_pieces", pieces)
    monkeypatch.setattr(time_budget, "time_evaluation", lambda *_, **__: 0.0)
    monkeypatch.setattr(time_budget.fit_to_time, "__defaults__", (lambda: 0.0,))


def test_a_run_that_fits_a_time_is_the_run_with_that_number_of_steps(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_reports(monkeypatch)
    fixed_speed(monkeypatch)
    _, printed = run(digits_folder, tmp_path / "timed", **NOISY, minutes=2.1 / 60)
    assert "0.035 min hold 4 steps (2 epochs): a step takes 0.5 s" in printed
    content = json.loads((tmp_path / "timed" / "config.json").read_text())
    assert (content["options"]["steps"], content["options"]["minutes"]) == (4, None)
    assert content["time_budget"]["speed"] == {"step": 0.5, "epoch": 0.0, "evaluation": 0.0}
    run(digits_folder, tmp_path / "counted", **NOISY, steps=4, warmup_steps=0)
    timed, counted = (load_file(tmp_path / name / "last.safetensors") for name in ("timed", "counted"))
    assert all(torch.equal(timed[name], counted[name]) for name in timed)


def test_a_time_that_is_too_short_is_refused(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_speed(monkeypatch)
    with pytest.raises(OptionError, match=r"minutes=0\.001 is too short: one step and its evaluations take about"):
        run(digits_folder, tmp_path / "run", minutes=0.001)
    assert not (tmp_path / "run").exists()


def test_clipping_averages_and_looks_take_time_too(digits_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def taking(seconds: float, done: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            now[0] += seconds
            return done(*arguments, **named)

        return timed

    monkeypatch.setattr(time_budget.fit_to_time, "__defaults__", (lambda: now[0],))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", taking(0.25, torch.nn.utils.clip_grad_norm_))
    monkeypatch.setattr(AveragedModel, "update_parameters", taking(1.0, AveragedModel.update_parameters))
    monkeypatch.setattr(ConvergenceWatch, "figures", taking(7.0, ConvergenceWatch.figures))
    text = io.StringIO()
    options: dict[str, Any] = {**SMALL, "ema": 0.9, "gradient_clip": 0.1, "watch": "convergence", "minutes": 10}
    dry_run("detr-compact", digits_folder, console=Console(file=text, width=200), **options)
    # An untimed step, 15 steps until 3 % of the time have passed, and a look take 27 s. What is left holds 53 epochs of three
    # steps and a look.
    assert "10 min hold 159 steps (53 epochs)" in text.getvalue()
    assert "a step takes 1.25 s (measured with 15 pieces of batches)" in text.getvalue()
