"""A small model and small data, which most tests of commands need."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from training.small_runs import without_reports

import detrkit
from detrkit.data import read_digits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model for digits, small enough for quick commands."""
    torch.manual_seed(0)
    model = detrkit.build(
        "detr-compact",
        classes=list(read_digits("val", images=1, size=64).categories),
        preprocessing=detrkit.Preprocessing(64, 64),
        queries=6, width=32, hidden=32, encoder_layers=1, decoder_layers=1,
    )  # fmt: skip
    return detrkit.save(model, tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def data(digits_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small data set, which a test may damage."""
    return shutil.copytree(digits_folder, tmp_path / "data")


@pytest.fixture(autouse=True)
def _reports_where_they_are_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for tests of training: the report takes most of the time of a small run."""
    if request.node.get_closest_marker("reports") is None:
        without_reports(monkeypatch)
