"""Peak memory and time of a training step against the number of objects in each image.

    python benchmarks/crowded.py
    python benchmarks/crowded.py --variant detr-compact --objects 10 500

A step is forward, loss, backward and optimizer, on a batch of random images as large as the variant's recipe has them. Memory is the largest that
the process ever held (peak RSS), from a fresh process for each number of objects; time is the median of the steps after the first. `--limit`
ends a process that asks for more than so many gigabytes, so that a computer in use stays usable.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import detrkit
from detrkit.models.catalog import CATALOG
from detrkit.structures import ImageBatch, Target

LIGHT = "light-detr-mobilenetv2"
OBJECTS = (10, 100, 500)
CLASSES = 20


def main() -> None:
    """Measures every number of objects in a process of its own and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default=LIGHT, choices=CATALOG, metavar="NAME")
    parser.add_argument("--objects", type=int, nargs="+", default=OBJECTS)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, help="address space of a process in GB; by default there is no limit")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone is not None:
        torch.set_num_threads(options.threads)
        if options.limit is not None:
            size = int(options.limit * 2**30)
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
        print(json.dumps(measure(options.variant, options.alone, options.steps)))
        return
    print(
        f"{options.variant}, batches of {CATALOG[options.variant].recipe.batch_size} images, {options.threads} threads"
    )
    print(f"{'objects in each image':>21}{'peak GB':>10}{'beyond the first':>18}{'seconds a step':>16}")
    first = None
    for objects in options.objects:
        figures = in_its_own_process(options, objects)
        if figures is None:
            print(f"{objects:>21}{'out of memory':>28}")
            continue
        first = figures["gigabytes"] if first is None else first
        more = figures["gigabytes"] - first
        print(f"{objects:>21}{figures['gigabytes']:>10.2f}{more:>18.2f}{figures['seconds']:>16.3f}")


def measure(variant: str, objects: int, steps: int) -> dict[str, float]:
    """Peak gigabytes of this process and median seconds of a training step."""
    torch.manual_seed(0)
    model = detrkit.build(variant, classes=[f"class {index}" for index in range(CLASSES)]).train()
    criterion = detrkit.criterion_for(model)
    recipe, size = CATALOG[variant].recipe, model.card.preprocessing
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    batch = ImageBatch(torch.randn(recipe.batch_size, 3, size.short_side, size.long_side))
    targets = [crowd(objects) for _ in range(recipe.batch_size)]
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        criterion(model(batch, targets), targets).total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return {"gigabytes": peak(), "seconds": statistics.median(seconds[1:])}


def crowd(objects: int) -> Target:
    """Small boxes anywhere in an image, of random classes."""
    boxes = torch.cat([0.1 + 0.8 * torch.rand(objects, 2), 0.02 + 0.08 * torch.rand(objects, 2)], dim=1)
    return Target(torch.randint(CLASSES, (objects,)), boxes)


def peak() -> float:
    """The largest this process ever was, in gigabytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def in_its_own_process(options: argparse.Namespace, objects: int) -> dict[str, float] | None:
    """`measure` in a fresh process, so that no freed memory is used again; None where memory ran out."""
    command = [sys.executable, __file__, "--variant", options.variant, "--alone", str(objects)]
    command += ["--steps", str(options.steps), "--threads", str(options.threads)]
    command += [] if options.limit is None else ["--limit", str(options.limit)]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode == 0:
        figures: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
        return figures
    if finished.returncode < 0 or "memory" in finished.stderr.lower():  # killed by the system, or refused
        return None
    raise SystemExit(finished.stderr)


if __name__ == "__main__":
    main()
