"""Pictures through a model one after another: some threads read and resize the next ones while the model works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import supervision as sv
from PIL import Image
from torch import Tensor

from detrkit.errors import DataError

Picture: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor

_READERS = 2
_BATCHES_AHEAD = 2  # in which pictures of equal size are looked for


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

    def prepare(self, image: Picture) -> Prepared:
        """Reads and resizes a picture; called in other threads."""

    def detect(self, group: Sequence[Prepared]) -> list[Found]:
        """Runs the model on pictures of one shape; called in the thread that reads the stream."""


def stream(
    predictor: Streamed, images: Iterable[Picture], *, skip_unreadable: bool
) -> Generator[Prediction, None, None]:
    """The predictions for pictures, in their order; see `Predictor.stream`."""
    ahead = max(_READERS + 1, _BATCHES_AHEAD * predictor.batch_size)
    source, waiting = iter(images), deque[_Slot]()
    pool = ThreadPoolExecutor(_READERS, thread_name_prefix="read")
    try:
        while True:
            while len(waiting) < ahead and (slot := _next_slot(source, pool, predictor)) is not None:
                waiting.append(slot)
            if not waiting:
                return
            if waiting[0].found is None and waiting[0].problem(skip_unreadable) is None:
                _detect_first(predictor, waiting)
            yield waiting.popleft().prediction()
    finally:
        pool.shutdown(cancel_futures=True)


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
    found: Found | None = None

    def problem(self, skip_unreadable: bool) -> DataError | None:
        """Waits until the picture is read, and says why it cannot be; all other errors are raised."""
        error = self.reading.exception()
        if error is not None and not (skip_unreadable and isinstance(error, DataError)):
            raise error
        return error

    def prediction(self) -> Prediction:
        """The result of a picture that is done."""
        if self.found is None:
            error = self.reading.exception()
            return Prediction(self.source, problem=error if isinstance(error, DataError) else None)
        return Prediction(self.source, self.reading.result().picture, *self.found)


def _next_slot(source: Iterator[Picture], pool: ThreadPoolExecutor, predictor: Streamed) -> _Slot | None:
    """Takes the next picture and begins to read it."""
    for image in source:
        return _Slot(image, pool.submit(predictor.prepare, image))
    return None


def _detect_first(predictor: Streamed, waiting: Iterable[_Slot]) -> None:
    """Runs the model on the first picture and on those behind it that have its size, until the batch is full."""
    group: list[_Slot] = []
    for slot in waiting:
        if len(group) == predictor.batch_size:
            break
        if slot.found is None and slot.reading.exception() is None:
            shape = slot.reading.result().shape
            if not group or shape == group[0].reading.result().shape:
                group.append(slot)
    results = predictor.detect([slot.reading.result() for slot in group])
    for slot, found in zip(group, results, strict=True):
        slot.found = found
