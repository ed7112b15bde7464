"""Going on with runs: finished ones, longer ones, and data that were moved."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from training.small_runs import SMALL, rows, run

import detrkit
from detrkit.errors import ConfigurationError
from detrkit.models.catalog import CATALOG
from detrkit.training import module


def resume(folder: Path, **given: Any) -> tuple[Any, list[str]]:
    """What resuming gives, and the lines on the console."""
    text = io.StringIO()
    result = detrkit.train(resume=folder, console=Console(file=text, width=2000), **given)
    return result, text.getvalue().splitlines()


def refusal(folder: Path, **given: Any) -> str:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError) as caught:
        resume(folder, **given)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return str(caught.value)


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.reports
def test_a_finished_run_says_that_it_is_finished(digits_folder: Path, tmp_path: Path) -> None:
    first, _ = run(digits_folder, tmp_path / "run", epochs=1)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    said = f"{tmp_path / 'run'} is finished: it has trained for 1 epoch (3 steps). To train longer, give a larger number of epochs or steps."
    for given in ({}, {"epochs": 1}):
        again, lines = resume(tmp_path / "run", **given)
        assert lines == [said]
        assert (again.folder, again.best, again.evaluation) == (first.folder, first.best, None)
        assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    (tmp_path / "run" / "report.html").unlink()
    again, lines = resume(tmp_path / "run")
    assert lines[:2] == [said, "Its report is missing and is written again."]
    assert (tmp_path / "run" / "report.html").is_file()
    assert again.evaluation.figures == first.evaluation.figures
    assert len(rows(tmp_path / "run")) == 1


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_training_longer_follows_the_schedule_of_the_new_length(
    digits_folder: Path, tmp_path: Path, schedule: str
) -> None:
    options = {"schedule": schedule, "drop_after": 0.5, "lr": 1e-4, "warmup_steps": 0}
    run(digits_folder, tmp_path / "run", epochs=2, **options)
    _, lines = resume(tmp_path / "run", epochs=4)
    assert (
        "Note: the run now has 4 epochs (12 steps) instead of 2 (6); from here on the learning rates are those of a run of that length."
        in lines
    )
    assert [(row["epoch"], row["step"]) for row in rows(tmp_path / "run")][2:] == [("3.0", "9.0"), ("4.0", "12.0")]
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "run")][2:]
    wanted = (
        [1e-4 * 0.5 * (1 + math.cos(math.pi * step / 12)) for step in (9, 12)] if schedule == "cosine" else [1e-5] * 2
    )
    assert rates == pytest.approx(wanted, abs=1e-9)
    assert config(tmp_path / "run")["options"]["epochs"] == 4
    assert config(tmp_path / "run")["changes"] == [{"after_epochs": 2, "from": {"epochs": 2}, "to": {"epochs": 4}}]
    assert "is finished: it has trained for 4 epochs (12 steps)" in resume(tmp_path / "run")[1][0]


def test_a_longer_run_learns_from_its_first_step(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of a finished cosine has the rate 0, which is that of the old length."""
    run(digits_folder, tmp_path / "run", epochs=1, schedule="cosine", lr=1e-4, warmup_steps=0)
    rates = []
    step = torch.optim.AdamW.step

    def noting(self: Any, *given: Any, **named: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *given, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    resume(tmp_path / "run", epochs=2)
    assert rates == pytest.approx([1e-4 * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in (3, 4, 5)], rel=1e-6)


def test_a_constant_rate_goes_on_as_if_the_run_had_been_longer_from_the_start(
    digits_folder: Path, tmp_path: Path
) -> None:
    options = {"schedule": "step", "drop_after": 1.0, "evaluate_every": 9}
    run(digits_folder, tmp_path / "whole", epochs=3, **options)
    run(digits_folder, tmp_path / "short", epochs=2, **options)
    resume(tmp_path / "short", epochs=3)
    whole, longer = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "short"))
    assert all(torch.equal(whole[name], longer[name]) for name in whole)


@pytest.mark.parametrize("given", [{"steps": 9}, {"epochs": 4}])
def test_a_run_whose_last_epoch_ended_early(digits_folder: Path, tmp_path: Path, given: dict[str, int]) -> None:
    """Epochs have three steps; the second one ended after its first."""
    run(digits_folder, tmp_path / "run", steps=4)
    resume(tmp_path / "run", **given)
    steps = {"steps": ["3.0", "4.0", "7.0", "9.0"], "epochs": ["3.0", "4.0", "7.0", "10.0"]}[next(iter(given))]
    assert [row["step"] for row in rows(tmp_path / "run")] == steps
    assert rows(tmp_path / "run")[-1]["AP"] != ""


def test_lengths_below_what_was_done_and_impossible_ones_are_refused(digits_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(digits_folder, folder, epochs=2)
    assert refusal(folder, epochs=1) == (
        f"{folder} has trained for 2 epochs already, so epochs cannot be 1: give more than 2 to train longer"
    )
    assert refusal(folder, steps=4) == (
        f"{folder} has trained for 6 steps already, so steps cannot be 4: give more than 6 to train longer"
    )
    assert refusal(folder, epochs=0) == "epochs must be above 0, not 0"
    assert refusal(folder, steps="many") == "steps must be of type int or none, not str ('many')"


def test_data_may_have_been_moved(digits_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(digits_folder, tmp_path / "old")
    run(tmp_path / "old", folder, epochs=1)
    (tmp_path / "old").rename(tmp_path / "new")
    assert refusal(folder, epochs=2) == (
        f"{folder} was trained on {tmp_path / 'old'}, which does not exist: if the data were moved, give their new place as data"
    )
    resume(folder, epochs=2, data=tmp_path / "new")
    assert len(rows(folder)) == 2
    assert config(folder)["options"]["data"] == str(tmp_path / "new")
    (tmp_path / "new").rename(tmp_path / "newest")  # also where nothing is left to train
    _, lines = resume(folder, data=tmp_path / "newest")
    assert "is finished" in lines[0]
    assert [change["to"] for change in config(folder)["changes"]] == [
        {"data": str(tmp_path / "new"), "epochs": 2},
        {"data": str(tmp_path / "newest")},
    ]


@pytest.mark.parametrize("what", ["images", "classes"])
def test_other_data_are_refused(digits_folder: Path, tmp_path: Path, what: str) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    run(digits_folder, folder, epochs=1)
    annotations = shutil.copytree(digits_folder, other) / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    if what == "images":
        last = content["images"].pop()["id"]
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != last]
    else:
        content["categories"][0]["name"] = "nought"
    annotations.write_text(json.dumps(content))
    assert refusal(folder, epochs=2, data=other).startswith(
        f"{folder} began with other {what} than other train has now:"
    )


def test_corrected_annotations_are_said(digits_folder: Path, tmp_path: Path) -> None:
    data, folder = shutil.copytree(digits_folder, tmp_path / "data"), tmp_path / "run"
    run(data, folder, epochs=1)

    def notes(epochs: int) -> list[str]:
        return [line for line in resume(folder, epochs=epochs)[1] if "have changed since" in line]

    assert notes(2) == []
    for split in ("train", "val"):
        annotations = data / "annotations" / f"instances_{split}.json"
        content = json.loads(annotations.read_text())
        content["annotations"][0]["bbox"][2] += 1
        annotations.write_text(json.dumps(content))
    assert notes(3) == [
        f"Note: the annotations of data {split} have changed since {folder} last learned: it goes on with those of now; {figures} of earlier "
        "epochs are of the old ones."
        for split, figures in (("train", "losses"), ("val", "AP"))
    ]
    assert [len(set(config(folder)[part]["annotations"])) for part in ("learned_from", "evaluated_on")] == [2, 2]
    assert notes(4) == []


def test_a_damaged_checkpoint(digits_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(digits_folder, folder, epochs=1)
    (folder / "resume.ckpt").write_bytes((folder / "resume.ckpt").read_bytes()[:1000])
    assert refusal(folder) == (
        f"{folder / 'resume.ckpt'} is damaged, so the run cannot go on: start a new run; its models are in {folder}"
    )


def test_a_run_keeps_its_recipe_though_that_of_the_variant_has_changed(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(digits_folder, tmp_path / "run", steps=3)
    taken = []
    build = module.build_optimizer
    monkeypatch.setattr(
        module,
        "build_optimizer",
        lambda *arguments, **options: taken.append(options["slow_parts"]) or build(*arguments, **options),
    )
    usual = CATALOG["detr-compact"]
    recipe = dataclasses.replace(usual.recipe, slow_parts=("decoder",))
    monkeypatch.setitem(CATALOG, "detr-compact", dataclasses.replace(usual, recipe=recipe))
    resume(tmp_path / "run", steps=4)
    assert taken == [usual.recipe.slow_parts]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.json", '{"options": {', "is damaged: bring it back, or start a new run"),
        (
            "metrics.json",
            '{"best": ',
            "is damaged: bring it back, or delete it: the best model is chosen among the epochs to come",
        ),
        (
            "metrics.json",
            "[]",
            "is damaged: bring it back, or delete it: the best model is chosen among the epochs to come",
        ),
        (
            "loggers.json",
            "wandb",
            "is damaged: bring it back, or delete it: other tools begin a new run",
        ),
        (
            "log.csv",
            "epoch,step,loss\n1.0,3.0,?\n",
            "is damaged (could not convert string to float: '?'): correct or delete the row, or delete the file; what is missing in it is "
            "missing in the curves",
        ),
        (
            "log.csv",
            "step,loss\n3.0,1.0\n",
            "is damaged (a row without its epoch): correct or delete the row, or delete the file; what is missing in it is missing in "
            "the curves",
        ),
    ],
)
def test_other_damaged_files(name: str, content: str, sentence: str, digits_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(digits_folder, folder, steps=3)
    before = (folder / name).read_bytes() if (folder / name).exists() else None
    (folder / name).write_text(content)
    assert refusal(folder) == f"{folder / name} {sentence}"
    if name == "config.json":
        assert before is not None
        (folder / name).write_bytes(before)
    else:
        (folder / name).unlink()
    detrkit.train(resume=folder, steps=6)  # the remedy
    assert [row["epoch"] for row in rows(folder)] == (["2.0"] if name == "log.csv" else ["1.0", "2.0"])


def test_a_checkpoint_of_another_model(digits_folder: Path, tmp_path: Path) -> None:
    for name, queries in (("run", 8), ("other", 9)):
        run(digits_folder, tmp_path / name, steps=3, settings={**SMALL["settings"], "queries": queries})
    folder = tmp_path / "run"
    shutil.copy(tmp_path / "other" / "resume.ckpt", folder / "resume.ckpt")
    with pytest.raises(ConfigurationError) as caught:
        detrkit.train(resume=folder, steps=6)
    assert str(caught.value) == (
        f"{folder / 'resume.ckpt'} does not belong to the model of {folder / 'config.json'}: they differ in query_source.position.weight: bring "
        "back the files that belong together, or start a new run"
    )


def test_a_checkpoint_that_cannot_be_read_for_now(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run(digits_folder, folder, epochs=1)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("torch.load", refuse)
    assert refusal(folder) == (
        f"{folder / 'resume.ckpt'} cannot be read (Permission denied): check its permissions and its disk"
    )


def test_a_new_place_where_no_data_are(digits_folder: Path, tmp_path: Path) -> None:
    folder, typo = tmp_path / "run", tmp_path / "typo"
    run(digits_folder, folder, epochs=1)
    message = f"the data given, {typo}, do not exist: check the path; {folder} was trained on {digits_folder}"
    assert refusal(folder, data=typo) == message  # the run is finished
    assert refusal(folder, data=typo, epochs=2) == message
    (folder / "report.html").unlink()
    assert refusal(folder, data=typo) == message


def test_a_finished_run_takes_no_other_data(digits_folder: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    data = shutil.copytree(digits_folder, tmp_path / "data")
    run(data, folder, epochs=1)
    for place in (shutil.copytree(digits_folder, other), data):
        annotations = place / "annotations" / "instances_train.json"
        content = json.loads(annotations.read_text())
        content["categories"][0]["name"] = "nought"
        annotations.write_text(json.dumps(content))
    assert refusal(folder, data=other).startswith(f"{folder} began with other classes than other train has now:")
    (folder / "report.html").unlink()
    assert refusal(folder).startswith(f"{folder} began with other classes than data train has now:")
    assert not (folder / "report.html").exists()
