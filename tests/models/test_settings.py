"""Values and types that no model can have are refused, for every paper's configuration."""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from detrkit.commands.mistakes import on_command_line
from detrkit.errors import ConfigurationError
from detrkit.models import settings
from detrkit.models.catalog import CATALOG, FAMILIES, build

CONFIGS = {name: family.Config for name, family in FAMILIES.items()}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": "64"}, "^width must be of type int, not str \\('64'\\)$"),
        ({"queries": 3.5}, "^queries must be of type int, not float \\(3.5\\)$"),
        ({"queries": True}, "^queries must be of type int, not bool"),
        ({"queries": None}, "^queries must be of type int, not NoneType"),
        ({"backbone": 18}, "^backbone must be of type str, not int"),
        ({"dropout": "0.1"}, "^dropout must be of type float, not str"),
        ({"queries": 0}, "^queries must be at least 1, not 0$"),
        ({"encoder_layers": -1}, "^encoder_layers must be at least 0, not -1$"),
        ({"l1_weight": float("nan")}, "^l1_weight must be a finite number, not nan$"),
        ({"dropout": 1.0}, "^dropout must be below 1, not 1.0$"),
        ({"dropout": -0.1}, "^dropout must be at least 0, not -0.1$"),
        ({"width": 66}, "^width 66 must be a multiple of"),
        ({"width": 64, "attention_heads": 3}, "and .*of the 3 attention heads$"),
    ],
)
def test_what_cannot_be_is_refused(config: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        config(**change)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_whole_numbers_are_floats_too(config: Any) -> None:
    assert config(dropout=0, giou_weight=2) == config(dropout=0.0, giou_weight=2.0)


def test_a_wrong_type_is_refused_when_a_model_is_built() -> None:
    with pytest.raises(ConfigurationError, match=r"^width must be of type int"):
        build("detr-compact", classes=["a"], width="64")
    with pytest.raises(ConfigurationError, match=r"^queries must be of type int"):
        build("detr-compact", classes=["a"], queries=3.5)


def test_every_variant_names_its_family() -> None:
    for family, module in FAMILIES.items():
        for name, entry in module.VARIANTS.items():
            assert type(entry.config) is module.Config, name  # an ancestor's would build the ancestor
            assert entry.family == family, name
            assert CATALOG[name] == dataclasses.replace(entry, source=module.SOURCE)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            "deformable-detr-r50",
            "'resnet50-c4' has maps of stride 4, 8, 16, and those of stride 8, 16 and 32 are needed",
        ),
        ("light-detr-mobilenetv2", "'resnet50-c4' has maps of stride 4, 8, 16"),
    ],
)
def test_a_backbone_that_lacks_a_level(variant: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(variant, classes=["a"], backbone="resnet50-c4")


def refusals() -> list[ast.Call]:
    """What the checks of settings raise, in the source of all papers."""
    files = [Path(module.__file__) for module in (settings, *FAMILIES.values()) if module.__file__]
    checks = [
        node
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name in ("check", "check_anchors", "check_type", "build_levels")
    ]
    return [
        node.exc
        for check in checks
        for node in ast.walk(check)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]


def test_every_refusal_tells_the_command_line_which_settings_it_names() -> None:
    known = {field.name for config in CONFIGS.values() for field in fields(config)} | {"name"}
    assert len(refusals()) > 10
    for call in refusals():
        sentence, *names = call.args
        assert ast.unparse(call.func) == "OptionError", ast.unparse(call)
        words = {node.value for name in names for node in ast.walk(name) if isinstance(node, ast.Constant)}
        words |= {node.id for name in names for node in ast.walk(name) if isinstance(node, ast.Name)}
        assert words, ast.unparse(call)
        assert words <= known
        assert all(word in ast.unparse(sentence) for word in words)


@pytest.mark.parametrize(
    ("variant", "change", "expected"),
    [
        ("sam-detr-compact", {"levels": 4}, "--settings.levels must be at most 3, all from the backbone, not 4"),
        (
            "anchor-detr-compact",
            {"queries": 10},
            "--settings.queries must be a multiple of --settings.patterns (3), not 10: every point comes once with each pattern",
        ),
        (
            "dab-detr-compact",
            {"centers": "grid", "queries": 10},
            "10 anchors do not fill a square grid: choose --settings.queries=9 or --settings.queries=16",
        ),
        ("detr-compact", {"width": 66}, "--settings.width 66 must be a multiple of 4"),
        ("detr-compact", {"class_count": 3}, "--settings.class-count follows from classes: leave it out"),
    ],
)
def test_settings_have_their_names_of_the_command_line(variant: str, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(variant, classes=["a"], **change)
    assert on_command_line(caught.value, "train").startswith(expected)
