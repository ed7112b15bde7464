"""The command line as a user sees it: real files, and one sentence with exit code 2 if something is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import detrkit
from detrkit.__main__ import main
from detrkit.data import read_digits
from detrkit.training import TrainingOptions


@dataclass
class Finished:
    returncode: int
    stdout: str
    stderr: str


def detrkit_command(*arguments: object, folder: Path) -> Finished:
    """Runs a command in this process, which saves seconds of imports."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Finished(code, out.getvalue(), err.getvalue())


def refusal(*arguments: object, folder: Path) -> str:
    """The message of a command that refuses its arguments: one line on the error stream, exit code 2, no traceback."""
    result = detrkit_command(*arguments, folder=folder)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("detrkit: ")
    return lines[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model for digits, small enough for quick commands."""
    torch.manual_seed(0)
    model = detrkit.build(
        "detr-compact",
        classes=list(read_digits("val", images=1, size=64).categories),
        preprocessing=detrkit.Preprocessing(64, 64),
        queries=6, width=32, hidden=32, encoder_layers=1, decoder_layers=1,
    )  # fmt: skip
    return detrkit.save(model, tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def data(digits_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small data set, which a test may damage."""
    return shutil.copytree(digits_folder, tmp_path / "data")


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


def test_results_have_the_ids_of_the_annotation_file(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    truth = data / "annotations" / "instances_val.json"
    content = json.loads(truth.read_text())
    for entry in content["images"]:
        entry["id"] = f"picture {entry['id']}"
    for entry in content["annotations"]:
        entry |= {"image_id": f"picture {entry['image_id']}", "category_id": f"digit {entry['category_id']}"}
    for entry in content["categories"]:
        entry["id"] = f"digit {entry['id']}"
    truth.write_text(json.dumps(content))
    files = ("--output", "figures.json", "--results", "results.json")
    evaluated = detrkit_command("evaluate", checkpoint, "--data", data, *files, folder=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    entries = json.loads((tmp_path / "results.json").read_text())
    assert {entry["image_id"] for entry in entries} == {entry["id"] for entry in content["images"]}
    assert {entry["category_id"] for entry in entries} <= {entry["id"] for entry in content["categories"]}
    again = detrkit_command("evaluate", "results.json", "--data", truth, "--output", "again.json", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    figures = [json.loads((tmp_path / name).read_text())["figures"] for name in ("figures.json", "again.json")]
    assert figures[1] == pytest.approx(figures[0], abs=1e-6)


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_results_are_compared_with_a_folder(form: str, data: Path, checkpoint: Path, tmp_path: Path) -> None:
    converted = detrkit_command("convert", data, "--to", form, "--output", "set", folder=tmp_path)
    assert converted.returncode == 0, converted.stderr
    evaluated = detrkit_command(
        "evaluate",
        checkpoint,
        "--data",
        "set",
        "--output",
        "figures.json",
        "--results",
        "results.json",
        folder=tmp_path,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    again = detrkit_command("evaluate", "results.json", "--data", "set", "--output", "again.json", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "set val" in again.stdout
    figures = [json.loads((tmp_path / name).read_text()) for name in ("figures.json", "again.json")]
    assert figures[1]["figures"] == pytest.approx(figures[0]["figures"], abs=1e-6)
    assert figures[1]["images"] == figures[0]["images"]
    other = detrkit_command("evaluate", "results.json", "--data", "set", "--split", "test", folder=tmp_path)
    assert (other.returncode, "set has no split 'test'" in other.stderr) == (2, True)


def test_results_with_ids_that_are_texts_are_compared_with_a_folder(data: Path, tmp_path: Path) -> None:
    truth = data / "annotations" / "instances_val.json"
    content = json.loads(truth.read_text())
    for entry in (*content["images"], *content["categories"]):
        entry["id"] = f"number {entry['id']}"
    for entry in content["annotations"]:
        entry |= {key: f"number {entry[key]}" for key in ("image_id", "category_id")}
    truth.write_text(json.dumps(content))
    results = [
        {key: entry[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5}
        for entry in content["annotations"]
    ]
    (tmp_path / "found.json").write_text(json.dumps(results))
    for place, output in ((data, "folder.json"), (truth, "file.json")):
        done = detrkit_command("evaluate", "found.json", "--data", place, "--output", output, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    figures = [json.loads((tmp_path / name).read_text())["figures"] for name in ("folder.json", "file.json")]
    assert figures[0] == figures[1]
    assert figures[0]["AP"] == pytest.approx(1.0)


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
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "in one process, but 2 were started" in refusal("demo", folder=tmp_path)
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


def test_evaluate_a_result_file_of_real_detections(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "evaluator"
    result = detrkit_command(
        "evaluate", folder / "instances_val2014_fakebbox100_results.json", "--data", folder / "instances_val2014_100.json",
        "--output", "figures.json", folder=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    expected = json.loads((folder / "expected.json").read_text())["bbox"]
    expected = list(expected.values()) if isinstance(expected, dict) else expected
    assert list(figures.values()) == pytest.approx(expected, abs=1e-6)


def test_evaluate_says_more_than_figures(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    results = shared / "data/evaluator/coco_val_detections_yolox_nano.json"
    truth = shared / "data/coco/annotations/instances_val.json"
    files = ("--output", "figures.json", "--report", "report.html")
    shown = detrkit_command("evaluate", results, "--data", truth, "--max-detections", 300, *files, folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    for words in (
        "recall, 300 detections of each class",
        "bootstrap over images",
        "duplicate",
        "images with 0 to 3 objects",
    ):
        assert words in shown.stdout
    content = json.loads((tmp_path / "figures.json").read_text())
    assert content["figures"]["AR300"] == pytest.approx(content["figures"]["AR10"], abs=0.1)
    analysis = content["analysis"]
    assert analysis["errors"]["counts"]["place"] == 136
    assert content["class_thresholds"] == {
        str(entry["id"]): entry["threshold"] for entry in analysis["classes"] if entry["own"]
    }
    assert "AR300" in (tmp_path / "report.html").read_text()


def test_files_are_written_before_the_table(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise RuntimeError("the pipe is closed")

    monkeypatch.setattr("detrkit.evaluation.tables.detailed_table", closed)
    folder = shared / "data" / "evaluator"
    results, truth = folder / "instances_val2014_fakebbox100_results.json", folder / "instances_val2014_100.json"
    files = ("--output", "figures.json", "--report", "report.html")
    with pytest.raises(RuntimeError, match="the pipe is closed"):
        detrkit_command("evaluate", results, "--data", truth, *files, folder=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"figures.json", "report.html"}


def test_thresholds_are_stored(checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = shutil.copy(checkpoint, tmp_path / "own.safetensors")
    before = detrkit.load(own)

    def perfect(_: object, dataset: detrkit.DetectionDataset, **__: object) -> list[dict[str, object]]:
        kept = ("image_id", "category_id", "bbox")
        return [{key: entry[key] for key in kept} | {"score": 0.25} for entry in dataset.to_coco()["annotations"]]

    with monkeypatch.context() as patch:
        patch.setattr("detrkit.evaluation.detect", perfect)
        shown = detrkit_command("evaluate", own, "--data", data, "--store-thresholds", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert f"Stored in {own}: the threshold 0.250, and thresholds of their own for 0 classes." in shown.stdout
    after = detrkit.load(own)
    assert after.card == dataclasses.replace(before.card, threshold=0.25, class_thresholds={})
    weights, others = before.state_dict(), after.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)

    with monkeypatch.context() as patch:
        patch.setattr("detrkit.evaluation.detect", lambda *_, **__: [])
        shown = detrkit_command("evaluate", own, "--data", data, "--store-thresholds", folder=tmp_path)
    assert f"Note: no detection is correct, so the thresholds in {own} stay as they were." in shown.stdout
    assert detrkit.load(own).card == after.card


def test_thresholds_are_stored_in_nothing_else(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    torch.save({"model": detrkit.load(checkpoint).state_dict()}, tmp_path / "model.pth")
    before = (tmp_path / "model.pth").read_bytes()
    sentence = refusal("evaluate", "model.pth", "--data", data, "--store-thresholds", folder=tmp_path)
    assert "model.pth is not a checkpoint of detrkit, so thresholds cannot be stored in it" in sentence
    assert (tmp_path / "model.pth").read_bytes() == before
    (tmp_path / "results.json").write_text("[]")
    truth = data / "annotations" / "instances_val.json"
    sentence = refusal("evaluate", "results.json", "--data", truth, "--store-thresholds", folder=tmp_path)
    assert sentence == "detrkit: --store-thresholds needs a checkpoint of detrkit, and results.json is a result file"


def test_a_number_of_detections_that_counts_nothing(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    sentence = refusal("evaluate", checkpoint, "--data", data, "--max-detections", 0, folder=tmp_path)
    assert (
        sentence == "detrkit: 0 detections per image count nothing: choose at least 1 (COCO counts 100 of each class)."
    )


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
    assert "unicorn" in sentence
    assert "by name or by id" in sentence


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
        (("train", "detr-compact", "digits"), "digits"),
        (("train", "detr-compact", "--data", "digits", "--device", "gpu"), "device"),
        (("train", "detr-r18", "--data", "digits"), "--backbone-weights"),
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--variant", "detr-r50"), "--variant needs a checkpoint, and results.json is a result file: leave it out"),
        (("--device", "auto"), "--device needs a checkpoint, and results.json is a result file: leave it out"),
        (("--workers", 0, "--batch-size", 1), "--batch-size, --workers need a checkpoint, and results.json is a result file: leave them out"),
    ],
)  # fmt: skip
def test_options_for_checkpoints_are_refused_for_result_files(
    options: tuple[object, ...], words: str, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text("[]")
    assert refusal("evaluate", "results.json", "--data", data, *options, folder=tmp_path) == f"detrkit: {words}"


def test_files_of_an_evaluation_are_checked_before_it(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(*_: object, **__: object) -> None:
        raise AssertionError("the evaluation has begun")

    monkeypatch.setattr("detrkit.evaluation.detect", compute)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for option in ("--output", "--results", "--report"):
        assert refusal("evaluate", checkpoint, "--data", data, option, "folder", folder=tmp_path) == (
            "detrkit: folder is a folder, and a file is to be written: name a file, such as one in this folder"
        )
    assert "the folder file cannot be written to" in refusal(
        "evaluate", checkpoint, "--data", data, "--charts", "file", folder=tmp_path
    )
    own = shutil.copy(checkpoint, tmp_path / "own.safetensors")
    assert refusal("evaluate", own, "--data", data, "--output", own, folder=tmp_path) == (
        f"detrkit: --output {own} would overwrite what is read: choose another file"
    )
    assert "the folder file cannot be written to" in refusal(
        "predict", checkpoint, data / "val", "--output", "file", folder=tmp_path
    )


def test_thresholds_are_stored_wherever_a_model_is_loaded_from(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    own = Path(shutil.copy(checkpoint, tmp_path / "run" / "best.safetensors"))

    def perfect(_: object, dataset: detrkit.DetectionDataset, **__: object) -> list[dict[str, object]]:
        kept = ("image_id", "category_id", "bbox")
        return [{key: entry[key] for key in kept} | {"score": score} for entry in dataset.to_coco()["annotations"]]

    monkeypatch.setattr("detrkit.evaluation.detect", perfect)
    for given, score in (("~/run", 0.25), ("~/run/best.safetensors", 0.5), (own.parent, 0.75)):
        shown = detrkit_command("evaluate", given, "--data", data, "--store-thresholds", folder=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert f"Stored in {own}: the threshold {score:.3f}," in shown.stdout
        assert detrkit.load(own).card.threshold == score
    assert [path.name for path in own.parent.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize("name", ["detrkit.checkpoints.own_format.store_thresholds", "detrkit.files.write_json"])
def test_the_table_is_printed_also_where_a_file_cannot_be_written(
    name: str, checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copy(checkpoint, tmp_path / "own.safetensors")

    def full_disk(*_: object) -> None:
        raise detrkit.errors.OutputError("a file cannot be written")

    def perfect(_: object, dataset: detrkit.DetectionDataset, **__: object) -> list[dict[str, object]]:
        kept = ("image_id", "category_id", "bbox")
        return [{key: entry[key] for key in kept} | {"score": 0.5} for entry in dataset.to_coco()["annotations"]]

    monkeypatch.setattr("detrkit.evaluation.detect", perfect)
    monkeypatch.setattr(name, full_disk)
    options = ("--store-thresholds", "--output", "figures.json")
    result = detrkit_command("evaluate", own, "--data", data, *options, folder=tmp_path)
    assert (result.returncode, result.stderr) == (2, "detrkit: a file cannot be written\n")
    assert "AP50" in result.stdout


def test_pictures_of_a_report_go_with_ids_that_look_like_numbers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first image is called "2" and the second "1", but there is an image "b", so all are texts; and so are the classes."""
    truth = data / "annotations" / "instances_val.json"
    content = json.loads(truth.read_text())
    images = dict(zip([entry["id"] for entry in content["images"]], ("2", "1", "b", "5", "4"), strict=True))
    classes = {entry["id"]: str(10 - place) for place, entry in enumerate(content["categories"])}
    classes[content["categories"][-1]["id"]] = "c"
    for entry in content["annotations"]:
        entry |= {"image_id": images[entry["image_id"]], "category_id": classes[entry["category_id"]]}
    for entry in content["images"]:
        entry["id"] = images[entry["id"]]
    for entry in content["categories"]:
        entry["id"] = classes[entry["id"]]
    truth.write_text(json.dumps(content))
    kept = ("image_id", "category_id", "bbox")
    results = [{key: entry[key] for key in kept} | {"score": 0.5} for entry in content["annotations"]]
    (tmp_path / "found.json").write_text(json.dumps(results))
    drawn: list[tuple[list[str], list[list[float]]]] = []

    def record(image: object, detections: Any) -> object:
        drawn.append((list(detections.data["class_name"]), detections.xyxy.round(3).tolist()))
        return image

    monkeypatch.setattr("detrkit.evaluation.report.pictures.draw", record)
    options = ("--report", "report.html", "--output", "figures.json")
    done = detrkit_command("evaluate", "found.json", "--data", data, *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "figures.json").read_text())["figures"]["AP"] == pytest.approx(1.0)
    assert len(drawn) == 10
    for (names, boxes), (true_names, true_boxes) in zip(drawn[::2], drawn[1::2], strict=True):
        assert sorted(zip(names, boxes, strict=True)) == sorted(zip(true_names, true_boxes, strict=True))
