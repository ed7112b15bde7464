"""The runs of a comparison, each in a process of its own: memory is measured for each, and one that is ended takes no other with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from detrkit.comparison.contestants import Contestant
from detrkit.comparison.outcome import DETECTIONS, JOB, OUTCOME, Outcome, read_outcome, stamp_of
from detrkit.comparison.plan import Plan, plain
from detrkit.data.wording import counted
from detrkit.files import prepare_folder, write_json
from detrkit.training.run_folder import RunFolder

_FAREWELL = 10.0  # seconds in which a run may stop by itself when the comparison is stopped
_STOPPED = 130


@dataclass(frozen=True)
class Run:
    """A training of a variant with one seed and its evaluation, or the evaluation of a checkpoint.

    Attributes:
        contestant: whose it is.
        seed: of the training; None for a checkpoint.
        folder: of the run.
    """

    contestant: Contestant
    seed: int | None
    folder: Path

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.name


def runs_of(plan: Plan) -> Iterator[Run]:
    """All runs: every contestant with the first seed, then with the next, so that one that is stopped has compared all that it could."""
    for seed in range(plan.seeds):
        for contestant in plan.contestants:
            if seed in contestant.seeds(plan.seeds):
                folder = plan.folder / contestant.run_name(seed)
                yield Run(contestant, None if contestant.variant is None else seed, folder)


def outcomes_of(plan: Plan, console: Console, output: int | None = None) -> dict[Run, Outcome]:
    """Carries out what is left to do; the outcome of every run.

    Args:
        plan: the comparison.
        console: shows which run is at work.
        output: number of an open file for what the runs print; None for where this process prints.
    """
    runs, outcomes = list(runs_of(plan)), {}
    for number, run in enumerate(runs, start=1):
        place = f"Run {number} of {len(runs)}, {run.name}"
        outcome = read_outcome(run.folder)
        if outcome is not None and _is_current(run, outcome):
            console.print(f"{place}: finished before.")
        else:
            console.print(f"{place}:")
            outcome = _carried_out(run, plan, output, outcome)
        if outcome.problem is not None:
            console.print(f"{run.name} failed: {outcome.problem}")
        outcomes[run] = outcome
    failed = sum(outcome.problem is not None for outcome in outcomes.values())
    if failed:
        console.print(
            f"{counted(failed, 'run')} of {len(runs)} failed; the same command with --output {plan.folder} tries again."
        )
    return outcomes


def _is_current(run: Run, outcome: Outcome) -> bool:
    """Whether a run is finished: with this weight file, which is what it was, and with its detections."""
    if (
        outcome.problem is not None
        or outcome.stamp != stamp_of(outcome.model)
        or not _is_whole(run.folder / DETECTIONS)
    ):
        return False
    return run.contestant.checkpoint in (None, outcome.model)


def _is_whole(file: Path) -> bool:
    """Whether a file is there and has the end of a list."""
    try:
        with file.open("rb") as stream:
            stream.seek(-2, os.SEEK_END)
            return stream.read().rstrip().endswith(b"]")
    except OSError:
        return False


def _carried_out(run: Run, plan: Plan, output: int | None, before: Outcome | None) -> Outcome:
    """Starts a run, or goes on with it, and waits for its end; one that had been finished is only evaluated again."""
    finished = before is not None and before.problem is None
    prepare_folder(run.folder)
    (run.folder / OUTCOME).unlink(missing_ok=True)
    job = {
        "variant": run.contestant.variant,
        "checkpoint": run.contestant.checkpoint,
        "data": plan.data,
        "seed": run.seed,
        "options": plain(plan.options),
        "match_by": plan.match_by,
        "finished": finished,
        "memory": before.memory if before is not None else None,
        "resume": RunFolder(run.folder).state.is_file(),
    }
    write_json(run.folder / JOB, job)
    # -P: whatever lies in the working folder is not imported.
    command = [sys.executable, "-P", "-m", "detrkit.comparison.process", str(run.folder), str(os.getpid())]
    code = _ended(subprocess.Popen(command, stdout=output), plan)
    outcome = read_outcome(run.folder)
    return Outcome(problem=_in_words(code)) if outcome is None else outcome


def _ended(process: subprocess.Popen[bytes], plan: Plan) -> int:
    """Waits for a process and returns its exit code; where this one is stopped, that one has stopped, too."""
    try:
        return process.wait()
    except KeyboardInterrupt as stop:
        try:
            process.wait(_FAREWELL)  # Ctrl-C reaches both
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        raise KeyboardInterrupt(f"stopped: the same command with --output {plan.folder} goes on where it was") from stop


def _in_words(code: int) -> str:
    """Why a process ended that left no sentence."""
    if code == _STOPPED:
        return "it was stopped"
    if code >= 0:
        return f"its process ended with exit code {code}: what it printed says why"
    name = signal.Signals(-code).name
    if -code != signal.SIGKILL:
        return f"its process was ended by {name}: what it printed may say why"
    return f"its process was ended by {name}, mostly for lack of memory: free some and try again, or compare with smaller batches in another output"
