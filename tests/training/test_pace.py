"""How fast a run goes, and how long the rest takes, with and without evaluations."""

from __future__ import annotations

import pytest

from detrkit.training.options import Schedule
from detrkit.training.pace import Pace


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


SCHEDULE = Schedule(epochs=5, steps=50, steps_per_epoch=10, piece_size=4, accumulate=2)


def test_steps_and_evaluations_are_measured_apart() -> None:
    clock = Clock()
    pace = Pace(SCHEDULE, 2, 0, clock)
    assert pace.left(0) is None
    assert not pace.knows_evaluations
    for step in range(1, 21):
        clock.now += 2.0
        pace.add(step)
    assert pace.seconds_per_step() == 2.0
    assert pace.images_per_second() == 4.0
    assert pace.left(2) == 30 * 2.0
    with pace.evaluating():
        clock.now += 100.0
    assert pace.knows_evaluations
    assert pace.left(2) == 30 * 2.0 + 2 * 100.0  # after epochs 4 and 5
    clock.now += 2.0
    pace.add(21)
    assert pace.seconds_per_step() == 2.0  # an evaluation makes no step slow
    assert pace.left(4) == 29 * 2.0 + 100.0


def test_without_evaluations_only_steps_count() -> None:
    clock = Clock()
    pace = Pace(SCHEDULE, None, 10, clock)
    clock.now += 3.0
    pace.add(11)
    assert pace.knows_evaluations
    assert pace.left(1) == 39 * 3.0


def test_the_speed_is_that_of_the_last_steps() -> None:
    clock = Clock()
    pace = Pace(SCHEDULE, None, 0, clock)
    for step in range(1, 61):
        clock.now += 10.0 if step <= 10 else 1.0
        pace.add(step)
    assert pace.seconds_per_step() == pytest.approx(1.0)
