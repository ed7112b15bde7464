"""A run with everything at once is bit for bit the same when it is resumed, and when its configuration is used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands.running import detrkit_command
from safetensors.torch import load_file
from training.small_runs import NOISY, rows, run, without_reports

import detrkit
from detrkit.errors import CheckpointError
from detrkit.training.module import TrainingModule

EVERYTHING: dict[str, Any] = {
    **NOISY,
    "epochs": 2,
    "ema": 0.9,
    "patience": 5,
    "layer_decay": 0.7,
    "rates": {"offsets": 0.1, "backbone.stem": 0.0},
    "repeat_rare": 0.7,
    "scale_lr": True,
    "schedule": "flat-cosine",
    "drop_after": 0.3,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def whole(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        without_reports(patch)
        return folder, run(digits_folder, folder, **EVERYTHING)[1]


def same(first: Path, second: Path) -> bool:
    """Whether two runs have the same weights, and the same numbers in their logs but for those of the clock."""
    clock = {"images_per_second": "", "seconds": ""}
    if [row | clock for row in rows(first)] != [row | clock for row in rows(second)]:
        return False
    names = ("last.safetensors", "best.safetensors")
    return all(
        torch.equal(tensor, load_file(second / name)[key])
        for name in names
        for key, tensor in load_file(first / name).items()
    )


def test_what_it_says(whole: tuple[Path, str]) -> None:
    folder, printed = whole[0], " ".join(whole[1].split())
    assert ", 0.5 × the recipe's for batches of 4 instead of 16" in printed
    assert "An epoch has 20 images instead of 12: 12 images with rare classes come up to 2.05 times." in printed
    assert [row["step"] for row in rows(folder)] == ["5.0", "10.0"]


def test_what_is_saved_is_the_average(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    saved = load_file(folder / "last.safetensors")
    content = torch.load(folder / "resume.ckpt", weights_only=True)
    average = content["callbacks"]["Averaging"]
    assert int(average["n_averaged"]) == 10
    assert all(torch.equal(tensor, average[f"module.{name}"]) for name, tensor in saved.items())
    assert not all(torch.equal(tensor, content["state_dict"][f"model.{name}"]) for name, tensor in saved.items())
    with pytest.raises(CheckpointError, match="without its card"):
        detrkit.load(folder / "resume.ckpt")
    assert detrkit.load(folder / "last.safetensors").card.metrics["AP"] == float(rows(folder)[-1]["AP"])


def test_a_rate_of_0_leaves_weights_as_they_are(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    content = torch.load(folder / "resume.ckpt", weights_only=True)
    weight, statistics = "backbone.stem.0.0.weight", "backbone.stem.0.1.running_mean"
    saved = load_file(folder / "last.safetensors")
    assert torch.equal(content["state_dict"][f"model.{weight}"], saved[weight])
    assert not torch.equal(content["state_dict"][f"model.{statistics}"], saved[statistics])


def test_it_is_the_same_when_it_is_resumed(
    whole: tuple[Path, str], digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_reports(monkeypatch)
    step = TrainingModule.training_step

    def dying(self: TrainingModule, batch: Any, index: int) -> Any:
        if self.global_step == 7:
            raise RuntimeError("power cut")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            run(digits_folder, tmp_path / "cut", **EVERYTHING)
    assert len(rows(tmp_path / "cut")) == 1
    result = detrkit_command("train", "--resume", tmp_path / "cut", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert same(whole[0], tmp_path / "cut")


def test_it_is_the_same_from_its_configuration(
    whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_reports(monkeypatch)
    folder, _ = whole
    again = detrkit_command("train", "--config", folder, "--output", "again", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert same(folder, tmp_path / "again")
    other = detrkit_command("train", "--config", folder / "config.json", folder=tmp_path)
    assert "holds a run already: continue it with --resume, or choose another --output" in other.stderr
