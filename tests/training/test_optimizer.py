"""Which parameter learns at which rate."""

from __future__ import annotations

import pytest
import torch

import detrkit
from detrkit.models.catalog import find_variant
from detrkit.training.optimizer import SeveralOptimizers, build_optimizer


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


def mixed(model: detrkit.Detector) -> torch.optim.Optimizer:
    recipe = find_variant("tsp-fcos-r50").recipe
    return build_optimizer(
        model,
        lr=recipe.learning_rate,
        backbone_lr=recipe.backbone_learning_rate,
        weight_decay=recipe.weight_decay,
        adamw_parts=recipe.adamw_parts,
        sgd_factor=recipe.sgd_factor,
        decay_norms=recipe.decay_norms,
    )


def test_sgd_trains_what_adamw_does_not() -> None:
    model = detrkit.build("tsp-fcos-compact", encoder_layers=1)
    optimizer = mixed(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"], group["clipped"])
    assert set(found) == set(names.values())
    assert found["encoder.layers.0.expand.weight"] == (1e-4, 1e-4, True)
    assert found["encoder.norm.weight"] == (1e-4, 0.0, True)
    assert found["backbone.stem.0.0.weight"] == (0.01, 1e-4, False)
    assert found["head.class_head.bias"] == (pytest.approx(0.01), 1e-4, False)
    assert found["neck.coarser.0.norm.bias"] == (pytest.approx(0.01), 0.0, False)
    kinds = [type(each) for each in optimizer.optimizers]
    assert kinds == [torch.optim.AdamW, torch.optim.SGD]


def test_two_optimizers_step_as_each_alone_and_go_on_from_their_state() -> None:
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    others = [torch.nn.Parameter(each.detach().clone()) for each in (first, second)]

    def optimizers(first: torch.nn.Parameter, second: torch.nn.Parameter) -> list[torch.optim.Optimizer]:
        return [torch.optim.AdamW([first], lr=0.1), torch.optim.SGD([second], lr=0.1, momentum=0.9)]

    together, alone = SeveralOptimizers(*optimizers(first, second)), optimizers(*others)
    for step in range(4):
        if step == 2:
            again = SeveralOptimizers(*optimizers(first, second))
            again.load_state_dict(together.state_dict())
            together = again
        for group in together.param_groups:
            group["lr"] = 0.1 / (step + 1)
        for each in alone:
            each.param_groups[0]["lr"] = 0.1 / (step + 1)
        for parameters in ((first, second), others):
            for number, parameter in enumerate(parameters):
                parameter.grad = torch.full((2,), 1.0 + step + number)
        together.step()
        for each in alone:
            each.step()
    assert torch.equal(first, others[0])
    assert torch.equal(second, others[1])
