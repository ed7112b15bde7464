"""The Triton kernels without a GPU: through Triton's interpreter, and compiled ahead of time.

Triton decides when it is imported whether to interpret, so functions named `check_*` run in their own process (with or without a GPU):

    TRITON_INTERPRET=1 pytest -o python_functions="check_*" tests/layers/sampling/test_triton_kernels.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[3]
SIZES = ((7, 5), (5, 1), (1, 3))

triton = pytest.importorskip("triton", reason="needs triton, which comes with PyTorch for CUDA")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_interpreted_kernels_compute_the_formula(which: str) -> None:
    arguments = (
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "python_functions=check_*",
        "-m",
        which,
        __file__,
    )
    result = run(*arguments, TRITON_INTERPRET="1")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("architecture", "dtype", "red"), [(80, "fp16", "f32"), (90, "fp32", "v4.f32")])
def test_kernels_compile_for_a_gpu(
    architecture: int, dtype: str, red: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter accepts much that the compiler refuses; accessing four channels at a time makes the kernels fast."""
    from detrkit.layers.sampling import triton_kernels as module

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    values, floats = f"*{dtype}", "*fp32"
    inputs, outputs = (values, floats, values), (values,)
    forward = compile_ahead(module._forward_kernel, inputs, outputs, architecture, module.FORWARD_WARPS)
    inputs, outputs = (values, floats, values, values), (floats, floats, values)
    backward = compile_ahead(module._backward_kernel, inputs, outputs, architecture, module.BACKWARD_WARPS)
    load = {"fp32": "ld.global.v4.b32", "fp16": "ld.global.v2.b32"}[dtype]
    for ptx in (forward, backward):
        assert ptx.count(load) >= 16  # four neighbours on each of four levels
    assert backward.count(f"red.global.gpu.relaxed.add.{red} ") >= 16


def compile_ahead(kernel: Any, inputs: tuple[str, ...], outputs: tuple[str, ...], architecture: int, warps: int) -> str:
    """The PTX of a kernel for 8 heads of 32 channels, 4 levels, 4 points, which ptxas has accepted."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {"inputs": inputs, "outputs": outputs, "sizes": ("fp32",) * 8, "positions": "i32", "queries": "i32"}
    constants = {"heads": 8, "channels": 32, "levels": 4, "points": 4, "block_queries": 4 * warps, "block_channels": 32}
    aligned = {(i, j): [["tt.divisibility", 16]] for i, part in enumerate((inputs, outputs)) for j in range(len(part))}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": warps, "enable_fp_fusion": True}
    return str(triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options).asm["ptx"])


def test_benchmark_needs_a_gpu() -> None:
    result = run("benchmarks/gpu.py", CUDA_VISIBLE_DEVICES="")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "No CUDA device is available; run this on a machine with an NVIDIA GPU.\n"


def attend(values: Tensor, level_sizes: Any, locations: Tensor, weights: Tensor) -> Tensor:
    from detrkit.layers.sampling.triton_kernels import deformable_attention_triton

    return deformable_attention_triton(values, level_sizes, locations, weights)


def formula(values: Tensor, level_sizes: Any, locations: Tensor, weights: Tensor) -> Tensor:
    """The formula with `grid_sample`, for float64 inputs."""
    batch, _, heads, channels = values.shape
    total = values.new_zeros(batch * heads, channels, locations.shape[1])
    maps = values.split([height * width for height, width in level_sizes], dim=1)
    for level, (height, width) in enumerate(level_sizes):
        image = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        samples = F.grid_sample(image, grid, align_corners=False)
        total = total + (samples * weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
    return total.view(batch, heads * channels, -1).transpose(1, 2)


def make_inputs(
    level_sizes: Any, batch: int = 2, queries: int = 4, heads: int = 3, channels: int = 5, points: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations inside and around the maps, weights; the memory around the values is NaN, which would reveal reads beyond them."""
    positions = sum(height * width for height, width in level_sizes)
    values = torch.full((batch + 2, positions, heads, channels), torch.nan)[1:-1]
    values.copy_(torch.randn(values.shape))
    shape = (batch, queries, heads, len(level_sizes), points)
    return values, 0.5 + 0.5 * torch.randn(*shape, 2), torch.rand(shape)


def exact_gradients(level_sizes: Any, inputs: tuple[Tensor, ...], grad_output: Tensor) -> list[Tensor]:
    return gradients(formula, level_sizes, tuple(tensor.double() for tensor in inputs), grad_output)


def gradients(function: Any, level_sizes: Any, inputs: tuple[Tensor, ...], grad_output: Tensor) -> list[Tensor]:
    """Output and gradients of values, locations and weights."""
    values, locations, weights = (tensor.detach().requires_grad_() for tensor in inputs)
    output = function(values, level_sizes, locations, weights)
    return [output.detach(), *torch.autograd.grad(output, (values, locations, weights), grad_output.to(output.dtype))]


def compare(level_sizes: Any, inputs: tuple[Tensor, ...], tolerances: tuple[float, ...]) -> None:
    """Differences relative to the norm, for output and gradients of values, locations and weights."""
    values, locations, weights = inputs
    shape = (len(values), locations.shape[1], values.shape[2] * values.shape[3])
    grad_output = torch.randn(shape).to(values.dtype)
    ours = gradients(attend, level_sizes, inputs, grad_output)
    exact = exact_gradients(level_sizes, inputs, grad_output)
    assert [tensor.dtype for tensor in ours] == [values.dtype, values.dtype, locations.dtype, weights.dtype]
    for actual, expected, tolerance in zip(ours, exact, tolerances, strict=True):
        assert (actual.double() - expected).norm() <= tolerance * expected.norm()
        assert expected.norm() > 0


FLOAT32 = (1e-6, 1e-6, 1e-5, 1e-6)


@pytest.mark.parametrize(
    ("level_sizes", "layout"),
    [
        pytest.param(SIZES, {}, id="odd sizes"),
        pytest.param(((6, 9),), {"queries": 19, "heads": 2, "channels": 32, "points": 2}, id="one level, two programs"),
        pytest.param(
            ((1, 1), (2, 2)),
            {"queries": 2, "heads": 2, "channels": 4, "points": 9},
            id="more points than channels",
            marks=pytest.mark.slow,
        ),
        pytest.param(((3, 4),), {"queries": 2, "heads": 1, "channels": 200, "points": 1}, id="wide heads"),
    ],
)
def check_formula(level_sizes: Any, layout: dict[str, int]) -> None:
    compare(level_sizes, make_inputs(level_sizes, **layout), FLOAT32)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param(torch.float16, 5e-4, marks=pytest.mark.slow), (torch.bfloat16, 4e-3)]
)
def check_half_precision(dtype: torch.dtype, tolerance: float) -> None:
    """Inputs are exact in both computations, so only results are rounded; gradients of locations stay float32."""
    values, locations, weights = make_inputs(SIZES)
    compare(SIZES, (values.to(dtype), locations, weights.to(dtype)), (tolerance, tolerance, 1e-5, tolerance))


@pytest.mark.slow
def check_dtypes_need_not_agree() -> None:
    values, locations, weights = make_inputs(SIZES)
    compare(SIZES, (values, locations.half(), weights.bfloat16()), (1e-6, 1e-6, 1e-3, 4e-3))


def check_strides() -> None:
    values, locations, weights = make_inputs(SIZES)
    values = values.transpose(1, 2).contiguous().transpose(1, 2)
    locations, weights = (
        locations.flip(0).transpose(0, 1).contiguous().transpose(0, 1),
        weights[:, :, :1].expand_as(weights),
    )
    compare(SIZES, (values, locations, weights), FLOAT32)


def check_authors_values(shared: Path) -> None:
    """At a pixel coordinate of exactly -1 the kernel has the formula's gradient, where the authors' own kernel has zero."""
    with np.load(shared / "golden" / "ms_deform_attn" / "golden.npz") as file:
        golden = {name: torch.from_numpy(file[name]) for name in file.files}
    inputs = tuple(golden[name].float() for name in ("value", "locations", "weights"))
    ours = gradients(attend, SIZES, inputs, golden["grad_output"].float())
    for actual, name in zip(ours, ("output", "grad_value", "grad_locations", "grad_weights"), strict=True):
        torch.testing.assert_close(
            actual.double(), golden[name], rtol=1e-5, atol=2e-5 if name == "grad_locations" else 2e-6
        )


@pytest.mark.parametrize(
    "coordinate", [torch.nan, *(pytest.param(each, marks=pytest.mark.slow) for each in (torch.inf, -1e38, 3.0))]
)
def check_far_outside(coordinate: float) -> None:
    """A point with such a coordinate has no effect, on itself or on other points."""
    values, locations, weights = make_inputs(((4, 3), (2, 2)), queries=2, heads=2, points=2)
    locations[:, 0, 0, :, 0, 0] = coordinate
    locations[:, 0, 1, :, 1, 1] = coordinate
    outside = ~((locations.abs() < 3).all(-1))
    grad_output = torch.randn(2, 2, 10)
    ours = gradients(attend, ((4, 3), (2, 2)), (values, locations, weights), grad_output)
    without = (values, locations.masked_fill(outside[..., None], 0.5), weights.masked_fill(outside, 0))
    exact = exact_gradients(((4, 3), (2, 2)), without, grad_output)
    assert outside.sum() >= 8
    assert (ours[2][outside] == 0).all()
    assert (ours[3][outside] == 0).all()
    for actual, expected in zip(ours[:2], exact[:2], strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[2][~outside].double(), exact[2][~outside], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[3][~outside].double(), exact[3][~outside], rtol=1e-5, atol=1e-6)


def check_border() -> None:
    """On a map of ones the output is the share of the map under the point: all in the middle, half on an edge, a quarter in a corner."""
    values, weights = torch.ones(1, 12, 1, 1), torch.ones(1, 5, 1, 1, 1)
    points = [(0.5, 0.5), (0.0, 0.5), (1.0, 0.5), (1.0, 0.0), (0.5, 1 + 0.25 / 3)]
    locations = torch.tensor(points).view(1, 5, 1, 1, 1, 2)
    output = attend(values, ((3, 4),), locations, weights)
    torch.testing.assert_close(output.flatten(), torch.tensor([1.0, 0.5, 0.5, 0.25, 0.25]))


def check_padding() -> None:
    """Zeros do not change the result, but they get a gradient."""
    values, _, weights = make_inputs(((4, 4),), batch=1, heads=1, points=1)
    values.view(1, 4, 4, 1, 5)[:, :, 2:] = 0
    locations = torch.full((1, 4, 1, 1, 1, 2), 0.75)  # halfway between the two columns of zeros
    ours = gradients(attend, ((4, 4),), (values, locations, weights), torch.ones(1, 4, 5))
    assert (ours[0] == 0).all()
    grad_values = ours[1].view(4, 4, 5)
    torch.testing.assert_close(grad_values[2:, 2:], (weights.sum() / 4).expand(2, 2, 5))
    grad_values[2:, 2:] = 0
    assert (grad_values == 0).all()


@pytest.mark.parametrize("layout", [{"batch": 0}, {"queries": 0}])
def check_empty_inputs(layout: dict[str, int]) -> None:
    values, locations, weights = make_inputs(SIZES, **layout)
    output, *grads = gradients(
        attend, SIZES, (values, locations, weights), torch.ones(len(values), locations.shape[1], 15)
    )
    assert output.shape == (len(values), locations.shape[1], 15)
    assert [grad.shape for grad in grads] == [values.shape, locations.shape, weights.shape]
    assert all((grad == 0).all() for grad in grads)


def check_operator() -> None:
    """PyTorch's own checks: schema, autograd, fake tensors, tracing with unknown sizes (what `torch.compile` needs)."""
    values, locations, weights = (tensor.requires_grad_() for tensor in make_inputs(((2, 3),), queries=3))
    torch.library.opcheck(torch.ops.detrkit.deformable_attention_triton, (values, [2, 3], locations, weights))


def check_errors() -> None:
    values, locations, weights = make_inputs(SIZES)
    with pytest.raises(TypeError, match=r"float32, float16 or bfloat16, not torch.float64"):
        attend(values.double(), SIZES, locations, weights)
    with pytest.raises(ValueError, match=r"\[\(7, 5\), \(5, 1\)\] do not add up to the 43 positions"):
        attend(values, SIZES[:2], locations, weights)
    with pytest.raises(ValueError, match=r"do not fit values \(2, 43, 3, 5\) of 3 levels"):
        attend(values, SIZES, locations[:, :, :2], weights)
    with pytest.raises(ValueError, match=r"weights \(2, 4, 3, 3, 3\) do not fit"):
        attend(values, SIZES, locations, weights[..., :3])
