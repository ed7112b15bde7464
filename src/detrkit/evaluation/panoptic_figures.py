"""The result of a panoptic evaluation: panoptic, segmentation and recognition quality, and how to show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

from detrkit.cards import Category
from detrkit.data.wording import counted
from detrkit.notebooks import paragraph, shown, table
from detrkit.terminal import add_numbers, add_texts, narrow_table

QUALITY_MEANINGS = {
    "PQ": "panoptic quality, of a class SQ · RQ",
    "SQ": "segmentation quality: mean IoU of matched segments",
    "RQ": "recognition quality: F1 of matching (IoU above 0.50)",
}
_COLUMNS = ("PQ", "SQ", "RQ", "matched", "wrong", "missed")
_UNKNOWN = "–"


@dataclass(frozen=True)
class PanopticClass:
    """How well the segments of one class agree.

    Attributes:
        id: the category id.
        name: of the category.
        thing: whether its segments are objects.
        pq: panoptic quality in [0, 1]: the sum of the IoU of matched segments over matched + wrong / 2 + missed / 2.
        sq: segmentation quality in [0, 1]: the mean IoU of matched segments; 0 without any.
        rq: recognition quality in [0, 1]: matched over matched + wrong / 2 + missed / 2.
        matched: annotated segments with a partner (true positives).
        wrong: predicted segments without one (false positives).
        missed: annotated segments without one (false negatives).
    """

    id: int
    name: str
    thing: bool
    pq: float
    sq: float
    rq: float
    matched: int
    wrong: int
    missed: int

    @classmethod
    def of(cls, category: Category, overlap: float, matched: int, wrong: int, missed: int) -> PanopticClass:
        """From counts of segments, at least one.

        Args:
            category: the class.
            overlap: sum of the IoU of matched segments.
            matched: their number.
            wrong: as the attribute.
            missed: as the attribute.
        """
        total = matched + wrong / 2 + missed / 2
        sq = overlap / matched if matched else 0.0
        return cls(
            category.id,
            category.name,
            category.thing,
            overlap / total,
            sq,
            matched / total,
            matched,
            wrong,
            missed,
        )


@dataclass(frozen=True)
class PanopticMean:
    """The means of several classes, each of which counts the same.

    Attributes:
        name: "all", "things" or "stuff".
        classes: number of classes that occur.
        pq: mean panoptic quality in [0, 1]; None without any class.
        sq: mean segmentation quality; None as for `pq`.
        rq: mean recognition quality; None as for `pq`.
        matched: segments of all classes, like the next two.
        wrong: as of a class.
        missed: as of a class.
    """

    name: str
    classes: int
    pq: float | None
    sq: float | None
    rq: float | None
    matched: int
    wrong: int
    missed: int


@dataclass(frozen=True)
class PanopticEvaluation:
    """The result of comparing panoptic segmentations with ground truth.

    Attributes:
        name: of the data set and split.
        means: of all classes, of things and of stuff, in this order.
        classes: those that occur in the ground truth or in predictions, sorted by id.
        images: number of images.
        notes: sentences to read with the figures.
    """

    name: str
    means: tuple[PanopticMean, ...]
    classes: tuple[PanopticClass, ...]
    images: int
    notes: tuple[str, ...] = ()

    @property
    def pq(self) -> float | None:
        """Panoptic quality of all classes in [0, 1]; None if there are no segments at all."""
        return self.means[0].pq

    def __repr__(self) -> str:
        return f"<PanopticEvaluation {self.summary()}>"

    def summary(self) -> str:
        """The evaluation in one line of text."""
        every = self.means[0]
        values = ", ".join(
            f"{name} {shown_quality(value)}"
            for name, value in zip(QUALITY_MEANINGS, (every.pq, every.sq, every.rq), strict=True)
        )
        others = ", ".join(f"{mean.name} {shown_quality(mean.pq)}" for mean in self.means[1:])
        return f"{self.name}: {values} ({others}) on {counted(self.images, 'image')}"

    def basis(self) -> str:
        """What the figures are based on, in one sentence."""
        every = self.means[0]
        annotated, predicted = every.matched + every.missed, every.matched + every.wrong
        return (
            f"{counted(self.images, 'image')}, {counted(annotated, 'segment')} of {counted(every.classes, 'class', 'classes')}, "
            f"{counted(predicted, 'predicted segment')}. Matched: IoU above 0.50; each class counts the same."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; means without classes are null."""
        return {
            "name": self.name,
            "means": [asdict(mean) for mean in self.means],
            "classes": [asdict(entry) for entry in self.classes],
            "images": self.images,
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PanopticEvaluation:
        """The evaluation that `to_json` wrote."""
        return cls(
            content["name"],
            tuple(PanopticMean(**mean) for mean in content["means"]),
            tuple(PanopticClass(**entry) for entry in content["classes"]),
            content["images"],
            tuple(content["notes"]),
        )

    def table(self, *, classes: bool = True) -> Group:
        """The form for a terminal: the means, then a row per class, then the notes.

        Args:
            classes: whether to show the classes.
        """
        meanings = "; ".join(f"{name}: {meaning}" for name, meaning in QUALITY_MEANINGS.items())
        means = narrow_table(self.name, f"{self.basis()} {meanings}.")
        means.add_column("classes", no_wrap=True)
        add_numbers(means, "number", *_COLUMNS)
        for mean in self.means:
            means.add_row(mean.name, str(mean.classes), *_cells(mean))
        parts: list[Table | str] = [means]
        if classes and self.classes:
            parts.append(self._class_table())
        return Group(*parts, *(f"Note: {note}" for note in self.notes))

    def _class_table(self) -> Table:
        classes = narrow_table("classes")
        add_texts(classes, "class")
        classes.add_column("kind", no_wrap=True)
        add_numbers(classes, *_COLUMNS)
        for entry in self.classes:
            classes.add_row(entry.name, kind_of(entry), *_cells(entry))
        return classes

    def _repr_html_(self) -> str:
        """What notebooks show: the means, then the classes with the lowest PQ first."""
        means = [
            (mean.name, mean.classes, mean.pq, mean.sq, mean.rq, mean.matched, mean.wrong, mean.missed)
            for mean in self.means
        ]
        classes = [
            (entry.name, kind_of(entry), entry.pq, entry.sq, entry.rq, entry.matched, entry.wrong, entry.missed)
            for entry in sorted(self.classes, key=lambda each: each.pq)
        ]
        parts = [paragraph(self.basis()), table(("classes", "number", *_COLUMNS), means)]
        if classes:
            parts.append(table(("class, lowest PQ first", "kind", *_COLUMNS), classes))
        return shown(self.name, *parts, *(paragraph(f"Note: {note}") for note in self.notes))


def means_of(classes: Sequence[PanopticClass]) -> tuple[PanopticMean, ...]:
    """The means of all classes, of things and of stuff."""
    things = [entry for entry in classes if entry.thing]
    stuff = [entry for entry in classes if not entry.thing]
    return tuple(_mean(name, part) for name, part in (("all", classes), ("things", things), ("stuff", stuff)))


def shown_quality(value: float | None) -> str:
    """A figure for people: three decimals, or a dash where there is no class."""
    return _UNKNOWN if value is None else f"{value:.3f}"


def kind_of(entry: PanopticClass) -> str:
    """In one word whether a class is one of things or of stuff."""
    return "thing" if entry.thing else "stuff"


def _mean(name: str, classes: Sequence[PanopticClass]) -> PanopticMean:
    number = len(classes)
    columns = ([getattr(entry, key) for entry in classes] for key in ("pq", "sq", "rq"))
    pq, sq, rq = (sum(column) / number if number else None for column in columns)
    counts = (sum(getattr(entry, key) for entry in classes) for key in ("matched", "wrong", "missed"))
    return PanopticMean(name, number, pq, sq, rq, *counts)


def _cells(entry: PanopticClass | PanopticMean) -> tuple[str, ...]:
    qualities = (shown_quality(value) for value in (entry.pq, entry.sq, entry.rq))
    return (*qualities, *(str(number) for number in (entry.matched, entry.wrong, entry.missed)))
