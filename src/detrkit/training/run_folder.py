"""The folder of a run: what was asked for, what came of it, and all that is needed to go on."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import platform
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning
import torch
import torchvision

import detrkit
from detrkit.data import DetectionDataset
from detrkit.errors import ConfigurationError
from detrkit.files import prepare_folder, write_json, write_text
from detrkit.training.options import TrainingOptions


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """Every option with its value, and the versions that ran."""
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        """One line for every epoch."""
        return self.path / "log.csv"

    @property
    def metrics(self) -> Path:
        """Figures of the best and the last epoch."""
        return self.path / "metrics.json"

    @property
    def best(self) -> Path:
        """The model with the highest AP so far."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """The model as it is after the last epoch."""
        return self.path / "last.safetensors"

    @property
    def state(self) -> Path:
        """Weights, optimizer and counters: what `resume` goes on from."""
        return self.path / "resume.ckpt"

    @property
    def curves(self) -> Path:
        """Losses and figures over the epochs."""
        return self.path / "curves.png"

    @property
    def pictures(self) -> Path:
        """Predictions beside the ground truth."""
        return self.path / "pictures"

    @property
    def report(self) -> Path:
        """Curves, figures and pictures on one page."""
        return self.path / "report.html"


def create(options: TrainingOptions, training: DetectionDataset) -> RunFolder:
    """A folder that is proven to be writable, with the configuration in it.

    Args:
        options: resolved.
        training: what is learned from; its classes are noted, so that resuming can see that they are still the same.

    Raises:
        ConfigurationError: the folder holds a run that can be gone on with.
        OutputError: it cannot be written.
    """
    if options.output is not None:
        folder = RunFolder(Path(options.output))
    else:
        stamp = datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
        folder = RunFolder(Path("runs") / f"{options.variant}-{stamp}")
    prepare_folder(folder.path)
    if folder.state.exists():
        raise ConfigurationError(
            f"{folder.path} holds a run already: go on with it (resume), or choose another --output"
        )
    versions = {
        "detrkit": detrkit.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
    }
    content = {"options": dataclasses.asdict(options), "versions": versions, "learned_from": _learned_from(training)}
    write_json(folder.config, content)
    return folder


def _learned_from(training: DetectionDataset) -> dict[str, Any]:
    return {"images": len(training), "classes": [category.name for category in training.categories]}


def check_same_data(folder: RunFolder, training: DetectionDataset) -> None:
    """Refuses to go on with a run on other data than it began with.

    Raises:
        ConfigurationError: other classes or another number of images.
    """
    before, now = json.loads(folder.config.read_text(encoding="utf-8")).get("learned_from"), _learned_from(training)
    for name in ("classes", "images"):
        if before is not None and before[name] != now[name]:
            raise ConfigurationError(
                f"{folder.path} began with other {name} than {training.name} has now: train anew, or bring the old data back"
            )


def remove_earlier_demo(path: Path) -> None:
    """Clears an earlier demo out of a folder, and marks the folder as one for demos; any other run is left as it is."""
    folder, mark = RunFolder(path), path / "demo"
    if mark.is_file():
        files = [folder.log, folder.metrics, folder.best, folder.last, folder.state, folder.report, folder.curves]
        for file in (*files, *folder.pictures.glob("*.png"), *folder.path.glob("tensorboard/events.*"), folder.config):
            file.unlink(missing_ok=True)
    elif not folder.state.exists():
        write_text(mark, "made by detrkit demo, which replaces it\n")


def reopen(path: str | Path) -> tuple[RunFolder, TrainingOptions]:
    """A run's folder and its options, to go on with.

    Raises:
        ConfigurationError: there is no run, or none that got as far as its first checkpoint.
    """
    folder = RunFolder(Path(path))
    try:
        content = json.loads(folder.config.read_text(encoding="utf-8"))
        options = TrainingOptions(**content["options"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ConfigurationError(
            f"{path} is not the folder of a run (no readable config.json): give the folder that training made"
        ) from problem
    if not folder.state.is_file():
        raise ConfigurationError(
            f"{path} has nothing to go on from, since its first epoch was not finished: train anew"
        )
    return folder, options


def append_to_log(path: Path, row: Mapping[str, Any]) -> None:
    """Adds an epoch to the log; lines of this or a later epoch, left by a run that was broken off, give way.

    Args:
        path: the CSV file.
        row: column to value; `epoch` is one of them. Columns may come and go.
    """
    rows = [earlier for earlier in read_log(path) if earlier["epoch"] < row["epoch"]]
    rows.append(dict(row))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for each in rows for name in each)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_log(path: Path) -> list[dict[str, float]]:
    """The epochs of a log; empty cells are left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
