"""An evaluation and its analysis as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table

from detrkit.data.wording import counted, have
from detrkit.evaluation.analysis import Analysis
from detrkit.evaluation.bootstrap import Interval
from detrkit.evaluation.errors import KIND_NAMES, KINDS
from detrkit.evaluation.figures import MEANINGS, ClassFigures, Evaluation
from detrkit.evaluation.groups import Group
from detrkit.evaluation.thresholds import LEAST_OBJECTS, ClassOperation
from detrkit.measures import THRESHOLD
from detrkit.terminal import Prose, add_numbers, add_texts, narrow_table

_UNKNOWN = "–"
_IMAGES_NAMED = 5
_LEAST_NAME = 9  # characters of a class name before it folds


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
    parts += [f"Note: {note}" for note in (*evaluation.notes, *analysis.notes)]
    return Lines(*(Prose(part) if isinstance(part, str) else part for part in parts))


def _figures(evaluation: Evaluation, analysis: Analysis) -> Table:
    intervals = analysis.intervals
    caption = evaluation.basis()
    if intervals.figures:  # otherwise a note says why
        caption += f" Intervals: {intervals.confidence:.0%}, bootstrap over images, {intervals.resamples} draws."
    table = narrow_table(evaluation.name, caption)
    table.add_column("figure", no_wrap=True)
    first, *others = evaluation.value_columns()
    table.add_column(first, justify="right")
    if intervals.figures:
        table.add_column("interval", no_wrap=True)
    for column in others:
        table.add_column(column, justify="right")
    add_texts(table, "meaning")
    for name in evaluation.figures:
        interval = [_interval(intervals.figures.get(name))] if intervals.figures else []
        value, *masks = evaluation.shown_values(name)
        table.add_row(name, value, *interval, *masks, MEANINGS[name])
    return table


def _classes(evaluation: Evaluation, analysis: Analysis) -> Table:
    table = narrow_table("classes")
    table.add_column("class", overflow="fold", min_width=_LEAST_NAME)
    own = analysis.intervals.class_ap
    interval = ["interval"] if own else []
    of_masks = evaluation.mask_ap()
    masks = ["masks"] if of_masks else []
    add_numbers(table, "objects", "AP", *interval, *masks, "AP50", "precision", "recall", "F1", THRESHOLD.name)
    for figures, operation in zip(evaluation.classes, analysis.classes, strict=True):
        shown = [_narrow_interval(own.get(figures.id))] if own else []
        shown += map(_share, of_masks.get(figures.id, ()))
        table.add_row(*_class_cells(figures, operation, shown))
    return table


def _class_cells(figures: ClassFigures, operation: ClassOperation, beside_ap: Sequence[str]) -> Sequence[str]:
    return (
        figures.name,
        str(figures.objects),
        _share(figures.ap),
        *beside_ap,
        _share(figures.ap50),
        _share(operation.precision),
        _share(operation.recall),
        _share(operation.f1),
        f"{operation.threshold:.3f}{'' if operation.own else '*'}",
    )


def _thresholds_in_words(evaluation: Evaluation, analysis: Analysis) -> str:
    if evaluation.best_threshold is None:
        return "Precision, recall and F1: IoU 0.50, from the threshold in the last column. * No detection is correct, so there is no best one."
    text = (
        "Precision, recall and F1: IoU 0.50, from the threshold in the last column, the best for the class. "
        f"Best mean F1 over the classes: keep detections from score {evaluation.best_threshold:.3f}."
    )
    if all(entry.own for entry in analysis.classes):
        return text
    return f"{text} * the same, for classes with fewer than {LEAST_OBJECTS} objects or no correct detection."


def _errors(analysis: Analysis) -> Table:
    errors = analysis.errors
    caption = (
        f"{counted(errors.detections, 'detection')} from these thresholds: {errors.correct} correct, "
        f"{errors.detections - errors.correct} wrong; {counted(errors.mistaken, 'more object')} {have(errors.mistaken)} only a detection of the wrong class or place. "
        "Shares are of the detections, that of missed of the objects."
    )
    table = narrow_table("errors", caption)
    table.add_column("kind", no_wrap=True)
    add_numbers(table, "number", "share", "costs AP50")
    add_texts(table, "meaning")
    for kind, number in errors.counts.items():
        total = errors.objects if kind == "missed" else errors.detections
        share = f"{number / total:.1%}" if total else _UNKNOWN
        table.add_row(KIND_NAMES[kind], str(number), share, _share(errors.costs.get(kind)), KINDS[kind])
    return table


def _groups(analysis: Analysis) -> Table:
    table = narrow_table("by size and crowdedness")
    add_texts(table, "group")
    add_numbers(table, "images", "objects", "AP", "AP50")
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


def _narrow_interval(interval: Interval | None) -> str:
    """With two decimals, since many columns have to fit."""
    return "" if interval is None else f"{interval.low:.2f}–{interval.high:.2f}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"
