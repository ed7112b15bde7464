"""The sections of an evaluation, from its summary to its notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detrkit.data.dataset import DetectionDataset
from detrkit.data.wording import counted, have, some_of
from detrkit.evaluation.analysis import Analysis
from detrkit.evaluation.bootstrap import Interval
from detrkit.evaluation.errors import KIND_NAMES, KINDS
from detrkit.evaluation.figures import MEANINGS, ClassFigures, Evaluation, shown_value
from detrkit.evaluation.report.analysis_sections import (
    confusion_section,
    error_section,
    group_section,
    threshold_section,
    worst_images_section,
)
from detrkit.evaluation.report.charts import class_figure, precision_recall_figure
from detrkit.evaluation.report.page import (
    MISSING,
    Beside,
    Block,
    Cell,
    Chart,
    Folded,
    Points,
    Section,
    Table,
    Tile,
    Tiles,
)
from detrkit.evaluation.report.pictures import example_pictures
from detrkit.measures import THRESHOLD

_FOLDED_FROM = 30  # classes whose chart is longer than a screen
_WORST_CLASSES = 3


def evaluation_sections(
    evaluation: Evaluation,
    analysis: Analysis | None = None,
    dataset: DetectionDataset | None = None,
    entries: Iterable[Mapping[str, Any]] = (),
    *,
    pictures: int = 8,
) -> list[Section]:
    """All that an evaluation says, in the order in which people ask.

    Args:
        evaluation: COCO's figures.
        analysis: of the same detections; without it, there are only figures and classes.
        dataset: the images; without it, there are no pictures.
        entries: the detections, as COCO result entries with the data set's ids; for examples.
        pictures: maximum number of images with errors, and of examples.

    Raises:
        DataError: an image cannot be read.
    """
    entries = list(entries)  # looked at twice
    sections = [_summary(evaluation, analysis), _figures(evaluation, analysis)]
    if any(entry.ap is not None for entry in evaluation.classes):
        sections.append(_classes(evaluation, analysis))
    if analysis is not None and analysis.errors.objects:
        sections += [
            threshold_section(analysis),
            confusion_section(analysis),
            error_section(analysis),
            group_section(analysis),
        ]
    if analysis is not None and analysis.images:
        sections.append(worst_images_section(analysis, dataset, entries, count=pictures))
    if dataset is not None and pictures:
        threshold = class_thresholds_of(evaluation, analysis)
        examples = example_pictures(dataset, entries, threshold=threshold, count=max(1, pictures * 3 // 4))
        text = "Images that are evenly spaced in the data set, not chosen: predictions and the ground truth."
        sections.append(Section("Examples", (text, *examples)))
    notes = tuple(dict.fromkeys((*evaluation.notes, *(analysis.notes if analysis else ()))))
    if notes:
        sections.append(Section("Notes", (Points(tuple(("", note) for note in notes)),)))
    return sections


def class_thresholds_of(evaluation: Evaluation, analysis: Analysis | None) -> dict[int, float]:
    """The score from which detections of each class count, by category id: the analysis's, the best overall one, or 0.5."""
    if analysis is not None:
        return {entry.id: entry.threshold for entry in analysis.classes}
    threshold = 0.5 if evaluation.best_threshold is None else evaluation.best_threshold
    return {entry.id: evaluation.class_thresholds.get(entry.id, threshold) for entry in evaluation.classes}


def finding_points(findings: Sequence[Any]) -> Points:
    """Findings in a data set as a list, worst first.

    Args:
        findings: objects with the attributes `severity` ("error", "warning" or another word), `message` and `remedy` (may be empty); their
            `split` is named if they have one.
    """
    order = {"error": 0, "warning": 1}
    ranked = sorted(findings, key=lambda finding: order.get(str(finding.severity), 2))
    points = tuple(
        (
            f"{str(finding.severity).capitalize()}{_in_split(finding)}:",
            " ".join(filter(None, (finding.message, finding.remedy))),
        )
        for finding in ranked
    )
    return Points(points, tuple(str(finding.severity) if str(finding.severity) in order else "" for finding in ranked))


def _in_split(finding: Any) -> str:
    split = getattr(finding, "split", "")
    return f" ({split})" if split else ""


def _summary(evaluation: Evaluation, analysis: Analysis | None) -> Section:
    intervals: Mapping[str, Interval] = analysis.intervals.figures if analysis else {}
    tiles = [
        Tile(name, shown_value(name, evaluation.figures.get(name)), _with_confidence(intervals.get(name), analysis))
        for name in ("AP", "AP50")
    ]
    if evaluation.masks is not None:
        tiles.append(Tile("Mask AP", shown_value("AP", evaluation.masks.figures["AP"]), "of the same detections"))
    tiles += [
        Tile("Images", f"{evaluation.images:,}"),
        Tile("Objects", f"{evaluation.objects:,}", f"of {counted(len(evaluation.classes), 'class', 'classes')}"),
    ]
    if evaluation.best_threshold is not None:
        tiles.append(
            Tile("Best threshold", f"{evaluation.best_threshold:.3f}", "of the score, for the best mean F1 (IoU 0.50)")
        )
    points = [*_worst_classes(evaluation), *_commonest_error(analysis)]
    if analysis and intervals:
        points.append(
            (
                "How certain?",
                f"With other images of this kind, AP would lie in the interval with a confidence of {analysis.intervals.confidence:.0%} "
                f"(bootstrap over the images, {analysis.intervals.resamples} draws).",
            )
        )
    blocks: list[Block] = [Tiles(tuple(tiles))]
    if points:
        blocks.append(Points(tuple(points)))
    return Section(f"Summary: {evaluation.name}", (evaluation.basis(), *blocks), short="Summary")


def _with_confidence(interval: Interval | None, analysis: Analysis | None) -> str:
    if interval is None or analysis is None:
        return ""
    return f"{analysis.intervals.confidence:.0%} interval {_interval_note(interval)}"


def _interval_note(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"


def _worst_classes(evaluation: Evaluation) -> list[tuple[str, str]]:
    measured = [entry for entry in evaluation.classes if entry.ap is not None]
    if len(measured) < 2:
        return []
    worst = sorted(measured, key=lambda entry: (entry.ap or 0.0, -entry.objects))[:_WORST_CLASSES]
    named = ", ".join(f"{entry.name} (AP {entry.ap:.3f}, {counted(entry.objects, 'object')})" for entry in worst)
    few = max(entry.objects for entry in worst) < 5 and len(measured) > _WORST_CLASSES
    return [("Worst classes:", f"{named}.{' So few objects say little about a class.' if few else ''}")]


def _commonest_error(analysis: Analysis | None) -> list[tuple[str, str]]:
    if analysis is None or not any(analysis.errors.counts.values()):
        return []
    kind = max(KINDS, key=lambda each: analysis.errors.counts.get(each, 0))
    number, all_errors = analysis.errors.counts[kind], sum(analysis.errors.counts.values())
    return [("Commonest error:", f"{KIND_NAMES[kind]} ({number} of {counted(all_errors, 'error')}): {KINDS[kind]}.")]


def _figures(evaluation: Evaluation, analysis: Analysis | None) -> Section:
    intervals: Mapping[str, Interval] = analysis.intervals.figures if analysis else {}
    value, *masks = evaluation.value_columns()
    columns = ("figure", value, *(("interval",) if intervals else ()), *masks, "meaning")
    rows = tuple(_figure_row(evaluation, name, intervals) for name in evaluation.figures)
    left: list[Block] = [Table(columns, rows, "COCO's figures")]
    if intervals and analysis is not None:
        left.append(
            f"The intervals hold {analysis.intervals.confidence:.0%} of {analysis.intervals.resamples} draws of as many images with replacement. "
            "They say how much the figures depend on which images are here, not how much they depend on the training. "
            "Two models whose intervals overlap widely cannot be ranked by these images.",
        )
    entries = [entry for entry in evaluation.classes if entry.precisions]
    if not entries:
        return Section("Figures", tuple(left))
    words = f"Precision falls as recall rises, at IoU 0.50: {counted(len(entries), 'class', 'classes')} and their mean."
    caption = "Each curve is a class: how many of the detections are right when so many of the objects are to be found."
    chart = Chart("precision_recall", precision_recall_figure(evaluation), words, caption)
    return Section("Figures", (Beside((tuple(left), (chart,))),))


def _figure_row(evaluation: Evaluation, name: str, intervals: Mapping[str, Interval]) -> tuple[str, ...]:
    value, *masks = evaluation.shown_values(name)
    interval = (_interval_note(intervals.get(name)) or MISSING,) if intervals else ()
    return (name, value, *interval, *masks, MEANINGS[name])


def _classes(evaluation: Evaluation, analysis: Analysis | None) -> Section:
    measured = [entry for entry in evaluation.classes if entry.ap is not None]
    missing = len(evaluation.classes) - len(measured)
    blocks: list[Block] = []
    if missing:
        blocks.append(
            f"{some_of(missing, len(evaluation.classes), 'class', 'classes')} {have(missing)} no objects here, so no figures."
        )
    table = _class_table(measured, analysis, evaluation.mask_ap())
    intervals = {key: (each.low, each.high) for key, each in analysis.intervals.class_ap.items()} if analysis else {}
    best, worst = max(measured, key=lambda entry: entry.ap or 0.0), min(measured, key=lambda entry: entry.ap or 0.0)
    words = f"AP and AP50 of {counted(len(measured), 'class', 'classes')}, from {best.name} ({best.ap:.3f}) to {worst.name} ({worst.ap:.3f})."
    caption = "In brackets the number of objects." + (" Bars behind the dots are intervals of AP." if intervals else "")
    chart = Chart("classes", class_figure(evaluation, intervals), words, caption)
    if len(measured) >= _FOLDED_FROM:
        return Section("Classes", (*blocks, table, Folded("All classes as a chart", (chart,))))
    return Section("Classes", (*blocks, table, chart))


def _class_table(
    entries: Sequence[ClassFigures], analysis: Analysis | None, of_masks: Mapping[int, tuple[float | None]]
) -> Table:
    columns = ["class", "objects", "AP", *(["mask AP"] if of_masks else []), "AP50"]
    caption = ""
    if analysis:
        columns += ["interval of AP", "precision", "recall", "F1", THRESHOLD.name]
        caption = "Precision, recall and F1 at the threshold of the class (IoU 0.50)."
        if any(not entry.own for entry in analysis.classes):
            caption += " A star marks classes with too few objects, or no correct detection, for a threshold of their own: the one for all is used."
    return Table(
        tuple(columns),
        tuple(_class_row(entry, analysis, of_masks.get(entry.id, ())) for entry in entries),
        caption,
        numbers=True,
    )


def _class_row(
    entry: ClassFigures, analysis: Analysis | None, of_masks: Sequence[float | None]
) -> tuple[str | Cell, ...]:
    row: list[str | Cell] = [
        entry.name,
        Cell(str(entry.objects), order=entry.objects),
        _share(entry.ap),
        *map(_share, of_masks),
        _share(entry.ap50),
    ]
    if analysis is None:
        return tuple(row)
    (operation,) = (each for each in analysis.classes if each.id == entry.id)
    interval = analysis.intervals.class_ap.get(entry.id)
    row.append(Cell(_interval_note(interval), order=interval.high - interval.low) if interval else MISSING)
    row += [_share(value, bar=False) for value in (operation.precision, operation.recall, operation.f1)]
    row.append(Cell(f"{operation.threshold:.3f}{'' if operation.own else ' *'}", order=operation.threshold))
    return tuple(row)


def _share(value: float | None, *, bar: bool = True) -> str | Cell:
    return MISSING if value is None else Cell(f"{value:.3f}", value if bar else None, value)
