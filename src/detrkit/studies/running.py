"""Runs what a study lacks, several trials at once, and shows what came out; the same command goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from rich.console import Console, Group

from detrkit.data.places import BUILT_IN
from detrkit.errors import OptionError
from detrkit.files import expanded, prepare_folder, write_json, write_text
from detrkit.progress import duration
from detrkit.studies.learning import options_of_run
from detrkit.studies.listing import find_study
from detrkit.studies.showing import draw_curves, markdown_table, study_table
from detrkit.studies.study import Results, Study, add_pace
from detrkit.studies.trials import JOB, LOG, Seeded, missing_trials, seeded_trials
from detrkit.terminal import terminal
from detrkit.training.before_data import check_before_data
from detrkit.training.keywords import TrainingKeywords

_DEFAULT_OUTPUT = "runs/studies"


@dataclass(frozen=True)
class StudyResult:
    """What a study came to.

    Attributes:
        study: which.
        results: the figures of each trial that has ended with all seeds.
        folder: with `study.json`, `table.md`, `curves.png` and further pictures.
        problems: a sentence for each trial that failed.
    """

    study: Study
    results: Results
    folder: Path
    problems: tuple[str, ...] = ()

    def table(self) -> Group:
        """The study's table for a terminal."""
        return study_table(self.study, self.results)


def run_study(
    name: str,
    data: str | Path = "digits",
    *,
    seeds: int = 3,
    jobs: int | None = None,
    console: Console | None = None,
    **options: Unpack[TrainingKeywords],
) -> StudyResult:
    """Trains what a study compares, as far as it is not there yet, and writes table and plots.

    Args:
        name: of the study, see `STUDIES`.
        data: a data set's folder or annotation file, or "digits", which the studies' own options are made for.
        seeds: trainings of each trial, with the seeds 0, 1, ...
        jobs: trials at once, one thread each; None takes as many as there are processors.
        console: shows progress; None means the terminal.
        **options: of training, for all trials instead of the study's; but `output` is the folder of all studies, which share trials (`runs/studies`).

    Returns:
        Figures, and the folder with table and plots.

    Raises:
        ConfigurationError: an unknown study, or an impossible number or option.
        OutputError: the folder cannot be written.
    """
    study = find_study(name)
    for option, value in (("seeds", seeds), ("jobs", 1 if jobs is None else jobs)):
        if value < 1:
            raise OptionError(f"{option} must be at least 1, not {value}", option)
    console = console or terminal()
    given: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
    for option in ("devices", "nodes"):
        if given.get(option, 1) != 1:
            raise OptionError(
                f"each training has one process, so {option} must be 1: jobs says how many run at once", option
            )
    study.check(given)
    root = expanded(given.pop("output", None) or _DEFAULT_OUTPUT)
    folder = root / folder_name(name, str(data), given)
    trials = seeded_trials(study, str(data), seeds, given, root)
    missing = missing_trials(trials)
    _check_options(trials, missing)
    prepare_folder(folder)
    console.print(
        f"Study {name}: {study.title}. {len(trials)} trainings, {len(trials) - len(missing)} of them done before."
    )
    problems = _Queue(name, missing, jobs or os.cpu_count() or 1, console).run()
    results = {name: runs for name, runs in _complete(study, trials, seeds).items() if study.trials[name].shown}
    facts = {"study": name, "title": study.title, "claim": study.claim, "data": str(data), "options": given}
    write_json(folder / "study.json", {**facts, "results": results})
    if results:
        write_text(folder / "table.md", markdown_table(study, results))
        title = study.title if str(data) == BUILT_IN else f"{study.title}, {Path(data).name}"
        draw_curves(study, results, folder / "curves.png", title=title)
        if study.draw is not None and all(each.run.is_dir() for each in trials):  # not where figures alone were kept
            study.draw(results, {(each.name, each.seed): each.folder for each in trials}, folder)
    return StudyResult(study, results, folder, tuple(problems))


def _check_options(trials: Sequence[Seeded], missing: Sequence[Seeded]) -> None:
    """Refuses what cannot be before anything is trained: options of all trials, weight files and devices of those that have to be trained."""
    for each in trials:
        options_of_run(each.options, each.training_seed, each.run)
    for each in {each.name: each for each in missing}.values():  # seeds make no difference
        check_before_data(options_of_run(each.options, each.training_seed, None), Console(quiet=True), download=False)


def folder_name(name: str, data: str, given: Mapping[str, Any]) -> str:
    """The study's name, with a mark where it is put to other data or with other options than its own.

    Args:
        name: of the study.
        data: path of a data set, or "digits".
        given: training options for all trials.
    """
    if data == BUILT_IN and not given:
        return name
    text = json.dumps([data, given], sort_keys=True, default=str)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _complete(study: Study, trials: Sequence[Seeded], seeds: int) -> Results:
    """Figures of the trials that have all seeds."""
    found: Results = {name: [] for name in study.trials}
    for each in trials:
        if (figures := each.figures()) is not None:
            found[each.name].append(figures)
    complete = {name: runs for name, runs in found.items() if len(runs) == seeds}
    for runs in complete.values():
        add_pace(runs)
    return complete


class _Queue:
    """Trials that wait until those that they come after have ended.

    Args:
        study: its name.
        trials: those that are missing, in order.
        jobs: how many at once.
        console: shows what ends.
    """

    def __init__(self, study: str, trials: Sequence[Seeded], jobs: int, console: Console) -> None:
        self.study, self.waiting, self.jobs, self.console = study, list(trials), jobs, console
        self.problems: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._is_stopped = False

    def run(self) -> list[str]:
        """Carries them out; returns a sentence for each that failed."""
        running: dict[Future[str | None], Seeded] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while self.waiting or running:
                    for each in self._ready(running.values())[: self.jobs - len(running)]:
                        self.waiting.remove(each)
                        running[pool.submit(self._carried_out, each)] = each
                    if not running:
                        self._give_up()
                        break
                    for ended in wait(running, return_when=FIRST_COMPLETED).done:
                        self._note(running.pop(ended), ended.result())
            except KeyboardInterrupt:
                with self._lock:
                    self._is_stopped = True
                    for process in self._processes:
                        process.terminate()
                raise KeyboardInterrupt(
                    "stopped: the same command keeps trainings that have ended and begins the others anew"
                ) from None
        return self.problems

    def _ready(self, running: Iterable[Seeded]) -> list[Seeded]:
        """Those that need not wait, one of each folder that is free: two names may stand for the same."""
        taken = {each.folder for each in running}
        ready = {
            each.folder: each
            for each in reversed(self.waiting)
            if each.folder not in taken
            and all(before.figures() is not None and before.has_weights for before in each.after.values())
        }
        return list(ready.values())[::-1]

    def _give_up(self) -> None:
        for each in self.waiting:
            needed = ", ".join(each.after)
            self.problems.append(f"{each.name}, seed {each.seed}: needs {needed}, which failed")

    def _note(self, trial: Seeded, problem: str | None) -> None:
        self.waiting = [each for each in self.waiting if each.folder != trial.folder]
        if problem is not None:
            self.problems.append(f"{trial.name}, seed {trial.seed}: {problem}")
            self.console.print(self.problems[-1], soft_wrap=True, markup=False)
            return
        figures = trial.figures()
        assert figures is not None
        ap = f"AP {figures['figures']['AP']:.3f}" if figures["figures"] else "done"
        time = duration(sum(row["seconds"] for row in figures["log"]))
        self.console.print(
            f"{trial.name}, seed {trial.seed}: {ap} after {time}, {len(self.waiting)} to come", markup=False
        )

    def _carried_out(self, trial: Seeded) -> str | None:
        """Trains in a process of its own; returns what failed."""
        if trial.figures() is not None and trial.has_weights:  # of the same folder
            return None
        prepare_folder(trial.folder)
        write_json(trial.folder / JOB, _job(self.study, trial))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (trial.folder / LOG).open("wb") as log:
            # -P: whatever lies in the working folder is not imported.
            command = [sys.executable, "-P", "-m", "detrkit.studies.process", str(trial.folder), str(os.getpid())]
            with self._lock:
                if self._is_stopped:
                    return "it was not begun"
                process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
                self._processes.append(process)
            code = process.wait()
            with self._lock:
                self._processes.remove(process)
        if code == 0 and trial.figures() is not None:
            return None
        return f"its process ended with exit code {code}: {trial.folder / LOG} says why"


def _job(study: str, trial: Seeded) -> Mapping[str, Any]:
    return {
        "study": study,
        "trial": trial.name,
        "seed": trial.training_seed,
        "single_class": trial.single_class,
        "options": trial.options,
        "earlier": [str(each.run) for each in trial.after.values()],
        "further": None if trial.further is None else trial.further.name,
    }
