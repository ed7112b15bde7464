"""The result of a comparison: what was measured of every contestant, and which are better than others."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrkit.cards import ModelCard
from detrkit.comparison.differences import Difference
from detrkit.comparison.lengths import Rows, epoch_steps_of, epochs_at
from detrkit.comparison.outcome import Outcome
from detrkit.comparison.runs import Run
from detrkit.data.wording import agreeing, counted
from detrkit.evaluation.bootstrap import CONFIDENCE, Interval
from detrkit.notebooks import paragraph, shown, table
from detrkit.training.run_folder import RunFolder, read_log

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class Measured:
    """A number over the trainings of a contestant.

    Attributes:
        values: one for each training that has it.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """None where nothing was measured."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over trainings; None of fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"mean": self.mean, "deviation": self.deviation, "values": list(self.values)}


@dataclass(frozen=True)
class Training:
    """A run of a contestant.

    Attributes:
        run: whose it is, and where.
        outcome: how it ended.
        course: the rows of its log; none of a checkpoint.
        epoch_steps: steps of a whole epoch; None of a checkpoint, or where that is not known.
    """

    run: Run
    outcome: Outcome
    course: Rows
    epoch_steps: int | None = None

    @classmethod
    def of(cls, run: Run, outcome: Outcome) -> Training:
        """A run with its log."""
        if run.seed is None:
            return cls(run, outcome, [])
        return cls(run, outcome, read_log(RunFolder(run.folder).log), epoch_steps_of(run.folder))

    @property
    def images_per_second(self) -> float | None:
        """In training, the median of the epochs."""
        speeds = [row["images_per_second"] for row in self.course if row.get("images_per_second")]
        return statistics.median(speeds) if speeds else None

    @property
    def minutes(self) -> float | None:
        """Of training, without evaluations."""
        return sum(row.get("seconds", 0.0) for row in self.course) / 60 if self.course else None

    def length(self, unit: str) -> float | None:
        """How many epochs ("epoch"), of which the last may be a part, or optimizer steps ("step") it took."""
        if not self.course:
            return None
        return epochs_at(self.course[-1], self.epoch_steps) if unit == "epoch" else self.course[-1].get(unit)


@dataclass(frozen=True)
class ContestantFigures:
    """What was measured of a contestant.

    Attributes:
        name: what tables call it.
        variant: the variant's name; None for a checkpoint.
        checkpoint: path of the weight file; None for a variant.
        trainings: all runs, those that failed among them; a checkpoint has one.
        latency: median milliseconds for an image; None where nothing could be measured.
        interval: of the mean AP over the trainings; None where there is none.
        card: of a checkpoint; None for a variant, whose runs tell more.
    """

    name: str
    variant: str | None
    checkpoint: str | None
    trainings: tuple[Training, ...]
    latency: float | None = None
    interval: Interval | None = None
    card: ModelCard | None = None

    @property
    def finished(self) -> tuple[Training, ...]:
        """The runs that did not fail."""
        return tuple(each for each in self.trainings if each.outcome.problem is None)

    @property
    def parameters(self) -> int | None:
        """Number of the model's parameters."""
        return self.finished[0].outcome.parameters if self.finished else None

    def figure(self, name: str) -> Measured:
        """One of COCO's figures over the trainings, such as "AP" or "AP_small"."""
        return _over(each.outcome.evaluation.figures.get(name) for each in self.finished if each.outcome.evaluation)

    def class_ap(self, category_id: int) -> Measured:
        """AP of a class over the trainings."""
        entries = [one for each in self.finished if each.outcome.evaluation for one in each.outcome.evaluation.classes]
        return _over(entry.ap for entry in entries if entry.id == category_id)

    @property
    def images_per_second(self) -> Measured:
        """In training."""
        return _over(each.images_per_second for each in self.finished)

    @property
    def minutes(self) -> Measured:
        """Of training, without evaluations."""
        return _over(each.minutes for each in self.finished)

    @property
    def memory(self) -> Measured:
        """Most memory of a process in GB."""
        return _over(each.outcome.memory for each in self.finished)

    def length(self, unit: str) -> Measured:
        """Epochs ("epoch") or optimizer steps ("step") of the trainings."""
        return _over(each.length(unit) for each in self.finished)

    def to_json(self, names: Sequence[str], classes: Mapping[int, str]) -> dict[str, Any]:
        """Plain values.

        Args:
            names: of COCO's figures.
            classes: names by category id.
        """
        return {
            "name": self.name,
            "variant": self.variant,
            "checkpoint": self.checkpoint,
            "figures": {name: self.figure(name).to_json() for name in names},
            "interval_AP": None if self.interval is None else [self.interval.low, self.interval.high],
            "classes": {name: self.class_ap(number).to_json() for number, name in classes.items()},
            "latency_ms": self.latency,
            "parameters": self.parameters,
            "images_per_second": self.images_per_second.to_json(),
            "minutes": self.minutes.to_json(),
            "epochs": self.length("epoch").to_json(),
            "steps": self.length("step").to_json(),
            "memory_gb": self.memory.to_json(),
            "runs": [_run_to_json(each) for each in self.trainings],
        }


@dataclass(frozen=True)
class Comparison:
    """Contestants on the same images.

    Attributes:
        name: of the images.
        images: number of images.
        objects: number of objects in them.
        contestants: in the order in which they were named.
        differences: of all pairs whose runs gave something, highest APs first.
        resamples: number of draws of the intervals; 0 where nothing was compared.
        notes: what to know before the figures are believed.
        folder: with all runs and the report.
        settings: what holds for all of them: name and value.
    """

    name: str
    images: int
    objects: int
    contestants: tuple[ContestantFigures, ...]
    differences: tuple[Difference, ...]
    resamples: int
    notes: tuple[str, ...]
    folder: Path
    settings: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"<Comparison on {self.name}: {'; '.join(self.verdicts()) or 'nothing was compared'}>"

    @property
    def ranked(self) -> list[ContestantFigures]:
        """The contestants that gave something, highest AP first."""
        known = [each for each in self.contestants if each.finished]
        return sorted(known, key=lambda each: -(each.figure("AP").mean or 0.0))

    @property
    def problems(self) -> list[tuple[str, str]]:
        """The runs that failed, and why."""
        return [
            (each.run.name, each.outcome.problem)
            for contestant in self.contestants
            for each in contestant.trainings
            if each.outcome.problem is not None
        ]

    @property
    def report(self) -> Path:
        """The report's path."""
        return self.folder / "report.html"

    @property
    def figures_file(self) -> Path:
        """The path of all figures as JSON."""
        return self.folder / "comparison.json"

    @property
    def several_trainings(self) -> bool:
        """Whether there is a contestant with more than one training."""
        return any(len(each.finished) > 1 for each in self.contestants)

    @property
    def single_trainings(self) -> list[str]:
        """Names of those with one training, or evaluated once, whose other seeds nobody knows."""
        return [each.name for each in self.ranked if len(each.finished) == 1]

    @property
    def is_trained(self) -> bool:
        """Whether there is a contestant that was trained here."""
        return any(each.variant is not None for each in self.contestants)

    def classes(self) -> dict[int, str]:
        """Names of the classes that have objects, by category id."""
        for contestant in self.contestants:
            for each in contestant.finished:
                if each.outcome.evaluation is not None:
                    return {one.id: one.name for one in each.outcome.evaluation.classes if one.ap is not None}
        return {}

    def basis(self) -> str:
        """What was compared on what, and which variants the checkpoints are."""
        cards = [f"{each.name} ({each.card.variant})" for each in self.contestants if each.card is not None]
        checkpoints = f" {agreeing(len(cards), 'Checkpoint', 'Checkpoints')}: {', '.join(cards)}." if cards else ""
        return f"{counted(self.images, 'image')} with {counted(self.objects, 'object')} of {self.name}.{checkpoints}"

    def verdicts(self) -> list[str]:
        """What the differences say, a sentence for each pair."""
        return [f"{each.verdict()} ({each.basis()})" for each in self.differences]

    def of_the_first(self) -> list[Difference]:
        """The differences between the contestant with the highest AP and each other."""
        return [each for each in self.differences if each.first == self.differences[0].first]

    def table(self) -> Group:
        """The form for a terminal."""
        from detrkit.comparison.tables import comparison_table  # not above: it imports this module

        return comparison_table(self)

    def _repr_html_(self) -> str:
        """What notebooks show: figures and costs, highest AP first, and what follows."""
        from detrkit.comparison.cells import (
            cost_columns,
            figure_columns,
            known_columns,
        )  # not above: it imports this module

        columns = [*figure_columns(), *known_columns(cost_columns(), self.ranked)]
        rows = [(each.name, *(column.text(each) for column in columns)) for each in self.ranked]
        notes = [f"{verdict}." for verdict in self.verdicts()]
        notes += [f"Failed: {name}: {problem}" for name, problem in self.problems]
        return shown(
            f"Comparison on {self.name}",
            paragraph(self.basis()),
            table(("contestant", *(column.name for column in columns)), rows),
            *map(paragraph, (*notes, *(f"Note: {note}" for note in self.notes))),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
        return {
            "data": self.name,
            "images": self.images,
            "objects": self.objects,
            "confidence": CONFIDENCE,
            "resamples": self.resamples,
            "contestants": [each.to_json(names, self.classes()) for each in self.contestants],
            "differences": [each.to_json() for each in self.differences],
            "notes": list(self.notes),
            "settings": dict(self.settings),
        }


def _over(values: Iterable[float | None]) -> Measured:
    return Measured(tuple(value for value in values if value is not None))


def _run_to_json(training: Training) -> dict[str, Any]:
    evaluation = training.outcome.evaluation
    return {
        "seed": training.run.seed,
        "folder": training.run.name,
        "problem": training.outcome.problem,
        "model": training.outcome.model or None,
        "figures": None if evaluation is None else dict(evaluation.figures),
        "best_threshold": None if evaluation is None else evaluation.best_threshold,
        "course": training.course,
    }
