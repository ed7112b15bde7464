"""The package's public face: what it offers, and how little it costs to look at it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import detrkit

HEAVY = ("torch", "torchvision", "numpy", "lightning", "matplotlib", "supervision", "PIL", "scipy")
PUBLIC = [
    "Category", "DetectionDataset", "Detector", "Evaluation", "ImageBatch", "Inspection", "Losses", "Output", "Predictor", "Preprocessing",
    "Target", "TrainingOptions", "build", "checkpoints", "criterion_for", "errors", "evaluate", "inspect_data", "load", "open_dataset", "save", "train",
]  # fmt: skip


def test_every_public_name_is_deliberate() -> None:
    assert detrkit.__all__ == PUBLIC
    assert len(PUBLIC) <= 25


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist(name: str) -> None:
    assert getattr(detrkit, name) is not None
    assert name in dir(detrkit)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'detekt'"):
        _ = detrkit.detekt


@pytest.mark.parametrize(
    "code",
    [
        "import detrkit",
        "import sys; from detrkit.__main__ import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
        "import sys; from detrkit.__main__ import main\ntry:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass",
    ],
    ids=["import", "help", "train-help"],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    check = f"{code}\nimport sys\nprint('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert "LOADED []" in result.stdout


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
