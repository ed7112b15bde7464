"""Training runs that take seconds."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import detrkit
from detrkit.training.reporting import best_of
from detrkit.training.result import TrainingResult
from detrkit.training.run_folder import RunFolder

SMALL: dict[str, Any] = {
    "short_side": 64,
    "long_side": 64,
    "batch_size": 4,
    "flip": 0.0,
    "settings": {"queries": 8, "width": 32, "hidden": 32, "encoder_layers": 1, "decoder_layers": 2, "dropout": 0.1},
}


# A model that draws noise in training, in addition to dropout.
NOISY: dict[str, Any] = {
    "variant": "light-detr-compact",
    "settings": {**SMALL["settings"], "width": 64, "denoising": 8},
}


def run(data: Path, output: Path, variant: str = "detr-compact", **options: Any) -> tuple[Any, str]:
    text = io.StringIO()
    result = detrkit.train(variant, data, output=str(output), console=Console(file=text, width=200), **SMALL | options)
    return result, text.getvalue()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets runs end without their reports, which take most of the time of a small run."""

    def end(folder: RunFolder, *_: Any) -> TrainingResult:
        folder.report.write_text("")
        return TrainingResult(folder.path, best_of(folder), None)

    monkeypatch.setattr("detrkit.training.run.write_everything", end)
