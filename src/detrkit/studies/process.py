"""The process of one trial: `python -m detrkit.studies.process FOLDER` does the job in the folder and writes its figures."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from detrkit.checkpoints.own_format import frozen
from detrkit.comparison.process import work_in
from detrkit.files import write_json
from detrkit.models.detector import Detector
from detrkit.studies.learning import Job, learn, trained
from detrkit.studies.listing import find_study
from detrkit.studies.trials import FIGURES, JOB, RUN, read_figures
from detrkit.terminal import terminal
from detrkit.training.ground_truth import RunData
from detrkit.training.run_folder import RunFolder

_LOCK = "lock"


def main() -> None:
    """Does the job in the folder that the command line names; what it prints says why it cannot be done."""
    torch.set_num_threads(1)  # two trials at once on two processors do more than one on both
    work_in(Path(sys.argv[1]), carry_out, lambda _, problem: print(problem))


def carry_out(folder: Path) -> None:
    """Trains a trial, unless that is done, and notes what it came to and what the trial measures.

    Args:
        folder: of the trial, with its job.
    """
    job, further = _read(folder)
    with FileLock(folder / _LOCK):  # another command may have begun the same
        if read_figures(folder / FIGURES) is None or not RunFolder(job.run).last.is_file():
            shutil.rmtree(job.run, ignore_errors=True)  # begun and not ended, or figures without weights
            figures = learn(job, terminal())
            write_json(folder / FIGURES, {**figures, "options": job.options})
        if job.trial.measure is not None:
            write_json(folder / further, job.trial.measure(*trained(job)))


def detector_of(folder: Path) -> tuple[Detector, RunData]:
    """The trained detector of a trial that has ended, and its data.

    Args:
        folder: of the trial.
    """
    return trained(_read(folder)[0])


def _read(folder: Path) -> tuple[Job, str]:
    """The job of a folder, and the name of the file for what its trial measures."""
    content: dict[str, Any] = json.loads((folder / JOB).read_text(encoding="utf-8"))
    options = content["options"]
    if "settings" in options:
        options["settings"] = {name: frozen(value) for name, value in options["settings"].items()}
    job = Job(
        find_study(content["study"]).trials[content["trial"]],
        options,
        content["seed"],
        content["single_class"],
        folder / RUN,
        tuple(map(Path, content["earlier"])),
    )
    return job, content["further"]


if __name__ == "__main__":
    main()
