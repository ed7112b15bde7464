"""The sections of a report that are about panoptic segments."""

from __future__ import annotations

from collections.abc import Sequence

from detrkit.data.wording import counted
from detrkit.evaluation.panoptic_figures import (
    QUALITY_MEANINGS,
    PanopticClass,
    PanopticEvaluation,
    PanopticMean,
    kind_of,
    shown_quality,
)
from detrkit.evaluation.report.page import MISSING, Block, Cell, Points, Section, Table, Tile, Tiles

_COUNTS = ("matched", "wrong", "missed")
_WORST_CLASSES = 3


def panoptic_sections(evaluation: PanopticEvaluation) -> list[Section]:
    """What a panoptic evaluation says: figures in large type, means of things and stuff, classes with the lowest quality first.

    Args:
        evaluation: what is shown.
    """
    every, things, stuff = evaluation.means
    tiles = (
        Tile("PQ", shown_quality(every.pq), f"of {counted(every.classes, 'class', 'classes')}"),
        Tile("PQ, things", shown_quality(things.pq), f"of {counted(things.classes, 'class', 'classes')}"),
        Tile("PQ, stuff", shown_quality(stuff.pq), f"of {counted(stuff.classes, 'class', 'classes')}"),
        Tile("Images", f"{evaluation.images:,}"),
    )
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in QUALITY_MEANINGS.items())
    means = Table(
        ("classes", "number", *QUALITY_MEANINGS, *_COUNTS),
        tuple((mean.name, str(mean.classes), *_cells(mean)) for mean in evaluation.means),
        f"Means over the classes. {meanings}.",
        numbers=True,
    )
    blocks: list[Block] = [Tiles(tiles), *_worst(evaluation.classes), means]
    sections = [Section(f"Segments: {evaluation.name}", (evaluation.basis(), *blocks), short="Segments")]
    if evaluation.classes:
        ordered = sorted(evaluation.classes, key=lambda entry: entry.pq)
        rows = tuple((entry.name, kind_of(entry), *_cells(entry)) for entry in ordered)
        columns = ("class, lowest PQ first", "kind", *QUALITY_MEANINGS, *_COUNTS)
        sections.append(Section("Segments of each class", (Table(columns, rows, numbers=True),)))
    if evaluation.notes:
        sections.append(Section("Notes on segments", (Points(tuple(("", note) for note in evaluation.notes)),)))
    return sections


def _worst(classes: Sequence[PanopticClass]) -> list[Block]:
    if len(classes) < 2:
        return []
    worst = sorted(classes, key=lambda entry: (entry.pq, -entry.missed))[:_WORST_CLASSES]
    named = ", ".join(
        f"{entry.name} (PQ {entry.pq:.3f}, {counted(entry.matched + entry.missed, 'segment')})" for entry in worst
    )
    return [Points((("Worst classes:", f"{named}."),))]


def _cells(entry: PanopticClass | PanopticMean) -> tuple[str | Cell, ...]:
    qualities = (
        MISSING if value is None else Cell(f"{value:.3f}", value, value) for value in (entry.pq, entry.sq, entry.rq)
    )
    return (*qualities, *(Cell(str(number), order=number) for number in (entry.matched, entry.wrong, entry.missed)))
