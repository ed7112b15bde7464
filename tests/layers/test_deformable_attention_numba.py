"""The CPU kernels of deformable attention as an installation has them: in use, and compiled once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detrkit.layers.deformable_attention import ENVIRONMENT_VARIABLE, choice, implementations


def test_numba_is_what_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a dependency, so a kernel that cannot be loaded must not pass for a computer without it."""
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    (numba,) = (each for each in implementations() if each.name == "numba")
    assert numba.usable, numba.reason
    assert choice(torch.device("cpu"), torch.float32).name == "numba"


CACHED = """
import torch
from detrkit.layers import deformable_attention_numba as kernels
values, locations, weights = torch.rand(1, 6, 2, 4, requires_grad=True), torch.rand(1, 3, 2, 1, 2, 2), torch.rand(1, 3, 2, 1, 2)
kernels.deformable_attention_numba(values, ((2, 3),), locations, weights).sum().backward()
for kernel in (kernels._forward, kernels._backward):
    print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
"""


def test_kernels_are_compiled_once_and_then_read_from_disk(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def process() -> list[list[int]]:
        command = [sys.executable, "-c", CACHED]
        printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        return [[int(word) for word in line.split()] for line in printed.splitlines()]

    assert process() == [[0, 1], [0, 1]]
    kept = sorted(path.name for path in tmp_path.rglob("*.nbc"))
    assert kept
    assert process() == [[1, 0], [1, 0]]
    assert sorted(path.name for path in tmp_path.rglob("*.nbc")) == kept
