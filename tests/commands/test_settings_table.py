"""`detrkit models VARIANT`: everything about one variant, from the catalog and the docstrings."""

from __future__ import annotations

import dataclasses
import json
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
    monkeypatch.setenv("COLUMNS", "80")
    shown = detrkit_command("models", "detr-r50", folder=tmp_path).stdout
    lines = shown.splitlines()
    queries = next(line for line in lines if line.startswith("queries "))
    assert queries.split(maxsplit=2)[:2] == ["queries", "100"]
    rate = next(row for row, line in enumerate(lines) if line.startswith("backbone_learning_rate "))
    assert (lines[rate].split()[1], lines[rate + 1].split()[0]) == ("1e-05", "--backbone-lr")
    assert "…" not in shown  # nothing is cut
    assert CATALOG["detr-r50"].weights[0].address in shown
    assert "Of the backbone: https://download.pytorch.org/models/resnet50-0676ba61.pth (BSD-3-Clause)" in shown
    compact = detrkit_command("models", "detr-compact", folder=tmp_path).stdout
    assert "There are no published weights." in compact
    assert "Of the backbone" not in compact


def test_an_unknown_variant(tmp_path: Path) -> None:
    assert refusal("models", "detr-r5O", folder=tmp_path).endswith(
        "there is no variant 'detr-r5O': did you mean 'detr-r50'?"
    )


def test_where_a_variant_is_from(tmp_path: Path) -> None:
    shown = detrkit_command("models", "smca-detr-r50", folder=tmp_path).stdout
    assert "smca-detr-r50, of the family smca_detr, with 41,760,482 parameters" in shown
    assert (
        "Authors' code: https://github.com/gaopengcuhk/SMCA-DETR at e4df3ab2081571a016c82794a85abd2342a2fc1b (no stated licence); paper: arXiv:2101.07448"
        in shown
    )
    assert "Published without weights: AP 0.410, 50 epochs" in shown
    assert (
        "(AP 0.388, mask AP 0.311, PQ 0.434, Apache-2.0)"
        in detrkit_command("models", "detr-r50-panoptic", folder=tmp_path).stdout
    )
    assert "The model is detrkit's own." in detrkit_command("models", "light-detr-compact", folder=tmp_path).stdout


def test_the_list_fits_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = detrkit_command("models", folder=tmp_path).stdout
    table = shown.partition("Published weights:")[0].splitlines()
    assert max(map(len, table)) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in table if line.strip()}
    assert rows["detr-r50"] == ["resnet50", "41.5M", "0.420", "Apache-2.0"]
    assert rows["sam-detr-compact-without-cross-attention"] == ["compact-c4", "1.1M", "-", "MIT"]
    assert rows["light-detr-compact"] == ["compact", "1.6M", "-", "own"]
    assert set(CATALOG) <= set(rows)


def test_all_fields_as_json(tmp_path: Path) -> None:
    every = json.loads(detrkit_command("models", "--json", folder=tmp_path).stdout)
    assert list(every) == list(CATALOG)
    assert every["detr-r50"]["source"] == {
        "repository": "facebookresearch/detr",
        "commit": "29901c51",
        "licence": "Apache-2.0",
        "paper": "2005.12872",
    }
    assert every["detr-r50"]["weights"][0]["sha256_prefix"] == "e632da11"
    one = json.loads(detrkit_command("models", "detr-r50", "--json", folder=tmp_path).stdout)
    assert (one["name"], one["parameters"], one["settings"]["queries"]) == ("detr-r50", 41_524_768, 100)
    assert (one["recipe"]["epochs"], one["preprocessing"]["short_side"]) == (500, 800)
    assert {name: one[name] for name in every["detr-r50"]} == every["detr-r50"]
