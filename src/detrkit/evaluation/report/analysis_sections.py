"""The sections of an analysis: thresholds, confusions, errors, sizes and crowdedness, and the images with most errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detrkit.data.dataset import DetectionDataset
from detrkit.data.wording import agreeing, are, counted, some_of
from detrkit.evaluation.analysis import Analysis
from detrkit.evaluation.errors import KIND_NAMES, KINDS, ErrorCounts
from detrkit.evaluation.groups import Group
from detrkit.evaluation.report.analysis_charts import (
    MAX_COUNTED,
    chosen_classes,
    class_curves_figure,
    confused_pairs,
    confusion_figure,
    matrix_classes,
    overall_curve_figure,
)
from detrkit.evaluation.report.charts import bars_figure
from detrkit.evaluation.report.page import (
    MISSING,
    Beside,
    Block,
    Cell,
    Chart,
    Chooser,
    Folded,
    Points,
    Section,
    Table,
)
from detrkit.evaluation.report.pictures import worst_pictures
from detrkit.evaluation.thresholds import ClassOperation

_WORST_LISTED = 40
# What to do about each kind of error, in the order of what helps most often.
REMEDIES = {
    "class": "Look at the pairs under Confusions: classes that people mix up, too, need clearer rules for annotating, or to become one class; "
    "rare classes need more examples.",
    "place": "Look whether the annotations are tight and of one style. Larger images (short_side) and longer training help small objects.",
    "both": "Often an object of a similar class close by, or a part of it: more examples of both classes, and more training.",
    "duplicate": "Train longer: the model learns to report each object once. Also look whether objects are annotated twice.",
    "background": "Look at the pictures first: it is often an object that nobody annotated. Otherwise raise the threshold, or add images without "
    "objects.",
    "missed": "Lower the threshold if precision allows it. Small objects need larger images (short_side), rare classes more examples, and images "
    "with nearly as many objects as there are queries more queries.",
}


def threshold_section(analysis: Analysis) -> Section:
    """Precision, recall and F1 against the threshold: of all classes, and of each one."""
    best = (
        f"{analysis.threshold:.3f} gives the best mean F1 of the classes. A higher one makes fewer mistakes, a lower one misses fewer objects"
        if analysis.errors.correct
        else "No detection is correct, so that none is the best"
    )
    text = f"Users see the detections whose score reaches a threshold. {best}; the vertical line marks what the figures here count with."
    words = f", which is best at {analysis.threshold:.3f}" if analysis.errors.correct else ""
    overall = Chart(
        "thresholds",
        overall_curve_figure(analysis),
        f"Precision, recall and F1 of all classes against the threshold{words}.",
    )
    columns: list[tuple[Block, ...]] = [("All classes together:", overall)]
    chosen = set(chosen_classes(analysis))
    operations = [entry for entry in analysis.classes if entry.id in chosen]
    if operations:
        figure = class_curves_figure(analysis)
        words = "Precision, recall and F1 of one class against the threshold."
        some = len(chosen) < sum(1 for entry in analysis.classes if entry.objects)
        caption = f"The {len(chosen)} classes with the most objects." if some else ""
        chooser = Chooser(
            Chart("thresholds_of_classes", figure, words, caption),
            "One class:",
            tuple(entry.name for entry in operations),
            tuple(_operation_words(entry) for entry in operations),
        )
        columns.append((chooser,))
    return Section("Thresholds", (text, Beside(tuple(columns))))


def _operation_words(entry: ClassOperation) -> str:
    origin = (
        "its best threshold"
        if entry.own
        else "that of all classes: too few objects, or no correct detection, for one of its own"
    )
    shown = ", ".join(
        f"{name} {value:.3f}"
        for name, value in (("precision", entry.precision), ("recall", entry.recall), ("F1", entry.f1))
        if value is not None
    )
    return (
        f"{entry.name}: threshold {entry.threshold:.3f} ({origin}): {counted(entry.correct, 'correct detection')} of {entry.detections}, "
        f"{counted(entry.objects, 'object')}; {shown}."
    )


def confusion_section(analysis: Analysis) -> Section:
    """The pairs of classes that are mixed up most, and the whole matrix."""
    pairs = confused_pairs(analysis.confusion)
    blocks: list[Block] = [
        "Rows are what is there, columns what was detected, at the thresholds of the classes and from IoU 0.50 on."
    ]
    if pairs:
        rows = tuple(
            (true, found, Cell(str(count), order=count), Cell(f"{share:.1%}", share, share))
            for true, found, count, share in pairs
        )
        caption = "Pairs of classes that are mixed up most; shares are of the objects of the true class."
        blocks.append(Table(("true class", "detected as", "objects", "share"), rows, caption))
    else:
        blocks.append("No object was taken for one of another class.")
    shown = len(matrix_classes(analysis.confusion))
    few = shown <= MAX_COUNTED
    caption = "Numbers of objects; the " if few else "The "
    caption += "brighter a cell, the larger its share of the row. The column “missed” holds objects without a detection, the row "
    caption += "“background” detections on nothing."
    if shown < sum(1 for _ in analysis.confusion.ids):
        caption += f" {counted(shown, 'class', 'classes')} shown: those that occur here"
        caption += " and have the most confusions." if _occurring(analysis) > shown else "."
    words = "The confusion matrix. " + (
        "Most frequent: " + "; ".join(f"{true} taken for {found}, {count}" for true, found, count, _ in pairs[:3]) + "."
        if pairs
        else "No class is taken for another."
    )
    matrix = Chart("confusion", confusion_figure(analysis.confusion), words, caption, wide=not few)
    return Section("Confusions", (*blocks, matrix))


def _occurring(analysis: Analysis) -> int:
    counts = analysis.confusion.counts
    return sum(
        1 for index in range(len(analysis.confusion.ids)) if sum(counts[index]) + sum(row[index] for row in counts)
    )


def error_section(analysis: Analysis) -> Section:
    """How many errors of each kind there are, what they cost, and what helps."""
    errors = analysis.errors
    total = sum(errors.counts.values())
    shared = (
        "" if errors.duplicate_share is None else f" Duplicates are {errors.duplicate_share:.1%} of the detections."
    )
    ignored = (
        f" {counted(errors.ignored, 'detection')} in crowd regions {agreeing(errors.ignored, 'counts', 'count')} neither way."
        if errors.ignored
        else ""
    )
    text = (
        f"{some_of(errors.correct, errors.detections, 'detection')} {are(errors.correct)} correct, and "
        f"{some_of(errors.correct, errors.objects, 'object')} {are(errors.correct)} found.{shared}{ignored}"
    )
    if not total:
        return Section("Errors", (text, "There is no error."))
    rows = tuple(
        (
            KIND_NAMES[kind].capitalize(),
            Cell(str(errors.counts[kind]), errors.counts[kind] / total, errors.counts[kind]),
            _cost(errors.costs.get(kind)),
            KINDS[kind],
        )
        for kind in KINDS
    )
    table = Table(
        ("kind", "errors", "AP50 it costs", "meaning"),
        rows,
        "Errors by kind, from the threshold on; the cost is what AP50 would gain if all errors of this kind, and nothing else, were mended. As "
        "AP50 itself it counts all detections, those below the threshold too.",
    )
    ranked = sorted(KINDS, key=lambda kind: (-errors.costs.get(kind, 0.0), -errors.counts[kind]))
    advice = Points(
        tuple((f"{KIND_NAMES[kind].capitalize()}:", REMEDIES[kind]) for kind in ranked if errors.counts[kind])
    )
    return Section("Errors", (text, table, *_error_charts(errors), "What to do, costliest first:", advice))


def _error_charts(errors: ErrorCounts) -> list[Chart]:
    """How many errors of each kind there are, and what they cost."""
    bars = [(KIND_NAMES[kind].capitalize(), float(errors.counts[kind]), str(errors.counts[kind])) for kind in KINDS]
    words = "Errors by kind: " + ", ".join(f"{name.lower()} {text}" for name, _, text in bars) + "."
    charts = [Chart("errors", bars_figure(bars, "errors"), words, "How many errors of each kind.")]
    if errors.costs:
        costs = [
            (KIND_NAMES[kind].capitalize(), errors.costs[kind], f"{errors.costs[kind]:.3f}")
            for kind in KINDS
            if kind in errors.costs
        ]
        words = "AP50 that each kind costs: " + ", ".join(f"{name.lower()} {text}" for name, _, text in costs) + "."
        charts.append(
            Chart("error_costs", bars_figure(costs, "AP50", numbers=[1] * len(costs)), words, "What each kind costs.")
        )
    return charts


def _cost(cost: float | None) -> str | Cell:
    return MISSING if cost is None else Cell(f"{cost:.3f}", max(0.0, min(1.0, cost)), cost)


def group_section(analysis: Analysis) -> Section:
    """AP by the size of objects and by their number in an image."""
    return Section(
        "Size and crowdedness",
        (
            _group_table(analysis.sizes, "size", "AP by the size of objects"),
            _group_table(analysis.crowdedness, "objects in an image", "AP by the number of objects in an image"),
        ),
        short="Sizes",
    )


def _group_table(groups: Sequence[Group], kind: str, caption: str) -> Table:
    nothing = "no ground truth of this size" if kind == "size" else "no ground truth"
    rows = tuple(
        (
            group.name,
            Cell(str(group.images), order=group.images),
            Cell(str(group.objects), order=group.objects),
            nothing if group.ap is None else Cell(f"{group.ap:.3f}", group.ap, group.ap),
            MISSING if group.ap50 is None else Cell(f"{group.ap50:.3f}", group.ap50, group.ap50),
            group.meaning,
        )
        for group in groups
    )
    return Table((kind, "images", "objects", "AP", "AP50", "meaning"), rows, caption)


def worst_images_section(
    analysis: Analysis, dataset: DetectionDataset | None, entries: Iterable[Mapping[str, Any]] = (), *, count: int
) -> Section:
    """The images with most errors, drawn if there are images, and a list; arguments as for `worst_pictures`."""
    blocks: list[Block] = []
    if dataset is not None and count:
        drawn = worst_pictures(dataset, analysis, entries, count=count)
        blocks += [
            "Detections from the thresholds of their classes on, and beside them the ground truth. Boxes and masks have the colour of what they are; "
            f"errors have thick lines and, those with the highest scores first, labels. {counted(len(drawn), 'image')} with the most errors:",
            *drawn,
        ]
    elif dataset is None:
        blocks.append("An annotation file has no pictures: give the data set itself, and they are drawn here.")
    columns = ("image", "errors", "objects", "found", *(KIND_NAMES[kind] for kind in KINDS))
    rows: tuple[tuple[str | Cell, ...], ...] = tuple(
        (
            entry.file_name or str(entry.image_id),
            *(Cell(str(number), order=number) for number in (entry.errors, entry.objects, entry.correct)),
            *(Cell(str(entry.counts.get(kind, 0)), order=entry.counts.get(kind, 0)) for kind in KINDS),
        )
        for entry in analysis.images[:_WORST_LISTED]
    )
    more = "" if len(analysis.images) <= _WORST_LISTED else f", of {len(analysis.images)} that have any"
    table = Table(columns, rows, f"{counted(len(rows), 'image')} with the most errors{more}.", numbers=True)
    blocks.append(Folded("Images with errors as a list", (table,)) if dataset is not None and count else table)
    return Section("Images with most errors", tuple(blocks), short="Worst images")
