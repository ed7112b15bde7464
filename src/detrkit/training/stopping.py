"""Early stopping: a run ends when several evaluations in a row have brought no better figure.

All that it needs is in the run's log, so a run that is resumed counts on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from detrkit.data import DetectionDataset
from detrkit.data.wording import counted
from detrkit.errors import OptionError
from detrkit.measures import AP
from detrkit.training.epochs import EpochEnds
from detrkit.training.kept_models import decisive
from detrkit.training.module import TrainingModule
from detrkit.training.processes import ALONE, Processes
from detrkit.training.progress import ProgressLines
from detrkit.training.training_options import TrainingOptions


@dataclass(frozen=True)
class Standstill:
    """The best evaluation so far, and how many came after it.

    Attributes:
        evaluations: after the best one.
        epoch: of the best one.
        name: of the figure that is compared.
        best: its value.
    """

    evaluations: int
    epoch: int
    name: str
    best: float

    def in_words(self) -> str:
        """Such as "3 evaluations in a row have brought no better AP than 0.412 of epoch 7"."""
        have = "has" if self.evaluations == 1 else "have"
        return f"{counted(self.evaluations, 'evaluation')} in a row {have} brought no better {self.name} than {self.best:.3f} of epoch {self.epoch}"


def standstill(rows: Sequence[Mapping[str, float]]) -> Standstill | None:
    """What a run's log says about its evaluations; None before the first one.

    Args:
        rows: of the log, one for each epoch.
    """
    evaluated = [row for row in rows if AP.column in row]
    if not evaluated:
        return None
    measure = decisive(evaluated[-1])
    values = [row.get(measure.column, float("-inf")) for row in evaluated]
    best = max(range(len(values)), key=values.__getitem__)  # the first of equals, as in the folder
    return Standstill(len(values) - 1 - best, int(evaluated[best]["epoch"]), measure.name, values[best])


def stopped_early(options: TrainingOptions, rows: Sequence[Mapping[str, float]]) -> Standstill | None:
    """Why a run ends before its last step; None where it does not.

    Args:
        options: the resolved options.
        rows: of the log, one for each epoch.
    """
    found = standstill(rows)
    if options.patience is None or found is None or found.evaluations < options.patience:
        return None
    return found


def check_patience(options: TrainingOptions, validation: DetectionDataset | None) -> None:
    """Refuses to wait for evaluations that never come.

    Args:
        options: the resolved options.
        validation: what the run is evaluated on.

    Raises:
        OptionError: there is nothing to evaluate on.
    """
    if options.patience is not None and validation is None:
        raise OptionError(
            f"patience counts evaluations, and {options.data} has nothing to evaluate on: leave patience out, or name a split as val_split",
            *("patience", "val_split"),
        )


class Stopping(Callback):
    """Ends a run that has come to a standstill; it stands after `EpochEnds`, which writes the log.

    Args:
        ends: has the run's log, and writes before the run ends what could not be written at once.
        progress: prints why the run ends.
        processes: those of the run, of which the first one writes the log and decides.
    """

    def __init__(self, ends: EpochEnds, progress: ProgressLines, processes: Processes = ALONE) -> None:
        self.ends, self.progress, self.processes = ends, progress, processes

    def on_train_epoch_end(self, trainer: Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        """Looks at the log."""
        if pl_module.options.patience is None or pl_module.global_step >= pl_module.schedule.steps:
            return
        if self.at_standstill(pl_module.options):
            self.ends.finish(trainer, pl_module)
            trainer.should_stop = True

    def at_standstill(self, options: TrainingOptions) -> bool:
        """Whether the run ends now, which is then said; all processes have to ask.

        Args:
            options: the resolved options.
        """
        if options.patience is None:
            return False
        found = stopped_early(options, self.ends.rows()) if self.processes.is_first else None
        if found is not None:
            self.progress.line.print(f"Training stops early: {found.in_words()}.")
        return self.processes.from_first(found is not None)
