"""The package's public face: what it offers, and how little it costs to look at it."""

from __future__ import annotations

import pydoc
import re
import subprocess
import sys

import pytest

import detrkit

PUBLIC = [
    "Category", "DetectionDataset", "Detector", "Evaluation", "ImageBatch", "Losses", "Output",
    "PanopticEvaluation", "PanopticSegmentation", "Predictor", "Preprocessing", "Target", "TrainingOptions", "build", "checkpoints", "criterion_for",
    "errors", "evaluate", "evaluate_panoptic", "explain", "inspect_data", "load", "open_dataset", "save", "train",
]  # fmt: skip


def test_every_public_name_is_deliberate() -> None:
    assert detrkit.__all__ == PUBLIC
    assert len(PUBLIC) <= 25


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist(name: str) -> None:
    assert getattr(detrkit, name) is not None
    assert name in dir(detrkit)


def test_only_public_names_are_offered() -> None:
    assert dir(detrkit) == sorted(PUBLIC)


def test_help_begins_with_what_to_begin_with() -> None:
    text = pydoc.plain(pydoc.render_doc(detrkit))
    first = text[: text.index("PACKAGE CONTENTS")]
    assert "detrkit - Object detection with transformers" in first
    for name in PUBLIC:
        if name not in (
            "Category",
            "Evaluation",
            "PanopticEvaluation",
            "PanopticSegmentation",
            "Preprocessing",
        ):  # what others return or take
            assert f"`{name}`" in first, name
    for name in ("evaluate", "train", "load"):  # functions from modules that are imported at first use
        assert re.search(rf"^    {name}\(", text, flags=re.MULTILINE), name


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'detekt'"):
        _ = detrkit.detekt


def test_a_forward_pass_imports_only_what_it_needs() -> None:
    code = """
import sys, torch, detrkit
model = detrkit.build("deformable-detr-r18-two-stage").eval()
with torch.inference_mode():
    model(detrkit.ImageBatch(torch.rand(1, 3, 64, 96)))
print("LOADED", [name for name in ("torchvision", "torch._dynamo", "lightning", "scipy.optimize") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in result.stdout
