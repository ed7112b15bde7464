"""Speed and memory of multi-scale deformable attention on the CPU: every implementation beside `grid_sample` per level.

    python benchmarks/deformable_attention.py --rounds 5

Sizes are those of Deformable DETR R50 at 800 × 1066. "peers" is the way without a compiled extension that other libraries take: sample
every level with `grid_sample`, stack, weigh, add up. Times are medians over the rounds, one implementation after the other in each round;
what counts is the ratio, since the machine's speed drifts. Peak memory is what a process of its own grows by beyond its inputs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.layers.sampling.operator import (
    deformable_attention_by,
    implementations,
    multi_scale_deformable_attention,
)

LEVELS = ((100, 134), (50, 67), (25, 34), (13, 17))
HEADS, CHANNELS, POINTS = 8, 32, 4
DECODER_QUERIES = 300
OFFSET_CELLS = 2.0
PEERS = "peers"
PLACES, PASSES = ("encoder", "decoder"), ("forward", "forward + backward")
Inputs = tuple[Tensor, Tensor, Tensor]


def make_inputs(place: str, batch: int) -> Inputs:
    """Random values and weights; locations about two cells from the tokens (encoder) or from anywhere (decoder)."""
    generator = torch.Generator().manual_seed(0)
    cells = sum(height * width for height, width in LEVELS)
    if place == "encoder":
        grids = [
            torch.cartesian_prod((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width).flip(-1)
            for height, width in LEVELS
        ]
        references = torch.cat(grids)
    else:
        references = torch.rand(DECODER_QUERIES, 2, generator=generator)
    sizes = torch.tensor([(width, height) for height, width in LEVELS])[:, None]
    shape = (batch, len(references), HEADS, len(LEVELS), POINTS)
    offsets = OFFSET_CELLS * torch.randn(*shape, 2, generator=generator) / sizes
    weights = torch.rand(*shape, generator=generator).flatten(-2).softmax(-1).view(shape)
    values = torch.randn(batch, cells, HEADS, CHANNELS, generator=generator)
    return values, references[:, None, None, None] + offsets, weights


def as_peers_do(values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """All samples of all levels side by side, then one weighted sum."""
    batch, _, heads, channels = values.shape
    queries = locations.shape[1]
    grids = 2 * locations - 1
    samples = []
    for place, part in enumerate(values.split([height * width for height, width in LEVELS], dim=1)):  # type: ignore[no-untyped-call]
        maps = part.flatten(2).transpose(1, 2).reshape(batch * heads, channels, *LEVELS[place])
        grid = grids[:, :, :, place].transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    factors = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    total = (torch.stack(samples, dim=-2).flatten(-2) * factors).sum(-1)
    return total.view(batch, heads * channels, queries).transpose(1, 2)


def attend(side: str, inputs: Inputs) -> Tensor:
    """The operator by one implementation."""
    values, locations, weights = inputs
    if side == PEERS:
        return as_peers_do(values, locations, weights)
    with deformable_attention_by(side):
        return multi_scale_deformable_attention(values, LEVELS, locations, weights)


def work(side: str, passes: str, inputs: Inputs) -> Callable[[], object]:
    """What is timed."""
    if passes == "forward":
        return torch.inference_mode()(lambda: attend(side, inputs))
    learned: Inputs = tuple(each.clone().requires_grad_() for each in inputs)  # type: ignore[assignment]
    gradient = torch.ones(inputs[0].shape[0], inputs[1].shape[1], HEADS * CHANNELS)
    return lambda: torch.autograd.grad(attend(side, learned), learned, gradient)


def alternate(sides: list[str], place: str, batch: int, passes: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of every side, side by side."""
    inputs = make_inputs(place, batch)
    runs = {side: work(side, passes, inputs) for side in sides}
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            gc.collect()
            began = time.perf_counter()
            runs[side]()
            seconds[side].append(time.perf_counter() - began)
    return seconds


def check_agreement(sides: list[str]) -> None:
    """All sides give the same, or the comparison means nothing."""
    inputs = make_inputs("encoder", 1)
    wanted = attend(PEERS, inputs)
    for side in sides:
        difference = (attend(side, inputs) - wanted).abs().max().item()
        print(f"{side}: largest difference from {PEERS} {difference:.1e}")
        if difference > 1e-3:
            raise SystemExit(f"{side} does not agree, so times cannot be compared")


def alone(side: str, place: str, batch: int, passes: str) -> None:
    """Does the work in this process and prints the MB that it grows by."""
    inputs = make_inputs(place, batch)
    run = work(side, passes, inputs)
    work(side, passes, make_inputs("decoder", 1))()  # what is loaded and compiled once is no part of it
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    for _ in range(3):
        run()
    print(json.dumps(status("VmHWM") - before))


def status(name: str) -> float:
    """A field of this process's memory in MB (not getrusage: its peak is handed down from the process that started this one)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def first_call() -> None:
    """Prints the seconds of the first forward and backward pass, and of a later one."""
    inputs = make_inputs("decoder", 1)
    run = work("numba", "forward + backward", inputs)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    print(json.dumps([seconds[0], seconds[-1]]))


def in_a_process(*arguments: str, **environment: str) -> str:
    """The last line that this script prints when it is run with these arguments."""
    command = [sys.executable, __file__, *arguments, "--threads", str(torch.get_num_threads())]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment).stdout
    return printed.splitlines()[-1]


def main() -> None:
    """Prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--first-call", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        side, place, batch, passes = options.alone
        alone(side, place, int(batch), passes)
        return
    if options.first_call:
        first_call()
        return
    sides = [PEERS, *(each.name for each in implementations() if each.usable and each.name != "triton")]
    machine = platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {machine}, {options.threads} threads, float32, levels {LEVELS}")
    check_agreement(sides[1:])
    print_times(sides, options.rounds)
    print_memory(sides)
    if "numba" in sides:
        print_compilation()


def print_times(sides: list[str], rounds: int) -> None:
    """Medians, and how many times faster than the peers."""
    for place in PLACES:
        for batch in (1, 2):
            for passes in PASSES:
                print(f"{place}, batch {batch}, {passes}")
                seconds = alternate(sides, place, batch, passes, rounds)
                for side, own in seconds.items():
                    ratios = [peer / mine for peer, mine in zip(seconds[PEERS], own, strict=True)]
                    print(
                        f"  {side:10}{1000 * statistics.median(own):10.1f} ms   {statistics.median(ratios):6.1f} times as fast"
                        f" ({min(ratios):.1f} to {max(ratios):.1f})"
                    )


def print_memory(sides: list[str]) -> None:
    """Growth at encoder size, and its share of the peers'."""
    for batch in (1, 2):
        for passes in PASSES:
            print(f"peak memory beyond the inputs, encoder, batch {batch}, {passes}")
            growth = {side: float(in_a_process("--alone", side, "encoder", str(batch), passes)) for side in sides}
            for side, megabytes in growth.items():
                print(f"  {side:10}{megabytes:10.0f} MB   {megabytes / growth[PEERS]:6.2f} of {PEERS}")


def print_compilation() -> None:
    """The first call with an empty cache on disk, and with a filled one."""
    with tempfile.TemporaryDirectory() as folder:
        for state in ("empty", "filled"):
            first, later = json.loads(in_a_process("--first-call", NUMBA_CACHE_DIR=folder))
            print(f"numba, cache {state}: first forward + backward {first:.2f} s, later {later:.3f} s")


if __name__ == "__main__":
    main()
