"""A comparison's tables in a terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from comparison.made_runs import compared
from rich.console import Console

from detrkit.comparison import Comparison
from detrkit.comparison.tables import comparison_table

NAME = "deformable-detr-compact-two-stage"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Comparison:
    finds = {NAME: lambda *_: True, "two": lambda place, _: place % 2 == 0}
    return compared(tmp_path_factory.mktemp("made"), digits_folder, finds)


def lines_of(comparison: Comparison, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(comparison_table(comparison))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_costs_that_nobody_has_are_left_out(made: Comparison) -> None:
    lines = lines_of(made)
    heading = lines[lines.index("costs") + 1]
    assert heading.split() == ["ms", "params", "GB"]
    begin = next(number for number, line in enumerate(lines) if line.startswith("ms: "))
    meanings = " ".join(lines[begin : lines.index("", begin)])
    assert "params: number of parameters; GB: most memory" in meanings
    assert "epochs" not in meanings


def test_it_is_said_whose_other_seeds_no_interval_holds(made: Comparison) -> None:
    text = " ".join(lines_of(made))
    assert "paired bootstrap over images, not over trainings," in text
    first, *others = made.ranked
    twice = replace(first, trainings=first.trainings * 2)
    text = " ".join(lines_of(replace(made, contestants=(twice, *others))))
    single = ", ".join(each.name for each in others)
    assert f"paired bootstrap over images and over trainings (not of {single}, with one training)," in text


def test_tables_stand_apart_and_names_break_between_words(made: Comparison) -> None:
    row = {"epoch": 3.0, "step": 5.0, "seconds": 66.0, "AP": 0.5, "images_per_second": 20.0}
    contestants = [
        replace(each, trainings=(replace(each.trainings[0], course=[row], epoch_steps=2),)) for each in made.contestants
    ]
    lines = lines_of(replace(made, contestants=tuple(contestants)))
    begin = lines.index("costs")
    assert lines[begin - 1] == ""
    assert lines[begin + 1].split() == ["ms", "params", "epochs", "steps", "min", "images/s", "GB"]
    place = next(number for number in range(begin, len(lines)) if lines[number].startswith("deformable"))
    first, second = lines[place : place + 2]
    assert (first.split()[0], second) == ("deformable-detr-compact-two-", "stage")
    assert first.split()[2:] == ["0.0M", "2.5", "5", "1.1", "20.0", "0.50"]
    meanings = " ".join(lines)
    assert (
        "epochs: length of training in passes over the training images; steps: length of training in optimizer steps;"
        in meanings
    )
    assert lines[lines.index("AP by class") - 1] == ""
