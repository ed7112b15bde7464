"""What a dry run says of memory and length."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from detrkit.training import TrainingOptions
from detrkit.training.options import Schedule
from detrkit.training.rehearsal import DryRun, _gpu_memory

SCHEDULE = Schedule(epochs=3, steps=100, steps_per_epoch=40, piece_size=4, accumulate=4)
WITHOUT_GPU = DryRun(TrainingOptions("detr-compact", "digits", epochs=300, steps=100), SCHEDULE, 2.34, None, 500.0)


def test_the_number_of_epochs_is_what_the_steps_take() -> None:
    text = str(WITHOUT_GPU)
    assert "  epochs = 3 (as many as the steps take)\n" in text
    assert "300" not in text
    assert "Length: 3 epochs, 100 steps with batches of 16 images, each in 4 pieces\n" in text
    assert "Memory: about 2.3 GB (an estimate for a CPU in float32)\n" in text
    assert "  epochs = 300\n" in str(
        replace(WITHOUT_GPU, options=TrainingOptions("detr-compact", "digits", epochs=300))
    )


def test_memory_of_a_gpu_is_what_was_measured_and_what_the_optimizer_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = torch.nn.Linear(1000, 1000, bias=False)
    assert _gpu_memory(module, "cpu") is None
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3_000_000_000)
    assert _gpu_memory(module, "cuda:0") == pytest.approx(3.008)
    assert "Memory: about 3.0 GB on the GPU (measured, with room for the optimizer)\n" in str(
        replace(WITHOUT_GPU, gpu_memory=3.008)
    )
