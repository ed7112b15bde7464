"""How long the parts of a run take, measured on real images before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detrkit.data import DetectionDataset
from detrkit.structures import ImageBatch, Target
from detrkit.training.module import TrainingModule
from detrkit.training.processes import ALONE, Processes

_EVALUATED = 8  # images for each process


@dataclass(frozen=True)
class PieceTimes:
    """Seconds of training.

    Attributes:
        piece: reading, a forward and a backward pass of a piece of a batch.
        update: what follows the last piece: clipped gradients, a step of the optimizer, an average of the weights.
        start: until the first piece of an epoch is there.
        pieces: how many were timed.
    """

    piece: float
    update: float
    start: float
    pieces: int


def time_pieces(
    module: TrainingModule,
    device: str,
    *,
    pieces: int,
    seconds: float = float("inf"),
    update: Callable[[], None] | None = None,
    processes: Processes = ALONE,
    clock: Callable[[], float] = time.perf_counter,
) -> PieceTimes:
    """Trains on a few pieces of batches without changing weights, though statistics of batch norms change.

    Args:
        module: is moved to the device.
        device: such as "cpu" or "cuda:0".
        pieces: largest number that is timed, after one that is not: it compiles and reserves memory.
        seconds: after which no further piece is begun, though two are timed in any case.
        update: what follows the last piece of a batch, with rates of 0; None times no updates.
        processes: those that train together, which all have to call this; the clock of the first one decides. Gradients are then exchanged
            for each piece, also where a step has several.
        clock: seconds since any moment.
    """
    module.to(device).train()
    step = (
        _Step(module) if processes.count == 1 else DistributedDataParallel(_Step(module), gradient_as_bucket_view=True)
    )
    half = module.options.precision == "bf16"
    began, first = clock(), 0.0
    passes = updates = start = 0.0
    for index, (images, targets) in enumerate(_repeated(module)):
        ready = clock()
        batch = images.to(torch.device(device)), [target.to(torch.device(device)) for target in targets]
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            loss = step(batch, index)
        loss.backward()
        loss.item()  # waits for the device
        passed = clock()
        if update is not None:
            update()
            _wait(device)
        module.zero_grad()
        now = clock()
        if index == 0:
            start, first = ready - began, now
        else:
            passes, updates = passes + (passed - began), updates + (now - passed)
        began = now
        if index == pieces or processes.from_first(index > 1 and now - first > seconds):
            break
    return PieceTimes(passes / index, updates / index, start, index)


def time_evaluation(
    evaluated: Callable[[DetectionDataset], object],
    validation: DetectionDataset,
    *,
    seconds: float,
    processes: Processes = ALONE,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds that an evaluation takes, from evaluations of more and more images that are spread over the split.

    What each takes on top of its images, such as the start of workers, counts once. A small split is measured as a whole.

    Args:
        evaluated: evaluates a part of the split, as it is done after an epoch.
        validation: what the run is evaluated on.
        seconds: after which no further evaluation is begun, as far as that can be foreseen; three take place in any case.
        processes: those of the run, which all have to call this; the clock of the first one decides.
        clock: seconds since any moment.
    """
    total = len(validation)

    def timed(count: int) -> float:
        few = validation.subset(np.linspace(0, total - 1, count).astype(np.int64))
        began = clock()
        evaluated(few)
        return clock() - began

    began = clock()
    least = count = min(total, processes.count)
    timed(least)  # compiles
    start = timed(least)
    while count < total:
        count = min(total, max(_EVALUATED * processes.count, 4 * count))
        passed = timed(count)
        per_image = max(0.0, passed - start) / (count - least)
        if count == total:
            return passed
        foreseen = clock() - began + start + 4 * count * per_image
        if processes.from_first(foreseen > seconds):
            return start + per_image * (total - least)
    return start


class _Step(nn.Module):
    """A training step as a module of PyTorch, which may be one of several that exchange gradients."""

    def __init__(self, module: TrainingModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: tuple[ImageBatch, list[Target]], index: int) -> Tensor:
        """The loss."""
        return self.module.training_step(batch, index)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(torch.device(device))


def _repeated(module: TrainingModule) -> Iterator[tuple[ImageBatch, list[Target]]]:
    """Pieces of batches without end, also of a data set with few images."""
    while True:
        yield from module.train_dataloader()
