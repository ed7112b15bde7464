"""The report of a run: what departs from the recipe comes first, and what is not known is left out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrkit.data import read_digits
from detrkit.data.inspection import Split
from detrkit.evaluation.report import (
    Block,
    Cell,
    Chart,
    Folded,
    Points,
    Section,
    Table,
    Tiles,
    write_charts,
    write_report,
)
from detrkit.measures import LAYERED
from detrkit.training import TrainingOptions
from detrkit.training.ground_truth import data_findings
from detrkit.training.options import resolve
from detrkit.training.report import (
    data_section,
    departures_from_recipe,
    run_section,
    run_subtitle,
    settings_section,
    state_in_words,
    training_section,
    training_sections,
)
from detrkit.training.sessions import Session

ROWS: list[dict[str, float]] = [
    {"epoch": 1.0, "step": 3.0, "loss": 4.0, "box_loss": 1.0, "images_per_second": 10.0, "seconds": 30.0},
    {"epoch": 2.0, "step": 6.0, "loss": 2.0, "images_per_second": 30.0, "seconds": 70.0, "AP": 0.4, "AP50": 0.6},
    {"epoch": 3.0, "step": 9.0, "loss": 1.0, "images_per_second": 20.0, "seconds": 50.0, "AP": 0.3, "AP50": 0.5},
]


def options(**given: Any) -> TrainingOptions:
    return resolve(TrainingOptions("detr-compact", "digits", device="cpu", **given))


def only(section: Section, kind: type[Any]) -> Any:
    (block,) = (each for each in section.blocks if isinstance(each, kind))
    return block


def texts(table: Table) -> list[list[str]]:
    return [[cell.text if isinstance(cell, Cell) else cell for cell in row] for row in table.rows]


def folded(section: Section, title: str) -> list[list[str]]:
    (found,) = (each for each in section.blocks if isinstance(each, Folded) and each.title == title)
    (table,) = found.blocks
    assert isinstance(table, Table)
    return texts(table)


def test_length_and_speed_of_a_run() -> None:
    tiles = {tile.label: (tile.value, tile.note) for tile in only(training_section(ROWS), Tiles).tiles}
    assert tiles == {
        "Epochs": ("3", "9 steps"),
        "Duration": ("2 min", "without evaluations"),
        "Speed": ("20.0", "images per second, median of the epochs"),
        "Best epoch": ("2", "AP 0.400"),
    }


def test_a_log_of_an_older_version_has_no_duration() -> None:
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in ROWS]
    assert "Duration" not in [tile.label for tile in only(training_section(rows), Tiles).tiles]
    mixed = [rows[0], *ROWS[1:]]
    tiles = {tile.label: (tile.value, tile.note) for tile in only(training_section(mixed), Tiles).tiles}
    assert tiles["Duration"] == ("2 min", "without evaluations, of 2 epochs")


def test_curves_and_all_numbers() -> None:
    section = training_section(ROWS)
    charts = [block for block in section.blocks if isinstance(block, Chart)]
    assert [chart.name for chart in charts] == [
        "training_loss", "training_loss_of_the_last_layer", "training_AP",
    ]  # fmt: skip
    assert charts[0].words == "Training loss over the epochs. From 4 to 1."
    assert charts[2].words == "AP on the validation split. From 0.4 to 0.3."
    (heads,) = (
        block.blocks[0] for block in section.blocks if isinstance(block, Folded) and block.title == "All numbers"
    )
    assert isinstance(heads, Table)
    assert heads.columns == ("epoch", "step", "loss", "box_loss", "images per second", "seconds", "AP", "AP50")
    assert [name for name, _ in folded(section, "What the names mean")] == [
        "epoch",
        "step",
        "loss",
        "seconds",
        "images per second",
        "AP",
    ]
    numbers = folded(section, "All numbers")
    assert numbers[0] == ["1", "3", "4", "1", "10", "30", "–", "–"]
    assert numbers[2] == ["3", "9", "1", "–", "20", "50", "0.3", "0.5"]
    assert training_section([]).blocks == ("No epoch was finished.",)


def test_a_watched_run_has_a_chart_of_each_measure(tmp_path: Path) -> None:
    rows = [
        {"epoch": epoch, "loss": 1.0}
        | {name: value * epoch for measure, value in zip(LAYERED, (0.5, -2.0, 1.5, 0.75, 0.25, 8.0), strict=True)
           for name in (measure.column, f"{measure.column}_0", f"{measure.column}_1")}
        for epoch in (1.0, 2.0)
    ]  # fmt: skip
    section = training_section(rows)
    charts = [block for block in section.blocks if isinstance(block, Chart)]
    names = [f"training_{measure.column}" for measure in LAYERED]
    assert [chart.name for chart in charts] == ["training_loss", *names]
    assert charts[2].words.endswith("as queries look at fewer places. From -2 to -4.")
    (place,) = (place for place, block in enumerate(section.blocks) if str(block).startswith("How training converges"))
    assert section.blocks[place + 1] == charts[1]
    meanings = dict(folded(section, "What the names mean"))
    assert meanings["attention distance"].startswith("in some training images, how far the centre of mass")
    (table,) = (
        block.blocks[0] for block in section.blocks if isinstance(block, Folded) and block.title == "All numbers"
    )
    assert "used queries 1" in table.columns
    text = write_report(tmp_path / "report.html", "Run", [section]).read_text()
    assert text.count("<svg") == 1 + len(LAYERED)
    written = write_charts(tmp_path / "charts", [section])
    assert [path.stem for path in written] == ["training_loss", *names]


def test_what_differs_from_the_recipe_is_named() -> None:
    assert departures_from_recipe(options()) == []
    changed = options(lr=3e-4, batch_size=2, crop=False, seed=7, settings={"queries": 9, "dropout": 0.2})
    recipe = options()
    assert departures_from_recipe(changed) == [
        ("--batch-size", "2", str(recipe.batch_size)),
        ("--lr", "0.0003", f"{recipe.lr:g}"),
        ("--crop", "no", "yes"),
        ("--seed", "7", "0"),
        ("--settings.queries", "9", str(recipe.settings["queries"])),
        ("--settings.dropout", "0.2", f"{recipe.settings['dropout']:g}"),
    ]  # fmt: skip


def test_pieces_are_named_only_where_they_were_asked_for() -> None:
    assert "--accumulate" not in [name for name, _, _ in departures_from_recipe(options(batch_size=64))]
    assert ("--accumulate", "2", "1") in departures_from_recipe(options(batch_size=4, accumulate=2))


def test_settings_show_everything_folded() -> None:
    section = settings_section(options(seed=7))
    table = only(section, Table)
    assert texts(table)[-1] == ["--seed", "7", "0"]
    everything = folded(section, "All options")
    names = {field.name for field in dataclasses.fields(TrainingOptions)} - {"settings"}
    assert {f"--{name.replace('_', '-')}" for name in names} <= {row[0] for row in everything}
    assert ["--backbone-weights", "–"] in everything
    assert settings_section(options(workers=3)).blocks[0] == "All options are those of the recipe."


BEGAN = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
SESSIONS = (
    Session(BEGAN, BEGAN + timedelta(minutes=30), "detrkit train detr-compact --data digits", {"detrkit": "0.1"}),
    Session(BEGAN + timedelta(days=1), None, "detrkit train --resume run", {"detrkit": "0.2", "torch": "2.11"}),
)


def test_what_the_run_was() -> None:
    section = run_section(options(epochs=4, backbone_weights="/w/resnet.pth"), ROWS, SESSIONS[:1], {"detrkit": "0.1"})
    assert texts(only(section, Table)) == [
        ["variant", "detr-compact"],
        ["data", "digits"],
        ["began with", "the backbone's weights in /w/resnet.pth; everything else at random"],
        ["state", "not finished: 3 of 4 epochs done"],
        ["training began", "2026-03-01 09:30 UTC"],
        ["took", "30 min"],
        ["command", "detrkit train detr-compact --data digits"],
        ["versions", "detrkit 0.1"],
    ]
    assert run_subtitle(options(), SESSIONS) == "detr-compact on digits, 2026-03-01 09:30"
    assert run_subtitle(options(), ()) == "detr-compact on digits"


def test_a_run_that_was_resumed_by_another_version_and_killed() -> None:
    lines = texts(only(run_section(options(steps=9), ROWS, SESSIONS, {"detrkit": "0.1"}), Table))
    assert ["began with", "random weights"] in lines
    assert ["state", "finished after 3 epochs, 9 steps"] in lines
    assert [value for name, value in lines if name == "took"] == ["30 min", "–"]
    assert ["took in all", "30 min and the times that did not end as they should"] in lines
    assert [value for name, value in lines if name == "versions"] == ["detrkit 0.1", "detrkit 0.2, torch 2.11"]


@pytest.mark.parametrize(
    ("given", "rows", "words"),
    [
        ({"epochs": 3}, ROWS, "finished after 3 epochs, 9 steps"),
        ({"steps": 10}, ROWS, "not finished: 9 of 10 steps done"),
        ({"steps": 10}, [], "no epoch is finished"),
    ],
)
def test_whether_a_run_is_finished(given: dict[str, Any], rows: list[dict[str, float]], words: str) -> None:
    assert state_in_words(options(**given), rows) == words


def test_a_run_without_its_data() -> None:
    sections = training_sections(options(), ROWS, None, None)
    assert [section.title for section in sections] == ["Run", "Training", "Settings"]


def test_a_run_that_began_on_a_machine_with_another_device() -> None:
    assert departures_from_recipe(replace(options(seed=7), device="cuda:3")) == [("--seed", "7", "0")]


@dataclass
class Finding:
    severity: str
    message: str
    remedy: str


def test_data_are_described_with_findings_and_notes() -> None:
    training, validation = read_digits("train", images=6, size=64), read_digits("val", images=3, size=64)
    training = replace(training, notes=("A note.", "Both."))
    validation = replace(validation, notes=("Both.",))
    findings = [Finding("warning", "A <class> is rare.", "Add images.")]
    section = data_section(training, validation, findings)
    assert section.blocks[:2] == (training.description(), validation.description())
    found, notes = (block for block in section.blocks if isinstance(block, Points))
    assert found.points == (("Warning:", "A <class> is rare. Add images."),)
    assert notes.points == (("Note:", "A note."), ("Note:", "Both."))
    table = only(section, Table)
    assert table.columns == ("class", "objects in training", "objects in validation")
    counts = [np.bincount(split.labels, minlength=10).tolist() for split in (training, validation)]
    assert texts(table) == [
        [category.name, str(counts[0][index]), str(counts[1][index])]
        for index, category in enumerate(training.categories)
    ]


def test_without_a_validation_split_and_with_a_class_that_only_training_has() -> None:
    training, validation = read_digits("train", images=4, size=64), read_digits("val", images=2, size=64)
    assert only(data_section(training, None), Table).columns == ("class", "objects in training")
    fewer = replace(validation, categories=validation.categories[:9], labels=validation.labels % 9)
    assert texts(only(data_section(training, fewer), Table))[-1][2] == "–"
    crowded = replace(training, crowd=np.ones(len(training.labels), dtype=bool))
    assert {row[1] for row in texts(only(data_section(crowded, None), Table))} == {"0"}


def test_the_sections_become_a_page(tmp_path: Path) -> None:
    training = read_digits("train", images=4, size=64)
    sections = training_sections(options(), ROWS, training, None, versions={"detrkit": "<0.1>"})
    assert [section.title for section in sections] == ["Run", "Training", "Settings", "Data"]
    text = write_report(tmp_path / "report.html", "Run", sections).read_text()
    assert "&lt;0.1&gt;" in text
    assert text.count("<svg") == 3
    blocks: tuple[Block, ...] = sections[1].blocks
    assert blocks


def test_findings_about_the_data_of_a_run() -> None:
    training, validation = read_digits("train", images=4, size=64), read_digits("val", images=2, size=64)
    empty = replace(training.categories[0], id=99, name="eleven", index=10)
    training = replace(training, categories=(*training.categories, empty))
    splits = [Split("train", training, for_training=True), Split("val", validation)]
    found = data_findings(options(settings={"queries": 1}), splits)
    severities = [each.severity for each in found]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert any("eleven" in each.message for each in found)
    assert any("queries" in each.message or "queries" in each.remedy for each in found)
    points = only(data_section(training, validation, found), Points)
    assert any(word.endswith(" (train):") for word, _ in points.points)
