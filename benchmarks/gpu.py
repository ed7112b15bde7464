"""Checks detrkit's Triton kernels for multi-scale deformable attention on a CUDA GPU and times them beside PyTorch's `grid_sample`.

    python benchmarks/gpu.py

It needs torch and triton alone: the kernels are loaded from their file. Exit status: 0 all checks passed, 1 one failed, 2 no GPU.

Checks compare with the `grid_sample` formula in float64 on the same inputs: norm of the difference over norm of the result. Locations keep
a twentieth of a pixel away from pixel centres, where the gradient jumps and rounding decides the side.
Times are medians of CUDA events around single calls, both sides in alternation; for few queries they hold the launches from Python as well.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

KERNELS = Path(__file__).resolve().parents[1] / "src" / "detrkit" / "layers" / "sampling" / "triton_kernels.py"
DEVICE = "cuda"
Attention = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]
Inputs = tuple[Tensor, Tensor, Tensor]

# Rounding of the results alone, since sums are taken in float32 and the inputs are the same on both sides.
TOLERANCES = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 4e-3}
LOCATION_TOLERANCE = 2e-5  # the gradient of locations is float32 whatever the values are
CHECKED_SIZES = ((37, 53), (19, 27), (10, 14), (1, 3))

TIMED_SIZES = ((100, 167), (50, 84), (25, 42), (13, 21))  # strides 8, 16, 32, 64 of 800 × 1333
BATCH, HEADS, CHANNELS, POINTS = 2, 8, 32, 4
DECODER_QUERIES = 300
GOAL = 3.0


def load_kernels() -> Attention:
    """The public function of the kernels' file, without the rest of detrkit."""
    spec = importlib.util.spec_from_file_location("deformable_attention_triton", KERNELS)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{KERNELS} is missing; run this file inside a checkout of detrkit.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    attention: Attention = module.deformable_attention_triton
    return attention


def formula(values: Tensor, level_sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """What libraries do without a kernel of their own: `grid_sample` per level, in the dtype of the locations."""
    batch, _, heads, channels = values.shape
    maps = torch.split(values.to(locations.dtype), [height * width for height, width in level_sizes], dim=1)
    samples = []
    for level, (height, width) in enumerate(level_sizes):
        image = maps[level].flatten(2).transpose(1, 2).reshape(batch * heads, channels, height, width)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        samples.append(F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    shares = weights.to(locations.dtype).transpose(1, 2).flatten(0, 1).flatten(2)[:, None]
    total = (torch.stack(samples, dim=-2).flatten(-2) * shares).sum(-1)
    return total.view(batch, heads * channels, -1).transpose(1, 2).to(values.dtype)


def positions(level_sizes: Sequence[tuple[int, int]]) -> int:
    return sum(height * width for height, width in level_sizes)


def checked_inputs(dtype: torch.dtype, heads: int, channels: int, points: int, queries: int = 777) -> Inputs:
    """Random inputs, locations up to two pixels outside the maps included."""
    values = torch.randn(BATCH, positions(CHECKED_SIZES), heads, channels, device=DEVICE).to(dtype)
    shape = (BATCH, queries, heads, points)
    locations = []
    for size in CHECKED_SIZES:
        axes = []
        for side in reversed(size):
            pixel = torch.randint(-2, side + 1, shape, device=DEVICE) + 0.05 + 0.9 * torch.rand(shape, device=DEVICE)
            axes.append((pixel + 0.5) / side)
        locations.append(torch.stack(axes, dim=-1))
    weights = torch.rand(BATCH, queries, heads, len(CHECKED_SIZES), points, device=DEVICE).to(dtype)
    return values, torch.stack(locations, dim=3), weights


def differentiate(attention: Attention, inputs: Inputs, grad_output: Tensor) -> list[Tensor]:
    """Output and gradients of values, locations and weights."""
    values, locations, weights = (tensor.detach().requires_grad_() for tensor in inputs)
    output = attention(values, CHECKED_SIZES, locations, weights)
    return [output.detach(), *torch.autograd.grad(output, (values, locations, weights), grad_output.to(output.dtype))]


def check_formula(kernels: Attention, dtype: torch.dtype, heads: int, channels: int, points: int) -> bool:
    inputs = checked_inputs(dtype, heads, channels, points)
    grad_output = torch.randn(BATCH, 777, heads * channels, device=DEVICE).to(dtype)
    ours = differentiate(kernels, inputs, grad_output)
    values, locations, weights = inputs
    exact = differentiate(formula, (values.double(), locations.double(), weights.double()), grad_output)
    tolerance = TOLERANCES[dtype]
    passed = True
    names = ("output", "gradient of values", "gradient of locations", "gradient of weights")
    for name, mine, right in zip(names, ours, exact, strict=True):
        limit = LOCATION_TOLERANCE if name == "gradient of locations" else tolerance
        difference = float((mine.double() - right).norm() / right.norm())
        within = difference <= limit  # false for NaN as well
        passed &= within
        kind = f"{str(dtype).removeprefix('torch.'):8} {heads} x {channels:<3} K = {points}"
        print(f"  {kind}  {name:22} {difference:.1e} (at most {limit:.0e}){'' if within else '  FAILED'}")
    return passed


def check_out_of_reach(kernels: Attention) -> bool:
    """Points at NaN, infinite and far places do nothing."""
    values, locations, weights = checked_inputs(torch.float32, HEADS, CHANNELS, POINTS)
    grad_output = torch.randn(BATCH, 777, HEADS * CHANNELS, device=DEVICE)
    lost = torch.rand(weights.shape, device=DEVICE) < 0.2
    places = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e38, -1e38, 50.0], device=DEVICE)
    spoilt = locations.clone()
    spoilt[..., 0][lost] = places[torch.randint(len(places), (int(lost.sum()),), device=DEVICE)]
    ours = differentiate(kernels, (values, spoilt, weights), grad_output)
    without = differentiate(kernels, (values, locations, weights.masked_fill(lost, 0)), grad_output)
    silent = not ours[2][lost].any() and not ours[3][lost].any()
    passed = silent and all(
        float((mine - right).norm() / right.norm()) <= TOLERANCES[torch.float32]
        for mine, right in zip(ours[:2], without[:2], strict=True)
    )
    print(f"  points at NaN, infinite and far places do nothing{'' if passed else '  FAILED'}")
    return passed


def check_large(kernels: Attention) -> bool:
    """More than 2**31 values: the last image's output and gradient must be those that it has alone."""
    images = 2**31 // (100 * 100 * CHANNELS) + 2
    needed = images * 100 * 100 * CHANNELS * (2 + 4 + 2)  # values, their gradient in float32, its copy in float16
    if torch.cuda.mem_get_info()[0] < 1.1 * needed:
        print(f"  more than 2**31 values: left out, it takes {needed / 2**30:.0f} GiB of free memory")
        return True
    values = torch.zeros(images, 100 * 100, 1, CHANNELS, dtype=torch.float16, device=DEVICE)
    values[-1].normal_()
    locations, weights = (
        torch.rand(images, 50, 1, 1, 4, 2, device=DEVICE),
        torch.rand(images, 50, 1, 1, 4, device=DEVICE),
    )
    results = []
    for part in (slice(None), slice(images - 1, None)):
        leaf = values[part].detach().requires_grad_()
        output = kernels(leaf, ((100, 100),), locations[part], weights[part])
        (gradient,) = torch.autograd.grad(output.float().sum(), leaf)
        results.append((output[-1].detach(), gradient[-1]))
        del output, gradient, leaf
    (output, gradient), (output_alone, gradient_alone) = results
    passed = torch.equal(output, output_alone) and torch.allclose(gradient, gradient_alone, rtol=2e-3, atol=1e-3)
    print(f"  more than 2**31 values{'' if passed else '  FAILED'}")
    return passed


def check(kernels: Attention) -> bool:
    print("Checks against the formula in float64:")
    outcomes = [check_formula(kernels, dtype, HEADS, CHANNELS, POINTS) for dtype in TOLERANCES]
    outcomes += [check_formula(kernels, torch.float32, heads, channels, 3) for heads, channels in ((3, 5), (4, 64))]
    outcomes += [check_out_of_reach(kernels), check_large(kernels)]
    torch.cuda.empty_cache()
    return all(outcomes)


def timed_inputs(dtype: torch.dtype, decoder: bool) -> Inputs:
    """Points scattered by about three pixels: around every cell of every level (encoder), or around 300 random places (decoder)."""
    values = torch.randn(BATCH, positions(TIMED_SIZES), HEADS, CHANNELS, device=DEVICE).to(dtype)
    if decoder:
        centres = torch.rand(DECODER_QUERIES, 2, device=DEVICE)
    else:
        cells = [
            torch.cartesian_prod(
                (torch.arange(height, device=DEVICE) + 0.5) / height, (torch.arange(width, device=DEVICE) + 0.5) / width
            )
            for height, width in TIMED_SIZES
        ]
        centres = torch.cat(cells).flip(1)
    shape = (BATCH, len(centres), HEADS, len(TIMED_SIZES), POINTS)
    sizes = torch.tensor(TIMED_SIZES, device=DEVICE).flip(1)[:, None]
    locations = centres[:, None, None, None] + 3 * torch.randn(*shape, 2, device=DEVICE) / sizes
    weights = torch.rand(shape, device=DEVICE).flatten(-2).softmax(-1).view(shape).to(dtype)
    return values, locations, weights


def run_once(attention: Attention, inputs: Inputs, grad_output: Tensor | None) -> None:
    """Forward alone, or forward and backward where there is a gradient to begin with."""
    if grad_output is None:
        with torch.no_grad():
            attention(inputs[0], TIMED_SIZES, inputs[1], inputs[2])
    else:
        output = attention(inputs[0], TIMED_SIZES, inputs[1], inputs[2])
        torch.autograd.grad(output, inputs, grad_output)


def measure(calls: Sequence[Callable[[], None]], rounds: int) -> list[tuple[float, float]]:
    """For each call the median milliseconds and the peak MiB beyond what was there before."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 5):  # the first five compile and warm up
        for place, call in enumerate(calls):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            end.synchronize()
            if turn >= 5:
                times[place].append(start.elapsed_time(end))
    peaks = []
    for call in calls:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        peaks.append((torch.cuda.max_memory_allocated() - before) / 2**20)
    return [(statistics.median(time), peak) for time, peak in zip(times, peaks, strict=True)]


def compare(kernels: Attention, rounds: int) -> None:
    """Prints times and peak memory of kernels and formula."""
    sizes = ", ".join(f"{height} x {width}" for height, width in TIMED_SIZES)
    print(f"Levels {sizes}; batch {BATCH}, {HEADS} heads of {CHANNELS}, {POINTS} points; medians of {rounds} rounds")
    print("  queries         dtype     pass              kernels ms  formula ms  ratio  kernels MiB  formula MiB")
    for decoder in (False, True):
        for dtype in TOLERANCES:
            inputs = timed_inputs(dtype, decoder)
            queries = inputs[1].shape[1]
            for tensor in inputs:
                tensor.requires_grad_()
            grad_output = torch.randn(BATCH, queries, HEADS * CHANNELS, device=DEVICE).to(dtype)
            for name, gradient in (("forward", None), ("forward+backward", grad_output)):
                calls = [functools.partial(run_once, side, inputs, gradient) for side in (kernels, formula)]
                (mine, my_peak), (theirs, their_peak) = measure(calls, rounds)
                goal = ""
                if not decoder and dtype == torch.float32 and gradient is not None:
                    goal = f"  goal of {GOAL:.0f} x {'reached' if theirs / mine >= GOAL else 'MISSED'}"
                print(
                    f"  {queries:<6} {'decoder' if decoder else 'encoder':8} {str(dtype).removeprefix('torch.'):9} {name:17}"
                    f" {mine:10.3f}  {theirs:10.3f} {theirs / mine:6.1f}  {my_peak:11.0f}  {their_peak:11.0f}{goal}"
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, help="timed calls of each side")
    rounds = parser.parse_args().rounds
    if not torch.cuda.is_available():
        print("No CUDA device is available; run this on a machine with an NVIDIA GPU.", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    kernels = load_kernels()
    triton_version = importlib.metadata.version("triton")
    name = torch.cuda.get_device_name()
    print(
        f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, triton {triton_version}, Python {platform.python_version()}"
    )
    passed = check(kernels)
    compare(kernels, rounds)
    print("All checks passed." if passed else "A check FAILED.")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
