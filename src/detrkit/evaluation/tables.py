"""An evaluation and its analysis as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table

from detrkit.data.wording import counted, have
from detrkit.evaluation.analysis import Analysis
from detrkit.evaluation.bootstrap import Interval
from detrkit.evaluation.errors import KINDS
from detrkit.evaluation.figures import MEANINGS, ClassFigures, Evaluation, shown_value
from detrkit.evaluation.groups import Group
from detrkit.evaluation.thresholds import LEAST_OBJECTS, ClassOperation

_UNKNOWN = "–"
_IMAGES_NAMED = 5


def detailed_table(evaluation: Evaluation, analysis: Analysis) -> Lines:
    """The form for a terminal: figures with intervals, classes, errors by kind, groups of objects and images, notes.

    Args:
        evaluation: the figures.
        analysis: of the same detections.
    """
    parts: list[RenderableType] = [
        _figures(evaluation, analysis),
        _classes(evaluation, analysis),
        _thresholds_in_words(evaluation, analysis),
        _errors(analysis),
        _groups(analysis),
        *_images_in_words(analysis),
    ]
    return Lines(*parts, *(f"Note: {note}" for note in (*evaluation.notes, *analysis.notes)))


def _figures(evaluation: Evaluation, analysis: Analysis) -> Table:
    intervals = analysis.intervals
    caption = f"{evaluation.basis()} Intervals: {intervals.confidence:.0%}, bootstrap over images, {intervals.resamples} draws."
    table = Table(title=evaluation.name, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("interval", no_wrap=True)
    table.add_column("meaning")
    for name, value in evaluation.figures.items():
        table.add_row(name, shown_value(name, value), _interval(intervals.figures.get(name)), MEANINGS[name])
    return table


def _classes(evaluation: Evaluation, analysis: Analysis) -> Table:
    table = Table("class", title="classes", title_justify="left")
    for column in ("objects", "AP", "interval", "AP50", "precision", "recall", "F1", "from score"):
        table.add_column(column, justify="right", no_wrap=column == "interval")
    for figures, operation in zip(evaluation.classes, analysis.classes, strict=True):
        table.add_row(*_class_cells(figures, operation, analysis.intervals.class_ap.get(figures.id)))
    return table


def _class_cells(figures: ClassFigures, operation: ClassOperation, interval: Interval | None) -> Sequence[str]:
    return (
        figures.name,
        str(figures.objects),
        _share(figures.ap),
        "" if interval is None else f"{interval.low:.2f}–{interval.high:.2f}",  # eight columns have to fit
        _share(figures.ap50),
        _share(operation.precision),
        _share(operation.recall),
        _share(operation.f1),
        f"{operation.threshold:.3f}{'' if operation.own else '*'}",
    )


def _thresholds_in_words(evaluation: Evaluation, analysis: Analysis) -> str:
    if evaluation.best_threshold is None:
        return "Precision, recall and F1: IoU 0.50."
    text = f"Best mean F1 over the classes (IoU 0.50): keep detections from score {evaluation.best_threshold:.3f}."
    if all(entry.own for entry in analysis.classes):
        return text
    return f"{text} * the same, for classes with fewer than {LEAST_OBJECTS} objects or no correct detection."


def _errors(analysis: Analysis) -> Table:
    errors = analysis.errors
    caption = (
        f"{counted(errors.detections, 'detection')} from these scores: {errors.correct} correct, "
        f"{errors.detections - errors.correct} wrong; {counted(errors.mistaken, 'more object')} {have(errors.mistaken)} only a detection of the wrong class or place."
    )
    table = Table(title="errors", caption=caption, title_justify="left", caption_justify="left")
    table.add_column("kind", no_wrap=True)
    table.add_column("number", justify="right")
    table.add_column("share", justify="right")
    table.add_column("costs AP50", justify="right")
    table.add_column("meaning")
    for kind, number in errors.counts.items():
        total = errors.objects if kind == "missed" else errors.detections
        share = f"{number / total:.1%}" if total else _UNKNOWN
        table.add_row(kind, str(number), share, _share(errors.costs.get(kind)), KINDS[kind])
    return table


def _groups(analysis: Analysis) -> Table:
    table = Table("group", title="by size and crowdedness", title_justify="left")
    for column in ("images", "objects", "AP", "AP50"):
        table.add_column(column, justify="right")
    for group in (*analysis.sizes, *analysis.crowdedness):
        table.add_row(_group_name(group), str(group.images), str(group.objects), _share(group.ap), _share(group.ap50))
    return table


def _group_name(group: Group) -> str:
    return group.meaning if group.name in group.meaning else f"{group.name} ({group.meaning})"


def _images_in_words(analysis: Analysis) -> list[str]:
    if not analysis.images:
        return []
    named = ", ".join(
        f"{entry.file_name or entry.image_id} ({entry.errors})" for entry in analysis.images[:_IMAGES_NAMED]
    )
    return [f"Most errors: {named}."]


def _share(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.3f}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"
