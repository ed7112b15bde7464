"""The command line as a user sees it: real files, and one sentence with exit code 2 if something is wrong."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands.running import detrkit_command, refusal
from PIL import Image

import detrkit
from detrkit.training import TrainingOptions


def change(data: Path, split: str, edit: str) -> None:
    file = data / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    if edit == "nan":
        content["annotations"][0]["bbox"][2] = float("nan")
    elif edit == "category":
        content["annotations"][0]["category_id"] = 77
    elif edit == "no images":
        content["images"], content["annotations"] = [], []
    file.write_text(json.dumps(content))


@pytest.mark.reports
def test_train_evaluate_predict(data: Path, tmp_path: Path) -> None:
    trained = detrkit_command(
        "train", "detr-compact", "--data", data, "--output", "run", "--steps", 3, "--batch-size", 4, "--short-side", 64,
        "--flip", 0, "--settings.queries", 7, "--settings.dropout", 0.1, folder=tmp_path,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "AP50" in trained.stdout
    best = tmp_path / "run" / "best.safetensors"
    assert detrkit.load(best).card.config["queries"] == 7

    evaluated = detrkit_command(
        "evaluate", best, "--data", data, "--output", "figures.json", "--results", "results.json", "--report", "report.html",
        "--charts", "charts",
        folder=tmp_path,
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures["figures"]) == 12
    assert [entry["name"] for entry in figures["classes"]] == [str(digit) for digit in range(10)]
    text = (tmp_path / "report.html").read_text()
    assert "data:image/jpeg" in text
    assert ">Examples</a>" in text
    assert (tmp_path / "charts" / "classes.png").is_file()

    truth = data / "annotations" / "instances_val.json"
    again = detrkit_command("evaluate", "results.json", "--data", truth, "--output", "again.json", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "again.json").read_text())["figures"] == pytest.approx(figures["figures"], abs=1e-6)

    for truth_of_file, photos in ((data, True), (truth, False)):
        reported = detrkit_command(
            "evaluate", "results.json", "--data", truth_of_file, "--report", "file.html", folder=tmp_path
        )
        assert reported.returncode == 0, reported.stderr
        text = (tmp_path / "file.html").read_text()
        assert "Evaluation of results.json" in text
        assert f"results.json on {truth_of_file}, " in text
        assert f"detrkit {detrkit.__version__}" in text
        assert ("data:image/jpeg" in text) == photos

    predicted = detrkit_command("predict", best, data / "val", "--threshold", 0, "--output", "seen", folder=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    entries = json.loads((tmp_path / "seen" / "detections.json").read_text())
    assert {entry["image_id"] for entry in entries} == {1, 2, 3, 4, 5}
    assert {entry["category_id"] for entry in entries} <= set(range(10))
    originals = sorted((data / "val").iterdir())
    drawn = sorted(path for path in (tmp_path / "seen").iterdir() if path.suffix != ".json")
    assert len(drawn) == len(originals) == 5
    for original, picture in zip(originals, drawn, strict=True):
        before, after = np.asarray(Image.open(original).convert("RGB")), np.asarray(Image.open(picture).convert("RGB"))
        assert before.shape == after.shape
        assert (before != after).any()


def test_resume(data: Path, tmp_path: Path) -> None:
    common = (
        "train",
        "detr-compact",
        "--data",
        data,
        "--output",
        "run",
        "--epochs",
        2,
        "--batch-size",
        6,
        "--short-side",
        64,
    )
    assert detrkit_command(*common, folder=tmp_path).returncode == 0
    assert "lr" in refusal("train", "--resume", "run", "--lr", 0.1, folder=tmp_path)
    assert "holds a run already" in refusal(*common, folder=tmp_path)
    result = detrkit_command("train", "--resume", "run", folder=tmp_path)
    assert result.returncode == 0, result.stderr


def test_train_has_every_training_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, descriptions and defaults come from the dataclass, so that none is missing and none differs."""
    monkeypatch.setenv("COLUMNS", "250")
    shown = detrkit_command("train", "--help", folder=tmp_path).stdout
    documented = inspect.getdoc(TrainingOptions)
    assert documented is not None
    for field in dataclasses.fields(TrainingOptions):
        line = next(line for line in shown.splitlines() if f"--{field.name.replace('_', '-')} " in line)
        description = documented.split(f"    {field.name}: ")[1].splitlines()[0].replace("`", "")
        assert description in line
        if field.default not in (None, dataclasses.MISSING):
            assert f"[default: {field.default}]" in line
    assert "folder of a run to continue" in shown


def test_several_processes_are_refused_before_a_demo_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    for name in ("demo", "best.safetensors", "resume.ckpt"):
        (folder / name).write_text("of an earlier demo")
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert "the demo trains in one process, but 2 were started" in refusal("demo", folder=tmp_path)
    assert {path.name for path in folder.iterdir()} == {"demo", "best.safetensors", "resume.ckpt"}


def test_models_lists_the_catalog(tmp_path: Path) -> None:
    result = detrkit_command("models", folder=tmp_path)
    assert result.returncode == 0
    for words in ("detr-r50-dc5", "0.433", "detr-compact", "Apache-2.0"):
        assert words in result.stdout


def test_doctor_says_how_deformable_attention_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = detrkit_command("doctor", folder=tmp_path).stdout
    for words in ("the fastest for cpu: numba", torch.__version__, "float32, bf16", "DETRKIT_DEFORMABLE_ATTENTION"):
        assert words in shown
    monkeypatch.setenv("DETRKIT_DEFORMABLE_ATTENTION", "bags")
    assert "requested by DETRKIT_DEFORMABLE_ATTENTION" in detrkit_command("doctor", folder=tmp_path).stdout
    monkeypatch.setenv("DETRKIT_DEFORMABLE_ATTENTION", "bag")
    shown = detrkit_command("doctor", folder=tmp_path).stdout
    assert "there is no deformable attention by 'bag'" in " ".join(shown.replace("│", " ").split())


def test_settings_that_are_yes_or_no(data: Path, tmp_path: Path) -> None:
    small = ("--steps", "1", "--batch-size", "4", "--short-side", "64", "--flip", "0", "--no-crop")
    command = ("train", "deformable-detr-compact", "--data", str(data), "--output", "run", *small, "--settings.refine")
    assert detrkit_command(*command, "false", folder=tmp_path).returncode == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["options"]["settings"]["refine"] is False
    assert "--settings.refine must be of type bool, not 'maybe'" in refusal(*command, "maybe", folder=tmp_path)


def test_settings_that_are_numbers(data: Path, tmp_path: Path) -> None:
    small = ("--steps", "1", "--batch-size", "4", "--short-side", "64", "--flip", "0", "--no-crop")
    command = ("train", "light-detr-compact", "--data", str(data), *small, "--settings.distinct-overlap")
    assert detrkit_command(*command, "0.7", "--output", "run", folder=tmp_path).returncode == 0
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["options"]["settings"]
    assert settings["distinct_overlap"] == 0.7
    assert "--settings.distinct_overlap must be of type float, not 'much'" in refusal(*command, "much", folder=tmp_path)


def test_a_thin_picture_does_not_end_a_run(data: Path, tmp_path: Path) -> None:
    """It would have less than one cell of the coarsest level, so it is padded."""
    annotations = data / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    thin = content["images"][0]
    Image.new("RGB", (600, 20)).save(data / "train" / thin["file_name"])
    thin["width"], thin["height"] = 600, 20
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != thin["id"]]
    annotations.write_text(json.dumps(content))
    options = (
        "--output",
        "run",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--short-side",
        "64",
        "--flip",
        "0",
        "--no-crop",
    )
    result = detrkit_command("train", "deformable-detr-compact", "--data", data, *options, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    result = detrkit_command("predict", "run/last.safetensors", data / "train", "--output", "found", folder=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("nan", ("instances_train.json", "nan")),
        ("category", ("instances_train.json", "77")),
        ("no images", ("instances_train.json",)),
    ],
)
def test_broken_annotations(data: Path, tmp_path: Path, edit: str, words: tuple[str, ...]) -> None:
    change(data, "train", edit)
    sentence = refusal("train", "detr-compact", "--data", data, "--output", "run", folder=tmp_path)
    assert all(word in sentence for word in words)
    assert not (tmp_path / "run").exists()


def test_json_cut_in_half(data: Path, tmp_path: Path) -> None:
    file = data / "annotations" / "instances_train.json"
    file.write_text(file.read_text()[: file.stat().st_size // 2])
    assert "instances_train.json" in refusal("train", "detr-compact", "--data", data, folder=tmp_path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("damage", ["truncated", "text", "missing"])
def test_broken_images(data: Path, tmp_path: Path, damage: str) -> None:
    image = data / "train" / "0003.png"
    if damage == "truncated":
        Image.effect_noise((200, 200), 60).save(tmp_path / "whole.jpg")
        image.write_bytes((tmp_path / "whole.jpg").read_bytes()[:3000])
    elif damage == "text":
        image.write_text("not an image")
    else:
        image.unlink()
    for command in (("train", "detr-compact"),):
        assert "0003.png" in refusal(*command, "--data", data, folder=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_predict_on_broken_or_missing_images(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "note.jpg").write_text("hello")
    assert "note.jpg" in refusal("predict", checkpoint, "note.jpg", folder=tmp_path)
    assert "gone.jpg" in refusal("predict", checkpoint, "gone.jpg", folder=tmp_path)
    (tmp_path / "empty").mkdir()
    assert "empty" in refusal("predict", checkpoint, "empty", folder=tmp_path)
    assert "No image" in refusal("predict", checkpoint, folder=tmp_path)


def test_predict_does_not_overwrite_its_input(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    before = (data / "val" / "0001.png").read_bytes()
    assert "overwritten" in refusal("predict", checkpoint, data / "val", "--output", data / "val", folder=tmp_path)
    assert (data / "val" / "0001.png").read_bytes() == before


def test_checkpoints_that_do_not_fit(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    assert "detr-compact" in refusal("predict", checkpoint, data / "val", "--variant", "detr-r50", folder=tmp_path)
    torch.save({"model": {"layer.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    assert "other.pth" in refusal("evaluate", "other.pth", "--data", data, folder=tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:5000])
    assert "cut.safetensors" in refusal("evaluate", "cut.safetensors", "--data", data, folder=tmp_path)
    assert "nowhere.pth" in refusal("evaluate", "nowhere.pth", "--data", data, folder=tmp_path)


def test_classes_that_do_not_fit(data: Path, tmp_path: Path) -> None:
    model = detrkit.build("detr-compact", classes=[detrkit.Category(id=500, name="unicorn", index=0)])
    detrkit.save(model, tmp_path / "unicorns.safetensors")
    sentence = refusal("evaluate", "unicorns.safetensors", "--data", data, folder=tmp_path)
    assert "The model's classes (unicorn) are not those of data val" in sentence


def test_an_unwritable_output_folder(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "file" in refusal("train", "detr-compact", "--data", data, "--output", "file/run", folder=tmp_path)
    assert "file" in refusal("predict", checkpoint, data / "val", "--output", "file/seen", folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("trian",), "train"),
        (("train", "detr-compact", "--data", "digits", "--epoch", "3"), "--epochs"),
        (("train", "detr-compakt", "--data", "digits"), "detr-compact"),
        (("train", "detr-compact", "--data", "digits", "--epochs", "many"), "--epochs"),
        (("train", "detr-compact", "--data", "digits", "--epochs", "0"), "epochs"),
        (("train", "detr-compact", "--data", "digits", "--settings.querys", "3"), "queries"),
        (("train", "detr-compact", "--data", "digits", "--settings.queries", "3.5"), "must be of type int, not '3.5'"),
        (("train", "detr-compact", "--data", "digits", "--schedule", "linear"), "--schedule"),
        (("train", "detr-compact", "nowhere"), "nowhere"),
        (("train", "detr-compact", "--data", "digits", "--device", "gpu"), "device"),
        (("train", "detr-r18", "--data", "digits", "--weights", "none"), "choose --weights=backbone, give a file"),
        (("train",), "variant"),
        (("train", "detr-compact", "--data", "nowhere"), "nowhere"),
        (("train", "detr-compact", "--data", "digits", "--batch-size", "6", "--accumulate", "4"), "6"),
    ],
)  # fmt: skip
def test_wrong_options_name_the_remedy(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    assert words in refusal(*arguments, folder=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_real_process_exits_with_2_and_only_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "detrkit", "train", "detr-compact", "--data", "nowhere"]
    plain = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.startswith("detrkit: nowhere")
    assert len(plain.stderr.splitlines()) == 1
    debugged = subprocess.run([*command, "--debug"], capture_output=True, text=True, cwd=tmp_path)
    assert debugged.returncode == 2
    lines = debugged.stderr.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1] == plain.stderr.strip()
