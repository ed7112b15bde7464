"""Training runs that take seconds."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

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


def check_same_run(whole: Path, other: Path) -> None:
    """Models, optimizer, log and figures are the same, but for the clock."""
    for name in ("last", "best"):
        first, second = (load_file(folder / f"{name}.safetensors") for folder in (whole, other))
        assert list(first) == list(second)
        assert all(torch.equal(first[key], second[key]) for key in first)
    clock = {"seconds": "", "images_per_second": ""}
    assert [row | clock for row in rows(whole)] == [row | clock for row in rows(other)]
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (whole, other)]
    assert [entry | clock for entry in figures[0].values()] == [entry | clock for entry in figures[1].values()]
    states = [torch.load(folder / "resume.ckpt", weights_only=True) for folder in (whole, other)]
    moments = [state["optimizer_states"][0]["state"] for state in states]
    assert all(
        torch.equal(moments[0][key][name], moments[1][key][name]) for key in moments[0] for name in moments[0][key]
    )
    assert states[0]["lr_schedulers"] == states[1]["lr_schedulers"]


def without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets runs end without their reports, which take most of the time of a small run."""

    def end(folder: RunFolder, *_: Any) -> TrainingResult:
        folder.report.write_text("")
        return TrainingResult(folder.path, best_of(folder), None)

    monkeypatch.setattr("detrkit.training.run.write_everything", end)
