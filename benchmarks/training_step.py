"""Where the time of a training step goes: waiting for data, forward, matching, losses, backward, optimizer.

    python benchmarks/training_step.py --variants light-detr-mobilenetv2 --data bccd --train-split trainval --workers 0 2
    python benchmarks/training_step.py --variants deformable-detr-r50-two-stage dino-r50-4scale --batch 2 --objects 10 --memory

With `--data` a step is what `detrkit train` does with default settings: images are read and varied, a batch is taken in as many pieces. Without it
images are noise of one size with so many objects; variants take turns in every round, and figures are medians over the rounds. `--memory` also
measures the peak of resident memory of a process for each variant that takes two steps, and what it had before the first one. Random weights with tamed
norms: values do not change the time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import detrkit
from detrkit.allocation import keep_freed_memory
from detrkit.models.catalog import criterion_for
from detrkit.models.supervision import supervise
from detrkit.structures import ImageBatch, Target
from detrkit.training.optimizer import build_optimizer
from detrkit.training.preparing import prepare
from detrkit.training.run import new_options

PARTS = ("data", "forward", "matching", "losses", "backward", "optimizer")
Batch = tuple[ImageBatch, list[Target]]


class Clock:
    """Seconds of each part, and the moment at which the last one ended."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._last = time.perf_counter()

    def passed(self, part: str) -> None:
        """Adds the time since the last call to a part."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now


class Stepper:
    """A model that takes training steps part by part.

    Args:
        model: in training mode.
        optimizer: of its parameters.
        clip: largest norm of the gradient.
    """

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer, clip: float) -> None:
        self.model, self.optimizer, self.clip = model, optimizer, clip
        self.criterion: Any = criterion_for(model)

    def piece(self, batch: Batch, clock: Clock) -> None:
        """Forward, losses and backward of a piece of a batch."""
        images, targets = batch
        output = self.model(images, targets)
        clock.passed("forward")
        pairs = self.criterion.matched(output, targets)
        clock.passed("matching")
        total = self.criterion.losses(pairs).total
        clock.passed("losses")
        total.backward()
        clock.passed("backward")

    def step(self, clock: Clock) -> None:
        """What the optimizer does after the pieces."""
        parameters = [value for value in self.model.parameters() if value.requires_grad]
        torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        clock.passed("optimizer")


def on_data(variant: str, workers: int, options: argparse.Namespace) -> None:
    """Prints the parts of real steps."""
    settings = {
        "train_split": options.train_split,
        "val_split": options.val_split,
        "workers": workers,
        "weights": "none",
    }
    if options.backbone_weights is not None:
        settings |= {"backbone_weights": options.backbone_weights}
        del settings["weights"]
    module, _ = prepare(new_options(variant, options.data, settings), None, Console(quiet=True))
    module.model.train()
    optimizer = module.configure_optimizers()["optimizer"]
    module.__dict__["_trainer"] = None
    stepper = Stepper(module.model, optimizer, module.options.gradient_clip or 0.1)
    accumulate, batches = module.schedule.accumulate, endless(module)
    for _ in range(accumulate):
        next(batches)  # starts the workers
    clocks = []
    for step in range(options.steps + 2):
        clock = Clock()
        for _ in range(accumulate):
            batch = next(batches)
            clock.passed("data")
            stepper.piece(batch, clock)
        stepper.step(clock)
        if step >= 2:
            clocks.append(clock.seconds)
    show(f"{variant}, {workers} workers, {len(clocks)} steps of {module.schedule.batch_size} images", clocks)


def endless(module: Any) -> Iterator[Batch]:
    """Batches of one epoch after the other, as the run has them."""
    epoch = 0
    while True:
        module.data.set_epoch(epoch)
        yield from loader_of(module, epoch)
        epoch += 1


def loader_of(module: Any, epoch: int) -> Any:
    """The loader of an epoch, for a module without a trainer."""
    type(module).current_epoch = epoch
    return module.train_dataloader()


def noise(options: argparse.Namespace) -> Batch:
    """Images of noise with objects in random places."""
    images, objects, (height, width) = options.batch, options.objects, options.size
    generator = torch.Generator().manual_seed(0)
    targets = [
        Target(
            torch.randint(80, (objects,), generator=generator),
            torch.rand(objects, 4, generator=generator) * 0.3 + 0.3,
        )
        for _ in range(images)
    ]
    return ImageBatch(torch.randn(images, 3, height, width, generator=generator)), targets


def on_noise(variant: str) -> Stepper:
    """A model for steps on noise; more supervision follows its name behind a plus sign."""
    name, _, supervision = variant.partition("+")
    torch.manual_seed(0)
    model = detrkit.build(name).train()
    for buffer_name, buffer in model.backbone.named_buffers():
        if buffer_name.endswith("weight"):
            buffer.fill_(0.5)  # keeps random weights from overflowing
    if supervision:
        supervise(model, supervision)
    return Stepper(model, build_optimizer(model, lr=1e-4, backbone_lr=1e-5, weight_decay=1e-4), 0.1)


def alternate(options: argparse.Namespace) -> None:
    """Prints the parts of steps on noise, every variant once in each round."""
    batch = noise(options)
    steppers = {variant: on_noise(variant) for variant in options.variants}
    clocks: dict[str, list[dict[str, float]]] = {variant: [] for variant in steppers}
    for number in range(options.rounds + 1):
        for variant, stepper in steppers.items():
            clock = Clock()
            stepper.piece(batch, clock)
            stepper.step(clock)
            if number:
                clocks[variant].append(clock.seconds)
    for variant, found in clocks.items():
        show(variant, found)
    first = whole(clocks[options.variants[0]])
    for variant in options.variants[1:]:
        print(f"{variant} / {options.variants[0]}: {whole(clocks[variant]) / first:.2f}")


def whole(clocks: Sequence[dict[str, float]]) -> float:
    """Median seconds of a step."""
    return statistics.median(sum(clock.values()) for clock in clocks)


def show(title: str, clocks: Sequence[dict[str, float]]) -> None:
    """A line with the median of every part and its share of the step."""
    total = sum(statistics.median(clock[part] for clock in clocks) for part in PARTS)
    parts = []
    for part in PARTS:
        seconds = statistics.median(clock[part] for clock in clocks)
        parts.append(f"{part} {seconds * 1000:.0f} ms ({seconds / total:.1%})")
    print(f"{title}: {whole(clocks):.3f} s a step: {', '.join(parts)}", flush=True)


def peak(variant: str, options: argparse.Namespace) -> list[float]:
    """Peak of this process in GB before the first step and after the second."""
    stepper, batch = on_noise(variant), noise(options)
    before = high_water()
    for _ in range(2):
        clock = Clock()
        stepper.piece(batch, clock)
        stepper.step(clock)
    return [before, high_water()]


def high_water() -> float:
    """The most resident memory of this process so far, in GB; unlike the rusage it does not count that of the process it was forked from."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def compare_memory(options: argparse.Namespace) -> None:
    """Prints the peak of a process for each variant."""
    first = None
    for variant in options.variants:
        command = [sys.executable, __file__, "--alone", "--variants", variant, "--batch", str(options.batch)]
        command += [
            "--objects",
            str(options.objects),
            "--size",
            *map(str, options.size),
            "--threads",
            str(options.threads),
        ]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        before, most = json.loads(printed.splitlines()[-1])
        first = first or (before, most)
        grown = (most - before) / (first[1] - first[0]) if first[1] > first[0] else float("nan")
        ratios = f"{most / first[1]:.2f}, above what it had before {grown:.2f}"
        print(
            f"{variant}: peak {most:.2f} GB, {before:.2f} GB before the first step; beside the first: {ratios}",
            flush=True,
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--variants", nargs="+", required=True, help="names, also with supervision: NAME+groups,count=4"
    )
    parser.add_argument("--data", help="data set; noise without it")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--val-split", default="val")
    parser.add_argument("--backbone-weights")
    parser.add_argument("--workers", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=20, help="on data")
    parser.add_argument("--rounds", type=int, default=5, help="on noise")
    parser.add_argument("--batch", type=int, default=2, help="images of noise")
    parser.add_argument("--objects", type=int, default=10, help="of an image of noise")
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1066], metavar=("HEIGHT", "WIDTH"), help="of noise")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        print(json.dumps(peak(options.variants[0], options)))
        return
    keep_freed_memory()
    if options.data is not None:
        for variant in options.variants:
            for workers in options.workers:
                on_data(variant, workers, options)
        return
    alternate(options)
    if options.memory:
        compare_memory(options)


if __name__ == "__main__":
    main()
