"""What a study is: detectors that are trained alike but for the thing in question, and what is shown of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from detrkit.errors import OptionError
from detrkit.measures import Measure
from detrkit.models.detector import Detector
from detrkit.training.ground_truth import RunData

Figures = dict[str, Any]  # what a trial leaves as JSON
Results = dict[str, list[Figures]]  # of each trial, one for each seed
# Makes of a new run what a trial is about; gets the run, and the folders of the trials that come before it.
Change = Callable[..., None]
Measurement = Callable[[Detector, RunData], Figures]
PACE = "seconds a step"  # in figures, of the quickest epoch of all seeds
LENGTHS = ("epochs", "steps", "minutes")


@dataclass(frozen=True)
class Trial:
    """One detector of a study, trained once with each seed.

    Attributes:
        variant: a name in the catalog.
        options: of training, besides those of the study.
        longer: how many times as long as the others it is trained.
        change: changes the model, the loss or the data of a `TrainingModule` before training; None for nothing.
        after: trials that must have ended with the same seed, since `change` needs what they have learned: it gets the folders of their runs, in
            this order.
        measure: gives further figures of the trained model.
        shown: whether it is in table and plots; False for what only prepares others.
    """

    variant: str
    options: Mapping[str, Any] = field(default_factory=dict)
    longer: int = 1
    change: Change | None = None
    after: tuple[str, ...] = ()
    measure: Measurement | None = None
    shown: bool = True


@dataclass(frozen=True)
class Column:
    """A column of a study's table.

    Attributes:
        title: above it.
        value: of one trained detector; None where it has no such figure.
        digits: behind the point.
    """

    title: str
    value: Callable[[Figures], float | None]
    digits: int = 3

    def values(self, runs: Sequence[Figures]) -> list[float]:
        """Of all seeds that have the figure."""
        return [value for run in runs if (value := self.value(run)) is not None]

    def mean(self, runs: Sequence[Figures]) -> str:
        """The mean of all seeds."""
        values = self.values(runs)
        return f"{statistics.fmean(values):.{self.digits}f}" if values else "-"

    def each(self, runs: Sequence[Figures]) -> str:
        """The mean, and with several seeds each of them, unless they are the same."""
        values = [f"{value:.{self.digits}f}" for value in self.values(runs)]
        return self.mean(runs) if len(set(values)) <= 1 else f"{self.mean(runs)} ({', '.join(values)})"


def ap(name: str = "AP", title: str | None = None) -> Column:
    """A figure of COCO's in the end.

    Args:
        name: of the figure.
        title: another title than its name.
    """
    return Column(title or name, lambda run: run["figures"].get(name))


def ap_after(epoch: int) -> Column:
    """AP after one of the epochs, while the rate is still high: what is learned sooner is seen here.

    Args:
        epoch: from 1.
    """
    return Column(f"AP after epoch {epoch}", _in_log("AP", epoch))


def watched(measure: Measure, title: str | None = None, *, epoch: int | None = None) -> Column:
    """A measure of `--watch convergence`.

    Args:
        measure: of the log.
        title: another title than its name.
        epoch: in which, from 1; None means the last one that has it, in which the rate is close to zero and so little changes.
    """
    name = title or measure.name
    return Column(name if epoch is None else f"{name}, epoch {epoch}", _in_log(measure.column, epoch))


def _in_log(column: str, epoch: int | None) -> Callable[[Figures], float | None]:
    def value(run: Figures) -> float | None:
        rows = (row for row in reversed(run["log"]) if epoch in (None, row["epoch"]))
        return next((row[column] for row in rows if column in row), None)

    return value


def further(name: str, title: str | None = None, *, digits: int = 3) -> Column:
    """A figure that a trial's `measure` gave.

    Args:
        name: of the figure.
        title: another title than its name.
        digits: see `Column`.
    """
    return Column(title or name, lambda run: run.get("further", {}).get(name), digits)


STEPS = Column("steps", lambda run: run["steps"], 0)
SMALLEST = Column("AP of the smallest class", lambda run: run["smallest"] and run["smallest"]["AP"])


def add_pace(runs: Sequence[Figures]) -> None:
    """Gives all seeds the seconds of a step of the quickest epoch of any: other work on the computer slows some epochs down."""
    pace = min(map(_seconds_a_step, runs))
    for run in runs:
        run[PACE] = pace


def _seconds_a_step(run: Figures) -> float:
    steps = [0.0, *(row["step"] for row in run["log"])]
    pairs = zip(run["log"], pairwise(steps), strict=True)
    return min(float(row["seconds"]) / float(after - before) for row, (before, after) in pairs)


SECONDS = Column("seconds", lambda run: run["steps"] * run[PACE], 0)
PLAIN_COLUMNS = (ap(), ap("AP50"), SECONDS)


@dataclass(frozen=True)
class Study:
    """A question, and the detectors that answer it.

    Attributes:
        title: of table and plot.
        claim: what the paper says, with its place.
        trials: by the name that tables and plots give them.
        options: of training, the same for all.
        columns: of the table.
        panels: measures that are drawn against epochs, beside AP.
        single_class: whether all objects count as the first class: detectors find objects long before they can tell them apart, so what is
            about places can be seen in a fraction of the steps.
        draw: draws more of what the trials left, into files of the folder; gets the study's results and the folder of each trial and seed.
    """

    title: str
    claim: str
    trials: Mapping[str, Trial]
    options: Mapping[str, Any]
    columns: tuple[Column, ...] = PLAIN_COLUMNS
    panels: tuple[Measure, ...] = ()
    single_class: bool = False
    draw: Callable[[Results, Mapping[tuple[str, int], Path], Path], None] | None = None

    def options_of(self, name: str, data: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The training options of a trial, but for its seed and folder; what is given precedes the study's own.

        Args:
            name: of the trial.
            data: path of a data set, or "digits".
            given: training options for all trials. A length replaces the study's.
        """
        trial = self.trials[name]
        own = {**self.options, **trial.options}
        if any(length in given for length in LENGTHS):
            own = {option: value for option, value in own.items() if option not in LENGTHS}
        chosen = {"variant": trial.variant, "data": data, **own, **given}
        if settings := {**own.get("settings", {}), **given.get("settings", {})}:
            chosen["settings"] = settings
        lengths = {length: trial.longer * chosen[length] for length in LENGTHS if length in chosen}
        return {**chosen, **lengths}

    def check(self, given: Mapping[str, Any]) -> None:
        """Refuses options that would take away what the trials differ in.

        Args:
            given: training options for all trials.

        Raises:
            OptionError: trials of one variant have different values of an option or setting.
        """
        of_variants: dict[str, list[Mapping[str, Any]]] = {}
        for trial in self.trials.values():
            of_variants.setdefault(trial.variant, []).append(trial.options)
        for options in of_variants.values():
            settings = [each.get("settings", {}) for each in options]
            for names, values in ((given, options), (given.get("settings", {}), settings)):
                for name in names:
                    if name != "settings" and any(each.get(name) != values[0].get(name) for each in values):
                        raise OptionError(f"the study compares different values of {name}: leave it out", name)
