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
from pathlib import Path
from typing import Any

import pytest
from comparison.made_runs import SETTINGS, SMALL, compared, finish, said, untrained
from rich.console import Console

import detrkit
from detrkit.comparison import Comparison, compare, process
from detrkit.comparison.contestants import read_contestants
from detrkit.comparison.outcome import DETECTIONS, OUTCOME, read_outcome
from detrkit.data import DetectionDataset
from detrkit.errors import ConfigurationError, DataError
from detrkit.evaluation import evaluate


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Comparison:
    """One model that finds everything, one that finds every other object, and one that finds nearly everything."""
    finds = {"all": lambda *_: True, "half": lambda place, _: place % 2 == 0, "nearly": lambda place, _: place != 3}
    return compared(tmp_path_factory.mktemp("made"), digits_folder, finds)


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
