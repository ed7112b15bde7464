"""The batches of an epoch: each process of a run has its part of every batch, and a run that goes on begins in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from detrkit.data.batching import EvaluationData, TrainingData
from detrkit.data.workers import BatchLoader, WorkerData
from detrkit.training.processes import ALONE, Processes


class EpochBatches:
    """One process's parts of the batches of an epoch, as positions of images.

    All processes together have the batches that a single one would have: no image twice, none left out but the last ones that fill no batch.

    Attributes:
        first: number of batches that were done before, and are left out.

    Args:
        order: positions of all images.
        size: images of a whole batch, at most all.
        processes: who has the parts.
    """

    def __init__(self, order: Sequence[int], size: int, processes: Processes = ALONE) -> None:
        whole = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        self._parts = [part_of(batch, processes.rank, processes.count) for batch in whole]
        self.first = 0

    def __len__(self) -> int:
        """Of the whole epoch."""
        return len(self._parts)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._parts[self.first :])


def part_of(batch: Sequence[int], rank: int, count: int) -> list[int]:
    """The part that a process has of a batch: parts are equal, or the first ones have one image more."""
    size, more = divmod(len(batch), count)
    start = rank * size + min(rank, more)
    return list(batch[start : start + size + (rank < more)])


class EpochLoader(BatchLoader):
    """Loads the batches of an epoch, and knows how many it has given: Lightning keeps that in checkpoints.

    Args:
        data: what `for_workers` made of the images.
        batches: the positions of the images.
        workers: processes that read images.
        **options: everything else that a `DataLoader` takes.
    """

    def __init__(
        self,
        data: TrainingData | EvaluationData | WorkerData,
        batches: EpochBatches,
        *,
        workers: int,
        collate_fn: Callable[..., Any],
        **options: Any,
    ) -> None:
        super().__init__(data, workers=workers, collate_fn=collate_fn, batch_sampler=batches, **options)
        self._batches = batches
        self._given = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The batches that are left.

        Raises:
            WorkerError: the system ended a worker.
        """
        self._given = self._batches.first
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches were given."""
        return {"given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lets the next iteration begin where another one ended."""
        self._batches.first = state["given"]
