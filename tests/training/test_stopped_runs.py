"""A run that is stopped, or cannot write its files: what is kept, what is said, and how it goes on."""

from __future__ import annotations

import errno
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from rich.console import Console
from training.small_runs import SMALL, check_same_run, rows, run

import detrkit
from detrkit.errors import OutputError
from detrkit.training import epochs
from detrkit.training.module import TrainingModule
from detrkit.training.result import TrainingResult
from detrkit.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports and their charts have tests of their own."""
    monkeypatch.setattr(
        "detrkit.training.run.write_everything", lambda folder, *_: TrainingResult(folder.path, folder.best, None)
    )
    monkeypatch.setattr("detrkit.training.run.write_without_evaluation", lambda *_: None)


def test_a_stop_in_the_middle_of_an_epoch_says_so(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingModule.training_step

    def stopped(self: TrainingModule, batch: Any, index: int) -> Any:
        if self.global_step == 2:
            raise KeyboardInterrupt
        return step(self, batch, index)

    text, options = io.StringIO(), SMALL | {"batch_size": 3, "epochs": 2, "checkpoint_minutes": 1e-6}
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            detrkit.train(
                "detr-compact",
                digits_folder,
                output=tmp_path / "run",
                console=Console(file=text, width=2000),
                **options,
            )
    assert "Stopped; kept up to step 2, in epoch 1 of 2. Continue with: detrkit train --resume" in text.getvalue()
    assert not (tmp_path / "run" / "log.csv").exists()
    detrkit.train(resume=tmp_path / "run", console=Console(file=io.StringIO()))
    assert [row["step"] for row in rows(tmp_path / "run")] == ["4.0", "8.0"]


class FullDisk:
    """Lets checkpoints fail at some calls."""

    def __init__(self, calls: set[int]) -> None:
        self.calls, self.made = calls, 0
        self._write = TorchCheckpointIO.save_checkpoint

    def save_checkpoint(self, *arguments: Any) -> None:
        self.made += 1
        if self.made in self.calls:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write(*arguments)


def with_full_disk(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
    disk = FullDisk(calls)
    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", lambda *arguments: disk.save_checkpoint(*arguments))


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        with_full_disk(patch, {3, 4})  # after the second epoch; and of the third one, the last
        with pytest.raises(OutputError) as caught:
            run(digits_folder, folder, epochs=3)
    assert str(caught.value) == (
        f"{folder / 'resume.ckpt'} cannot be written (No space left on device): make room or correct permissions, and go on from the "
        "last checkpoint with --resume"
    )
    assert torch.load(folder / "resume.ckpt", weights_only=True)["global_step"] == 3
    run(digits_folder, tmp_path / "whole", epochs=3)
    detrkit.train(resume=folder, console=Console(file=io.StringIO()))
    check_same_run(tmp_path / "whole", folder)


def test_training_goes_on_after_a_checkpoint_that_could_not_be_written(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_full_disk(monkeypatch, {2})
    _, printed = run(digits_folder, tmp_path / "run", epochs=2)
    assert (
        f"Warning: {tmp_path / 'run' / 'resume.ckpt'} cannot be written (No space left on device). Training goes on and tries again later"
        in printed.replace("\n", " ")
    )
    assert torch.load(tmp_path / "run" / "resume.ckpt", weights_only=True)["global_step"] == 6


def test_a_log_that_could_not_be_written_is_complete_later(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, calls = epochs.append_to_log, [0]

    def failing(path: Path, row: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise OutputError(f"{path} cannot be written (Read-only file system): choose another path")
        append(path, row)

    monkeypatch.setattr(epochs, "append_to_log", failing)
    _, printed = run(digits_folder, tmp_path / "run", epochs=3)
    assert printed.count("Warning: ") == 1
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["1.0", "2.0", "3.0"]


def test_a_folder_that_was_removed_ends_the_run(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingModule.training_step

    def removing(self: TrainingModule, batch: Any, index: int) -> Any:
        if self.global_step == 4:
            shutil.rmtree(tmp_path / "run")
        return step(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", removing)
    with pytest.raises(OutputError, match="was removed or renamed while it was at work: train again"):
        run(digits_folder, tmp_path / "run", epochs=3)
    assert not RunFolder(tmp_path / "run").state.exists()
