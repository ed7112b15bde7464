"""What the report says about how the contestants were made, and what held for all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from comparison.made_runs import compared

import detrkit
from detrkit.comparison import Comparison, ContestantFigures
from detrkit.comparison.contestants import read_contestants
from detrkit.comparison.figures import Training
from detrkit.comparison.outcome import Outcome
from detrkit.comparison.plan import Plan, validation_of
from detrkit.comparison.runs import runs_of
from detrkit.comparison.settings import settings_section, shared_settings
from detrkit.evaluation.report import Folded, Table
from detrkit.training.run_folder import append_to_log, create


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Comparison:
    return compared(tmp_path_factory.mktemp("made"), digits_folder, {"one": lambda *_: True, "two": lambda *_: True})


def test_of_checkpoints_files_and_variants_are_named(made: Comparison) -> None:
    contestants, shared = settings_section(made).blocks
    assert isinstance(contestants, Table)
    assert contestants.columns == ("setting", "one", "two")
    files = [each.checkpoint for each in made.contestants]
    assert contestants.rows == (
        ("variant", "detr-compact", "detr-compact"),
        ("model", *files),
        ("images up to", "64 × 64", "64 × 64"),
    )
    assert isinstance(shared, Table)
    assert shared.rows == made.settings
    told = dict(made.settings)
    assert told["budget"] == "none: nothing was trained here"
    assert told["options given"] == "none"
    assert f"detrkit {detrkit.__version__}, python" in told["versions"]
    assert made.to_json()["settings"] == told
    assert made.basis().endswith(" Checkpoints: one (detr-compact), two (detr-compact).")


def test_of_trainings_everything_is_told_that_figures_depend_on(digits_folder: Path, tmp_path: Path) -> None:
    dataset = validation_of(str(digits_folder), {})
    options = {"steps": 3, "batch_size": 2, "short_side": 64, "settings": {"queries": 6}, "crop": None}
    plan = Plan(read_contestants(["detr-compact", "dino-compact"]), str(digits_folder), 2, options, tmp_path)
    trainings = []
    for run in runs_of(plan):
        create(plan.options_of(run.contestant, run.seed or 0), dataset)
        append_to_log(run.folder / "log.csv", {"epoch": 2, "step": 3})
        trainings.append(Training.of(run, Outcome()))
    figures = tuple(
        ContestantFigures(each.name, each.variant, None, tuple(one for one in trainings if one.run.contestant == each))
        for each in plan.contestants
    )
    shared = shared_settings(plan, dataset, "cpu")
    comparison = Comparison("digits", 5, 17, figures, (), 0, (), tmp_path, shared)
    contestants, _, *folded = settings_section(comparison).blocks
    assert isinstance(contestants, Table)
    told = {row[0]: row[1:] for row in contestants.rows}
    assert told["variant"] == ("detr-compact", "dino-compact")
    assert told["model"] == ("trained here with seeds 0, 1",) * 2
    assert told["learned from"] == (f"5 images of {digits_folder}",) * 2
    assert told["trained for"] == ("1.5 epochs, 3 steps",) * 2
    assert told["began with"] == ("random weights",) * 2
    assert told["images up to"] == ("64 × 104",) * 2
    assert told["batch size"] == ("2", "2")
    assert dict(shared)["budget"] == "3 steps for every training, 2 trainings of each variant"
    assert dict(shared)["options given"] == "--steps 3; --batch-size 2; --short-side 64; --settings queries=6"
    assert dict(shared)["device"].startswith("cpu, ")
    assert dict(shared)["evaluated on"] == dataset.description()
    assert [each.title for each in folded if isinstance(each, Folded)] == [
        "What differs from the recipe of detr-compact (seed 0)",
        "What differs from the recipe of dino-compact (seed 0)",
    ]
    longer = dataclasses.replace(trainings[2], course=[{"epoch": 3.0, "step": 5.0}])  # as with --minutes
    others = dataclasses.replace(figures[0], trainings=(trainings[0], longer))
    (contestants, *_) = settings_section(dataclasses.replace(comparison, contestants=(others, figures[1]))).blocks
    assert isinstance(contestants, Table)
    assert {row[0]: row[1:] for row in contestants.rows}["trained for"] == ("3 to 5 steps", "1.5 epochs, 3 steps")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 1}, "1 epoch for every training, 1 training of each variant"),
        ({"minutes": 2.5}, "2.5 minutes for every training, 1 training of each variant"),
    ],
)
def test_the_budget_is_told_in_words(
    options: dict[str, float], words: str, digits_folder: Path, tmp_path: Path
) -> None:
    plan = Plan(read_contestants(["detr-compact", "dino-compact"]), str(digits_folder), 1, options, tmp_path)
    assert dict(shared_settings(plan, validation_of(str(digits_folder), {}), "cpu"))["budget"] == words
