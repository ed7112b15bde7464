"""The files of a run: never lost, never half written."""

from __future__ import annotations

from pathlib import Path

import pytest

from detrkit.data import read_digits
from detrkit.errors import ConfigurationError
from detrkit.training.options import TrainingOptions
from detrkit.training.run_folder import (
    append_to_log,
    check_same_data,
    create,
    read_log,
    remove_earlier_demo,
    reopen,
)


def options(folder: Path) -> TrainingOptions:
    return TrainingOptions(variant="detr-compact", data="digits", output=str(folder))


def test_the_log_grows_and_a_broken_off_epoch_gives_way(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    append_to_log(log, {"epoch": 1.0, "loss": 3.0})
    append_to_log(log, {"epoch": 2.0, "loss": 2.0, "AP": 0.5})
    append_to_log(log, {"epoch": 2.0, "loss": 1.0})
    assert read_log(log) == [{"epoch": 1.0, "loss": 3.0}, {"epoch": 2.0, "loss": 1.0}]


def test_options_come_back(tmp_path: Path) -> None:
    data = read_digits("val", images=2, size=64)
    folder = create(options(tmp_path / "run"), data)
    with pytest.raises(ConfigurationError, match="first epoch was not finished"):
        reopen(folder.path)
    create(options(tmp_path / "run"), data)  # what did not get to a checkpoint may begin again
    folder.state.write_text("")
    assert reopen(folder.path)[1] == options(tmp_path / "run")
    with pytest.raises(ConfigurationError, match="holds a run already"):
        create(options(tmp_path / "run"), data)


def test_other_data_are_refused(tmp_path: Path) -> None:
    folder = create(options(tmp_path / "run"), read_digits("val", images=2, size=64))
    check_same_data(folder, read_digits("val", images=2, size=64))
    with pytest.raises(ConfigurationError, match="began with other images"):
        check_same_data(folder, read_digits("val", images=3, size=64))


def test_only_a_demo_is_replaced_by_a_demo(tmp_path: Path) -> None:
    data = read_digits("val", images=2, size=64)
    folder = create(options(tmp_path / "own"), data)
    folder.state.write_text("")
    remove_earlier_demo(folder.path)
    assert folder.config.exists()
    assert folder.state.exists()
    remove_earlier_demo(tmp_path / "demo")
    demo = create(options(tmp_path / "demo"), data)
    demo.state.write_text("")
    (demo.path / "notes.txt").write_text("mine")
    remove_earlier_demo(demo.path)
    assert not demo.state.exists()
    assert (demo.path / "notes.txt").read_text() == "mine"
