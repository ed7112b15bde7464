"""Training as a user calls it, on real files, to the files that it leaves behind."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import detrkit
from detrkit.errors import ConfigurationError, DataError, NonFiniteError
from detrkit.training.module import TrainingModule

SMALL: dict[str, Any] = {
    "short_side": 64,
    "long_side": 64,
    "batch_size": 4,
    "flip": 0.0,
    "settings": {"queries": 8, "width": 32, "hidden": 32, "encoder_layers": 1, "decoder_layers": 2, "dropout": 0.1},
}


# A model that draws noise in training, beside dropout.
NOISY: dict[str, Any] = {
    "variant": "deformable-detr-compact-two-stage",
    "settings": {**SMALL["settings"], "width": 64, "denoising": 8},
}


def run(data: Path, output: Path, variant: str = "detr-compact", **options: Any) -> tuple[Any, str]:
    text = io.StringIO()
    result = detrkit.train(variant, data, output=str(output), console=Console(file=text, width=200), **SMALL | options)
    return result, text.getvalue()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_behind(digits_folder: Path, tmp_path: Path) -> None:
    result, told = run(digits_folder, tmp_path / "run", epochs=2)
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "best.safetensors", "config.json", "curves.png", "last.safetensors", "log.csv", "metrics.json", "pictures",
        "report.html", "resume.ckpt", "tensorboard",
    }  # fmt: skip
    assert result.folder == folder
    assert result.best == folder / "best.safetensors"
    assert [row["epoch"] for row in rows(folder)] == ["1.0", "2.0"]
    assert [row["step"] for row in rows(folder)] == ["3.0", "6.0"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["evaluation"]["figures"] == result.evaluation.figures
    assert metrics["best"]["AP"] == pytest.approx(result.evaluation.figures["AP"], abs=1e-9)
    options = json.loads((folder / "config.json").read_text())["options"]
    assert (options["lr"], options["epochs"], options["seed"], options["schedule"]) == (6e-4, 2, 0, "cosine")
    assert all(value is not None for name, value in options.items() if name not in ("steps", "backbone_weights"))
    assert "12 images" in told
    assert "epoch 2/2: loss" in told
    assert "of matched objects get the right class" in told
    model = detrkit.load(result.best)
    assert [category.name for category in model.card.categories] == [str(digit) for digit in range(10)]
    assert model.card.metrics["AP"] == pytest.approx(metrics["best"]["AP"])


def test_the_loss_falls(digits_folder: Path, tmp_path: Path) -> None:
    run(digits_folder, tmp_path / "run", epochs=30, evaluate_every=30, multi_scale=False, crop=False)
    losses = [float(row["loss"]) for row in rows(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("dies_at", "options"), [(1, {}), (4, {}), (8, {}), (4, NOISY)], ids=["1", "4", "8", "noise"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int, options: dict[str, Any]
) -> None:
    run(digits_folder, tmp_path / "whole", epochs=3, **options)
    step = TrainingModule.training_step

    def dying(self: TrainingModule, batch: Any, index: int) -> Any:
        if self.global_step == dies_at:
            raise RuntimeError("power cut")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", dying)
        with pytest.raises(RuntimeError, match="power cut"):
            run(digits_folder, tmp_path / "cut", epochs=3, **options)
    if dies_at < 3:
        with pytest.raises(ConfigurationError, match="first epoch was not finished"):
            detrkit.train(resume=tmp_path / "cut")
        return
    detrkit.train(resume=tmp_path / "cut", console=Console(file=io.StringIO()))
    whole, resumed = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    for first, second in zip(rows(tmp_path / "whole"), rows(tmp_path / "cut"), strict=True):
        assert first | {"images_per_second": ""} == second | {"images_per_second": ""}


def test_a_run_goes_on_without_what_its_version_did_not_know(digits_folder: Path, tmp_path: Path) -> None:
    small = {**SMALL["settings"], "width": 64}
    run(digits_folder, tmp_path / "run", "deformable-detr-compact-two-stage", epochs=1, settings=small)
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    assert content["options"]["settings"].pop("denoising") == 0
    content["options"] |= {"epochs": 2, "variant": "deformable-detr-mobilenetv2-light"}  # which has 60 now
    path.write_text(json.dumps(content))
    detrkit.train(resume=tmp_path / "run", console=Console(file=io.StringIO()))
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["1.0", "2.0"]
    assert "denoising" not in str(load_file(tmp_path / "run" / "last.safetensors").keys())


def test_the_same_seed_gives_the_same_weights_and_another_does_not(digits_folder: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("second", 3), ("other", 4)):
        run(digits_folder, tmp_path / name, steps=2, seed=seed)
    first, second, other = (load_file(tmp_path / name / "last.safetensors") for name in ("first", "second", "other"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["heads.classes.weight"], other["heads.classes.weight"])


def test_pieces_of_a_batch_take_one_step(digits_folder: Path, tmp_path: Path) -> None:
    _, told = run(digits_folder, tmp_path / "run", epochs=1, accumulate=2)
    assert "batches of 4 images in 2 pieces of 2" in told
    assert rows(tmp_path / "run")[0]["step"] == "3.0"


@pytest.mark.parametrize("options", [{}, NOISY], ids=["plain", "noise"])
def test_mixed_precision_trains(digits_folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    still: dict[str, Any] = {"multi_scale": False, "crop": False}
    run(digits_folder, tmp_path / "run", epochs=12, evaluate_every=12, precision="bf16", **still, **options)
    losses = [float(row["loss"]) for row in rows(tmp_path / "run")]
    assert losses[-1] < losses[0]
    weights = load_file(tmp_path / "run" / "last.safetensors")
    assert all(value.dtype is torch.float32 for value in weights.values() if value.is_floating_point())


def test_more_batch_than_images_is_said(digits_folder: Path, tmp_path: Path) -> None:
    _, told = run(digits_folder, tmp_path / "run", steps=2, batch_size=64)
    assert "there are only 12 images" in told
    assert rows(tmp_path / "run")[0]["step"] == "1.0"


def test_frozen_norms_over_random_weights_are_refused(digits_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="over random weights such a backbone never learns"):
        detrkit.train("detr-r18", digits_folder, output=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_backbone_weights_are_used(digits_folder: Path, tmp_path: Path, shared: Path) -> None:
    file = shared / "weights" / "resnet18_imagenet_stem_to_layer3.safetensors"
    options = SMALL | {"settings": {"queries": 8, "encoder_layers": 1, "decoder_layers": 1}, "batch_size": 2}
    result = detrkit.train(
        "detr-r18-c4", digits_folder, output=str(tmp_path / "run"), backbone_weights=str(file), steps=1,
        console=Console(file=io.StringIO()), **options,
    )  # fmt: skip
    stem = detrkit.load(result.folder / "last.safetensors").backbone.conv1.weight
    assert torch.equal(stem, load_file(file)["conv1.weight"].float())


def test_a_folder_is_not_overwritten(digits_folder: Path, tmp_path: Path) -> None:
    run(digits_folder, tmp_path / "run", steps=1)
    with pytest.raises(ConfigurationError, match="holds a run already"):
        run(digits_folder, tmp_path / "run", steps=1)


def test_a_loss_that_is_not_finite_names_the_image(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingModule.training_step

    def poisoned(self: TrainingModule, batch: Any, index: int) -> Any:
        with torch.no_grad():
            self.model.heads.boxes.layers[-1].bias.fill_(float("nan"))
        return step(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", poisoned)
    with pytest.raises(NonFiniteError, match=r"step 1, .*\.png: .*l1, giou.*lower the learning rate"):
        run(digits_folder, tmp_path / "run", steps=1)


def test_resume_takes_no_other_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="leave out lr"):
        detrkit.train(resume=tmp_path, lr=0.1)
    with pytest.raises(ConfigurationError, match="not the folder of a run"):
        detrkit.train(resume=tmp_path)


def test_unknown_options_name_the_closest(digits_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'batch_size'"):
        detrkit.train("detr-compact", digits_folder, batchsize=3)
    with pytest.raises(ConfigurationError, match="did you mean 'detr-compact'"):
        detrkit.train("detr-compakt", digits_folder)


def test_missing_data_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        detrkit.train("detr-compact", tmp_path / "nowhere", output=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
