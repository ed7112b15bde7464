"""`detrkit models VARIANT`: everything about one variant, from the catalog and the docstrings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from commands.running import detrkit_command, refusal

from detrkit.cards import Preprocessing, Recipe
from detrkit.commands.settings_table import meanings
from detrkit.models.catalog import CATALOG, FAMILIES


@pytest.mark.parametrize("kind", [*(module.Config for module in FAMILIES.values()), Recipe, Preprocessing])
def test_every_setting_has_a_meaning(kind: type) -> None:
    assert {entry.name for entry in dataclasses.fields(kind)} <= set(meanings(kind))


def test_the_words_of_a_paper_replace_those_of_its_base() -> None:
    found = meanings(FAMILIES["deformable_detr"].Config)
    assert found["queries"] == "Q, the largest number of objects that can be detected in an image."
    assert found["levels"].startswith("feature levels; the first three come from the backbone")


def test_a_variant_with_its_settings_recipe_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    shown = detrkit_command("models", "detr-r50", folder=tmp_path).stdout
    row = next(line for line in shown.splitlines() if "--settings.queries" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][:3] == ["queries", "100", "--settings.queries"]
    rate = next(line for line in shown.splitlines() if "--backbone-lr" in line)
    assert [cell.strip() for cell in rate.strip("│").split("│")][1] == "1e-05"
    assert CATALOG["detr-r50"].weights[0].address in shown
    assert "There are no published weights." in detrkit_command("models", "detr-compact", folder=tmp_path).stdout


def test_an_unknown_variant(tmp_path: Path) -> None:
    assert refusal("models", "detr-r5O", folder=tmp_path).endswith(
        "there is no variant 'detr-r5O': did you mean 'detr-r50'?"
    )
