"""Memory of a training step of every variant in the catalog, at its own batch and image sizes: pieces chosen, GB estimated and measured.

    python benchmarks/memory.py
    python benchmarks/memory.py --variants detr-r50-dc5 deformable-detr-r50

Measured is the peak of resident memory of a process of its own that takes one piece forward, through the criterion and backward, beside the
gradients of an earlier piece and AdamW's state of an earlier step. Pieces of several images are squares of the longer side, as upright and broad images padded to one size are.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

import detrkit
import detrkit.training.run
from detrkit.models.catalog import CATALOG, criterion_for
from detrkit.structures import ImageBatch, Target
from detrkit.training.optimizer import build_optimizer
from detrkit.training.pieces import pieces, step_memory

OBJECTS = 7  # of an image, COCO's mean


def main() -> None:
    """Prints a line for every variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=sorted(CATALOG), default=list(CATALOG), metavar="NAME")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--estimates", action="store_true", help="measure nothing")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        print(json.dumps({"gigabytes": peak(options.variants[0], *map(int, options.alone))}))
        return
    print(f"{'variant':42}{'batch':>6}{'pieces':>8}{'size':>13}{'estimated':>11}{'measured':>10}{'seconds':>9}")
    for name in options.variants:
        show(name, options.threads, measure=not options.estimates)


def show(name: str, threads: int, *, measure: bool) -> None:
    """One line."""
    variant = CATALOG[name]
    short, long, batch = variant.preprocessing.short_side, variant.preprocessing.long_side, variant.recipe.batch_size
    count = pieces(variant.config, batch, short, long)
    images = batch // count
    height = short if images == 1 else long
    estimated = step_memory(variant.config, images, short, long)
    began = time.perf_counter()
    measured = f"{in_its_own_process(name, images, height, long, threads):7.2f} GB" if measure else ""
    seconds = f"{time.perf_counter() - began:9.0f}" if measure else ""
    print(f"{name:42}{batch:6}{count:8}{height:>8} x {long}{estimated:8.2f} GB{measured}{seconds}", flush=True)


def in_its_own_process(name: str, images: int, height: int, width: int, threads: int) -> float:
    """`peak` in a fresh process."""
    command = [sys.executable, __file__, "--threads", str(threads), "--variants", name]
    command += ["--alone", str(images), str(height), str(width)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(printed.splitlines()[-1])["gigabytes"])


def peak(name: str, images: int, height: int, width: int) -> float:
    """Peak of this process in GB after one training step."""
    torch.manual_seed(0)
    model = detrkit.build(name).train()
    for buffer_name, buffer in model.backbone.named_buffers():
        if buffer_name.endswith("weight"):
            buffer.fill_(0.5)  # keeps random weights from overflowing
    criterion = criterion_for(model)
    optimizer = build_optimizer(model, lr=1e-4, backbone_lr=1e-5, weight_decay=1e-4)
    batch = ImageBatch(torch.randn(images, 3, height, width))
    targets = [Target(torch.randint(80, (OBJECTS,)), torch.rand(OBJECTS, 4) * 0.3 + 0.3) for _ in range(images)]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()  # makes AdamW's state
    criterion(model(batch, targets), targets).total.backward()  # type: ignore[no-untyped-call]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
