"""The result of an evaluation: COCO's twelve figures, those of each class, and how to show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table

from detrkit.coco_limits import AREA_WORDS, MAX_DETECTIONS
from detrkit.coco_limits import check_max_detections as check_max_detections
from detrkit.data.wording import counted
from detrkit.errors import ConfigurationError
from detrkit.evaluation.repeats import Suppression
from detrkit.notebooks import paragraph, shown, table
from detrkit.terminal import Prose, add_numbers, add_texts, narrow_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _Meanings(dict[str, str]):
    """Also knows recalls at other numbers of detections, such as "AR300"."""

    def __missing__(self, name: str) -> str:
        if not name.startswith("AR") or not name[2:].isdigit():
            raise KeyError(name)
        return _recall(int(name[2:]))


def _recall(number: int) -> str:
    return f"recall, {counted(number, 'detection')} of each class"


# In the order in which COCO's own tools print them.
MEANINGS: dict[str, str] = _Meanings(
    {
        "AP": "mean AP over IoU 0.50 to 0.95",
        "AP50": "AP at IoU 0.50",
        "AP75": "AP at IoU 0.75",
        "AP_small": f"AP, {AREA_WORDS['small']}",
        "AP_medium": f"AP, {AREA_WORDS['medium']}",
        "AP_large": f"AP, {AREA_WORDS['large']}",
        "AR1": _recall(1),
        "AR10": _recall(10),
        "AR100": _recall(MAX_DETECTIONS),
        "AR_small": f"recall, {AREA_WORDS['small']}",
        "AR_medium": f"recall, {AREA_WORDS['medium']}",
        "AR_large": f"recall, {AREA_WORDS['large']}",
    }
)


@dataclass(frozen=True)
class ClassFigures:
    """How well one class is detected.

    Attributes:
        id: the category id of the annotation file.
        name: of the category.
        ap: AP over IoU 0.50 to 0.95 in [0, 1]; None if the ground truth has no objects of the class.
        ap50: AP at IoU 0.50 in [0, 1]; None as for `ap`.
        objects: number of objects of the class in the ground truth, without crowd regions.
        precisions: the precision at IoU 0.50 for the recalls 0, 0.01 … 1, as COCO interpolates it; empty if `ap` is None.
    """

    id: int
    name: str
    ap: float | None
    ap50: float | None
    objects: int
    precisions: tuple[float, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class MaskFigures:
    """How well the masks of detections agree with those of objects.

    Attributes:
        figures: COCO's figures with the names of `Evaluation.figures`, with the IoU of masks in the place of that of boxes.
        classes: as of the evaluation, with the AP of masks.
    """

    figures: dict[str, float | None]
    classes: tuple[ClassFigures, ...]


@dataclass(frozen=True)
class Evaluation:
    """The result of comparing detections with ground truth.

    Attributes:
        name: of the data set and split.
        figures: the twelve names of `MEANINGS`, each in [0, 1], or None if the ground truth has no such objects. With another number of
            detections than 100 the name AR100 changes accordingly, and with 10 or fewer there are fewer recalls.
        classes: one entry per category, sorted by id.
        images: number of images in the ground truth; all count, with or without detections.
        objects: number of objects in the ground truth, without crowd regions.
        crowds: number of crowd regions; detections inside them are ignored.
        detections: number of result entries that were compared.
        best_threshold: keeping the detections from this score on gives the best mean of the classes' F1 at IoU 0.50; None if no detection is
            correct.
        class_thresholds: keeping the detections of a class from this score on gives its best F1, by category id. Classes without a correct
            detection have none, nor have those with fewer than 20 objects, whose best threshold is mostly chance: `best_threshold` is the
            better choice for them.
        notes: sentences to read with the figures, for example about classes that could not be compared.
        repeated_share: share of the detections from these thresholds on that repeat a better one of their class (IoU above 0.70), in [0, 1];
            None if there are none. From score 0.5 on if no detection is correct.
        suppression: what non-maximum suppression would change; None if less than 1 % repeat a better one, or if fewer than 5 images have
            objects.
        masks: the same figures for masks; None if the detections or the ground truth have none. All else is about boxes.
    """

    name: str
    figures: dict[str, float | None]
    classes: tuple[ClassFigures, ...]
    images: int
    objects: int
    crowds: int
    detections: int
    best_threshold: float | None = None
    notes: tuple[str, ...] = ()
    class_thresholds: dict[int, float] = field(default_factory=dict)
    repeated_share: float | None = None
    suppression: Suppression | None = None
    masks: MaskFigures | None = None

    def __repr__(self) -> str:
        return f"<Evaluation {self.summary()}>"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; figures without ground truth are null."""
        masks = self.masks
        return {
            "name": self.name,
            "figures": dict(self.figures),
            "best_threshold": self.best_threshold,
            "class_thresholds": {str(number): threshold for number, threshold in self.class_thresholds.items()},
            "repeated_share": self.repeated_share,
            "suppression": None if self.suppression is None else asdict(self.suppression),
            "images": self.images,
            "objects": self.objects,
            "crowds": self.crowds,
            "detections": self.detections,
            "classes": _classes_to_json(self.classes),
            "masks": None
            if masks is None
            else {"figures": dict(masks.figures), "classes": _classes_to_json(masks.classes)},
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_json` wrote, without the precisions of its classes, which are not in it."""
        masks = content.get("masks")  # which older versions did not measure, like the next two
        own = {int(number): threshold for number, threshold in content["class_thresholds"].items()}
        rest = ("name", "figures", "images", "objects", "crowds", "detections", "best_threshold")
        return cls(
            classes=_classes_from_json(content["classes"]),
            masks=None if masks is None else MaskFigures(masks["figures"], _classes_from_json(masks["classes"])),
            notes=tuple(content["notes"]),
            class_thresholds=own,
            repeated_share=content.get("repeated_share"),
            suppression=None if content.get("suppression") is None else Suppression.from_json(content["suppression"]),
            **{name: content[name] for name in rest},
        )

    def basis(self) -> str:
        """What the figures are based on, in one sentence."""
        crowds = f"{counted(self.crowds, 'crowd region')} (where detections are ignored), " if self.crowds else ""
        return (
            f"{counted(self.images, 'image')}, {counted(self.objects, 'object')}, {crowds}"
            f"{counted(self.detections, 'detection')}{self._repeats()}."
        )

    def _repeats(self) -> str:
        """The share of repeated detections as a part of a sentence."""
        if self.repeated_share is None:
            return ""
        return f"; {self.repeated_share:.1%} of those from the best thresholds on repeat a better one"

    def summary(self) -> str:
        """The evaluation in one line of text."""
        shown = ", ".join(f"{name} {shown_value(name, self.figures[name])}" for name in ("AP", "AP50", "AP75"))
        if self.masks is not None:
            shown += f", masks AP {shown_value('AP', self.masks.figures['AP'])}"
        threshold = "" if self.best_threshold is None else f"; best threshold {self.best_threshold:.3f}"
        return f"{self.name}: {shown} on {counted(self.images, 'image')}, {counted(self.objects, 'object')}{threshold}"

    def value_columns(self) -> tuple[str, ...]:
        """The headings of a table's values: one of boxes, and one of masks if there are any."""
        return ("value",) if self.masks is None else ("boxes", "masks")

    def shown_values(self, name: str) -> tuple[str, ...]:
        """A figure for people, in the order of `value_columns`.

        Args:
            name: one of those of `figures`.
        """
        sides = (self.figures,) if self.masks is None else (self.figures, self.masks.figures)
        return tuple(shown_value(name, figures[name]) for figures in sides)

    def mask_ap(self) -> dict[int, tuple[float | None]]:
        """The AP of the masks of each class by category id, as the additional cell of a row; empty without masks."""
        return {} if self.masks is None else {entry.id: (entry.ap,) for entry in self.masks.classes}

    def plot(self) -> Figure:
        """Precision over recall at IoU 0.50, of each class and in the mean. Notebooks show the figure.

        Raises:
            ConfigurationError: there is nothing to draw, since the ground truth is empty or the evaluation was read from a file.
        """
        from detrkit.evaluation.report.charts import precision_recall_figure  # not above: it needs matplotlib
        from detrkit.evaluation.report.drawing import on_white

        if not any(entry.precisions for entry in self.classes):
            raise ConfigurationError(
                f"{self.name}: there is no precision to draw, since there are no objects or only the figures were stored; evaluate data with "
                "objects (anew)"
            )
        return on_white(precision_recall_figure(self))

    def table(self, *, classes: bool = True) -> Group:
        """The form for a terminal: the figures, then a row per class, then the notes.

        Args:
            classes: whether to show the classes.
        """
        figures = narrow_table(self.name, self.basis())
        figures.add_column("figure", no_wrap=True)
        for column in self.value_columns():
            figures.add_column(column, justify="right")
        add_texts(figures, "meaning")
        for name in self.figures:
            figures.add_row(name, *self.shown_values(name), MEANINGS[name])
        parts: list[Table | Prose] = [figures]
        if classes:
            parts.append(self._class_table())
        if self.best_threshold is not None:
            parts.append(
                Prose(
                    f"Best mean F1 over the classes (IoU 0.50): keep detections from score {self.best_threshold:.3f}."
                )
            )
        return Group(*parts, *(Prose(f"Note: {note}") for note in self.notes))

    def _repr_html_(self) -> str:
        """What notebooks show: the figures, then the classes with the lowest AP first."""
        figures = [(name, *self.shown_values(name), MEANINGS[name]) for name in self.figures]
        measured = [entry for entry in self.classes if entry.ap is not None]
        of_masks = self.mask_ap()
        classes = [
            (entry.name, entry.objects, entry.ap, entry.ap50, *of_masks.get(entry.id, ()))
            for entry in sorted(measured, key=lambda each: each.ap or 0.0)
        ]
        parts = [paragraph(self.basis()), table(("figure", *self.value_columns(), "meaning"), figures)]
        if classes:
            masks = ("mask AP",) if of_masks else ()
            parts.append(table(("class, lowest AP first", "objects", "AP", "AP50", *masks), classes))
        return shown(self.name, *parts, *(paragraph(f"Note: {note}") for note in self.notes))

    def _class_table(self) -> Table:
        table = narrow_table("classes")
        add_texts(table, "class")
        of_masks = self.mask_ap()
        add_numbers(table, "objects", "AP", "AP50", *(["mask AP"] if of_masks else []))
        for entry in self.classes:
            values = (entry.ap, entry.ap50, *of_masks.get(entry.id, ()))
            shown = ("–" if value is None else f"{value:.3f}" for value in values)
            table.add_row(entry.name, str(entry.objects), *shown)
        return table


def _classes_to_json(classes: Sequence[ClassFigures]) -> list[dict[str, Any]]:
    return [
        {"id": entry.id, "name": entry.name, "AP": entry.ap, "AP50": entry.ap50, "objects": entry.objects}
        for entry in classes
    ]


def _classes_from_json(entries: Sequence[Mapping[str, Any]]) -> tuple[ClassFigures, ...]:
    return tuple(
        ClassFigures(entry["id"], entry["name"], entry["AP"], entry["AP50"], entry["objects"]) for entry in entries
    )


def shown_value(name: str, value: float | None) -> str:
    """A figure for people: three decimals, or why there is none.

    Args:
        name: one of `MEANINGS`.
        value: in [0, 1] or None.
    """
    if value is not None:
        return f"{value:.3f}"
    return "no ground truth of this size" if "_" in name else "no ground truth"
