"""What a comparison does again in its folder, and what not: runs that are finished, cut, changed or trained further."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparison.made_runs import SMALL, finish, made_comparison, said, untrained
from rich.console import Console

import detrkit
from detrkit.comparison import compare
from detrkit.comparison.outcome import DETECTIONS, JOB, read_outcome
from detrkit.data import DetectionDataset
from detrkit.evaluation import evaluate
from detrkit.training.module import TrainingModule
from detrkit.training.run_folder import RunFolder, read_log


def test_a_checkpoint_that_has_changed_is_evaluated_again(
    digits_folder: Path, dataset: DetectionDataset, tmp_path: Path, started: list[Path], quiet: Console
) -> None:
    finds = {"one": lambda *_: True, "two": lambda *_: True}
    one, two = made_comparison(tmp_path, digits_folder, finds)
    given = {"output": tmp_path / "comparison", "console": quiet}
    compare([one, two], digits_folder, **given)
    assert started == []
    untrained(two, dataset)  # its time is another now
    comparison = compare([one, two], digits_folder, **given)
    assert [folder.name for folder in started] == ["two-checkpoint"]
    assert [each.figure("AP").mean == 1.0 for each in comparison.contestants] == [True, False]
    (tmp_path / "elsewhere").mkdir()
    namesake = untrained(tmp_path / "elsewhere" / "one.safetensors", dataset)
    compare([namesake, two], digits_folder, **given)
    assert [folder.name for folder in started] == ["two-checkpoint", "one-checkpoint"]


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-9])])
def test_detections_that_are_lost_are_made_again(
    damage: Callable[[Path], object], digits_folder: Path, tmp_path: Path, started: list[Path], quiet: Console
) -> None:
    one, two = made_comparison(tmp_path, digits_folder, {"one": lambda *_: True, "two": lambda *_: True})
    damage(tmp_path / "comparison" / "two-checkpoint" / DETECTIONS)
    comparison = compare([one, two], digits_folder, output=tmp_path / "comparison", console=quiet)
    assert [folder.name for folder in started] == ["two-checkpoint"]
    assert [each.figure("AP").mean == 1.0 for each in comparison.contestants] == [True, False]


def test_a_run_that_was_trained_further_is_evaluated_again_and_named(
    digits_folder: Path, dataset: DetectionDataset, tmp_path: Path, started: list[Path], quiet: Console
) -> None:
    given = {"output": tmp_path / "out", "console": quiet, "steps": 2, **SMALL}
    contestants = ["detr-compact", "conditional-detr-compact"]
    before = compare(contestants, digits_folder, **given)
    assert before.notes == ()
    folder = tmp_path / "out" / "detr-compact-seed0"
    best = detrkit.train(resume=folder, steps=4).best
    untrained(best, dataset)  # as if it had become better
    comparison = compare(contestants, digits_folder, **given)
    assert [each.name for each in started] == [f"{contestants[0]}-seed0", f"{contestants[1]}-seed0", folder.name]
    trained = comparison.contestants[0]
    assert trained.length("step").mean == 4
    assert trained.figure("AP").mean == evaluate(best, dataset).figures["AP"]
    assert trained.memory == before.contestants[0].memory  # was not measured again
    assert comparison.notes == (
        "detr-compact-seed0 was trained further by another command (1.33 epochs, 4 steps by now): that may explain a difference.",
    )


def test_nothing_is_said_of_runs_whose_length_was_measured(
    digits_folder: Path, tmp_path: Path, started: list[Path], quiet: Console
) -> None:
    given = {"output": tmp_path / "out", "console": quiet, "minutes": 0.05, **SMALL}
    comparison = compare(["detr-compact", "conditional-detr-compact"], digits_folder, **given)
    assert len(started) == 2
    assert comparison.problems == []
    assert [note for note in comparison.notes if "trained further" in note] == []


def test_a_folder_that_was_moved_has_its_models_with_it(dataset: DetectionDataset, tmp_path: Path) -> None:
    before, now = tmp_path / "before", tmp_path / "now"
    before.mkdir()
    finish(before, untrained(before / "best.safetensors", dataset), dataset, lambda *_: True)
    elsewhere = untrained(tmp_path / "checkpoint.safetensors", dataset)
    (tmp_path / "evaluated").mkdir()
    finish(tmp_path / "evaluated", elsewhere, dataset, lambda *_: True)
    for folder, model in ((before, before / "best.safetensors"), (tmp_path / "evaluated", elsewhere)):
        outcome = read_outcome(folder)
        assert outcome is not None
        assert outcome.model == str(model)
    before.rename(now)
    outcome = read_outcome(now)
    assert outcome is not None
    assert outcome.model == str(now / "best.safetensors")


def test_a_comparison_trains_evaluates_and_goes_on(
    digits_folder: Path, dataset: DetectionDataset, tmp_path: Path, started: list[Path], quiet: Console
) -> None:
    checkpoint = untrained(tmp_path / "mine.safetensors", dataset)
    given = {"output": tmp_path / "out", "console": quiet, "steps": 2, **SMALL}
    first = compare(["detr-compact", checkpoint], digits_folder, **given)
    names = ["detr-compact-seed0", "mine-checkpoint"]
    assert [folder.name for folder in started] == names
    trained, mine = first.contestants
    (training,) = trained.finished
    assert training.length("step") == 2
    assert len(training.course) == 1
    assert trained.images_per_second.mean == training.course[0]["images_per_second"]
    assert trained.minutes.mean == pytest.approx(training.course[0]["seconds"] / 60)
    assert trained.memory.mean is not None
    assert trained.memory.mean > 0.1
    assert trained.parameters == mine.parameters
    assert training.outcome.model.endswith("detr-compact-seed0/best.safetensors")
    measured = json.loads((tmp_path / "out" / "detr-compact-seed0" / "metrics.json").read_text())
    assert trained.figure("AP").mean == measured["best"]["AP"]
    assert mine.figure("AP").mean == evaluate(checkpoint, dataset).figures["AP"]
    assert (mine.images_per_second.mean, mine.length("epoch").mean) == (None, None)
    assert any(note.startswith("What mine learned from, and for how long, is not known") for note in first.notes)
    # Nothing is left to do, whatever is asked for first; a second seed is.
    compare([checkpoint, "detr-compact"], digits_folder, **given)
    assert len(started) == 2
    assert said(quiet).count("finished before.") == 2
    third = compare(["detr-compact", checkpoint], digits_folder, seeds=2, **given)
    assert [folder.name for folder in started] == [*names, "detr-compact-seed1"]
    seeds = third.contestants[0].finished
    assert [each.run.seed for each in seeds] == [0, 1]
    assert seeds[0].course[0]["loss"] != seeds[1].course[0]["loss"]
    assert third.several_trainings
    assert third.contestants[0].figure("AP").deviation is not None


def test_a_run_that_was_cut_goes_on(
    digits_folder: Path, tmp_path: Path, started: list[Path], quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingModule.training_step

    def stopped(self: TrainingModule, batch: Any, index: int) -> Any:
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, index)

    given = {"output": tmp_path / "out", "console": quiet, "epochs": 2, **SMALL}
    contestants = ["detr-compact", "conditional-detr-compact"]
    monkeypatch.setattr(TrainingModule, "training_step", stopped)
    cut = compare(contestants, digits_folder, **given)
    assert cut.problems == [(f"{name}-seed0", "it was stopped") for name in contestants]
    assert (cut.ranked, cut.differences) == ([], ())
    folder = RunFolder(tmp_path / "out" / "detr-compact-seed0")
    (before,) = read_log(folder.log)
    monkeypatch.setattr(TrainingModule, "training_step", step)
    whole = compare(contestants, digits_folder, **given)
    assert whole.problems == []
    assert whole.notes == ()  # both begin at random, with images of one size
    assert json.loads((folder.path / JOB).read_text())["resume"]
    rows = read_log(folder.log)
    assert [row["epoch"] for row in rows] == [1.0, 2.0]
    assert rows[0] == before  # was not trained again
    assert [each.length("epoch").mean for each in whole.contestants] == [2.0, 2.0]


def test_a_run_that_fails_leaves_the_others_alone(
    digits_folder: Path, dataset: DetectionDataset, tmp_path: Path, started: list[Path], quiet: Console
) -> None:
    given = {"output": tmp_path / "out", "console": quiet, "steps": 2, **SMALL}
    checkpoints = [untrained(tmp_path / f"{name}.safetensors", dataset) for name in ("one", "two")]
    compare(checkpoints, digits_folder, **given)
    taken = tmp_path / "out" / "detr-compact-seed0"
    taken.mkdir()
    (taken / "best.safetensors").write_text("somebody's")
    comparison = compare(["detr-compact", *checkpoints], digits_folder, **given)
    sentence = f"{taken} holds models of an earlier run: choose another --output"
    assert comparison.problems == [("detr-compact-seed0", sentence)]
    assert {each.name for each in comparison.ranked} == {"one", "two"}
    assert f"detr-compact-seed0 failed: {sentence}" in said(quiet)
    assert f"1 run of 3 failed; the same command with --output {tmp_path / 'out'} tries again." in said(quiet)
    assert sentence in comparison.report.read_text()
    assert json.loads(comparison.figures_file.read_text())["contestants"][0]["runs"][0]["problem"] == sentence
