"""The sections of a run's report that are about its training: curves, settings, data, speed and versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detrkit.data import DetectionDataset
from detrkit.data.wording import counted
from detrkit.evaluation.report import (
    Block,
    Cell,
    Chart,
    Folded,
    Points,
    Section,
    Table,
    Tile,
    Tiles,
    finding_points,
    training_curves,
)
from detrkit.evaluation.report.page import MISSING
from detrkit.training.options import resolve
from detrkit.training.progress import duration
from detrkit.training.training_options import TrainingOptions

# Shown elsewhere, or about the machine and its folders: no departure from a recipe.
_NOT_SETTINGS = ("variant", "data", "output", "settings", "device", "workers")
_CURVE_WORDS = {
    "loss": "Training loss over the epochs.",
    "loss of the last layer": "The parts of the loss, of the last decoder layer.",
    "average precision": "AP on the validation split.",
    "repeated detections": "Share of the detections that repeat a better one of their class, on the validation split. It falls as training goes on.",
    "learning rate": "Learning rate of everything except the backbone.",
}

Rows = Sequence[Mapping[str, float]]


def training_sections(
    options: TrainingOptions,
    rows: Rows,
    training: DetectionDataset,
    validation: DetectionDataset | None,
    *,
    versions: Mapping[str, str],
    findings: Sequence[Any] = (),
) -> list[Section]:
    """What a run did, for its report.

    Args:
        options: the resolved options.
        rows: of the log, one for each epoch.
        training: what the run learned from.
        validation: what it was evaluated on; None if there was nothing.
        versions: of the software, by its name.
        findings: about the data; see `finding_points`.
    """
    return [
        training_section(rows),
        settings_section(options, versions),
        data_section(training, validation, findings),
    ]


def training_section(rows: Rows) -> Section:
    """Length, speed and curves of a run, and the losses and figures of every epoch.

    Args:
        rows: as for `curves_figure`, and "step", "images_per_second" and "seconds" where they are known.
    """
    charts = [
        Chart(f"training_{label.replace(' ', '_')}", figure, _words(label, rows), _CURVE_WORDS[label])
        for label, figure in training_curves(rows).items()
    ]
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    cells = tuple(tuple(_cell(row.get(name)) for name in columns) for row in rows)
    blocks: list[Block] = [_pace(rows), *charts] if rows else ["No epoch was finished."]
    if rows:
        blocks.append(Folded("All numbers", (Table(columns, cells, "Every epoch", numbers=True),)))
    return Section("Training", tuple(blocks))


def _words(label: str, rows: Rows) -> str:
    name = {
        "loss": "loss",
        "average precision": "AP",
        "repeated detections": "repeated_share",
        "learning rate": "lr",
    }.get(label)
    values = [row[name] for row in rows if row.get(name) is not None] if name else []
    course = f" From {values[0]:.4g} to {values[-1]:.4g}." if values else ""
    return _CURVE_WORDS[label] + course


def _pace(rows: Rows) -> Tiles:
    tiles = [
        Tile("Epochs", f"{rows[-1]['epoch']:g}", counted(int(rows[-1]["step"]), "step") if "step" in rows[-1] else "")
    ]
    timed = [row for row in rows if row.get("seconds")]
    if timed:
        part = "" if len(timed) == len(rows) else f", of {counted(len(timed), 'epoch')}"
        tiles.append(Tile("Duration", duration(sum(row["seconds"] for row in timed)), f"without evaluations{part}"))
    speeds = [row["images_per_second"] for row in rows if row.get("images_per_second")]
    if speeds:
        tiles.append(Tile("Speed", f"{np.median(speeds):.1f}", "images per second, median of the epochs"))
    evaluated = [row for row in rows if row.get("AP") is not None]
    if evaluated:
        best = max(evaluated, key=lambda row: row["AP"])
        tiles.append(Tile("Best epoch", f"{best['epoch']:g}", f"AP {best['AP']:.3f}"))
    return Tiles(tuple(tiles))


def settings_section(options: TrainingOptions, versions: Mapping[str, str]) -> Section:
    """What a run was started with: first what departs from the variant's recipe, then everything."""
    changes = departures_from_recipe(options)
    blocks: list[Block] = [f"{options.variant}, trained on {options.data}."]
    if changes:
        caption = "What differs from the recipe of the variant"
        blocks.append(Table(("option", "this run", "recipe"), tuple(changes), caption))
    else:
        blocks.append("All options are those of the recipe.")
    shown = [(name, value) for name, value in dataclasses.asdict(options).items() if name != "settings"]
    shown += [(f"settings.{name}", value) for name, value in options.settings.items()]
    everything = tuple((_option(name), _text(value)) for name, value in shown)
    blocks.append(Folded("All options", (Table(("option", "value"), everything),)))
    blocks.append(Folded("Versions", (Table(("software", "version"), tuple(versions.items())),)))
    return Section("Settings", tuple(blocks))


def departures_from_recipe(options: TrainingOptions) -> list[tuple[str, str, str]]:
    """Options that differ from those of a run for which only variant and data are given: name, value, and the recipe's value.

    Args:
        options: the resolved options.
    """
    usual = resolve(TrainingOptions(options.variant, options.data, device=options.device))
    # Pieces follow from the size of batches and images; they are a change only if they were asked for.
    pieces = resolve(dataclasses.replace(options, accumulate=None)).accumulate
    usual = dataclasses.replace(usual, accumulate=pieces)
    changes = [
        (_option(field.name), _text(getattr(options, field.name)), _text(getattr(usual, field.name)))
        for field in dataclasses.fields(options)
        if field.name not in _NOT_SETTINGS and getattr(options, field.name) != getattr(usual, field.name)
    ]
    return changes + [
        (_option(f"settings.{name}"), _text(value), _text(usual.settings.get(name)))
        for name, value in options.settings.items()
        if value != usual.settings.get(name)
    ]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return MISSING if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def data_section(
    training: DetectionDataset, validation: DetectionDataset | None, findings: Sequence[Any] = ()
) -> Section:
    """What the data are, how many objects each class has, and what was found in them."""
    splits = [split for split in (training, validation) if split is not None]
    blocks: list[Block] = [split.description() for split in splits]
    if findings:
        blocks.append(finding_points(findings))
    notes = tuple(dict.fromkeys(note for split in splits for note in split.notes))
    if notes:
        blocks.append(Points(tuple(("Note:", note) for note in notes)))
    counts = [_objects_by_name(split) for split in splits]
    most = [max(count.values(), default=0) or 1 for count in counts]
    rows = tuple(
        (category.name, *(_bar(count.get(category.name), top) for count, top in zip(counts, most, strict=True)))
        for category in training.categories
    )
    columns = ("class", *(f"objects in {name}" for name in ("training", "validation")[: len(splits)]))
    blocks.append(Table(columns, rows, "Objects of each class, without crowd regions", numbers=True))
    return Section("Data", tuple(blocks))


def _objects_by_name(dataset: DetectionDataset) -> dict[str, int]:
    counts = np.bincount(dataset.labels[~dataset.crowd], minlength=len(dataset.categories))
    return {category.name: int(counts[category.index]) for category in dataset.categories}


def _bar(count: int | None, most: int) -> str | Cell:
    return MISSING if count is None else Cell(str(count), count / most, count)


def _cell(value: float | None) -> str | Cell:
    return MISSING if value is None else Cell(f"{value:.4g}", order=value)
