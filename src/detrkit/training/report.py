"""The sections of a run's report that are about its training: what it was, curves, settings and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detrkit.data import DetectionDataset
from detrkit.data.wording import counted, some_of
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
from detrkit.evaluation.report.charts import LAST_LAYER
from detrkit.evaluation.report.page import MISSING
from detrkit.measures import (
    AP,
    ATTENTION_DISTANCE,
    ATTENTION_SPARSITY,
    LAYERED,
    LEARNING_RATE,
    LOSS,
    MATCHING_INSTABILITY,
    MEASURES,
    PQ,
    REFERENCE_DISTANCE,
    REPEATED_DETECTIONS,
    REPEATED_SHARE,
    USED_QUERIES,
    name_of,
)
from detrkit.progress import duration
from detrkit.training.ground_truth import with_kind_of_masks
from detrkit.training.kept_models import decisive
from detrkit.training.options import resolve
from detrkit.training.sessions import Session
from detrkit.training.starting import began_with
from detrkit.training.stopping import stopped_early
from detrkit.training.training_options import TrainingOptions

# Shown elsewhere, or about the machine and its folders: no departure from a recipe.
_NOT_SETTINGS = (
    *("variant", "data", "output", "settings", "device", "devices", "nodes", "strategy", "workers", "loggers"),
    *("checkpoint_minutes", "memory_probe"),
)
_CURVE_WORDS = {
    LOSS.name: "Training loss over the epochs.",
    LAST_LAYER: "The parts of the loss, of the last decoder layer.",
    AP.name: "AP on the validation split.",
    PQ.name: "Panoptic quality on the validation split.",
    REPEATED_SHARE.name: "Share of the detections that repeat a better one of their class, on the validation split. Low is good, but it is also low "
    "while a model finds hardly anything.",
    MATCHING_INSTABILITY.name: "Share of the objects with another query than after the epoch before, for each layer; the first epoch has none before it. "
    "0 where every object keeps its query.",
    ATTENTION_SPARSITY.name: "Mean negative entropy of each layer's attention: 0 where a query looks at one place, -2.3 at ten alike, -4.6 at a hundred. It "
    "rises as queries look at fewer places.",
    ATTENTION_DISTANCE.name: "From the centre of a matched query's attention to that of its object, in halves of the object's diagonal, for each layer: below 1 "
    "it lies about on the object.",
    REFERENCE_DISTANCE.name: "From the reference that a matched query starts from to the centre of its object, in halves of the object's diagonal, for each "
    "layer: below 1 it lies about on the object.",
    REPEATED_DETECTIONS.name: "Share of the best detections of each image, as many as it has objects, that repeat a better one of their class, for each layer. "
    "0 where no object is found twice; it is also low while boxes lie anywhere.",
    USED_QUERIES.name: "Queries that have an object or one of the best detections in any of the images, for each layer, of all that the model has. The others "
    "do nothing for these images.",
    LEARNING_RATE.name: "Learning rate of everything except the backbone.",
}
_CURVE_COLUMNS = {measure.name: measure.column for measure in (LOSS, AP, PQ, REPEATED_SHARE, *LAYERED, LEARNING_RATE)}
_LAYERED_NAMES = tuple(measure.name for measure in LAYERED)
_CONVERGENCE = (
    "How training converges (--watch convergence): the next charts but that of the learning rate are of some training images (2 % of them, at least 4 and "
    "at most 64), the same after every epoch, with a line for each decoder layer, or encoder layer of a model without a decoder. Layer 0 is the first."
)
_DATE = "%Y-%m-%d %H:%M"

Rows = Sequence[Mapping[str, float]]


def training_sections(
    options: TrainingOptions,
    rows: Rows,
    training: DetectionDataset | None,
    validation: DetectionDataset | None,
    *,
    sessions: Sequence[Session] = (),
    versions: Mapping[str, str] | None = None,
    findings: Sequence[Any] = (),
) -> list[Section]:
    """What a run did, for its report.

    Args:
        options: the resolved options.
        rows: of the log, one for each epoch.
        training: what the run learned from; None where it is gone.
        validation: what it was evaluated on; None if there was nothing.
        sessions: when the run was at work; unknown of those of older versions.
        versions: of the software that began it, by its name.
        findings: about the data; see `finding_points`.
    """
    sections = [run_section(options, rows, sessions, versions or {}), training_section(rows), settings_section(options)]
    return sections if training is None else [*sections, data_section(training, validation, findings)]


def run_section(
    options: TrainingOptions, rows: Rows, sessions: Sequence[Session], versions: Mapping[str, str]
) -> Section:
    """What the run was: variant, data, weights, dates, commands, versions; arguments as for `training_sections`."""
    lines = [("variant", options.variant), ("data", options.data), ("began with", began_with(options))]
    lines.append(("state", state_in_words(options, rows)))
    for session in sessions:
        lines.append(("training began", f"{session.began:{_DATE} %Z}"))
        lines.append(("took", MISSING if session.seconds is None else duration(session.seconds)))
        lines.append(("command", session.command))
    if len(sessions) > 1:
        lines.append(("took in all", _all_in_all(sessions)))
    for each in dict.fromkeys(tuple(some.items()) for some in (versions, *(session.versions for session in sessions))):
        lines.append(("versions", ", ".join(f"{name} {version}" for name, version in each)))
    return Section("Run", (Table(("what", "value"), tuple(lines)),))


def state_in_words(options: TrainingOptions, rows: Rows) -> str:
    """Whether a run is finished, or how far it came."""
    if not rows:
        return "no epoch is finished"
    epochs, steps = int(rows[-1]["epoch"]), int(rows[-1].get("step", 0))
    goal, done, unit = (
        (options.epochs or 0, epochs, "epoch") if options.steps is None else (options.steps, steps, "step")
    )
    early = stopped_early(options, rows)
    if done < goal and early is not None:
        return f"stopped early after {counted(epochs, 'epoch')}, {counted(steps, 'step')}: {early.in_words()}"
    if done >= goal:
        return f"finished after {counted(epochs, 'epoch')}, {counted(steps, 'step')}"
    return f"not finished: {some_of(done, goal, unit)} done"


def _all_in_all(sessions: Sequence[Session]) -> str:
    known = [session.seconds for session in sessions if session.seconds is not None]
    unknown = "" if len(known) == len(sessions) else " and the times that did not end as they should"
    return duration(sum(known)) + unknown


def run_subtitle(options: TrainingOptions, sessions: Sequence[Session]) -> str:
    """What stands below the title of a report."""
    when = f", {sessions[0].began:{_DATE}}" if sessions else ""
    return f"{options.variant} on {options.data}{when}"


def training_section(rows: Rows) -> Section:
    """Length, speed and curves of a run, and the losses and figures of every epoch.

    Args:
        rows: as for `curves_figure`, and "step", "images_per_second" and "seconds" where they are known.
    """
    charts: list[Block] = []
    for label, figure in training_curves(rows).items():
        if label in _LAYERED_NAMES and _CONVERGENCE not in charts:
            charts.append(_CONVERGENCE)
        charts.append(Chart(f"training_{label.replace(' ', '_')}", figure, _words(label, rows), _CURVE_WORDS[label]))
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    cells = tuple(tuple(_cell(row.get(name)) for name in columns) for row in rows)
    blocks: list[Block] = [_pace(rows), *charts] if rows else ["No epoch was finished."]
    if rows:
        blocks.append(Folded("What the names mean", (_meanings(columns),)))
        headings = tuple(map(name_of, columns))
        blocks.append(Folded("All numbers", (Table(headings, cells, "Every epoch", numbers=True),)))
    return Section("Training", tuple(blocks))


def _words(label: str, rows: Rows) -> str:
    name = _CURVE_COLUMNS.get(label)
    values = [row[name] for row in rows if row.get(name) is not None] if name else []
    course = f" From {values[0]:.4g} to {values[-1]:.4g}." if values else ""
    return _CURVE_WORDS[label] + course


def _meanings(columns: Sequence[str]) -> Table:
    rows = tuple((measure.name, measure.meaning) for measure in MEASURES if measure.column in columns)
    return Table(("name", "meaning"), rows)


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
        measure = decisive(evaluated[-1])
        best = max(evaluated, key=lambda row: row.get(measure.column) or 0.0)
        tiles.append(Tile("Best epoch", f"{best['epoch']:g}", f"{measure.name} {best[measure.column]:.3f}"))
    return Tiles(tuple(tiles))


def settings_section(options: TrainingOptions) -> Section:
    """What a run was started with: first what departs from the variant's recipe, then everything."""
    changes = departures_from_recipe(options)
    blocks: list[Block] = []
    if changes:
        caption = "What differs from the recipe of the variant"
        blocks.append(Table(("option", "this run", "recipe"), tuple(changes), caption))
    else:
        blocks.append("All options are those of the recipe.")
    shown = [
        (name, value) for name, value in dataclasses.asdict(with_kind_of_masks(options)).items() if name != "settings"
    ]
    shown += [(f"settings.{name}", value) for name, value in options.settings.items()]
    everything = tuple((option_in_words(name), value_in_words(value)) for name, value in shown)
    blocks.append(Folded("All options", (Table(("option", "value"), everything),)))
    return Section("Settings", tuple(blocks))


def departures_from_recipe(options: TrainingOptions) -> list[tuple[str, str, str]]:
    """Options that differ from those of a run for which only variant and data are given: name, value, and the recipe's value.

    Args:
        options: the resolved options.
    """
    usual = resolve(TrainingOptions(options.variant, options.data, device="cpu"))
    # Pieces follow from the size of batches and images; they are a change only if they were asked for.
    pieces = resolve(dataclasses.replace(options, accumulate=None, device="cpu")).accumulate
    usual = dataclasses.replace(usual, accumulate=pieces)
    changes = [
        (
            option_in_words(field.name),
            value_in_words(getattr(options, field.name)),
            value_in_words(getattr(usual, field.name)),
        )
        for field in dataclasses.fields(options)
        if field.name not in _NOT_SETTINGS and getattr(options, field.name) != getattr(usual, field.name)
    ]
    return changes + [
        (option_in_words(f"settings.{name}"), value_in_words(value), value_in_words(usual.settings.get(name)))
        for name, value in options.settings.items()
        if value != usual.settings.get(name)
    ]


def option_in_words(name: str) -> str:
    """An option as the command line calls it."""
    return f"--{name.replace('_', '-')}"


def value_in_words(value: Any) -> str:
    """The value of an option, or of a setting, as reports show it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(value_in_words, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={value_in_words(each)}" for name, each in value.items()) or MISSING
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
