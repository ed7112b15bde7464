"""Weights & Biases and MLflow themselves, where they are installed (`pip install '.[wandb,mlflow]'`): without a network, in a run's folder."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from training.small_runs import rows, run, without_reports

import detrkit


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No project, server or network of whoever runs the tests."""
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(variable, "")  # so that the end of the test undoes whatever happens to it
        monkeypatch.delenv(variable)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    without_reports(monkeypatch)


def mlflow_runs(folder: Path) -> list[Any]:
    """What MLflow has in a run's folder."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{(folder / 'mlflow' / 'mlflow.db').as_posix()}")
    experiments = [each.experiment_id for each in client.search_experiments() if each.name == "detrkit"]
    return list(client.search_runs(experiments))


def test_mlflow_has_every_run_in_its_own_folder(digits_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs MLflow: pip install '.[mlflow]'")
    from mlflow.tracking import MlflowClient

    for name in ("first", "second"):  # in one process
        run(digits_folder, tmp_path / name, epochs=1, loggers=["mlflow"])
    assert "MLFLOW_TRACKING_URI" not in os.environ
    detrkit.train(resume=str(tmp_path / "first"), epochs=2)
    for name in ("first", "second"):
        (found,) = mlflow_runs(tmp_path / name)
        assert (found.info.run_name, found.info.status) == (name, "FINISHED")
        assert found.data.params["variant"] == "detr-compact"
        client = MlflowClient(f"sqlite:///{(tmp_path / name / 'mlflow' / 'mlflow.db').as_posix()}")
        losses = [(each.step, each.value) for each in client.get_metric_history(found.info.run_id, "epoch/loss")]
        assert losses == [(int(float(row["step"])), pytest.approx(float(row["loss"]))) for row in rows(tmp_path / name)]


def test_a_run_without_mlflow_does_not_hand_its_address_on(digits_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs MLflow: pip install '.[mlflow]'")
    folder = tmp_path / "run"
    run(digits_folder, folder, epochs=1, loggers=["mlflow"])
    (folder / "loggers.json").write_text(json.dumps({"mlflow": "a run that is not there"}))
    text = io.StringIO()
    detrkit.train(resume=str(folder), epochs=2, console=Console(file=text, width=200))
    assert "Note: mlflow does not start" in text.getvalue()
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_wandb_goes_on_with_the_run(digits_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs Weights & Biases: pip install '.[wandb]'")
    folder = tmp_path / "run"
    run(digits_folder, folder, epochs=1, loggers=["wandb"])
    identity = json.loads((folder / "loggers.json").read_text())["wandb"]
    assert written(folder) == [identity]
    detrkit.train(resume=str(folder), epochs=2)
    assert written(folder) == [identity, identity]
    run(digits_folder, tmp_path / "another", epochs=1, loggers=["wandb"])
    assert written(folder) == [identity, identity]
    (other,) = written(tmp_path / "another")
    assert other != identity


def written(folder: Path) -> list[str]:
    """The runs that Weights & Biases has written into a run's folder, by their identities."""
    return [file.stem.removeprefix("run-") for file in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))]
