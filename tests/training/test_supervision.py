"""Training with more supervision than a paper has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training.small_runs import check_same_run, run, without_reports

import detrkit
from detrkit.errors import OptionError

OPTIONS = {"supervision": "groups,count=3", "epochs": 2, "crop": False, "warmup_steps": 60}


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    without_reports(monkeypatch)


def test_a_resumed_run_is_the_same_and_its_models_are_plain(digits_folder: Path, tmp_path: Path) -> None:
    run(digits_folder, tmp_path / "whole", **OPTIONS)
    run(digits_folder, tmp_path / "parts", **OPTIONS, steps=3)
    detrkit.train(resume=tmp_path / "parts", steps=6)
    check_same_run(tmp_path / "whole", tmp_path / "parts")
    state = torch.load(tmp_path / "whole" / "resume.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("model.supervision.") for name in state)
    for name in ("best", "last"):
        tensors = load_file(tmp_path / "whole" / f"{name}.safetensors")
        assert not any(each.startswith("supervision.") for each in tensors)
    assert detrkit.load(tmp_path / "whole").supervision is None
    options = json.loads((tmp_path / "whole" / "config.json").read_text())["options"]
    assert options["supervision"] == "groups,count=3"


def test_it_starts_from_a_model_without_it(digits_folder: Path, tmp_path: Path) -> None:
    plain, _ = run(digits_folder, tmp_path / "plain", "dab-detr-compact", steps=1)
    _, printed = run(
        digits_folder,
        tmp_path / "more",
        "dab-detr-compact",
        steps=1,
        weights=str(plain.folder),
        supervision="denoising,copies=20",
    )
    assert "all 10 classes kept" in printed


@pytest.mark.parametrize(
    ("variant", "supervision", "words"),
    [
        ("detr-r50", "denoising", "no query source to which noised points or boxes can be added"),
        ("detr-r50-panoptic", "groups", "has a forward pass of its own"),
        ("dino-r50-4scale", "groups", "brings training queries of its own"),
        ("detr-r50", "more", "there is no supervision 'more'"),
    ],
)
def test_what_a_model_cannot_take_is_said_before_anything_is_read(variant: str, supervision: str, words: str) -> None:
    with pytest.raises(OptionError, match=words) as caught:
        detrkit.train(variant, "no such data", supervision=supervision)
    assert caught.value.options == ("supervision",)
