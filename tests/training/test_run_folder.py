"""The files of a run: never lost, never half written."""

from __future__ import annotations

from pathlib import Path

import pytest

from detrkit.errors import ConfigurationError
from detrkit.training.options import TrainingOptions
from detrkit.training.run_folder import append_to_log, create, read_log, remove_earlier, reopen


def options(folder: Path) -> TrainingOptions:
    return TrainingOptions(variant="detr-compact", data="digits", output=str(folder))


def test_the_log_grows_and_a_broken_off_epoch_gives_way(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    append_to_log(log, {"epoch": 1.0, "loss": 3.0})
    append_to_log(log, {"epoch": 2.0, "loss": 2.0, "AP": 0.5})
    append_to_log(log, {"epoch": 2.0, "loss": 1.0})
    assert read_log(log) == [{"epoch": 1.0, "loss": 3.0}, {"epoch": 2.0, "loss": 1.0}]


def test_options_come_back(tmp_path: Path) -> None:
    folder = create(options(tmp_path / "run"))
    with pytest.raises(ConfigurationError, match="first epoch was not finished"):
        reopen(folder.path)
    folder.state.write_text("")
    assert reopen(folder.path)[1] == options(tmp_path / "run")


def test_only_an_earlier_run_of_the_same_kind_is_removed(tmp_path: Path) -> None:
    folder = create(options(tmp_path / "run"))
    (folder.path / "notes.txt").write_text("mine")
    remove_earlier(folder.path, variant="detr-r50", data="digits")
    assert folder.config.exists()
    remove_earlier(folder.path, variant="detr-compact", data="digits")
    assert not folder.config.exists()
    assert (folder.path / "notes.txt").read_text() == "mine"
    remove_earlier(tmp_path / "nothing", variant="detr-compact", data="digits")
