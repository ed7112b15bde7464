"""Runs of a comparison in this process, a quiet console, and the images that all are compared on."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
from rich.console import Console
from training.small_runs import without_reports

from detrkit.comparison import process
from detrkit.comparison.outcome import write_failure
from detrkit.comparison.plan import validation_of
from detrkit.data import DetectionDataset
from detrkit.errors import DetrkitError


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


@pytest.fixture
def dataset(digits_folder: Path) -> DetectionDataset:
    return validation_of(str(digits_folder), {})
