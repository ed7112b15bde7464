"""Paths in every option of every command: `~` is the user's folder, and a folder or a name may stand in a file's place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands.running import detrkit_command, refusal

import detrkit
from detrkit.data import read_digits
from detrkit.files import expanded

SMALL = ("--batch-size", 4, "--short-side", 64, "--settings.queries", 5)


@pytest.fixture
def home(digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with data and a model; the working directory is another, empty one."""
    folder = tmp_path / "home"
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    shutil.copytree(digits_folder, folder / "data")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


@pytest.fixture
def model(home: Path) -> detrkit.Detector:
    torch.manual_seed(0)
    categories = list(read_digits("val", images=1, size=64).categories)
    small: dict[str, Any] = {"queries": 5, "width": 32, "hidden": 32, "encoder_layers": 1, "decoder_layers": 1}
    model = detrkit.build("detr-compact", classes=categories, preprocessing=detrkit.Preprocessing(64, 64), **small)
    return detrkit.load(detrkit.save(model, "~/model.safetensors"))


def ran(*arguments: object) -> str:
    result = detrkit_command(*arguments, folder=Path.cwd())
    assert result.returncode == 0, result.stderr
    assert list(Path.cwd().iterdir()) == []
    return result.stdout


@pytest.mark.usefixtures("model")
def test_every_option_of_the_commands(home: Path) -> None:
    files = {name: f"~/out/{name}" for name in ("figures.json", "results.json", "report.html")}
    ran("evaluate", "~/model.safetensors", "--data", "~/data", "--output", files["figures.json"], "--results",
        files["results.json"], "--report", files["report.html"])  # fmt: skip
    assert {file.name for file in (home / "out").iterdir()} == set(files)
    ran(
        "evaluate", files["results.json"], "--data", "~/data/annotations/instances_val.json", "--output", "~/again.json"
    )
    figures = [json.loads((home / name).read_text())["figures"] for name in ("out/figures.json", "again.json")]
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)
    ran("predict", "~/model.safetensors", "~/data/val/0001.png", "~/data/val/*2.png", "--output", "~/found")
    assert {file.name for file in (home / "found").iterdir()} == {
        "0001.png",
        "0002.png",
        "detections.json",
        "images.json",
    }
    ran("convert", "~/data", "--to", "yolo", "--output", "~/yolo")
    assert (home / "yolo" / "data.yaml").is_file()
    ran("train", "detr-compact", "--data", "~/data", "--output", "~/run", "--epochs", 1, *SMALL)
    assert (home / "run" / "best.safetensors").is_file()
    ran("train", "--resume", "~/run", "--data", "~/data", "--epochs", 2)
    assert (home / "run" / "log.csv").read_text().count("\n") == 3
    dab = ("dab-detr-compact", "--data", "~/data", "--steps", 1, *SMALL)
    ran("train", *dab, "--output", "~/first")
    ran("train", *dab, "--output", "~/second", "--queries-from", "~/first/last.safetensors")
    assert (home / "second" / "last.safetensors").is_file()
    torch.save(
        {f"module.{name}": tensor for name, tensor in detrkit.load("~/run").backbone.state_dict().items()},
        home / "backbone.pth",
    )
    ran(
        "train",
        "detr-compact",
        "--data",
        "~/data",
        "--steps",
        1,
        *SMALL,
        "--output",
        "~/third",
        "--backbone-weights",
        "~/backbone.pth",
    )


@pytest.mark.slow
@pytest.mark.reports
def test_the_demo(home: Path) -> None:
    assert "is a folder" not in ran("demo", "--output", "~/demo", "--steps", 1)
    assert (home / "demo" / "report.html").is_file()


def test_every_path_in_python(home: Path, model: detrkit.Detector) -> None:
    assert detrkit.load("~/model.safetensors").card == model.card
    assert len(detrkit.open_dataset("~/data", "val")) == 5
    assert len(detrkit.open_dataset(Path("~/data/annotations/instances_val.json"), "val")) == 5
    from_file = detrkit.Predictor("~/model.safetensors", threshold=0)("~/data/val/0001.png")
    assert from_file.xyxy.tolist() == detrkit.Predictor(model, threshold=0)(home / "data/val/0001.png").xyxy.tolist()
    options: dict[str, Any] = {"steps": 1, "batch_size": 4, "short_side": 64, "settings": {"queries": 5}}
    result = detrkit.train("detr-compact", "~/data", output="~/run", **options)
    assert result.folder == home / "run"
    assert detrkit.train(resume="~/run").best == home / "run" / "best.safetensors"
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("~", ""), ("~/x", "x"), ("~nobody-has-this-name/x", None), ("a/~/x", None), ("x~", None), ("./~", None)],
)
def test_only_the_users_own_folder_is_put_in(home: Path, given: str, wanted: str | None) -> None:
    assert expanded(given) == (Path(given) if wanted is None else home / wanted)


@pytest.mark.usefixtures("model")
def test_relative_paths_stay_as_given_in_messages(home: Path) -> None:
    sentence = refusal("predict", "runs/none.safetensors", home / "data/val/0001.png", folder=home)
    assert sentence == "detrkit: there is no weight file runs/none.safetensors: check the path"


@pytest.mark.usefixtures("model")
def test_a_folder_or_a_name_in_the_place_of_a_checkpoint(home: Path) -> None:
    (home / "mine").mkdir()
    shutil.copy(home / "model.safetensors", home / "mine" / "best.safetensors")
    note = "Note: ~/mine is a folder, its best.safetensors is used."
    assert note in ran("predict", "~/mine", "~/data/val/0001.png", "--output", "~/found").splitlines()
    assert note in ran("evaluate", "~/mine", "--data", "~/data").splitlines()
    picture = home / "data/val/0001.png"
    named = "detrkit: 'detr-r50' is the name of a variant, but a weight file is needed: "
    assert refusal("predict", "detr-r50", picture, folder=home).startswith(named)
    assert refusal("evaluate", "detr-r50", "--data", home / "data", folder=home).startswith(named)
    assert refusal("predict", "data", picture, folder=home) == (
        "detrkit: data is a folder without best.safetensors, last.safetensors, model.safetensors or pytorch_model.bin: give a weight file"
    )


@pytest.mark.parametrize("area", [0, -1, "12", None])
def test_one_reader_of_areas(home: Path, model: detrkit.Detector, area: object) -> None:
    truth = home / "data" / "annotations" / "instances_val.json"
    content = json.loads(truth.read_text())
    for entry in content["annotations"]:
        entry["area"] = area
    truth.write_text(json.dumps(content), encoding="utf-16")  # as PowerShell writes it
    files = ("--output", "~/figures.json", "--results", "~/results.json")
    ran("evaluate", "~/model.safetensors", "--data", "~/data", *files)
    (home / "results.json").write_text((home / "results.json").read_text(), encoding="utf-16")
    ran("evaluate", "~/results.json", "--data", truth, "--output", "~/again.json")
    first, second = (json.loads((home / name).read_text()) for name in ("figures.json", "again.json"))
    assert first["figures"] == pytest.approx(second["figures"], abs=1e-9)
    assert {entry["name"]: entry["objects"] for entry in first["classes"]} == {
        entry["name"]: entry["objects"] for entry in second["classes"]
    }
