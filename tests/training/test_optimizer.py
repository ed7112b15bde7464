"""Which parameter learns at which rate."""

from __future__ import annotations

import detrkit
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
