"""What a run says while it trains."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from detrkit.training.options import Schedule
from detrkit.training.pace import Pace
from detrkit.training.progress import ProgressLines


@pytest.mark.parametrize(
    ("first_step", "epoch", "seconds", "expected"),
    [
        (0, 0, 20.0, "; a stop before the first checkpoint, in about 3 min, keeps nothing"),
        (0, 0, 200.0, "; a stop before the first checkpoint, in about 17 min, keeps nothing"),  # not after 30
        (0, 0, 10.0, ""),  # 90 seconds are soon over
        (0, 1, 20.0, ""),  # there is a checkpoint
        (5, 0, 20.0, ""),  # a run that was resumed has one, too
    ],
)
def test_a_long_way_to_the_first_checkpoint_is_said_to_keep_nothing(
    first_step: int, epoch: int, seconds: float, expected: str
) -> None:
    now = [0.0]
    lines = ProgressLines(Console(file=io.StringIO()), clock=lambda: now[0])
    schedule = Schedule(epochs=5, steps=50, steps_per_epoch=10, piece_size=4, accumulate=1)
    lines.pace = Pace(schedule, None, 0, lambda: now[0])
    now[0] = seconds
    lines.pace.add(1)
    lines._step, lines._first_step = 1, first_step
    trainer: Any = SimpleNamespace(current_epoch=epoch)
    assert lines._keeps_nothing(trainer, 20.0) == expected


def test_the_line_says_how_fast_it_goes_and_what_the_last_evaluation_said(monkeypatch: pytest.MonkeyPatch) -> None:
    now, shown = [0.0], []
    lines = ProgressLines(Console(file=io.StringIO()), clock=lambda: now[0])
    lines.pace = Pace(
        Schedule(epochs=5, steps=50, steps_per_epoch=10, piece_size=4, accumulate=2), 1, 0, lambda: now[0]
    )
    monkeypatch.setattr(lines.line, "show", shown.append)
    trainer: Any = SimpleNamespace(current_epoch=1)
    module: Any = SimpleNamespace(schedule=lines.pace.schedule)
    lines._show(trainer, module)
    assert shown[-1].extras == ()
    now[0] = 2.5
    lines.pace.add(1)
    lines._step, lines._learning = 1, ("loss 3.00", "class loss 0.200")
    lines.evaluated("AP 0.310")
    lines._show(trainer, module)
    assert shown[-1].extras == ("loss 3.00", "last AP 0.310", "3.2 images/s", "2.5 s/step", "class loss 0.200")
    assert shown[-1].sentence().startswith("epoch 2/5, step 1/50, about 2 min left")
