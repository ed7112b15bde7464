"""A run that is stopped, or cannot write its files: what is kept, what is said, and how it goes on."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from training.small_runs import SMALL, check_same_run, rows, run

import detrkit
from detrkit.checkpoints.own_format import Snapshot
from detrkit.errors import OutputError
from detrkit.training import epochs
from detrkit.training.keeping import StateFile
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
        self._write = torch.save

    def save(self, *arguments: Any) -> None:
        self.made += 1
        if self.made in self.calls:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write(*arguments)


def with_full_disk(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
    disk = FullDisk(calls)
    monkeypatch.setattr(torch, "save", disk.save)


def test_checkpoints_take_room_where_they_lie_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the folder for temporary files were full.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    file, content = StateFile(), {"state_dict": {"weight": torch.arange(3.0)}, "epoch": 2}
    file.save_checkpoint(content, tmp_path / "resume.ckpt")
    assert file.problem is None
    stored = torch.load(tmp_path / "resume.ckpt", weights_only=True)
    assert stored["epoch"] == 2
    torch.testing.assert_close(stored["state_dict"]["weight"], torch.arange(3.0), rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["resume.ckpt"]


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


@contextlib.contextmanager
def no_file_grows() -> Iterator[None]:
    """As on a full disk: whoever writes, in Python or not, gets an error from the system, and finds an empty file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def full_from(monkeypatch: pytest.MonkeyPatch, data: Path, folder: Path, first: int, **options: Any) -> tuple[str, str]:
    """Trains on a disk that is full from some step on; returns the error, and what was printed."""
    text, step = io.StringIO(), TrainingModule.training_step
    with monkeypatch.context() as patch, contextlib.ExitStack() as disk:

        def filling(self: TrainingModule, batch: Any, index: int) -> Any:
            if self.global_step == first:
                disk.enter_context(no_file_grows())
            return step(self, batch, index)

        patch.setattr(TrainingModule, "training_step", filling)
        with pytest.raises(OutputError) as caught:
            detrkit.train(
                "detr-compact", data, output=folder, console=Console(file=text, width=2000), **SMALL | options
            )
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    return str(caught.value), text.getvalue()


@pytest.mark.parametrize("options", [{"epochs": 3}, {"epochs": 9, "patience": 1}], ids=["last epoch", "early stop"])
def test_a_disk_that_is_full_to_the_end(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, int]
) -> None:
    """From the second epoch on; the evaluation after it, as bad as the first one, ends a run of little patience."""
    folder = tmp_path / "run"
    error, printed = full_from(monkeypatch, digits_folder, folder, 4, **options)
    assert error == (
        f"{folder / 'log.csv'} cannot be written (File too large): make room or correct permissions, and go on from the last checkpoint with "
        "--resume"
    )
    assert f"Warning: {folder / 'log.csv'} cannot be written (File too large). Training goes on" in printed
    assert torch.load(folder / "resume.ckpt", weights_only=True)["global_step"] == 3
    assert [row["epoch"] for row in rows(folder)] == ["1.0"]
    detrkit.load(folder / "best.safetensors")
    run(digits_folder, tmp_path / "whole", **options)
    detrkit.train(resume=folder, console=Console(file=io.StringIO()))
    check_same_run(tmp_path / "whole", folder)


def test_a_disk_that_is_full_before_the_first_checkpoint(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder can be used again."""
    folder = tmp_path / "run"
    error, _ = full_from(monkeypatch, digits_folder, folder, 1, epochs=2)
    assert error == (
        f"{folder / 'log.csv'} cannot be written (File too large): make room or correct permissions, and train again"
    )
    assert not RunFolder(folder).holds_models
    run(digits_folder, folder, epochs=2)
    assert len(rows(folder)) == 2


def test_a_best_model_that_could_not_be_written_is_written_later(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not forgotten for a worse one. The loss decides; it falls until the second epoch, and rises from then on."""
    data = without_validation(digits_folder, tmp_path / "data")
    weights = with_losses(monkeypatch, [3.0, 1.0, 2.0])
    save, calls = Snapshot.save, [0]

    def failing(self: Snapshot, path: Path) -> Path:
        calls[0] += 1
        if calls[0] == 2:
            raise OutputError(f"{path} cannot be written (No space left on device): choose another path")
        return save(self, path)

    monkeypatch.setattr(Snapshot, "save", failing)
    monkeypatch.setattr(epochs, "_SAVE_EVERY", 0.0)
    run(data, tmp_path / "run", epochs=3)
    check_best(tmp_path / "run", weights[1], 2.0)


def without_validation(digits: Path, folder: Path) -> Path:
    data = shutil.copytree(digits, folder)
    shutil.rmtree(data / "val")
    (data / "annotations" / "instances_val.json").unlink()
    return data


def with_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> list[dict[str, torch.Tensor]]:
    """Says of epochs that they had these losses; returns the weights at their ends."""
    summary, left, weights = epochs.EpochEnds._summary, iter(losses), []

    def told(self: Any, trainer: Any, module: TrainingModule, *others: Any) -> Any:
        weights.append({name: value.clone() for name, value in module.model.state_dict().items()})
        row, message = summary(self, trainer, module, *others)
        return {**row, "loss": next(left)}, message

    monkeypatch.setattr(epochs.EpochEnds, "_summary", told)
    return weights


def check_best(folder: Path, weights: dict[str, torch.Tensor], epoch: float) -> None:
    kept = load_file(folder / "best.safetensors")
    assert all(torch.equal(kept[name], weights[name]) for name in kept)
    assert json.loads((folder / "metrics.json").read_text())["best"]["epoch"] == epoch


@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["each epoch is saved", "only the first and the last one are"])
def test_the_best_epoch_does_not_depend_on_the_clock(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Without anything to evaluate on, models are written when some time has passed."""
    data = without_validation(digits_folder, tmp_path / "data")
    monkeypatch.setattr(epochs, "_SAVE_EVERY", seconds)
    weights = with_losses(monkeypatch, [3.0, 1.0, 2.0, 2.5])
    run(data, tmp_path / "run", epochs=4)
    check_best(tmp_path / "run", weights[1], 2.0)


def test_a_checkpoint_within_an_epoch_does_not_leave_the_best_model_behind(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third epoch is stopped after a step that was kept; the best one, the second, was not written when it ended."""
    data = without_validation(digits_folder, tmp_path / "data")
    monkeypatch.setattr(epochs, "_SAVE_EVERY", 1e9)
    weights, step = with_losses(monkeypatch, [3.0, 1.0, 2.0]), TrainingModule.training_step

    def stopped(self: TrainingModule, batch: Any, index: int) -> Any:
        if self.global_step == 7:
            raise KeyboardInterrupt
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "run", epochs=3, checkpoint_minutes=1e-6)
    check_best(tmp_path / "run", weights[1], 2.0)
    detrkit.train(resume=tmp_path / "run", console=Console(file=io.StringIO()))
    check_best(tmp_path / "run", weights[1], 2.0)


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
