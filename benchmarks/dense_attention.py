"""A training step with attention in slices and with whole maps of weights, in alternation: seconds of both and their ratio.

    python benchmarks/dense_attention.py --rounds 3
    python benchmarks/dense_attention.py --variant detr-r18-c4 --height 480 --width 640 --threads 1

On a CPU dropout has no fused kernel. Without slices the weights of every layer are kept for the backward pass; with slices they are computed twice. What this
saves in memory is printed by benchmarks/memory.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest import mock

import torch

import detrkit
from detrkit.layers import attention
from detrkit.models.catalog import CATALOG, criterion_for
from detrkit.structures import ImageBatch, Target

SIDES = {"slices": attention.SLICED_FROM, "whole maps": 2**62}  # slices are used from this many weights on


def main() -> None:
    """Prints each round, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=sorted(CATALOG), default="detr-r50-dc5", metavar="NAME")
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1333)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = detrkit.build(options.variant).train()
    criterion = criterion_for(model)
    batch = ImageBatch(torch.randn(1, 3, options.height, options.width))
    targets = [Target(torch.randint(80, (7,)), torch.rand(7, 4) * 0.3 + 0.3)]

    def step(side: str) -> float:
        model.zero_grad()
        began = time.perf_counter()
        with mock.patch.object(attention, "SLICED_FROM", SIDES[side]):
            criterion(model(batch, targets), targets).total.backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - began

    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(options.rounds + 1):  # the first round warms up
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            seconds[side].append(step(side))
            print(f"round {number}: {side:10} {seconds[side][-1]:6.2f} s", flush=True)
    medians = {side: statistics.median(each[1:]) for side, each in seconds.items()}
    ratio = medians["slices"] / medians["whole maps"]
    print(f"{options.variant}, {options.height} x {options.width}, {options.threads} threads: ", end="")
    print(", ".join(f"{side} {each:.2f} s" for side, each in medians.items()) + f", ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
