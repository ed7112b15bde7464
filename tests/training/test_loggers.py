"""Loggers of other tools: checked before anything is read, and given the options and every figure."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers
import pytest
from lightning.pytorch.loggers import Logger
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training.small_runs import run

import detrkit
from detrkit.errors import ConfigurationError, OptionError
from detrkit.training.loggers import check_loggers, end_loggers, start_loggers
from detrkit.training.run_folder import RunFolder
from detrkit.training.training_options import TrainingOptions


class Recorder(Logger):
    """Stands for Lightning's logger of a tool: keeps what arrives."""

    started: list[Recorder] = []  # noqa: RUF012 - of one test

    def __init__(self, *names: str, **given: Any) -> None:
        super().__init__()
        self.given = {**given, "names": names}
        self.options: dict[str, Any] = {}
        self.figures: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        Recorder.started.append(self)

    @property
    def experiment(self) -> Any:
        return self

    def finish(self) -> None:
        self.finished += 1

    @property
    def name(self) -> str:
        return "recorder"

    @property
    def version(self) -> str:
        return self.given.get("id") or self.given.get("run_id") or f"number {len(Recorder.started)}"

    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        self.options = params

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        assert step is not None
        self.figures.append((step, metrics))


class Breaking(Recorder):
    """A tool whose server goes away after the first figures."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        if self.figures:
            raise OSError("no route\nto host")
        super().log_metrics(metrics, step)


class Closed(Recorder):
    """A tool that nobody is logged in to."""

    @property
    def experiment(self) -> Any:
        raise RuntimeError("no API key")


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both packages can be found, and Lightning's loggers of them are recorders."""
    for name in ("wandb", "mlflow"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setattr(Recorder, "started", [])
    monkeypatch.setattr(lightning.pytorch.loggers, "WandbLogger", Recorder)
    monkeypatch.setattr(lightning.pytorch.loggers, "MLFlowLogger", Recorder)
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def options(*names: str) -> TrainingOptions:
    return TrainingOptions("detr-compact", "digits", settings={"queries": 8}, loggers=list(names))


def test_a_package_that_is_missing_is_said_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_loggers(["wandb", "mlflow"])
    (tmp_path / "packages/mlflow/__init__.py").unlink()
    (tmp_path / "packages/mlflow").rmdir()
    monkeypatch.syspath_prepend(str(tmp_path))  # forgets what was found
    with pytest.raises(OptionError) as caught:
        check_loggers(["wandb", "mlflow"])
    assert str(caught.value) == (
        "loggers has mlflow, whose package is not installed: pip install mlflow, or leave it out"
    )
    with pytest.raises(OptionError, match=r"there is no logger 'wandbs' for loggers: did you mean 'wandb'\?"):
        check_loggers(["wandbs"])


def test_tools_get_the_options_and_the_name_of_the_run(folder: RunFolder) -> None:
    wandb, mlflow = start_loggers(options("wandb", "mlflow", "wandb"), folder)
    assert isinstance(wandb, Recorder)
    assert isinstance(mlflow, Recorder)
    assert wandb.given == {"names": (), "name": "run", "project": "detrkit", "save_dir": str(folder.path), "id": None}
    assert mlflow.given == {
        "names": ("detrkit",),
        "run_name": "run",
        "tracking_uri": f"sqlite:///{(folder.path / 'mlflow' / 'mlflow.db').as_posix()}",
        "run_id": None,
        "artifact_location": (folder.path / "mlflow").as_uri(),
    }
    assert wandb.options == mlflow.options == dataclasses.asdict(options("wandb", "mlflow", "wandb"))
    end_loggers([wandb, mlflow])
    assert wandb.finished == 1


def test_an_empty_address_is_none(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    start_loggers(options("mlflow"), folder)
    assert Recorder.started[0].given["tracking_uri"].startswith("sqlite:///")


@pytest.mark.parametrize("name", ["mine?", "100%"])
def test_a_folder_that_mlflow_would_take_for_something_else_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigurationError) as caught:
        start_loggers(options("mlflow"), RunFolder(tmp_path / name))
    place = (tmp_path / name / "mlflow").resolve()
    assert str(caught.value) == (
        f"mlflow does not start (its database cannot lie in {place}, whose name has '{name[-1]}'): "
        "mend that, or train without it (it is in loggers)"
    )
    assert not list((tmp_path / name).iterdir())


def test_variables_name_project_and_server(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "cells")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cells of blood")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    start_loggers(options("wandb", "mlflow"), folder)
    assert Recorder.started[0].given["project"] == "cells"
    assert Recorder.started[1].given["names"] == ("cells of blood",)
    assert Recorder.started[1].given["tracking_uri"] == "http://localhost:5000"


def test_a_resumed_run_goes_on_in_the_same_place(folder: RunFolder) -> None:
    start_loggers(options("wandb"), folder)
    again, added = start_loggers(options("wandb", "mlflow"), folder)
    assert isinstance(again, Recorder)
    assert isinstance(added, Recorder)
    assert (again.given["id"], again.options) == ("number 1", {})  # MLflow refuses to change options
    assert added.options["variant"] == "detr-compact"
    assert json.loads((folder.path / "loggers.json").read_text()) == {"wandb": "number 1", "mlflow": "number 3"}


def test_a_tool_that_does_not_start_ends_the_run_with_a_sentence(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lightning.pytorch.loggers, "WandbLogger", Closed)
    with pytest.raises(ConfigurationError) as caught:
        start_loggers(options("wandb"), folder)
    assert str(caught.value) == ("wandb does not start (no API key): mend that, or train without it (it is in loggers)")


def test_a_run_that_is_resumed_goes_on_without_a_tool_that_does_not_start(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lightning.pytorch.loggers, "WandbLogger", Closed)
    said: list[str] = []
    started = start_loggers(options("wandb", "mlflow"), folder, without=said.append)
    assert said == ["Note: wandb does not start (no API key), so the run goes on without it."]
    assert [type(each) for each in started] == [Recorder]


def test_the_end_of_a_tool_that_fails_is_not_that_of_the_run(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ending(Recorder):
        def finalize(self, status: str) -> None:
            self.finished += 1
            raise OSError(status)

        def finish(self) -> None:
            self.finished += 1
            raise OSError("no route to host")

    monkeypatch.setattr(lightning.pytorch.loggers, "WandbLogger", Ending)
    (logger,) = start_loggers(options("wandb"), folder)
    logger.finalize("success")
    end_loggers([logger])
    assert isinstance(logger, Ending)
    assert logger.finished == 2


def test_a_run_passes_its_figures_on_and_outlives_a_tool(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run of four epochs, with the strongest augmentation; MLflow's server goes away in it."""
    monkeypatch.setattr(lightning.pytorch.loggers, "MLFlowLogger", Breaking)
    monkeypatch.setattr("detrkit.training.run.write_everything", lambda *_: None)  # its report takes longest
    given: dict[str, Any] = {"augmentation": "strong", "epochs": 4, "evaluate_every": 4}
    _, printed = run(digits_folder, tmp_path / "run", **given, loggers=["wandb", "mlflow"])
    wandb, mlflow = Recorder.started
    assert (wandb.options["augmentation"], wandb.options["epochs"]) == ("strong", 4)
    with (tmp_path / "run/log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = [figures for _, figures in wandb.figures if "epoch/epoch" in figures]
    assert [step for step, figures in wandb.figures if "epoch/epoch" in figures] == [3, 6, 9, 12]
    assert len(rows) == len(epochs) == 4
    for row, figures in zip(rows, epochs, strict=True):
        assert {f"epoch/{name}": float(value) for name, value in row.items() if value} == figures
    losses = [(step, figures) for step, figures in wandb.figures if "epoch/epoch" not in figures]
    assert [step for step, _ in losses] == [10]
    assert losses[0][1]["loss"] > 0
    assert len(losses[0][1]) > 3  # its parts
    assert "epoch/AP" in epochs[3]
    assert len(mlflow.figures) == 1
    assert printed.count("Note: Breaking failed (no route to host). The run goes on without it") == 1
    assert wandb.finished == 1


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_epoch_whose_evaluation_was_cut_off_reaches_all_loggers(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    """Also where it was the last one, so that no step is left."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("detrkit.training.epochs.evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            run(digits_folder, folder, epochs=epochs, loggers=["wandb"])
    detrkit.train(resume=folder, console=Console(file=io.StringIO()))
    _, wandb = Recorder.started
    assert [step for step, _ in wandb.figures] == [3, 6][:epochs]
    assert all("epoch/AP" in figures for _, figures in wandb.figures)
    assert points(folder, "epoch/AP") == [(3, 0.0), (6, 0.0)][:epochs]


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    """A curve of TensorBoard."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]
