"""The process of one trial: `python -m detrkit.studies.process FOLDER` does the job in the folder and writes its figures."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from detrkit.allocation import keep_freed_memory
from detrkit.checkpoints.own_format import frozen
from detrkit.comparison.process import end_with
from detrkit.errors import DetrkitError
from detrkit.files import write_json
from detrkit.models.detector import Detector
from detrkit.studies.learning import learn, trained
from detrkit.studies.listing import find_study
from detrkit.studies.trials import FIGURES, JOB, RUN, read_figures
from detrkit.terminal import print_any_character, terminal
from detrkit.training.ground_truth import RunData

_LOCK = "lock"


def main() -> None:
    """Exit code 2 where it fails with a sentence."""
    keep_freed_memory()
    print_any_character()
    torch.set_num_threads(1)  # two trials at once on two processors do more than one on both
    end_with(os.getppid())
    try:
        carry_out(Path(sys.argv[1]))
    except DetrkitError as problem:
        print(problem)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def carry_out(folder: Path) -> None:
    """Trains a trial, unless that is done, and notes what it came to and what the trial measures.

    Args:
        folder: of the trial, with its job.
    """
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    trial = find_study(job["study"]).trials[job["trial"]]
    options, of_training = job["options"], _of_training(folder, job)
    with FileLock(folder / _LOCK):  # another command may have begun the same
        if read_figures(folder / FIGURES) is None:
            shutil.rmtree(folder / RUN, ignore_errors=True)  # begun and not ended
            figures = learn(trial, options, **of_training, console=terminal())
            write_json(folder / FIGURES, {**figures, "options": options})
        if trial.measure is not None:
            write_json(folder / job["further"], trial.measure(*trained(trial, options, **of_training)))


def _of_training(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = job["options"]
    if "settings" in options:
        options["settings"] = {name: frozen(value) for name, value in options["settings"].items()}
    earlier = [Path(path) for path in job["earlier"]]
    return {
        "seed": job["seed"],
        "single_class": job["single_class"],
        "folder": folder / RUN,
        "earlier": earlier,
    }


def detector_of(folder: Path) -> tuple[Detector, RunData]:
    """The trained detector of a trial that has ended, and its data.

    Args:
        folder: of the trial.
    """
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    of_training = _of_training(folder, job)
    return trained(find_study(job["study"]).trials[job["trial"]], job["options"], **of_training)


if __name__ == "__main__":
    main()
