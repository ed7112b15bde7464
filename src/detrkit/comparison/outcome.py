"""What a run leaves for its comparison, as files in its folder: figures and errors in `outcome.json`, detections in `detections.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detrkit.evaluation import Analysis, Evaluation
from detrkit.evaluation.errors import ImageErrors, Mark
from detrkit.files import write_json

OUTCOME, DETECTIONS, JOB = "outcome.json", "detections.json", "job.json"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        problem: a sentence about why it failed; None where it did not.
        model: the weight file that was evaluated; empty where the run failed, like everything that follows.
        stamp: size and time of that file, by which it is known again.
        evaluation: of that file.
        thresholds: the best score of each class, by category id.
        errors: in the images that have some, at these thresholds.
        parameters: number of the model's.
        memory: most memory of the process in GB, in training, or for a checkpoint in evaluation; None where that was in an earlier process.
    """

    problem: str | None = None
    model: str = ""
    stamp: tuple[int, int] | None = None
    evaluation: Evaluation | None = None
    thresholds: Mapping[int, float] | None = None
    errors: tuple[ImageErrors, ...] = ()
    parameters: int = 0
    memory: float | None = None


def write_failure(folder: Path, problem: str) -> None:
    """Notes why a run failed."""
    write_json(folder / OUTCOME, {"problem": problem})


def write_outcome(
    folder: Path,
    *,
    model: str,
    stamp: tuple[int, int] | None,
    evaluation: Evaluation,
    analysis: Analysis,
    entries: Sequence[Mapping[str, Any]],
    parameters: int,
    memory: float | None,
) -> None:
    """Notes what a run gave; the detections first, so that a run with an outcome is complete.

    Args:
        folder: the run's.
        model: the weight file that was evaluated.
        stamp: of this file, before it was read.
        evaluation: of its detections.
        analysis: likewise.
        entries: these detections, with the ids of the data set's own files.
        parameters: number of the model's.
        memory: in GB; None where it is not known.
    """
    write_json(folder / DETECTIONS, list(entries))
    own = Path(model).parent.resolve() == folder.resolve()  # which goes with the folder where that is moved to
    content = {
        "model": Path(model).name if own else model,
        "is_own": own,
        "stamp": stamp,
        "evaluation": evaluation.to_json(),
        "thresholds": {str(entry.id): entry.threshold for entry in analysis.classes},
        "errors": [asdict(entry) for entry in analysis.images],
        "parameters": parameters,
        "memory_gb": memory,
    }
    write_json(folder / OUTCOME, content)


def stamp_of(file: str | Path) -> tuple[int, int] | None:
    """Size and time of a file; None where there is none."""
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def read_outcome(folder: Path) -> Outcome | None:
    """What a run left; None where it is not at its end, or its files are damaged."""
    try:
        content = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        if "problem" in content:
            return Outcome(problem=str(content["problem"]))
        return Outcome(
            model=str(folder / content["model"]) if content.get("is_own") else content["model"],
            stamp=tuple(content["stamp"]),
            evaluation=Evaluation.from_json(content["evaluation"]),
            thresholds={int(number): value for number, value in content["thresholds"].items()},
            errors=tuple(map(_image_errors, content["errors"])),
            parameters=content["parameters"],
            memory=content["memory_gb"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _image_errors(content: dict[str, Any]) -> ImageErrors:
    marks = tuple(Mark(**{**mark, "bbox": tuple(mark["bbox"])}) for mark in content["marks"])
    return ImageErrors(**{**content, "marks": marks})
