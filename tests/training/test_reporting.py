"""Reports of runs that are finished or were stopped, with and without their data."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from training.small_runs import SMALL, run

import detrkit
from detrkit.cards import Category
from detrkit.errors import ConfigurationError
from detrkit.panoptic import PanopticSegmentation, Segment
from detrkit.prediction import write_panoptic
from detrkit.training.module import TrainingModule
from detrkit.training.reporting import report_again

pytestmark = pytest.mark.reports


def again(folder: Path, **options: Any) -> tuple[Any, str]:
    text = io.StringIO()
    return report_again(folder, console=Console(file=text, width=300), **options), text.getvalue()


def test_a_finished_run_gets_its_report_again_and_one_without_its_data(digits_folder: Path, tmp_path: Path) -> None:
    data, folder = shutil.copytree(digits_folder, tmp_path / "data"), tmp_path / "run"
    first, _ = run(data, folder, epochs=1)
    weights = (folder / "last.safetensors").read_bytes()
    for path in ("report.html", "curves.png", "charts/training_loss.png", "pictures/example_1.jpg"):
        (folder / path).unlink()
    second, _ = again(folder)
    assert second.evaluation.figures == first.evaluation.figures
    assert (folder / "curves.png").is_file()
    assert (folder / "charts" / "training_loss.png").is_file()
    assert (folder / "pictures" / "example_1.jpg").is_file()
    assert (folder / "last.safetensors").read_bytes() == weights
    text = (folder / "report.html").read_text()
    assert "random weights" in text
    assert "finished after 1 epoch, 3 steps" in text

    shutil.move(data, tmp_path / "moved")
    third, printed = again(folder)
    assert third.evaluation is None
    assert f"Note: {folder} was trained on {data}, which does not exist" in printed
    assert (folder / "report_earlier.html").read_text() == text
    short = (folder / "report.html").read_text()
    assert ">Figures</a>" in short  # that were measured when the data were there
    assert ">Data</a>" not in short
    fourth, _ = again(folder, data=tmp_path / "moved")
    assert fourth.evaluation.figures == first.evaluation.figures


def test_a_stopped_run_has_a_report_of_what_was_done(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingModule.training_step

    def interrupted(self: TrainingModule, batch: Any, index: int) -> Any:
        if self.global_step == 4:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", interrupted)
    text, folder = io.StringIO(), tmp_path / "run"
    options = SMALL | {"epochs": 3, "evaluate_every": 3}
    with pytest.raises(KeyboardInterrupt):
        detrkit.train(
            "detr-compact", digits_folder, output=str(folder), console=Console(file=text, width=300), **options
        )
    lines = text.getvalue().splitlines()
    assert lines[-2] == f"Stopped; kept up to the end of epoch 1 of 3. Continue with: detrkit train --resume {folder}"
    assert lines[-1].startswith(f"Report so far: {folder / 'report.html'}")
    assert "not finished: 1 of 3 epochs done" in (folder / "report.html").read_text()
    assert (folder / "curves.png").is_file()
    (session,) = json.loads((folder / "config.json").read_text())["sessions"]
    assert session["ended"] >= session["began"]


def test_folders_that_have_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is not the folder of a run \(no readable config\.json\)"):
        again(tmp_path)


def panoptic_data(folder: Path) -> Path:
    """A square on grass in each of four pictures, two of which are for validation."""
    categories = (Category(1, "square", 0), Category(193, "grass", 1, thing=False))
    for split, first in (("train", 1), ("val", 3)):
        (folder / split).mkdir(parents=True)
        images = []
        for number in (first, first + 1):
            ids = np.full((48, 64), 2, dtype=np.int32)
            ids[8 * number : 8 * number + 10, 20:40] = 1
            segments = tuple(
                Segment(place, category, int((ids == place).sum()))
                for place, category in enumerate(categories, start=1)
            )
            images.append((number, f"{number}.png", PanopticSegmentation(ids, segments)))
            colors = np.where(ids[..., None] == 1, np.uint8(220), np.uint8(60)).repeat(3, axis=2)
            Image.fromarray(colors).save(folder / split / f"{number}.png")
        write_panoptic(folder / "annotations" / f"panoptic_{split}.json", images, categories)
    return folder


def test_a_run_on_segments_reports_their_quality_also_without_its_data(tmp_path: Path) -> None:
    data, folder = panoptic_data(tmp_path / "data"), tmp_path / "run"
    options = SMALL | {"epochs": 1, "settings": {}}
    detrkit.train("detr-compact-panoptic", data, output=str(folder), console=Console(file=io.StringIO()), **options)
    measured = json.loads((folder / "metrics.json").read_text())["panoptic"]
    assert measured["images"] == 2
    assert {"mask_AP", "PQ"} <= json.loads((folder / "metrics.json").read_text())["last"].keys()
    assert (folder / "charts" / "training_PQ.png").is_file()
    assert [entry["name"] for entry in measured["classes"]] == ["square", "grass"]
    report = (folder / "report.html").read_text()
    assert "PQ, stuff" in report
    assert "<td" in report.partition("class, lowest PQ first")[2]
    shutil.move(data, tmp_path / "moved")
    again(folder)
    assert "PQ, stuff" in (folder / "report.html").read_text()
