"""Pictures through a model one after another: some threads read and resize the next ones, others run the model.

On a CPU the model works on several pictures at once, each in a thread of its own (a lane). Threads that share one picture wait for each other
after every layer; while other threads read and draw, they would wait most of the time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import supervision as sv
import torch
from PIL import Image
from torch import Tensor

from detrkit.errors import DataError

Picture: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor

_READERS = 2
_BATCHES_AHEAD = 2  # in which pictures of equal size are looked for
_MOST_LANES = 4  # each holds the features of its pictures


@dataclass(frozen=True)
class Prepared:
    """A picture that is ready for the model.

    Attributes:
        picture: in RGB, as read.
        pixels: (3, H, W) normalised float32; None where the picture is cut into slices first.
    """

    picture: Image.Image
    pixels: Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        """What pictures of one batch have in common."""
        return () if self.pixels is None else tuple(self.pixels.shape)


class Found(NamedTuple):
    """What a model finds in a picture.

    Attributes:
        detections: those with at least the threshold's score, best first.
        best_score: the highest score, whatever the threshold; 0 where there are no detections at all.
    """

    detections: sv.Detections
    best_score: float


@dataclass(frozen=True)
class Prediction:
    """A picture of a stream and what was found in it.

    Attributes:
        source: the picture as it was given.
        picture: the same in RGB, with its EXIF orientation applied; None where it could not be read.
        detections: as calling the predictor gives them; None where the picture could not be read.
        best_score: the highest score in the picture, whatever the threshold.
        problem: why the picture could not be read.
    """

    source: Picture
    picture: Image.Image | None = None
    detections: sv.Detections | None = None
    best_score: float = 0.0
    problem: DataError | None = None


class Streamed(Protocol):
    """What a predictor offers to a stream."""

    @property
    def batch_size(self) -> int:
        """Pictures of one shape that go through the model together."""

    @property
    def may_run_in_threads(self) -> bool:
        """Whether threads other than the caller's give the same results, and more of them in a second."""

    def prepare(self, image: Picture) -> Prepared:
        """Reads and resizes a picture; called in other threads."""

    def detect(self, group: Sequence[Prepared]) -> list[Found]:
        """Runs the model on pictures of one shape; called in several threads at once where `may_run_in_threads`."""


def stream(
    predictor: Streamed, images: Iterable[Picture], *, skip_unreadable: bool
) -> Generator[Prediction, None, None]:
    """The predictions for pictures, in their order; see `Predictor.stream`."""
    threads = torch.get_num_threads()
    lanes = min(threads, _MOST_LANES) if predictor.may_run_in_threads else 1
    ahead = max(_READERS + lanes, (_BATCHES_AHEAD + lanes - 1) * predictor.batch_size)
    source, waiting, choosing = iter(images), deque[_Slot](), threading.Lock()
    readers = _pool(_READERS, "read", torch_threads=1)
    detectors = None if lanes == 1 else _pool(lanes, "detect", torch_threads=threads // lanes)
    try:
        while True:
            new = 0
            while len(waiting) < ahead and (slot := _next_slot(source, readers, predictor)) is not None:
                waiting.append(slot)
                new += 1
            if not waiting:
                return
            if detectors is not None:
                for _ in range(new):
                    detectors.submit(_detect_next, predictor, tuple(waiting), choosing)
            elif not waiting[0].taken and waiting[0].problem(skip_unreadable) is None:
                _detect_next(predictor, waiting, choosing)
            yield waiting.popleft().prediction(skip_unreadable)
    finally:
        for pool in (readers, detectors):
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what threads set for themselves would also be where later threads begin


def _pool(workers: int, name: str, *, torch_threads: int) -> ThreadPoolExecutor:
    """Threads whose operations are shared out among so many threads of PyTorch."""
    return ThreadPoolExecutor(workers, name, initializer=torch.set_num_threads, initargs=(torch_threads,))


def refuse_single_picture(images: object) -> None:
    """Refuses one picture where several are expected, before its letters or rows are taken for pictures.

    Raises:
        DataError: this is a file name, a PIL image, or an array or tensor of one picture.
    """
    single = isinstance(images, str | Path | Image.Image)
    if isinstance(images, np.ndarray):
        single = images.ndim == 2 or (images.ndim == 3 and images.shape[2] == 3)
    if isinstance(images, Tensor):
        single = images.ndim <= 3
    if single:
        raise DataError(
            f"A single picture ({_named(images)}) was given in place of several: give a list, such as [picture]."
        )


def _named(image: object) -> str:
    return str(image) if isinstance(image, str | Path) else f"of type {type(image).__name__}"


@dataclass
class _Slot:
    """The place of a picture in the queue."""

    source: Picture
    reading: Future[Prepared]
    finding: Future[Found] = field(default_factory=Future)
    taken: bool = False

    def problem(self, skip_unreadable: bool) -> DataError | None:
        """Waits until the picture is read, and says why it cannot be; all other errors are raised."""
        error = self.reading.exception()
        if error is not None and not (skip_unreadable and isinstance(error, DataError)):
            raise error
        return error

    def prediction(self, skip_unreadable: bool) -> Prediction:
        """The result, as soon as it is there; errors of the model are raised."""
        problem = self.problem(skip_unreadable)
        if problem is not None:
            return Prediction(self.source, problem=problem)
        return Prediction(self.source, self.reading.result().picture, *self.finding.result())


def _next_slot(source: Iterator[Picture], pool: ThreadPoolExecutor, predictor: Streamed) -> _Slot | None:
    """Takes the next picture and begins to read it."""
    for image in source:
        return _Slot(image, pool.submit(predictor.prepare, image))
    return None


def _detect_next(predictor: Streamed, waiting: Iterable[_Slot], choosing: threading.Lock) -> None:
    """Runs the model on the first picture that nobody took and on those behind it that have its size, until the batch is full."""
    with choosing:
        group = _next_group(waiting, predictor.batch_size)
    try:
        found = predictor.detect([slot.reading.result() for slot in group]) if group else []
    except Exception as error:  # whatever it is, it belongs to whoever waits for these pictures
        for slot in group:
            slot.finding.set_exception(error)
        return
    for slot, each in zip(group, found, strict=True):
        slot.finding.set_result(each)


def _next_group(waiting: Iterable[_Slot], batch_size: int) -> list[_Slot]:
    """Takes pictures of one shape, and waits until those in question are read."""
    group: list[_Slot] = []
    for slot in waiting:
        if len(group) == batch_size:
            break
        if slot.taken or slot.reading.exception() is not None:
            continue
        if not group or slot.reading.result().shape == group[0].reading.result().shape:
            slot.taken = True
            group.append(slot)
    return group
