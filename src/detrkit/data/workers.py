"""Batches from worker processes that begin clean, share the data set's arrays, and end a run with a sentence when the system ends them.

A forked process inherits every lock that some thread of its parent holds at that moment, but not the thread, so it may wait for ever: threads
of numba, OpenMP, a progress bar or a tokenizer are enough. So workers are forked from a server process that has imported what they need and
has no threads (on Windows, where there is no such server, they start anew). What they get travels by pickling; arrays lie in memory that all
of them see, so that neither workers nor epochs add to it.
"""

from __future__ import annotations

import copy
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader, Dataset

from detrkit.data.batching import EvaluationData, Sample, TrainingData
from detrkit.data.transforms import EvaluationTransform, TrainingTransform
from detrkit.errors import WorkerError

_NEEDED = "detrkit.data.workers"  # the module that the server imports, and with it all that workers need
_WORKER_ENDED = "DataLoader worker"  # how PyTorch's error begins
_ALIGNMENT = 64


class BatchLoader(DataLoader[Sample]):
    """PyTorch's `DataLoader` with workers that begin clean and share the data set's arrays.

    Args:
        data: what `for_workers` made of the images.
        workers: processes that read images; 0 reads them in this process.
        **options: everything else that a `DataLoader` takes.
    """

    def __init__(
        self,
        data: TrainingData | EvaluationData | WorkerData,
        *,
        workers: int,
        collate_fn: Callable[..., Any],
        **options: Any,
    ) -> None:
        assert not workers or isinstance(data, WorkerData)
        context = _context() if workers else None
        super().__init__(
            data,
            num_workers=workers,
            collate_fn=collate_fn,
            multiprocessing_context=context,
            worker_init_fn=_end_with_main if workers else None,
            **options,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """One epoch.

        Raises:
            WorkerError: the system ended a worker.
        """
        if not self.num_workers:
            return super().__iter__()
        return self._from_workers()

    def _from_workers(self) -> Iterator[Any]:
        assert isinstance(self.dataset, WorkerData)
        try:
            self.dataset.wait_for_server()
            with _main_module(seen=self._needs_main(self.dataset)), _interrupted_later():
                batches = super().__iter__()
            yield from batches
        except RuntimeError as problem:
            if not str(problem).startswith(_WORKER_ENDED):
                raise
            raise WorkerError(
                f"A process that reads images was ended by the system, most likely for lack of memory: use fewer workers than "
                f"{self.num_workers} (--workers); 0 reads images in the main process."
            ) from problem

    def _needs_main(self, data: WorkerData) -> bool:
        """Whether workers get something that the user's script defines."""
        pickled = pickle.dumps((data.transform, self.collate_fn)) + data.pickled_dataset
        return b"__main__" in pickled


class WorkerData(Dataset[Sample]):
    """Data for workers: whatever is pickled for them refers to memory that all of them see instead of containing the arrays."""

    def __init__(self, data: TrainingData | EvaluationData) -> None:
        """Copies the arrays of the data set to shared memory; do it once, not in every epoch.

        Args:
            data: stays the one that `set_epoch` is called on.
        """
        self._data = data
        self._server_runs = False
        # Workers read images; how the annotation file spells ids, and what its reader noted, serves the main process alone.
        dataset = replace(data.dataset, file_image_ids=None, file_category_ids=None, notes=())
        _context(_late_modules(data.transform))
        self._shared = _SharedPickle(dataset)

    @property
    def transform(self) -> TrainingTransform | EvaluationTransform:
        """What is done to each image."""
        return self._data.transform

    @property
    def pickled_dataset(self) -> bytes:
        """The data set without its arrays."""
        return self._shared.content

    def wait_for_server(self) -> None:
        """Waits until workers can be started at once; Ctrl-C may interrupt this."""
        if not self._server_runs:
            process = _context().Process(target=int)  # type: ignore[attr-defined]
            with _main_module(seen=False):
                process.start()
            process.join()
            self._server_runs = True

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Sample:
        return self._data[index]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Sample]:
        return self._data.__getitems__(indices)

    def __getstate__(self) -> tuple[Any, Any]:
        rest = copy.copy(self._data)
        del rest.dataset
        return rest, self._shared

    def __setstate__(self, state: tuple[Any, Any]) -> None:
        self._data, self._shared = state
        self._data.dataset = self._shared.load()


class _SharedPickle:
    """A pickled object whose arrays lie in shared memory; loading it makes arrays that refer to that memory."""

    def __init__(self, value: object) -> None:
        buffers: list[pickle.PickleBuffer] = []
        self.content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        self._places: list[tuple[int, int]] = []
        size = 0
        for view in views:
            self._places.append((size, size + view.nbytes))
            size += -(-view.nbytes // _ALIGNMENT) * _ALIGNMENT
        self._memory = _context().RawArray(ctypes.c_ubyte, max(1, size))
        whole = memoryview(self._memory).cast("B")
        for (start, end), view in zip(self._places, views, strict=True):
            whole[start:end] = view

    def load(self) -> Any:
        whole = memoryview(self._memory).cast("B")
        return pickle.loads(self.content, buffers=[whole[start:end] for start, end in self._places])


def for_workers(data: TrainingData | EvaluationData, workers: int) -> TrainingData | EvaluationData | WorkerData:
    """The data as a `BatchLoader` with this number of workers takes them.

    Args:
        data: the images.
        workers: their number; without any the data stay as they are.
    """
    return WorkerData(data) if workers else data


def _late_modules(transform: TrainingTransform | EvaluationTransform) -> tuple[str, ...]:
    """Modules that a transform imports only when it needs them: workers, which start anew in every epoch, had to wait for them each time."""
    changes_colours = isinstance(transform, TrainingTransform) and transform.augmentation.colours is not None
    return ("torchvision.transforms.v2.functional",) if changes_colours else ()


def _context(more: tuple[str, ...] = ()) -> BaseContext:
    """How workers are started.

    Args:
        more: modules that the server imports as well, if it does not run yet.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_NEEDED, *more])  # no effect once the server runs
    with (
        _interrupts_ignored()
    ):  # the server and its workers inherit this: it is the main process that ends them after Ctrl-C
        forkserver.ensure_running()
    return context


def _end_with_main(_: int) -> None:
    """Ends a worker as soon as the main process is gone, however that ended.

    PyTorch's workers watch their parent. That is the server here, which ends only after its workers.
    """
    main = multiprocessing.parent_process()
    assert main is not None

    def wait() -> None:
        connection.wait([main.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _in_main_thread() -> bool:
    """Whether signals can be handled here."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    if not _in_main_thread() or handler is None:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Keeps Ctrl-C until the block ends: a worker that is half started would be forgotten."""
    handler = signal.getsignal(signal.SIGINT)
    if not _in_main_thread() or not callable(handler):
        yield
        return
    kept: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _, frame: kept.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if kept:
        handler(signal.SIGINT, kept[0])


@contextmanager
def _main_module(*, seen: bool) -> Iterator[None]:
    """Keeps new processes from running the user's script once more, unless they need what it defines.

    Multiprocessing does so in each of them, and a script that is not written for it would train again there.
    """
    main = sys.modules["__main__"]
    if not seen:
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
