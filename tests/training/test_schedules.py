"""Learning rates over a run."""

from __future__ import annotations

import math
from typing import Literal

import pytest

from detrkit.training.schedules import rate_factor


def test_step_drops_once_to_a_tenth() -> None:
    factor = rate_factor("step", steps=100, drop_after=0.8, warmup_steps=0)
    assert [factor(step) for step in (0, 79, 80, 99)] == [1.0, 1.0, 0.1, 0.1]


def test_cosine_falls_along_half_a_wave() -> None:
    factor = rate_factor("cosine", steps=100, drop_after=0.8, warmup_steps=0)
    assert factor(0) == 1.0
    assert factor(50) == pytest.approx(0.5)
    assert factor(25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factor(100) == pytest.approx(0.0)
    assert factor(120) == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", ["step", "cosine", "flat-cosine"])
def test_warm_up_rises_evenly_and_meets_the_schedule(schedule: str) -> None:
    factor = rate_factor(schedule, steps=100, drop_after=0.8, warmup_steps=10)  # type: ignore[arg-type]
    assert [factor(step) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert factor(9) == factor(10) == 1.0


def test_flat_cosine_falls_after_its_flat_part() -> None:
    factor = rate_factor("flat-cosine", steps=100, drop_after=0.6, warmup_steps=10)
    assert [factor(step) for step in (9, 10, 59, 60)] == [1.0] * 4
    assert factor(70) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factor(80) == pytest.approx(0.5)
    assert factor(100) == pytest.approx(0.0)
    assert factor(120) == pytest.approx(0.0)


def test_flat_cosine_without_a_flat_part_is_cosine() -> None:
    kinds: tuple[Literal["flat-cosine", "cosine"], ...] = ("flat-cosine", "cosine")
    flat, cosine = (rate_factor(kind, steps=50, drop_after=0.05, warmup_steps=5) for kind in kinds)
    assert [flat(step) for step in range(60)] == [cosine(step) for step in range(60)]
    constant = rate_factor("flat-cosine", steps=50, drop_after=1.0, warmup_steps=0)
    assert [constant(step) for step in range(50)] == [1.0] * 50
