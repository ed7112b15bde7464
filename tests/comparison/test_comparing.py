"""A whole comparison: what it measures, what it does not do again, what fails alone, and what it refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparison.made_runs import SETTINGS, compared, finish, made_comparison, untrained
from rich.console import Console
from training.small_runs import without_reports

import detrkit
from detrkit.comparison import Comparison, compare, process
from detrkit.comparison.contestants import read_contestants
from detrkit.comparison.outcome import DETECTIONS, JOB, OUTCOME, read_outcome, write_failure
from detrkit.comparison.plan import validation_of
from detrkit.data import DetectionDataset
from detrkit.errors import ConfigurationError, DataError, DetrkitError
from detrkit.evaluation import evaluate
from detrkit.training.module import TrainingModule
from detrkit.training.run_folder import RunFolder, read_log

SMALL: dict[str, Any] = {"batch_size": 4, "short_side": 64, "long_side": 64, "device": "cpu", "settings": SETTINGS}


class InThisProcess:
    """Takes the place of the process of a run, which takes seconds to start."""

    started: list[Path] = []  # noqa: RUF012 - of one test

    def __init__(self, command: list[str], **_: object) -> None:
        self.folder = Path(command[-2])
        self.started.append(self.folder)

    def wait(self) -> int:
        try:
            process.carry_out(self.folder)
        except DetrkitError as problem:
            write_failure(self.folder, str(problem))
            return 2
        except KeyboardInterrupt:
            return 130
        return 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the runs that were started, in this process."""
    without_reports(monkeypatch)
    monkeypatch.setattr(InThisProcess, "started", [])
    monkeypatch.setattr(subprocess, "Popen", InThisProcess)
    return InThisProcess.started


@pytest.fixture
def quiet() -> Console:
    return Console(file=io.StringIO(), width=2000)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Comparison:
    """One model that finds everything, one that finds every other object, and one that finds nearly everything."""
    finds = {"all": lambda *_: True, "half": lambda place, _: place % 2 == 0, "nearly": lambda place, _: place != 3}
    return compared(tmp_path_factory.mktemp("made"), digits_folder, finds)


@pytest.fixture
def dataset(digits_folder: Path) -> DetectionDataset:
    return validation_of(str(digits_folder), {})


def test_finished_runs_are_compared_and_not_done_again(made: Comparison) -> None:
    assert [each.name for each in made.contestants] == ["all", "half", "nearly"]
    assert [each.name for each in made.ranked] == ["all", "nearly", "half"]
    best, nearly, half = made.ranked
    assert best.figure("AP").mean == pytest.approx(1.0)
    assert nearly.figure("AP").mean == pytest.approx(
        evaluate(made.folder / "nearly-checkpoint" / DETECTIONS, made_data(made)).figures["AP"]
    )
    assert best.interval is not None
    assert (best.interval.low, best.interval.high) == (1.0, 1.0)
    assert half.finished[0].outcome.errors
    assert not best.finished[0].outcome.errors
    assert {each.first: each.better for each in made.differences if each.second == "half"} == {
        "all": "all",
        "nearly": "nearly",
    }
    assert [each.better for each in made.differences if (each.first, each.second) == ("all", "nearly")] == [None]
    assert made.problems == []


def made_data(made: Comparison) -> str:
    content = json.loads((made.folder / "plan.json").read_text())
    return str(content["data"])


def test_the_figures_file_says_the_same(made: Comparison) -> None:
    content = json.loads(made.figures_file.read_text())
    assert content == json.loads(json.dumps(made.to_json()))
    assert (content["images"], content["objects"], content["confidence"]) == (made.images, made.objects, 0.95)
    every, half, _ = content["contestants"]
    assert every["name"] == "all"
    assert every["variant"] is None
    assert every["checkpoint"].endswith("all.safetensors")
    assert every["figures"]["AP50"] == {"mean": pytest.approx(1.0), "deviation": None, "values": [pytest.approx(1.0)]}
    assert (every["parameters"], every["memory_gb"]["mean"]) == (1234, 0.5)
    assert every["images_per_second"] == {"mean": None, "deviation": None, "values": []}
    assert 0 < every["latency_ms"] < 10_000
    assert half["runs"][0]["figures"]["AP"] == half["figures"]["AP"]["mean"]
    assert half["runs"][0]["problem"] is None
    assert set(every["classes"]) == set(made.classes().values())
    (difference,) = (each for each in content["differences"] if (each["first"], each["second"]) == ("all", "half"))
    assert difference["AP"] == pytest.approx(1.0 - half["figures"]["AP"]["mean"])
    assert difference["better"] == "all"
    assert difference["interval"][0] > 0


def test_the_table_has_the_best_first_and_says_what_follows(made: Comparison) -> None:
    console = Console(width=100, file=io.StringIO())
    console.print(made.table())
    text = said(console)
    first, second, third = (
        line for line in text.splitlines()[2:6] if line.split()[:1] in (["all"], ["nearly"], ["half"])
    )
    assert [line.split()[0] for line in (first, second, third)] == ["all", "nearly", "half"]
    assert first.split()[1:3] == ["1.000", "1.000"]
    assert "all is better than half (AP +" in text
    assert "all and nearly cannot be ranked (AP +" in text
    assert "paired bootstrap over images, not over trainings, 1000 draws." in text


def test_notebooks_show_what_follows(made: Comparison) -> None:
    html = made._repr_html_()
    assert "all is better than half (AP +" in html
    assert html.index(">all<") < html.index(">nearly<") < html.index(">half<")
    assert repr(made).startswith("<Comparison on digits0 val: all and nearly cannot be ranked")


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


def test_classes_of_checkpoints_are_matched_by_their_ids_if_asked(
    digits_folder: Path, dataset: DetectionDataset, tmp_path: Path, started: list[Path], quiet: Console
) -> None:
    unnamed = [dataclasses.replace(each, name=f"class {each.id}") for each in dataset.categories]
    model = detrkit.build("detr-compact", classes=unnamed, preprocessing=detrkit.Preprocessing(64, 64), **SETTINGS)
    checkpoints = [
        detrkit.save(model, tmp_path / "ids.safetensors"),
        untrained(tmp_path / "names.safetensors", dataset),
    ]
    given = {"output": tmp_path / "out", "console": quiet}
    with pytest.raises(DataError, match="or match classes by their ids if only the names differ"):
        compare(checkpoints, digits_folder, **given)
    comparison = compare(checkpoints, digits_folder, match_by="id", **given)
    assert len(started) == 2
    by_ids = evaluate(checkpoints[0], dataset, match_by="id")
    assert comparison.contestants[0].figure("AP").mean == by_ids.figures["AP"]
    with pytest.raises(ConfigurationError, match="holds another comparison, with match_by id, not auto"):
        compare([*checkpoints[1:], "detr-compact"], digits_folder, steps=1, **given)


def test_options_of_training_change_no_checkpoint_and_that_is_said(
    digits_folder: Path, dataset: DetectionDataset, tmp_path: Path, started: list[Path], quiet: Console
) -> None:
    checkpoints = [untrained(tmp_path / f"{name}.safetensors", dataset) for name in ("one", "two")]
    given = {"output": tmp_path / "out", "console": quiet, "device": "cpu"}
    comparison = compare(checkpoints, digits_folder, short_side=480, **given)
    assert len(started) == 2
    with pytest.raises(ConfigurationError, match="there is no option 'val_splt': did you mean 'val_split'"):
        compare(checkpoints, digits_folder, val_splt="test", **given)  # type: ignore[call-overload]
    assert comparison.notes[-1] == (
        "Nothing was trained here, so short_side changed nothing: checkpoints keep their own size of images."
    )


def test_a_checkpoint_that_knows_fewer_classes_is_compared_and_says_so(
    digits_folder: Path, dataset: DetectionDataset, tmp_path: Path, started: list[Path], quiet: Console
) -> None:
    fewer = [str(category.name) for category in dataset.categories if category.name != "7"]
    model = detrkit.build("detr-compact", classes=fewer, preprocessing=detrkit.Preprocessing(64, 64), **SETTINGS)
    checkpoints = [
        detrkit.save(model, tmp_path / "fewer.safetensors"),
        untrained(tmp_path / "all.safetensors", dataset),
    ]
    comparison = compare(checkpoints, digits_folder, output=tmp_path / "out", console=quiet)
    assert "fewer: The model does not know 1 class of the data set (AP counts as 0): 7." in comparison.notes


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


def test_names_of_checkpoints_are_unique(dataset: DetectionDataset, tmp_path: Path) -> None:
    for folder in ("a/mine", "b/mine", "detr-compact-seed0"):
        (tmp_path / folder).mkdir(parents=True)
        untrained(tmp_path / folder / "best.safetensors", dataset)
    untrained(tmp_path / "detr-compact.safetensors", dataset)
    given = ["detr-compact", "a/mine", "b/mine/best.safetensors", "detr-compact-seed0", "./detr-compact.safetensors"]
    with contextlib.chdir(tmp_path):
        found = read_contestants(given)
    assert [each.name for each in found] == ["detr-compact", "mine", "mine-2", "detr-compact-seed0", "detr-compact-2"]
    assert [each.run_name(0) for each in found] == [
        "detr-compact-seed0",
        "mine-checkpoint",
        "mine-2-checkpoint",
        "detr-compact-seed0-checkpoint",
        "detr-compact-2-checkpoint",
    ]


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


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "its process was ended by SIGKILL, mostly for lack of memory"),
        (-11, "its process was ended by SIGSEGV"),
        (1, "its process ended with exit code 1: what it printed says why"),
    ],
)
def test_a_process_that_leaves_no_sentence_gets_one(
    code: int, words: str, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Console
) -> None:
    class Ended:
        def __init__(self, *_: object, **__: object) -> None: ...

        def wait(self) -> int:
            return code

    monkeypatch.setattr(subprocess, "Popen", Ended)
    names = ["detr-compact", "conditional-detr-compact"]
    comparison = compare(names, digits_folder, output=tmp_path / "out", console=quiet, steps=1, **SMALL)
    assert [problem[: len(words)] for _, problem in comparison.problems] == [words, words]
    assert "No run gave anything to compare." in comparison.report.read_text()


def test_a_comparison_that_is_stopped_stops_its_run(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: Console
) -> None:
    """Where Ctrl-C reaches this process alone, the run is told, and waited for."""
    calls: list[object] = []

    class Deaf:
        def __init__(self, *_: object, **__: object) -> None: ...

        def wait(self, timeout: float | None = None) -> int:
            calls.append(timeout)
            if len(calls) == 1:
                raise KeyboardInterrupt
            if timeout is not None:
                raise subprocess.TimeoutExpired("run", timeout)
            return 130

        def terminate(self) -> None:
            calls.append("terminated")

    monkeypatch.setattr(subprocess, "Popen", Deaf)
    names = ["detr-compact", "conditional-detr-compact"]
    with pytest.raises(KeyboardInterrupt, match=r"stopped: the same command with --output .*out goes on where it was"):
        compare(names, digits_folder, output=tmp_path / "out", console=quiet, steps=1, **SMALL)
    assert calls == [None, 10.0, "terminated", None]


def test_a_process_watches_the_one_that_started_it_even_if_that_has_ended_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[int] = []
    monkeypatch.setattr(process, "end_with", watched.append)
    monkeypatch.setattr("sys.argv", ["process", str(tmp_path), "77"])
    process.work_in(tmp_path, lambda _: None, lambda *_: None)
    assert watched == [77]
    monkeypatch.setenv(
        "DETRKIT_STARTED_BY", "77"
    )  # one of several of a training, which watch the one that started them
    process.work_in(tmp_path, lambda _: None, lambda *_: None)
    assert watched == [77]


def test_a_run_stops_when_its_comparison_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    signals: list[tuple[int, int]] = []

    def kill(number: int, name: int) -> None:
        signals.append((number, name))
        told.set()

    monkeypatch.setattr(os, "kill", kill)
    process.end_with(os.getppid() + 1)  # which is not the parent
    assert told.wait(60)
    assert signals == [(os.getpid(), signal.SIGTERM)]


def test_another_comparison_is_not_mixed_with_this_one(
    digits_folder: Path, dataset: DetectionDataset, tmp_path: Path, started: list[Path], quiet: Console
) -> None:
    checkpoints = [untrained(tmp_path / f"{name}.safetensors", dataset) for name in ("one", "two")]
    compare(checkpoints, digits_folder, output=tmp_path / "out", console=quiet, short_side=64)
    with pytest.raises(
        ConfigurationError, match=r"out holds another comparison, with short_side 64, not 96: choose another output"
    ):
        compare(checkpoints, digits_folder, output=tmp_path / "out", console=quiet, short_side=96)
    with pytest.raises(ConfigurationError, match=r"with data .*digits.*, not digits: choose another output"):
        compare(checkpoints, "digits", output=tmp_path / "out", console=quiet, short_side=64)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="other holds other files, and no comparison: choose another output"):
        compare(checkpoints, digits_folder, output=tmp_path / "other", console=quiet)
    assert len(started) == 2


@pytest.mark.parametrize(
    ("contestants", "options", "words"),
    [
        (["detr-compact"], {"epochs": 1}, "a comparison needs two or more variants or checkpoints, not 1"),
        (["detr-compact", "detr-compact"], {"epochs": 1}, "detr-compact is named twice"),
        (["detr-compact", "detr-compct"], {"epochs": 1}, "there is no variant 'detr-compct': did you mean 'detr-compact'?"),
        (["detr-compact", "dino-compact"], {}, "detr-compact has to be trained, .*, and none is given: give one of the three"),
        (["detr-compact", "dino-compact"], {"epochs": 1, "steps": 2}, "and epochs and steps are given: give one of the three"),
        (["detr-compact", "dino-compact"], {"epochs": 1, "seeds": 0}, "seeds must be at least 1, not 0"),
        (["detr-compact", "dino-compact"], {"epochs": 1, "seed": 3}, "a comparison chooses seed itself"),
        (["detr-compact", "dino-compact"], {"epochs": 1, "val_splt": "test"}, "there is no training option 'val_splt': did you mean 'val_split'?"),
        (["detr-compact", "dino-compact"], {"epochs": 1, "queries": 50}, "'queries' is a setting of the model: give settings="),
        (["detr-compact", "dino-compact"], {"epochs": 1, "nodes": 2}, "a comparison runs on one machine, so nodes must be 1"),
        (["detr-compact", "dino-compact"], {"epochs": 1, "batch_size": 0}, "batch_size must be above 0, not 0"),
        (["detr-compact", "dino-compact"], {"epochs": 1, "settings": {"normed_references": 1}}, "normed_references"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_at_once(
    contestants: list[str], options: dict[str, Any], words: str, digits_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        compare(contestants, digits_folder, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_for_other_classes_is_refused_by_name(digits_folder: Path, tmp_path: Path) -> None:
    model = detrkit.build(
        "detr-compact", classes=["cat", "dog"], preprocessing=detrkit.Preprocessing(64, 64), **SETTINGS
    )
    cats = detrkit.save(model, tmp_path / "cats.safetensors")
    words = r"cats\.safetensors does not fit these data: the model's classes \(cat, dog\) are not those of"
    with pytest.raises(DataError, match=words):
        compare(["detr-compact", cats], digits_folder, epochs=1, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_outcomes_are_none(tmp_path: Path, dataset: DetectionDataset) -> None:
    assert read_outcome(tmp_path) is None
    finish(tmp_path, untrained(tmp_path / "model.safetensors", dataset), dataset, lambda place, _: place > 2)
    outcome = read_outcome(tmp_path)
    assert outcome is not None
    assert sum(each.counts["missed"] for each in outcome.errors) == 3
    assert outcome.errors[0].marks[0].category_id in {each.id for each in dataset.categories}
    content = json.loads((tmp_path / OUTCOME).read_text())
    del content["evaluation"]
    (tmp_path / OUTCOME).write_text(json.dumps(content))
    assert read_outcome(tmp_path) is None
