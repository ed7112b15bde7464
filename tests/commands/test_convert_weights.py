"""`detrkit convert-weights` as a user runs it: there and back, what it prints and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoints.authors_files import hollow, write
from commands.running import detrkit_command, refusal

import detrkit


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sizes = {"width": 64, "hidden": 48, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 1, "queries": 5}
    model = detrkit.build("deformable-detr-r18", classes=["cat", "dog"], **sizes)
    return detrkit.save(model, tmp_path_factory.mktemp("own") / "own.safetensors")


def test_there_and_back(own: Path, tmp_path: Path) -> None:
    said = detrkit_command("convert-weights", own, "authors.pth", folder=tmp_path)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout == (
        "deformable-detr-r18, written to authors.pth in its authors' form\nNext: detrkit predict authors.pth IMAGES\n"
    )
    said = detrkit_command("convert-weights", "authors.pth", "folder", folder=tmp_path)
    assert said.stdout == (
        "deformable-detr-r18, written to folder in Hugging Face's form\n"
        'Next: transformers.DeformableDetrForObjectDetection.from_pretrained("folder") in Python, or detrkit predict folder IMAGES\n'
    )
    assert json.loads((tmp_path / "folder/config.json").read_text())["id2label"] == {"0": "cat", "1": "dog"}
    said = detrkit_command("convert-weights", "folder", "back.safetensors", folder=tmp_path)
    assert said.stdout == (
        "Note: folder is a folder, its model.safetensors is used.\n"
        "deformable-detr-r18, written to back.safetensors in detrkit's own form\n"
        "Next: detrkit predict back.safetensors IMAGES\n"
    )
    assert (tmp_path / "back.safetensors").read_bytes() == own.read_bytes()


def test_timms_backbone(own: Path, tmp_path: Path) -> None:
    said = detrkit_command("convert-weights", own, "folder", "--timm-backbone", folder=tmp_path)
    assert said.stdout.startswith(
        "Note: the backbone is timm's, so opening the model needs the package timm beside transformers.\n"
    )
    assert json.loads((tmp_path / "folder/config.json").read_text())["use_timm_backbone"] is True


def test_what_exists_is_kept(own: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_text("mine")
    assert refusal("convert-weights", own, "mine.pth", folder=tmp_path) == (
        "detrkit: mine.pth exists: choose another path, or replace it with --force (force=True in Python)"
    )
    assert (tmp_path / "mine.pth").read_text() == "mine"
    assert detrkit_command("convert-weights", own, "mine.pth", "--force", folder=tmp_path).returncode == 0
    assert detrkit.load(tmp_path / "mine.pth").card == detrkit.load(own).card


def test_hints_are_named_as_options(tmp_path: Path) -> None:
    write(tmp_path / "theirs.pth", hollow("detr-r50", classes=["x", "y"]))
    told = refusal("convert-weights", "theirs.pth", "own.safetensors", folder=tmp_path)
    assert told == (
        "detrkit: theirs.pth could be any of detr-r50, detr-r50-dc5, between which its contents do not decide: say which one with --variant"
    )
    hints = ("--variant", "detr-r50-dc5", "--classes", "cat", "dog")
    said = detrkit_command("convert-weights", "theirs.pth", "own.safetensors", *hints, folder=tmp_path)
    assert said.returncode == 0, said.stderr
    card = detrkit.load(tmp_path / "own.safetensors").card
    assert (card.variant, [each.name for each in card.categories]) == ("detr-r50-dc5", ["cat", "dog"])
    told = refusal("convert-weights", "own.safetensors", "x.pth", *hints, folder=tmp_path)
    assert told == "detrkit: own.safetensors already contains the names of its classes: leave --classes out"


def test_what_is_no_model(own: Path, tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>")
    assert refusal("convert-weights", "page.pth", "x.safetensors", folder=tmp_path) == (
        "detrkit: page.pth is a web page, not the file that it leads to: download the weights themselves"
    )
    assert refusal("convert-weights", "gone.pth", "x.safetensors", folder=tmp_path) == (
        "detrkit: there is no weight file gone.pth: check the path"
    )
    assert refusal("convert-weights", own, "x.safetensors", "--timm-backbone", folder=tmp_path) == (
        "detrkit: --timm-backbone is for Hugging Face's form only: leave it out"
    )
    assert not (tmp_path / "x.safetensors").exists()


def test_the_command_for_data_sets_leads_here(own: Path, tmp_path: Path) -> None:
    assert refusal("convert", own, "--to", "yolo", "--output", "x", folder=tmp_path) == (
        f"detrkit: {own} is a file of weights, and a data set is needed: use detrkit convert-weights"
    )
    for command, other in (("convert", "detrkit convert-weights"), ("convert-weights", "detrkit convert")):
        assert other in " ".join(detrkit_command(command, "--help", folder=tmp_path).stdout.split())
