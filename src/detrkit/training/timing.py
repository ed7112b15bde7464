"""How long the parts of a run take, measured on real images before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from detrkit.data import DetectionDataset
from detrkit.evaluation import detect, evaluate_panoptic
from detrkit.structures import ImageBatch, Target
from detrkit.training.epochs import evaluation_batch
from detrkit.training.module import TrainingModule

_EVALUATED = 8  # images


@dataclass(frozen=True)
class PieceTimes:
    """Seconds of training.

    Attributes:
        piece: reading, a forward and a backward pass of a piece of a batch.
        update: a step of the optimizer.
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
    optimizer: torch.optim.Optimizer | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> PieceTimes:
    """Trains on a few pieces of batches without changing weights, though statistics of batch norms change.

    Args:
        module: is moved to the device.
        device: such as "cpu" or "cuda:0".
        pieces: largest number that is timed, after one that is not: it compiles and reserves memory.
        seconds: after which no further piece is begun, though two are timed in any case.
        optimizer: over the model's parameters, with rates of 0; None times no updates.
        clock: seconds since any moment.
    """
    module.to(device).train()
    half = module.options.precision == "bf16"
    began, first = clock(), 0.0
    passes = updates = start = 0.0
    for index, (images, targets) in enumerate(_repeated(module)):
        ready = clock()
        batch = images.to(torch.device(device)), [target.to(torch.device(device)) for target in targets]
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            loss = module.training_step(batch, index)
        loss.backward()  # type: ignore[no-untyped-call]
        loss.item()  # waits for the device
        passed = clock()
        if optimizer is not None:
            optimizer.step()
            _wait(device)
        module.zero_grad()
        now = clock()
        if index == 0:
            start, first = ready - began, now
        else:
            passes, updates = passes + (passed - began), updates + (now - passed)
        began = now
        if index == pieces or (index > 1 and now - first > seconds):
            break
    return PieceTimes(passes / index, updates / index, start, index)


def time_evaluation(
    module: TrainingModule, validation: DetectionDataset, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds that an evaluation takes, from a few images that are spread over the split.

    Args:
        module: on the device that trains.
        validation: what the run is evaluated on.
        clock: seconds since any moment.
    """
    count = min(_EVALUATED, len(validation))
    few = validation.subset(np.linspace(0, len(validation) - 1, count).astype(np.int64))
    seconds = 0.0
    for images in (few.subset(np.arange(1)), few):  # the first one compiles
        began = clock()
        batch = evaluation_batch(module.options)
        detect(module.model, images, batch_size=batch)
        if validation.is_panoptic:
            evaluate_panoptic(module.model, images, batch_size=batch)
        seconds = clock() - began
    module.train()
    return seconds / count * len(validation)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(torch.device(device))


def _repeated(module: TrainingModule) -> Iterator[tuple[ImageBatch, list[Target]]]:
    """Pieces of batches without end, also of a data set with few images."""
    while True:
        yield from module.train_dataloader()
