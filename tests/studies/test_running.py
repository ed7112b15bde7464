"""A study from beginning to end, and what becomes of trials that wait or fail."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from detrkit.data import digits
from detrkit.errors import CheckpointError, ConfigurationError
from detrkit.files import write_json
from detrkit.studies import STUDIES, find_study, run_study
from detrkit.studies.process import carry_out, detector_of
from detrkit.studies.running import _job, _Queue
from detrkit.studies.study import Study, Trial
from detrkit.studies.trials import FIGURES, JOB, Seeded, missing_trials, seeded_trials
from detrkit.training.run_folder import RunFolder


class _Pretending(_Queue):
    """Writes figures instead of training; the trials named in `failing` fail."""

    failing: tuple[str, ...] = ()

    def _carried_out(self, trial: Seeded) -> str | None:
        assert all(before.figures() is not None and before.has_weights for before in trial.after.values())
        if trial.name in self.failing:
            return "it failed"
        trial.run.mkdir(parents=True)
        RunFolder(trial.run).last.touch()
        write_json(trial.folder / FIGURES, {"figures": {"AP": 0.5}, "log": [{"seconds": 3.0}]})
        return None


def change(module: object, earlier: object) -> None:
    """Nothing."""


@pytest.fixture
def trials(tmp_path: Path) -> list[Seeded]:
    made = {
        "second": Trial("detr-compact", {"lr": 1e-3}),
        "first": Trial("detr-compact"),
        "same as first": Trial("detr-compact"),
        "third": Trial("detr-compact", change=change, after=("first",)),
    }
    return seeded_trials(Study("title", "claim", made, {"epochs": 4}), "digits", 2, {}, tmp_path)


class TestQueue:
    def test_trials_wait_for_those_that_they_need(self, trials: list[Seeded]) -> None:
        printed = io.StringIO()
        assert _Pretending("name", trials, 3, Console(file=printed)).run() == []
        assert all(each.figures() is not None for each in trials)
        lines = printed.getvalue().splitlines()
        assert len(lines) == 6  # two names stand for the same training
        assert "AP 0.500 after 3 s, 0 to come" in lines[-1]

    def test_one_that_fails_ends_only_those_that_need_it(self, trials: list[Seeded]) -> None:
        queue = _Pretending("name", trials, 2, Console(file=io.StringIO()))
        queue.failing = ("first", "same as first")
        problems = sorted(queue.run())
        assert problems == [
            "first, seed 0: it failed",
            "first, seed 1: it failed",
            "third, seed 0: needs first, which failed",
            "third, seed 1: needs first, which failed",
        ]
        assert {each.name for each in trials if each.figures() is not None} == {"second"}


class TestStudy:
    def test_numbers_that_cannot_be(self) -> None:
        with pytest.raises(ConfigurationError, match="seeds must be at least 1, not 0"):
            run_study("matching", seeds=0)
        with pytest.raises(ConfigurationError, match="jobs must be at least 1, not 0"):
            run_study("matching", jobs=0)
        with pytest.raises(ConfigurationError, match="each training has one process, so devices must be 1"):
            run_study("matching", devices=2)

    def test_from_beginning_to_end(self, digits_folder: Path, tmp_path: Path) -> None:
        printed = io.StringIO()
        console = Console(file=printed, width=120)
        first = run_study("attention-maps", digits_folder, seeds=1, jobs=2, steps=1, output=tmp_path, console=console)
        assert first.problems == ()
        assert list(first.results) == ["DETR (learned queries)", "Conditional DETR (points)", "DAB-DETR (boxes)"]
        assert "3 trainings, 0 of them done before" in printed.getvalue()
        for (run,) in first.results.values():
            assert run["steps"] == 1
            assert run["further"]["modes"] >= 1
            assert 0 < run["further"]["spread"] < 1
        assert first.folder != tmp_path / "attention-maps"  # which is for the study's own options
        kept = json.loads((first.folder / "study.json").read_text(encoding="utf-8"))
        assert (kept["data"], kept["options"]) == (str(digits_folder), {"steps": 1})
        assert kept["results"] == json.loads(json.dumps(first.results))
        table = (first.folder / "table.md").read_text(encoding="utf-8").splitlines()
        assert table[0] == "|  | AP | AP50 | seconds | modes | spread | follows size |"
        assert table[4].startswith("| DAB-DETR (boxes) | ")
        for name in ("curves.png", "attention_maps.png"):
            with Image.open(first.folder / name) as picture:
                assert picture.width > 600
        again = run_study("attention-maps", digits_folder, seeds=1, jobs=2, steps=1, output=tmp_path, console=console)
        assert "3 trainings, 3 of them done before" in printed.getvalue()
        assert again.results == first.results
        model, data = detector_of(next(iter((tmp_path / "trials").glob("dab-detr-compact-*-0"))))
        assert model.card.variant == "dab-detr-compact"
        assert data.validation is not None
        assert set(data.validation.labels.tolist()) == {0}

    @pytest.mark.parametrize(
        "name", [name if name == "supervision" else pytest.param(name, marks=pytest.mark.slow) for name in STUDIES]
    )
    def test_every_trial_learns_and_is_evaluated(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(digits, "DEFAULT_COUNTS", {"train": 32, "val": 16})
        options = {"steps": 1, "batch_size": 2}
        for trial in seeded_trials(find_study(name), "digits", 1, options, tmp_path):
            trial.folder.mkdir(parents=True, exist_ok=True)
            write_json(trial.folder / JOB, _job(name, trial))
            carry_out(trial.folder)
            figures = trial.figures()
            assert figures is not None
            assert figures["steps"] == trial.options["steps"]
            assert 0 <= figures["figures"]["AP"] < 0.1
            assert figures["log"][0]["loss"] > 0
            if trial.trial.measure is not None:
                assert figures["further"]

    def test_figures_that_were_kept_without_weights_are_enough_until_these_are_needed(self, tmp_path: Path) -> None:
        def missing(name: str) -> list[Seeded]:
            return missing_trials(seeded_trials(find_study(name), "digits", 1, {"steps": 1, "batch_size": 2}, tmp_path))

        def run(name: str) -> list[str]:
            for trial in (trials := missing(name)):
                trial.folder.mkdir(parents=True, exist_ok=True)
                write_json(trial.folder / JOB, _job(name, trial))
                carry_out(trial.folder)
            assert missing(name) == []
            return [trial.name for trial in trials]

        assert len(run("learned-queries")) == 4
        for weights in tmp_path.glob("trials/*/run"):
            shutil.rmtree(weights)
        assert run("learned-queries") == []  # nothing is trained for a table
        assert run("matching") == ["DETR, twice as long", "DETR, matches of the trained one"]
        assert "DETR" in run("order")  # trained by "learned-queries", and now looked at

    def test_what_was_stopped_is_no_result(self, trials: list[Seeded], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("detrkit.studies.learning.fit", lambda *_: False)
        monkeypatch.setattr(digits, "DEFAULT_COUNTS", {"train": 32, "val": 16})
        trial = trials[1]
        trial.folder.mkdir(parents=True)
        job = {"study": "sparsity", "trial": "DETR", "seed": 0, "single_class": False, "earlier": [], "further": None}
        write_json(
            trial.folder / "job.json", {**job, "options": {"variant": "detr-compact", "data": "digits", "steps": 1}}
        )
        with pytest.raises(KeyboardInterrupt):
            carry_out(trial.folder)
        assert trial.figures() is None

    def test_a_process_that_fails_leaves_a_log(self, trials: list[Seeded]) -> None:
        (problem,) = _Queue("no study", trials[:1], 1, Console(file=io.StringIO())).run()
        said, log = problem.removesuffix(" says why").split(" exit code 2: ")
        assert said == "second, seed 0: its process ended with"
        assert "there is no study 'no study'" in Path(log).read_text(encoding="utf-8")

    def test_options_that_cannot_be_are_refused_before_anything_is_trained(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="lr must be"):
            run_study("anchors", output=tmp_path, lr=-1.0)
        with pytest.raises(ConfigurationError, match="no training option 'colour'"):
            run_study("anchors", output=tmp_path, colour=1)  # type: ignore[call-arg]
        with pytest.raises(CheckpointError, match=r"there is no weight file .*nowhere\.pth"):
            run_study("anchors", output=tmp_path, backbone_weights=str(tmp_path / "nowhere.pth"))
        assert list(tmp_path.iterdir()) == []
