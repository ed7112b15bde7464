"""The CPU kernels of deformable attention in an installation: they are used, and compiled only once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detrkit.layers.sampling.operator import (
    ENVIRONMENT_VARIABLE,
    choice,
    deformable_attention_by,
    implementations,
    multi_scale_deformable_attention,
)


def test_numba_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba is a dependency, so a kernel that cannot be loaded must not look like a computer without numba."""
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    (numba,) = (each for each in implementations() if each.name == "numba")
    assert numba.usable, numba.reason
    assert choice(torch.device("cpu"), torch.float32).name == "numba"


CACHED = """
import torch
from detrkit.layers.sampling import numba_kernels as kernels
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
    cached = sorted(path.name for path in tmp_path.rglob("*.nbc"))
    assert cached
    assert process() == [[1, 0], [1, 0]]
    assert sorted(path.name for path in tmp_path.rglob("*.nbc")) == cached


def test_the_compiler_is_only_imported_when_compiling() -> None:
    code = """
import sys, torch
from detrkit.layers.sampling.operator import choice, multi_scale_deformable_attention
values, locations = torch.rand(1, 6, 2, 4), torch.rand(1, 5, 2, 1, 3, 2)
weights = torch.rand(1, 5, 2, 1, 3, requires_grad=True)
multi_scale_deformable_attention(values, ((2, 3),), locations, weights).sum().backward()
assert weights.grad is not None
print(choice(torch.device("cpu"), torch.float32).name, "torch._dynamo" in sys.modules)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["numba", "False"]


@pytest.mark.parametrize("name", ["reference", "bags"])
def test_who_asks_for_plain_pytorch_waits_for_nothing_else(name: str) -> None:
    code = """
import sys, torch
from detrkit.layers.sampling.operator import choice, multi_scale_deformable_attention
values, locations = torch.rand(1, 6, 2, 4), torch.rand(1, 5, 2, 1, 3, 2)
multi_scale_deformable_attention(values, ((2, 3),), locations, torch.rand(1, 5, 2, 1, 3))
print(choice(torch.device("cpu"), torch.float32).name, *[name for name in ("numba", "triton", "torch._dynamo") if name in sys.modules])
"""
    environment = {**os.environ, ENVIRONMENT_VARIABLE: name}
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert output.split() == [name]


def test_frames_that_the_compiler_gives_up_on() -> None:
    """Frames that run uncompiled inside compiled code must not have their kernels compiled."""
    code = """
import torch
from detrkit.layers.sampling.operator import deformable_attention_reference, multi_scale_deformable_attention
torch._dynamo.config.recompile_limit = 1
compiled = torch.compile(multi_scale_deformable_attention, backend="eager", dynamic=False)
for queries in (3, 4, 5, 6):
    results = []
    for function in (compiled, deformable_attention_reference):
        torch.manual_seed(0)
        inputs = torch.rand(1, 6, 2, 4), torch.rand(1, queries, 2, 1, 3, 2), torch.rand(1, queries, 2, 1, 3)
        for each in inputs:
            each.requires_grad_()
        result = function(inputs[0], ((2, 3),), *inputs[1:])
        result.square().sum().backward()
        results.append([result.detach(), *(each.grad for each in inputs)])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)
print("equal")
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["equal"]


def test_a_second_derivative_is_refused() -> None:
    values = torch.rand(1, 6, 2, 4, requires_grad=True)
    with deformable_attention_by("numba"):
        result = multi_scale_deformable_attention(
            values, ((2, 3),), torch.rand(1, 5, 2, 1, 3, 2), torch.rand(1, 5, 2, 1, 3)
        )
    (gradient,) = torch.autograd.grad(result.square().sum(), values, create_graph=True)
    with pytest.raises(NotImplementedError, match="has no second derivative: compute it in a block"):
        gradient.sum().backward()


def test_the_kernels_can_be_reloaded() -> None:
    code = """
import importlib, torch
from detrkit.layers.sampling import numba_kernels as kernels
inputs = torch.rand(1, 6, 2, 4), ((2, 3),), torch.rand(1, 5, 2, 1, 3, 2), torch.rand(1, 5, 2, 1, 3)
before = kernels.deformable_attention_numba(*inputs)
print(torch.equal(importlib.reload(kernels).deformable_attention_numba(*inputs), before))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == [
        "True"
    ]
