"""What `--watch convergence` costs: the time of its look at the training images beside the time of an epoch's steps.

    python benchmarks/watching.py --variants detr-compact deformable-detr-compact dino-compact tsp-fcos-compact
    python benchmarks/watching.py --variants deformable-detr-r50 --data coco --steps 5

Steps are those of `detrkit train` with default settings: images are read and varied, without workers, as the look reads its images. A few steps stand for the epoch.
Steps and looks take turns, and the figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from rich.console import Console
from training_step import endless

from detrkit.allocation import keep_freed_memory
from detrkit.models.catalog import criterion_for
from detrkit.training.epochs import evaluation_batch
from detrkit.training.preparing import prepare
from detrkit.training.run import new_options
from detrkit.training.watching import ConvergenceWatch


def seconds_of_step(module: Any, optimizer: torch.optim.Optimizer, criterion: Any, batches: Any) -> float:
    """One step, reading its images included."""
    began = time.perf_counter()
    for _ in range(module.schedule.accumulate):
        images, targets = next(batches)
        criterion(module.model(images, targets), targets).total.backward()
    parameters = [value for value in module.model.parameters() if value.requires_grad]
    torch.nn.utils.clip_grad_norm_(parameters, module.options.gradient_clip or 0.1)
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - began


def measure(variant: str, options: argparse.Namespace) -> None:
    """Prints a line for a variant."""
    settings = {"train_split": options.train_split, "val_split": options.val_split, "workers": 0, "weights": "none"}
    module, _ = prepare(new_options(variant, options.data, settings), None, Console(quiet=True))
    training, schedule = module.data.dataset, module.schedule
    module.model.train()
    optimizer = module.configure_optimizers()["optimizer"]
    module.__dict__["_trainer"] = None
    criterion, batches = criterion_for(module.model), endless(module)
    watch = ConvergenceWatch(training, batch_size=evaluation_batch(module.options))
    steps, looks = [], []
    for number in range(options.steps + 1):
        step = seconds_of_step(module, optimizer, criterion, batches)
        began = time.perf_counter()
        watch.figures(module.model)
        if number:
            steps.append(step)
            looks.append(time.perf_counter() - began)
    epoch = statistics.median(steps) * len(training) / schedule.batch_size
    look = statistics.median(looks)
    print(
        f"{variant}: {look:.2f} s for {len(watch.images)} of {len(training)} images, {look / epoch:.2%} of an epoch's "
        f"{epoch:.0f} s ({statistics.median(steps):.3f} s for a step of {schedule.batch_size} images)",
        flush=True,
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", required=True)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--val-split", default="val")
    parser.add_argument("--steps", type=int, default=10, help="that are timed, each with a look behind it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    for variant in options.variants:
        measure(variant, options)


if __name__ == "__main__":
    main()
