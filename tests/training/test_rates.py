"""Factors of learning rates by the names of parameters and by the depth of the backbone's blocks."""

from __future__ import annotations

import pytest

import detrkit
from detrkit.errors import OptionError
from detrkit.training.optimizer import build_optimizer
from detrkit.training.rates import check_rates, fits, layer_factors, named_factor

NAMES = ("backbone.layer1.0.conv1.weight", "backbone.layer12.0.conv1.weight", "decoder.layers.0.offsets.weight")


@pytest.mark.parametrize(
    ("part", "fitting"),
    [
        ("backbone.layer1", (True, False, False)),
        ("layer1", (True, False, False)),
        ("layer", (False, False, False)),
        ("offsets", (False, False, True)),
        ("weight", (True, True, True)),
        ("decoder.layers.0", (False, False, True)),
        ("layers.1", (False, False, False)),
    ],
)
def test_a_part_is_one_or_several_whole_components(part: str, fitting: tuple[bool, ...]) -> None:
    assert tuple(fits(part, name) for name in NAMES) == fitting


def test_factors_that_fit_are_multiplied() -> None:
    rates = {"backbone": 0.5, "layer1": 0.1, "offsets": 0.0}
    assert [named_factor(name, rates) for name in NAMES] == pytest.approx([0.05, 0.5, 0.0])
    assert named_factor(NAMES[0], {}) == 1.0


def test_the_last_block_of_a_backbone_learns_fastest() -> None:
    names = [
        "conv1.weight",
        "layer1.0.conv1.weight",
        "layer1.0.conv2.weight",
        "layer1.1.conv1.weight",
        "layer2.0.a.0.b",
    ]
    assert list(layer_factors(names, 0.5).values()) == [0.125, 0.25, 0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("part", "end"),
    [
        ("ofsets", "did you mean 'offsets'?"),
        ("backbone.stagse", "did you mean 'backbone.stages'?"),
        ("backbone.offsets", "did you mean 'backbone.stages'?"),
        ("x", "the parts of the model are backbone, decoder, and the parts of these"),
    ],
)
def test_an_unknown_part_is_refused(part: str, end: str) -> None:
    names = ["backbone.stages.0.first.weight", "decoder.layers.0.offsets.weight"]
    check_rates(names, {"backbone.stages": 1.0, "offsets": 0.0})
    with pytest.raises(OptionError) as caught:
        check_rates(iter(names), {"offsets": 1.0, part: 0.1})
    assert str(caught.value) == f"rates names '{part}', which no parameter of the model has in its name: {end}"


def test_the_groups_of_a_model_with_both() -> None:
    model = detrkit.build("light-detr-compact", encoder_layers=1, decoder_layers=2)
    optimizer = build_optimizer(
        model, lr=1e-3, backbone_lr=1e-4, weight_decay=0.1, layer_decay=0.5, rates={"offsets": 0.2, "stem": 0.0}
    )
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert optimizer.param_groups[0]["lr"] == 1e-3  # the log shows the first one
    seen = set()
    for name, parameter in model.named_parameters():
        blocks = {
            "backbone.stages.2": 1e-4,
            "backbone.stages.1": 5e-5,
            "backbone.stages.0": 2.5e-5,
            "backbone.stem": 0.0,
        }
        block = next((rate for block, rate in blocks.items() if name.startswith(block)), None)
        expected = block if block is not None else 2e-4 if ".offsets." in name else 1e-3
        assert rates[id(parameter)] == pytest.approx(expected), name
        seen.add(expected)
    assert len(seen) == 6
