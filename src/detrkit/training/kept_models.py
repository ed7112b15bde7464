"""The models that a run keeps: the last one, and the best one."""

from __future__ import annotations

import json
from collections.abc import Mapping

from detrkit.checkpoints.own_format import Snapshot, save, snapshot
from detrkit.files import write_json
from detrkit.measures import AP, LOSS, MASK_AP, PQ, Measure
from detrkit.models.detector import Detector
from detrkit.training.run_folder import RunFolder

_Row = dict[str, float]


class KeptModels:
    """Decides which epoch is best, from its figures alone, and writes models.

    Where epochs take seconds, models are written only now and then. So that the best model does not depend on the moments at which they
    are, it is held in memory until then; likewise where it cannot be written.

    Args:
        folder: the run's folder.
        evaluates: whether epochs are evaluated; otherwise the one with the lowest loss is best.
    """

    def __init__(self, folder: RunFolder, *, evaluates: bool) -> None:
        self._folder, self._evaluates = folder, evaluates
        self._held: tuple[_Row, Snapshot] | None = None
        self._last: _Row | None = None

    @property
    def best(self) -> _Row | None:
        """The log row of the best epoch so far."""
        return self._written() if self._held is None else self._held[0]

    def write(self, model: Detector, row: _Row, *, saves: bool) -> None:
        """Ends an epoch.

        Args:
            model: as it is at its end.
            row: of the log.
            saves: whether to write models now, and not only the figures of the epoch.

        Raises:
            OutputError: a file cannot be written.
        """
        self._last = row
        if self._is_better(row):
            self._held = row, snapshot(model)
        if saves:
            save(model, self._folder.last)
            self._write_best()
        else:
            self._write_figures(self._written())

    def write_held(self) -> None:
        """Writes the best model if it is only held so far.

        Raises:
            OutputError: a file cannot be written.
        """
        if self._held is not None:
            self._write_best()

    def _write_best(self) -> None:
        best = self._written()
        if self._held is not None:
            best, model = self._held
            model.save(self._folder.best)
        self._write_figures(best)
        self._held = None

    def _write_figures(self, best: _Row | None) -> None:
        write_json(self._folder.metrics, {"best": best, "last": self._last})

    def _written(self) -> _Row | None:
        """The log row of the epoch that the folder's best model comes from."""
        if not self._folder.best.is_file() or not self._folder.metrics.is_file():
            return None
        best: _Row | None = json.loads(self._folder.metrics.read_text(encoding="utf-8"))["best"]
        return best

    def _is_better(self, row: Mapping[str, float]) -> bool:
        """Whether an epoch beats the best one so far: by PQ, mask AP or AP, whichever comes first in it; by loss without a validation split."""
        metric, sign = LOSS.column, -1.0
        if self._evaluates:
            metric, sign = decisive(row).column, 1.0
        if metric not in row:
            return False
        best = self.best
        # If the validation split was added during the run, the best epoch so far was chosen by its loss and has no AP: any AP beats it.
        return best is None or metric not in best or sign * row[metric] > sign * best[metric]


def decisive(row: Mapping[str, float]) -> Measure:
    """The figure that decides which epoch is best. Where only a mask head learns, box AP stays the same."""
    return next((measure for measure in (PQ, MASK_AP) if measure.column in row), AP)
