"""Pictures through a model one after another: some threads read and resize the next ones, others run the model.

On a CPU the model works on several pictures at once, each in a thread of its own (a lane). Threads that share one picture wait for each other
after every layer; while other threads read and draw, they would wait most of the time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrkit.data.wording import counted
from detrkit.errors import DataError
from detrkit.panoptic import PanopticSegmentation

if TYPE_CHECKING:
    import supervision as sv

PictureFile: TypeAlias = str | Path | Image.Image
Picture: TypeAlias = PictureFile | np.ndarray | Tensor

_READERS = 2
_MOST_LANES = 4  # each holds the features of its pictures
_BEGINNING = threading.Lock()


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
        segmentation: the picture's segments, from a model that knows stuff.
    """

    detections: sv.Detections
    best_score: float
    segmentation: PanopticSegmentation | None = None


@dataclass(frozen=True, repr=False)
class Prediction:
    """A picture of a stream and what was found in it; notebooks show it with its boxes.

    Attributes:
        source: the picture as it was given.
        picture: the same in RGB, with its EXIF orientation applied; None where it could not be read.
        detections: as calling the predictor gives them; None where the picture could not be read.
        best_score: the highest score in the picture, whatever the threshold.
        segmentation: the picture's segments, from a model that knows stuff; otherwise None.
        problem: why the picture could not be read.
    """

    source: Picture
    picture: Image.Image | None = None
    detections: sv.Detections | None = None
    best_score: float = 0.0
    segmentation: PanopticSegmentation | None = None
    problem: DataError | None = None

    def __repr__(self) -> str:
        if self.detections is None:
            return f"Prediction({_named(self.source)}, not read: {self.problem})"
        found = counted(len(self.detections), "detection")
        return f"Prediction({_named(self.source)}, {found}, best score {self.best_score:.2f})"

    def plot(self) -> Image.Image:
        """The picture with its segments, or with its masks or boxes where there are no segments, in its own size.

        Raises:
            DataError: the picture could not be read.
        """
        from detrkit.prediction.drawing import draw  # not above: most streams draw nothing
        from detrkit.prediction.mask_drawing import draw_panoptic

        if self.picture is None or self.detections is None:
            raise self.problem or DataError(f"{_named(self.source)} was not read: there is no picture to draw on.")
        if self.segmentation is not None:
            return draw_panoptic(self.picture, self.segmentation)
        return draw(self.picture, self.detections)

    def _repr_jpeg_(self) -> bytes | None:
        """What notebooks show; nothing where the picture could not be read, whose `repr` says why."""
        from detrkit.prediction.picture_detections import jpeg_of

        return None if self.picture is None or self.detections is None else jpeg_of(self.picture, self.detections)


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
    with _BEGINNING:
        threads = torch.get_num_threads()
    lanes = min(threads, _MOST_LANES) if predictor.may_run_in_threads else 1
    readers = _pool("read", [1] * _READERS)
    shares = [threads // lanes + (lane < threads % lanes) for lane in range(lanes)]
    detectors = None if lanes == 1 else _pool("detect", shares)
    ahead = max(_READERS + lanes, (lanes + 1) * predictor.batch_size)
    queue = _Queue(predictor, iter(images), readers, detectors, ahead)
    try:
        while queue.refill():
            yield queue.take(skip_unreadable)
    finally:
        pools = [pool for pool in (readers, detectors) if pool is not None]
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in pools:  # nothing new begins meanwhile
            pool.shutdown()


def _pool(name: str, torch_threads: Sequence[int]) -> ThreadPoolExecutor:
    """As many threads as there are numbers, each of which PyTorch shares its operations out to so many threads.

    They begin at once, since a thread that sets its number also sets that of all threads to come, until this one puts it right.
    """
    pool, meeting = ThreadPoolExecutor(len(torch_threads), name), threading.Barrier(len(torch_threads))

    def begin(number: int) -> None:
        torch.get_num_threads()  # a thread's first question replaces its number by that of all threads to come
        torch.set_num_threads(number)
        meeting.wait()  # so that no thread begins twice

    with _BEGINNING:
        own = torch.get_num_threads()
        try:
            list(pool.map(begin, torch_threads))
        finally:
            torch.set_num_threads(own)
    return pool


def listed(images: Picture | list[Picture] | tuple[Picture, ...]) -> tuple[list[Picture], bool]:
    """The pictures in a list, and whether several were given: a list or tuple, or an array or tensor with four dimensions."""
    if isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4):
        return list(images), True
    return [images], False


def refuse_single_picture(images: object) -> None:
    """Refuses one picture where several are expected, before its letters or rows are taken for pictures.

    Raises:
        DataError: this is a file name, a PIL image, or an array or tensor of one picture.
    """
    single = isinstance(images, str | Path | Image.Image)
    if isinstance(images, np.ndarray | Tensor):
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

    @property
    def can_be_read(self) -> bool:
        """Whether the picture is there, or still may be."""
        return not self.reading.done() or not (self.reading.cancelled() or self.reading.exception())

    def prediction(self, skip_unreadable: bool) -> Prediction:
        """The result, as soon as it is there; errors of reading and of the model are raised."""
        error = self.reading.exception()
        if error is None:
            return Prediction(self.source, self.reading.result().picture, *self.finding.result())
        if skip_unreadable and isinstance(error, DataError):
            return Prediction(self.source, problem=error)
        raise error


class _Queue:
    """Pictures on their way: being read, waiting for others of their size, being looked at, or done.

    Args:
        predictor: reads and looks.
        source: of pictures.
        readers: threads that read.
        detectors: threads that look; None if the thread that takes results does.
        ahead: how many pictures are on their way at most.
    """

    def __init__(
        self,
        predictor: Streamed,
        source: Iterator[Picture],
        readers: ThreadPoolExecutor,
        detectors: ThreadPoolExecutor | None,
        ahead: int,
    ) -> None:
        self.predictor, self.source, self.readers, self.detectors = predictor, source, readers, detectors
        self.ahead = ahead
        self.slots: deque[_Slot] = deque()
        self.choosing = threading.Lock()  # held by whoever looks at the slots or changes them
        self.ended = False
        self.error: Exception | None = None  # of the source
        self.context = (
            copy_context()
        )  # what the caller has chosen, such as an implementation, holds in other threads, too

    def refill(self) -> bool:
        """Begins to read further pictures, and says whether there is still a result to take; then raises an error of the source."""
        while not self.ended and len(self.slots) < self.ahead:
            try:
                slot = self._next_slot()
            except Exception as error:  # after the results of the pictures before it
                slot, self.error = None, error
            with self.choosing:
                if slot is None:
                    self.ended = True
                else:
                    self.slots.append(slot)
            if slot is not None and self.detectors is not None:
                slot.reading.add_done_callback(self._advance)
        if self.slots:
            self._advance()
        elif self.error is not None:
            raise self.error
        return bool(self.slots)

    def take(self, skip_unreadable: bool) -> Prediction:
        """The result of the first picture, as soon as it is there."""
        first = self.slots[0]
        while self.detectors is None and first.can_be_read and not first.taken:
            group = self._next_group()
            if group:
                self._look(group)
            else:
                wait([slot.reading for slot in self.slots if not slot.reading.done()], return_when=FIRST_COMPLETED)
        prediction = first.prediction(skip_unreadable)
        with self.choosing:
            self.slots.popleft()
        return prediction

    def _next_slot(self) -> _Slot | None:
        for image in self.source:
            return _Slot(image, self.readers.submit(self.predictor.prepare, image))
        return None

    def _advance(self, _: object = None) -> None:
        """Sends every group that is complete to the threads that look; called whenever a picture has been read."""
        while self.detectors is not None and (group := self._next_group()):
            try:
                self.detectors.submit(self.context.copy().run, self._look, group)
            except RuntimeError:  # the stream is being closed
                return

    def _next_group(self) -> list[_Slot]:
        """Takes the first picture that nobody took and those behind it of its size, a whole batch; fewer only if no more are to come."""
        with self.choosing:
            open_slots = [slot for slot in self.slots if not slot.taken and slot.can_be_read]
            if not open_slots or not open_slots[0].reading.done():
                return []
            read = [slot for slot in open_slots if slot.reading.done()]
            shape = read[0].reading.result().shape
            group = [slot for slot in read if slot.reading.result().shape == shape][: self.predictor.batch_size]
            if len(group) < self.predictor.batch_size:
                may_come = len(read) < len(open_slots) or (len(self.slots) < self.ahead and not self.ended)
                if may_come or (open_slots[0] is not self.slots[0] and not self.ended):
                    return []
            for slot in group:
                slot.taken = True
            return group

    def _look(self, group: Sequence[_Slot]) -> None:
        """Runs the model on pictures of one shape; an error belongs to whoever waits for them."""
        try:
            found = self.predictor.detect([slot.reading.result() for slot in group])
            results = list(zip(group, found, strict=True))
        except BaseException as error:
            for slot in group:
                slot.finding.set_exception(error)
            if self.detectors is None and not isinstance(error, Exception):
                raise  # Ctrl-C in the thread of the caller
            return
        for slot, each in results:
            slot.finding.set_result(each)
