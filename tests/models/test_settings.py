"""Values and types that no model can have are refused, for every paper's configuration."""

from __future__ import annotations

from typing import Any

import pytest

from detrkit.errors import ConfigurationError
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
            assert CATALOG[name] is entry


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            "deformable-detr-r50",
            "'resnet50-c4' has levels of stride 4, 8, 16, but 4 levels begin at strides 8, 16 and 32",
        ),
        ("light-detr-mobilenetv2", "'resnet50-c4' has levels of stride 4, 8, 16"),
    ],
)
def test_a_backbone_that_lacks_a_level(variant: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(variant, classes=["a"], backbone="resnet50-c4")
