"""Training as a user calls it, from real files to the files that it writes."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from training.small_runs import NOISY, SMALL, rows, run

import detrkit
from detrkit.errors import CheckpointError, ConfigurationError, DataError, NonFiniteError
from detrkit.evaluation import evaluate
from detrkit.models.catalog import CATALOG
from detrkit.training.kept_models import KeptModels
from detrkit.training.module import TrainingModule
from detrkit.training.run_folder import RunFolder

# Options that are off unless they are given.
UNUSED = ("minutes", "patience", "layer_decay", "ema", "repeat_rare", "supervision", "watch", "workers")


@pytest.mark.reports
def test_a_run_leaves_everything_behind(digits_folder: Path, tmp_path: Path) -> None:
    result, printed = run(digits_folder, tmp_path / "run", epochs=2)
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "best.safetensors", "charts", "config.json", "curves.png", "last.safetensors", "log.csv", "metrics.json", "pictures",
        "report.html", "resume.ckpt", "tensorboard",
    }  # fmt: skip
    assert {path.name for path in (folder / "charts").iterdir()} >= {
        "classes.png",
        "training_loss.png",
        "training_AP.png",
    }
    assert {path.name for path in (folder / "pictures").iterdir()} >= {
        f"example_{number}.jpg" for number in range(1, 6)
    }
    text = (folder / "report.html").read_text()
    for title in ("Summary", "Run", "Training", "Settings", "Data", "Figures", "Classes", "Examples"):
        assert f">{title}</a>" in text
    assert '<th scope="row" data-order="--settings.queries">--settings.queries</th>' in text
    assert result.folder == folder
    assert result.best == folder / "best.safetensors"
    assert [row["epoch"] for row in rows(folder)] == ["1.0", "2.0"]
    assert [row["step"] for row in rows(folder)] == ["3.0", "6.0"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["evaluation"]["figures"] == result.evaluation.figures
    assert metrics["best"]["AP"] == pytest.approx(result.evaluation.figures["AP"], abs=1e-9)
    assert metrics["analysis"]["errors"]["counts"] == result.analysis.errors.counts
    assert result.analysis.threshold == (result.evaluation.best_threshold or 0.5)
    options = json.loads((folder / "config.json").read_text())["options"]
    assert (options["lr"], options["epochs"], options["seed"], options["schedule"]) == (6e-4, 2, 0, "cosine")
    assert all(
        value is not None
        for name, value in options.items()
        if name not in ("steps", "backbone_weights", "queries_from", "detector_from", "masks", *UNUSED)
    )
    assert "12 images" in printed
    assert "epoch 2/2: loss" in printed
    assert ", matched class accuracy " in printed
    model = detrkit.load(result.best)
    assert [category.name for category in model.card.categories] == [str(digit) for digit in range(10)]
    assert model.card.metrics["AP"] == pytest.approx(metrics["best"]["AP"])
    with pytest.raises(CheckpointError, match=r"resume\.ckpt holds the weights of a detrkit model without its card"):
        detrkit.load(folder / "resume.ckpt")


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
        with pytest.raises(ConfigurationError, match="ended before the first one was written"):
            detrkit.train(resume=tmp_path / "cut")
        return
    detrkit.train(resume=tmp_path / "cut", console=Console(file=io.StringIO()))
    whole, resumed = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    for first, second in zip(rows(tmp_path / "whole"), rows(tmp_path / "cut"), strict=True):
        clock = {"images_per_second": "", "seconds": ""}
        assert first | clock == second | clock


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_evaluation_that_fails_costs_no_epoch(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise DataError("a.png is damaged")

    run(digits_folder, tmp_path / "whole", epochs=epochs)
    with monkeypatch.context() as patch:
        patch.setattr("detrkit.training.epochs.evaluate", failing)
        with pytest.raises(DataError, match=r"a\.png is damaged"):
            run(digits_folder, tmp_path / "cut", epochs=epochs)
    assert len(detrkit.load(tmp_path / "cut" / "last.safetensors").card.categories) == 10
    detrkit.train(resume=tmp_path / "cut", console=Console(file=io.StringIO()))
    whole, resumed = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    clock = {"images_per_second": "", "seconds": ""}
    assert [row | clock for row in rows(tmp_path / "whole")] == [row | clock for row in rows(tmp_path / "cut")]
    assert [row["AP"] != "" for row in rows(tmp_path / "cut")] == [True] * epochs
    assert (tmp_path / "cut" / "report.html").is_file()


def test_splits_whose_classes_differ(digits_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(digits_folder, tmp_path / "data")
    annotations = data / "annotations" / "instances_val.json"
    content = json.loads(annotations.read_text())
    content["categories"][0]["name"], content["categories"][1]["name"] = "nought", " 1"
    annotations.write_text(json.dumps(content))
    result, printed = run(data, tmp_path / "run", epochs=1)
    assert "Note: data val writes the class '1' as ' 1'; both are taken for the same class." in printed
    assert "Note: 1 class of data val is not in data train and cannot be learned: nought." in printed
    names = [category.name for category in detrkit.load(result.best).card.categories]
    assert names == [*"0123456789", "nought"]
    for category in content["categories"]:
        category["name"] = f"digit {category['name']}"
    annotations.write_text(json.dumps(content))
    with pytest.raises(DataError, match="No class of data val"):
        run(data, tmp_path / "other", epochs=1)
    assert not (tmp_path / "other").exists()


def test_a_run_goes_on_without_what_its_version_did_not_know(digits_folder: Path, tmp_path: Path) -> None:
    small = {**SMALL["settings"], "width": 64}
    run(digits_folder, tmp_path / "run", "deformable-detr-compact", epochs=1, settings=small)
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    for name in ("refine", "two_stage"):
        assert content["options"]["settings"].pop(name) is False
    content["options"] |= {"epochs": 2, "variant": "deformable-detr-compact-two-stage"}  # which has them on
    path.write_text(json.dumps(content))
    detrkit.train(resume=tmp_path / "run", console=Console(file=io.StringIO()))
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["1.0", "2.0"]
    assert "position_projection" not in str(load_file(tmp_path / "run" / "last.safetensors").keys())


@pytest.mark.reports
def test_a_run_that_is_stopped_says_whether_it_can_be_continued(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("lightning.pytorch.Trainer.fit", stopped)
    text = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        detrkit.train(
            "detr-compact", digits_folder, output=str(tmp_path / "run"), console=Console(file=text, width=200), **SMALL
        )
    assert "Stopped before the first checkpoint was written, so nothing was kept" in text.getvalue()
    assert "--resume" not in text.getvalue()


def continue_run(folder: Path, epochs: int) -> None:
    """Resumes a finished run after its number of epochs was raised in its configuration."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["options"]["epochs"] = epochs
    path.write_text(json.dumps(content))
    detrkit.train(resume=folder, console=Console(file=io.StringIO()))


@pytest.mark.reports
def test_a_validation_split_may_come_after_a_run_began(digits_folder: Path, tmp_path: Path) -> None:
    """The best epoch was chosen by its loss and has no AP; the first one that is evaluated takes its place."""
    data = shutil.copytree(digits_folder, tmp_path / "data")
    annotations = data / "annotations" / "instances_val.json"
    annotations.rename(tmp_path / "later.json")
    result, printed = run(data, tmp_path / "run", epochs=1)
    assert result.evaluation is None
    assert "the lowest loss counts as best" in printed
    assert "AP" not in json.loads((tmp_path / "run" / "metrics.json").read_text())["best"]

    (tmp_path / "later.json").rename(annotations)
    continue_run(tmp_path / "run", epochs=2)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["best"]["epoch"] == 2
    assert metrics["best"]["AP"] == pytest.approx(metrics["evaluation"]["figures"]["AP"], abs=1e-9)
    assert ["AP" in row and row["AP"] != "" for row in rows(tmp_path / "run")] == [False, True]
    assert torch.equal(
        load_file(tmp_path / "run" / "best.safetensors")["heads.class_head.weight"],
        load_file(tmp_path / "run" / "last.safetensors")["heads.class_head.weight"],
    )


def test_a_validation_split_may_go_after_a_run_began(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In that case losses are compared, which every epoch has."""
    monkeypatch.setattr("detrkit.training.epochs._SAVE_EVERY", 0.0)  # every epoch may be the best
    data = shutil.copytree(digits_folder, tmp_path / "data")
    run(data, tmp_path / "run", epochs=1)
    first = json.loads((tmp_path / "run" / "metrics.json").read_text())["best"]
    assert "AP" in first
    (data / "annotations" / "instances_val.json").unlink()
    continue_run(tmp_path / "run", epochs=4)
    losses = [float(row["loss"]) for row in rows(tmp_path / "run")]
    best = json.loads((tmp_path / "run" / "metrics.json").read_text())["best"]
    assert len(losses) == 4
    assert (best["loss"], best["epoch"]) == (min(losses), 1 + losses.index(min(losses)))


@pytest.mark.parametrize(
    ("validation", "row", "best", "better"),
    [
        (True, {"loss": 1.0, "AP": 0.2}, None, True),
        (True, {"loss": 1.0, "AP": 0.2}, {"loss": 2.0, "AP": 0.3}, False),
        (True, {"loss": 3.0, "AP": 0.4}, {"loss": 2.0, "AP": 0.3}, True),
        (True, {"loss": 3.0, "AP": 0.0}, {"loss": 2.0}, True),
        (True, {"loss": 1.0}, {"loss": 2.0}, False),
        (False, {"loss": 1.0}, {"loss": 2.0, "AP": 0.3}, True),
        (False, {"loss": 3.0}, {"loss": 2.0, "AP": 0.3}, False),
    ],
)
def test_which_epoch_is_better(
    tmp_path: Path,
    validation: bool,
    row: dict[str, float],
    best: dict[str, float] | None,
    better: bool,
) -> None:
    folder = RunFolder(tmp_path)
    if best is not None:
        folder.best.write_bytes(b"")
        folder.metrics.write_text(json.dumps({"best": best}))
    assert KeptModels(folder, evaluates=validation)._is_better(row) is better


def test_a_model_with_five_levels_trains_on_thin_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cell of its coarsest level is 128 x 128 pixels; the images are 12 pixels high, so they are padded to that."""
    usual = CATALOG["deformable-detr-compact"]
    preprocessing = dataclasses.replace(usual.preprocessing, smallest_side=128)
    monkeypatch.setitem(CATALOG, "deformable-detr-compact", dataclasses.replace(usual, preprocessing=preprocessing))
    data = thin_images(tmp_path / "data")
    settings = {**SMALL["settings"], "width": 64, "levels": 5}
    run(data, tmp_path / "run", "deformable-detr-compact", steps=2, long_side=128, crop=False, settings=settings)
    assert [row["step"] for row in rows(tmp_path / "run")] == ["1.0", "2.0"]
    kept = detrkit.load(tmp_path / "run" / "last.safetensors").card.preprocessing
    assert kept == dataclasses.replace(usual.preprocessing, short_side=64, long_side=128, smallest_side=128)


def thin_images(folder: Path) -> Path:
    """A data set of four images of 20 x 200 pixels with one object each."""
    folder.mkdir()
    images = [{"id": number, "file_name": f"{number}.png", "height": 20, "width": 200} for number in range(1, 5)]
    box = {"bbox": [30.0, 4.0, 40.0, 12.0], "area": 480.0, "iscrowd": 0, "category_id": 1}
    content = {
        "images": images,
        "annotations": [{"id": entry["id"], "image_id": entry["id"], **box} for entry in images],
        "categories": [{"id": 1, "name": "bar"}],
    }
    for split in ("train", "val"):
        (folder / split).mkdir()
        for entry in images:
            Image.effect_noise((200, 20), 60).convert("RGB").save(folder / split / str(entry["file_name"]))
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def test_the_same_seed_gives_the_same_weights_and_another_does_not(digits_folder: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("second", 3), ("other", 4)):
        run(digits_folder, tmp_path / name, steps=2, seed=seed)
    first, second, other = (load_file(tmp_path / name / "last.safetensors") for name in ("first", "second", "other"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["heads.class_head.weight"], other["heads.class_head.weight"])


@pytest.mark.parametrize("options", [{}, NOISY], ids=["plain", "noise"])
def test_mixed_precision_trains(digits_folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    still: dict[str, Any] = {"multi_scale": False, "crop": False}
    run(digits_folder, tmp_path / "run", epochs=12, evaluate_every=12, precision="bf16", **still, **options)
    losses = [float(row["loss"]) for row in rows(tmp_path / "run")]
    assert losses[-1] < losses[0]
    weights = load_file(tmp_path / "run" / "last.safetensors")
    assert all(value.dtype is torch.float32 for value in weights.values() if value.is_floating_point())


def test_more_batch_than_images_is_said(digits_folder: Path, tmp_path: Path) -> None:
    _, printed = run(digits_folder, tmp_path / "run", steps=2, batch_size=64)
    assert "there are only 12 images" in printed
    assert rows(tmp_path / "run")[0]["step"] == "1.0"


def test_frozen_norms_over_random_weights_are_refused(digits_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot learn from random numbers: .*, or train light-detr-compact"):
        detrkit.train("detr-r18", digits_folder, output=str(tmp_path / "run"), weights="none")
    assert not (tmp_path / "run").exists()


def test_backbone_weights_are_used(digits_folder: Path, tmp_path: Path, shared: Path) -> None:
    file = shared / "weights" / "resnet18_imagenet_stem_to_layer3.safetensors"
    options = SMALL | {"settings": {"queries": 8, "encoder_layers": 1, "decoder_layers": 1}, "batch_size": 2}
    result = detrkit.train(
        "detr-r18-c4", digits_folder, output=tmp_path / "run", backbone_weights=file, steps=1,
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
            self.model.heads.box_head.layers[-1].bias.fill_(float("nan"))
        return step(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", poisoned)
    with pytest.raises(NonFiniteError, match=r"step 1, .*\.png: .*l1, giou.*lower the learning rate"):
        run(digits_folder, tmp_path / "run", steps=1)


def test_weights_that_end_in_nan_blame_the_learning_rate(digits_folder: Path, tmp_path: Path) -> None:
    """The loss of the only step was fine, so the evaluation is the first to see it, and the weights come from no file."""
    words = r"after step 1 the model's predictions are NaN or infinite, with the learning rate 1e\+30: lower the learning rate"
    with pytest.raises(NonFiniteError, match=words):
        run(digits_folder, tmp_path / "run", steps=1, lr=1e30)


def test_processes_without_numbers_are_refused_before_anything_is_written(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(digits_folder, tmp_path / "earlier", epochs=1)
    before = {path: path.read_bytes() for path in (tmp_path / "earlier").rglob("*") if path.is_file()}
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = "WORLD_SIZE says that there are 2 processes, but RANK is not set: start them with torchrun"
    with pytest.raises(ConfigurationError, match=message):
        run(digits_folder, tmp_path / "run", epochs=1)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigurationError, match=message):
        detrkit.train(resume=tmp_path / "earlier")
    assert before == {path: path.read_bytes() for path in (tmp_path / "earlier").rglob("*") if path.is_file()}


def test_a_batch_job_of_a_cluster_trains(digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of a SLURM allocation for four tasks, in which only one process was started."""
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    run(digits_folder, tmp_path / "run", steps=1)
    assert [row["step"] for row in rows(tmp_path / "run")] == ["1.0"]


def test_resume_takes_no_other_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        detrkit.train("detr-r50", resume=tmp_path, lr=0.1, epochs=3)
    assert str(caught.value) == (
        "resume continues a run with its own options, of which only data, epochs, steps, patience, device, devices, nodes, strategy and workers may be given anew: leave out variant, lr"
    )
    with pytest.raises(ConfigurationError, match="not the folder of a run"):
        detrkit.train(resume=tmp_path)


def test_unknown_options_name_the_closest(digits_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'batch_size'"):
        detrkit.train("detr-compact", digits_folder, batchsize=3)
    with pytest.raises(ConfigurationError, match="did you mean 'detr-compact'"):
        detrkit.train("detr-compakt", digits_folder)
    with pytest.raises(ConfigurationError) as caught:
        detrkit.train("dab-detr-compact", digits_folder, learn_queries=False)
    assert str(caught.value) == (
        "'learn_queries' is a setting of the model: give settings={'learn_queries': ...} (--settings.learn-queries)"
    )


def test_missing_data_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        detrkit.train("detr-compact", tmp_path / "nowhere", output=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_thresholds_of_an_evaluation_are_stored(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(model: Any, dataset: Any, **options: Any) -> Any:
        evaluation = evaluate(model, dataset, **options)
        figures = evaluation.figures | {"AP": 0.5}
        return dataclasses.replace(evaluation, figures=figures, best_threshold=0.375, class_thresholds={7: 0.125})

    monkeypatch.setattr("detrkit.training.epochs.evaluate", found)
    result, _ = run(digits_folder, tmp_path / "run", steps=1)
    card = detrkit.load(result.best).card
    assert (card.threshold, card.class_thresholds, card.metrics["AP"]) == (0.375, {7: 0.125}, 0.5)
