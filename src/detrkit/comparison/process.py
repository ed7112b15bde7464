"""The process of one run: trains a variant or takes a checkpoint, and evaluates it. `python -m detrkit.comparison.process FOLDER`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from detrkit.allocation import keep_freed_memory
from detrkit.checkpoints import load
from detrkit.checkpoints.own_format import frozen
from detrkit.comparison.outcome import JOB, stamp_of, write_failure, write_outcome
from detrkit.comparison.plan import validation_of
from detrkit.errors import DetrkitError
from detrkit.evaluation import compare_in_detail, detect
from detrkit.evaluation.classes import MatchBy
from detrkit.prediction.devices import choose_device
from detrkit.terminal import print_any_character, terminal
from detrkit.training import train
from detrkit.training.epochs import evaluation_batch
from detrkit.training.memory_probe import peak_memory
from detrkit.training.options import worker_count
from detrkit.training.processes import STARTED_BY
from detrkit.training.reporting import best_of
from detrkit.training.run_folder import RunFolder, read_run
from detrkit.training.sessions import sessions_of


def main() -> None:
    """Does the job in the folder that the command line names."""
    work_in(Path(sys.argv[1]), carry_out, write_failure)


def work_in(folder: Path, work: Callable[[Path], None], fail: Callable[[Path, str], None]) -> None:
    """What a process does that was started for one folder. Exit code 2: it failed, for a reason that is noted; 130: it was stopped.

    Args:
        folder: whose job it does.
        work: does it.
        fail: notes why it cannot be done.
    """
    keep_freed_memory()
    print_any_character()
    if STARTED_BY not in os.environ:  # the other processes of a training watch the one that started them
        end_with(int(sys.argv[2]) if len(sys.argv) > 2 else os.getppid())
    try:
        work(folder)
    except DetrkitError as problem:
        fail(folder, str(problem))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def carry_out(folder: Path) -> None:
    """Trains, if that is the job, evaluates, and writes the outcome.

    Args:
        folder: of the run, with its job.

    Raises:
        DetrkitError: it cannot be done.
    """
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    device = torch.device(choose_device(job["options"].get("device", "auto")))
    if job["variant"] is None:
        model, memory, batch_size, workers = Path(job["checkpoint"]), None, 1, job["options"].get("workers") or 0
    else:
        model, memory = _trained(job, folder, device)
        _, options = read_run(folder)
        batch_size, workers = evaluation_batch(options), worker_count(options)
    dataset = validation_of(job["data"], job["options"])
    stamp = stamp_of(model)  # of what is evaluated now: a training elsewhere may replace the file meanwhile
    detector = load(model).to(device)
    match_by: MatchBy = job["match_by"] if job["variant"] is None else "auto"  # ids may be others in the training split
    entries = detect(detector, dataset, batch_size=batch_size, workers=workers, progress=True, match_by=match_by)
    if job["variant"] is None:
        memory = peak_memory(device)
    evaluation, analysis = compare_in_detail(detector, dataset, entries, match_by=match_by)
    write_outcome(
        folder,
        model=str(model.absolute()),
        stamp=stamp,
        evaluation=evaluation,
        analysis=analysis,
        entries=dataset.with_file_ids(entries),
        parameters=sum(parameter.numel() for parameter in detector.parameters()),
        memory=memory,
    )


def _trained(job: dict[str, Any], folder: Path, device: torch.device) -> tuple[Path, float | None]:
    """The best model of the run, and the memory that its training took; where that had been finished before, what was noted then."""
    if job["finished"]:
        return best_of(RunFolder(folder)), job["memory"]
    config = RunFolder(folder).config
    sessions = len(sessions_of(config)) if job["resume"] else 0
    if job["resume"]:
        result = train(resume=folder, workers=job["options"].get("workers"), console=terminal())
    else:
        options = dict(job["options"])
        if "settings" in options:
            options["settings"] = {name: frozen(value) for name, value in options["settings"].items()}
        result = train(job["variant"], job["data"], output=folder, seed=job["seed"], console=terminal(), **options)
    return result.best, peak_memory(device) if len(sessions_of(config)) > sessions else job["memory"]


def end_with(parent: int) -> None:
    """Stops this process, as Ctrl-C would, soon after the one that started it has ended, however that was: a second comparison may begin."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
