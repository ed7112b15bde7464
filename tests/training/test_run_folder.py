"""The files of a run: never lost, never half written."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

import detrkit
from detrkit.commands.train import typed_settings
from detrkit.data import read_digits
from detrkit.errors import ConfigurationError
from detrkit.models.catalog import CATALOG, changed_config
from detrkit.models.detr import Config
from detrkit.training import run_folder
from detrkit.training.options import resolve
from detrkit.training.resuming import check_same_data
from detrkit.training.run_folder import (
    RunFolder,
    append_to_log,
    create,
    read_log,
    remove_earlier_demo,
    reopen,
)
from detrkit.training.training_options import TrainingOptions


def options(folder: Path) -> TrainingOptions:
    return TrainingOptions(variant="detr-compact", data="digits", output=str(folder))


def test_the_log_grows_and_an_interrupted_epoch_is_replaced(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    append_to_log(log, {"epoch": 1.0, "loss": 3.0})
    append_to_log(log, {"epoch": 2.0, "loss": 2.0, "AP": 0.5})
    append_to_log(log, {"epoch": 2.0, "loss": 1.0})
    assert read_log(log) == [{"epoch": 1.0, "loss": 3.0}, {"epoch": 2.0, "loss": 1.0}]


def test_options_come_back(tmp_path: Path) -> None:
    data = read_digits("val", images=2, size=64)
    folder = create(options(tmp_path / "run"), data)
    with pytest.raises(ConfigurationError, match="ended before the first one was written"):
        reopen(folder.path)
    create(options(tmp_path / "run"), data)  # a run without a checkpoint may start again
    folder.state.write_text("")
    assert reopen(folder.path)[1] == options(tmp_path / "run")
    with pytest.raises(ConfigurationError, match="holds a run already"):
        create(options(tmp_path / "run"), data)


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_models_without_a_checkpoint_are_not_overwritten(tmp_path: Path, name: str) -> None:
    """The state of a finished run is large, and some delete it."""
    data = read_digits("val", images=2, size=64)
    folder = create(options(tmp_path / "run"), data)
    before = folder.config.read_bytes()
    (folder.path / name).write_text("a model")
    with pytest.raises(ConfigurationError) as caught:
        create(dataclasses.replace(options(tmp_path / "run"), seed=5), data)
    assert str(caught.value) == f"{folder.path} holds models of an earlier run: choose another --output"
    assert folder.config.read_bytes() == before
    remove_earlier_demo(folder.path)
    remove_earlier_demo(folder.path)  # the first call must not mark the folder as a demo's
    assert (folder.path / name).read_text() == "a model"


def test_runs_that_start_in_the_same_second_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Stopped:
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "datetime", Stopped)
    unnamed = TrainingOptions(variant="detr-compact", data="digits")
    data = read_digits("val", images=2, size=64)
    names = [create(unnamed, data).path for _ in range(3)]
    first = "detr-compact-2026-01-02-030405"
    assert names == [Path("runs") / name for name in (first, f"{first}-2", f"{first}-3")]
    assert all((path / "config.json").is_file() for path in names)


def changed_run(folder: Path, **changes: Any) -> Path:
    """A run with a checkpoint, whose config.json was changed afterwards."""
    run = create(options(folder), read_digits("val", images=2, size=64))
    content = json.loads(run.config.read_text())
    content["options"] |= changes
    run.config.write_text(json.dumps(content))
    run.state.write_text("")
    return run.path


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"momentum": 0.9}, "the option 'momentum'"),
        ({"variant": "detr-imaginary"}, "the variant 'detr-imaginary'"),
        ({"settings": {"queries": 5, "wings": 2}}, "the setting 'wings'"),
    ],
)
def test_what_this_version_does_not_know_is_named(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    path = changed_run(tmp_path / "run", **changes)
    with pytest.raises(ConfigurationError) as caught:
        reopen(path)
    assert f"config.json has {what}, which detrkit {detrkit.__version__} does not know" in str(caught.value)
    assert f"the detrkit that began it ({detrkit.__version__}), or start a new run" in str(caught.value)


@pytest.mark.parametrize("settings", [{"heads": 8}, {"classes": 3}, {"heads": 8, "wings": 2}])
def test_a_run_with_the_old_names_of_settings_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = changed_run(tmp_path / "run", settings=settings)
    with pytest.raises(ConfigurationError, match="begun with an older detrkit, whose parameters had other names"):
        reopen(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"options": 3}', '{"options": {"variant": "detr-r50"}}'])
def test_a_folder_without_a_readable_configuration_is_no_run(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not the folder of a run"):
        reopen(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"not the folder of a run"):
        reopen(tmp_path)


def test_other_data_are_refused(tmp_path: Path) -> None:
    folder = create(options(tmp_path / "run"), read_digits("val", images=2, size=64))
    check_same_data(folder, read_digits("val", images=2, size=64))
    with pytest.raises(ConfigurationError) as caught:
        check_same_data(folder, read_digits("val", images=3, size=64))
    assert str(caught.value) == (
        f"{folder.path} began with other images than digits val has now: bring the old data back (if they were moved, give data), or start a "
        "new run"
    )


@dataclasses.dataclass(frozen=True)
class Sized(Config):
    """A configuration with settings that are tuples."""

    sizes: tuple[int, ...] = (1, 2)
    span: tuple[float, float] | None = None


@pytest.fixture
def sized(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a variant with this configuration."""
    monkeypatch.setitem(CATALOG, "sized", dataclasses.replace(CATALOG["detr-compact"], config=Sized()))
    return "sized"


def test_tuples_survive_a_resume(tmp_path: Path, sized: str) -> None:
    settings = {"sizes": (3, 5, 7), "span": (0.5, 2.0)}
    given = resolve(TrainingOptions(variant=sized, data="digits", output=str(tmp_path / "run"), settings=settings))
    folder = create(given, read_digits("val", images=2, size=64))
    folder.state.write_text("")
    again = reopen(folder.path)[1]
    assert again == given
    config = changed_config(CATALOG[sized].config, again.settings)
    assert (config.sizes, config.span) == ((3, 5, 7), (0.5, 2.0))


def test_tuples_are_lists_on_the_command_line(sized: str) -> None:
    assert typed_settings(sized, {"sizes": "3, 5,7", "span": "0.5,2"}) == {"sizes": (3, 5, 7), "span": (0.5, 2.0)}
    assert typed_settings(sized, {"sizes": "3", "span": "none"}) == {"sizes": (3,), "span": None}
    with pytest.raises(ConfigurationError) as caught:
        typed_settings(sized, {"sizes": "3,x"})
    assert str(caught.value) == "--settings.sizes must be of type comma-separated list (int, ...), not '3,x'"
    with pytest.raises(ConfigurationError) as caught:
        typed_settings(sized, {"span": "1,2,3"})
    assert (
        str(caught.value) == "--settings.span must be of type comma-separated list (float, float) or none, not '1,2,3'"
    )


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


def test_what_killed_processes_left_goes_also_from_charts_and_pictures(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for place, name in ((tmp_path, "resume.ckpt"), (folder.charts, "errors.png"), (folder.pictures, "example_1.jpg")):
        place.mkdir(exist_ok=True)
        stem, ending = name.split(".")
        (place / name).touch()
        (place / f".{stem}-{'a' * 16}.{ending}").touch()
    folder.remove_unfinished()
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"resume.ckpt", "charts/errors.png", "pictures/example_1.jpg"}
