"""Which parameter learns at which rate."""

from __future__ import annotations

import detrkit
from detrkit.models.catalog import find_variant
from detrkit.training.optimizer import build_optimizer


def test_every_trainable_parameter_is_in_one_group() -> None:
    model = detrkit.build("detr-r18", encoder_layers=1, decoder_layers=1)
    optimizer = build_optimizer(model, lr=1e-3, backbone_lr=1e-5, weight_decay=0.1)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"model": 1e-3, "backbone": 1e-5}
    assert all(group["weight_decay"] == 0.1 for group in optimizer.param_groups)
    members = {group["name"]: {id(parameter) for parameter in group["params"]} for group in optimizer.param_groups}
    for name, parameter in model.named_parameters():
        expected = "backbone" if name.startswith("backbone.") else "model"
        found = [group for group, ids in members.items() if id(parameter) in ids]
        assert found == ([expected] if parameter.requires_grad else []), name


def test_slow_parts_learn_at_a_tenth() -> None:
    model = detrkit.build("deformable-detr-r18", encoder_layers=1, decoder_layers=2)
    slow_parts = find_variant("deformable-detr-r18").recipe.slow_parts
    optimizer = build_optimizer(model, lr=1e-3, backbone_lr=1e-5, weight_decay=0.1, slow_parts=slow_parts)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"model": 1e-3, "slow": 1e-4, "backbone": 1e-5}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    members = {
        group["name"]: sorted(names[id(parameter)] for parameter in group["params"]) for group in optimizer.param_groups
    }
    attentions = ["decoder.layers.0.cross_attention", "decoder.layers.1.cross_attention", "encoder.layers.0.attention"]
    assert members["slow"] == [
        *(f"{attention}.offsets.{leaf}" for attention in attentions for leaf in ("bias", "weight")),
        "query_source.reference_points.bias",
        "query_source.reference_points.weight",
    ]
    assert all(name.startswith("backbone.") for name in members["backbone"])
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(trained) == sorted(name for group in members.values() for name in group)


def test_a_part_is_a_whole_word_between_dots() -> None:
    model = detrkit.build("deformable-detr-compact")
    optimizer = build_optimizer(model, lr=1e-3, backbone_lr=1e-5, weight_decay=0.1, slow_parts=["offset", "points"])
    assert [group["name"] for group in optimizer.param_groups] == ["model", "backbone"]
