"""AdamW as in DETR and Deformable DETR: some parts have their own learning rates, and all have the same decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from detrkit.models.detector import Detector
from detrkit.training.rates import fits, layer_factors, named_factor


def parameter_groups(
    model: Detector,
    *,
    lr: float,
    backbone_lr: float,
    slow_parts: Sequence[str] = (),
    layer_decay: float | None = None,
    rates: Mapping[str, float] | None = None,
) -> list[dict[str, object]]:
    """The trainable parameters in groups, each with its learning rate.

    There are up to three, "model", "slow" and "backbone". Those of their parameters that have factors of their own are in further groups.
    Arguments as for `build_optimizer`.
    """
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    depth_factors: dict[str, float] = {}
    if layer_decay is not None:
        names = [name for name, _ in model.backbone.named_parameters()]
        depth_factors = {f"backbone.{name}": factor for name, factor in layer_factors(names, layer_decay).items()}
    # Plain groups come first: the log shows the rate of the first group.
    groups: dict[tuple[str, float], list[nn.Parameter]] = {(name, 1.0): [] for name in ("model", "slow", "backbone")}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        slow = any(fits(part, name) for part in slow_parts)
        group = "backbone" if id(parameter) in backbone else "slow" if slow else "model"
        factor = named_factor(name, rates or {}) * depth_factors.get(name, 1.0)
        groups.setdefault((group, factor), []).append(parameter)
    base = {"model": lr, "slow": lr / 10, "backbone": backbone_lr}
    return [
        {"name": group if factor == 1 else f"{group} × {factor:g}", "params": members, "lr": base[group] * factor}
        for (group, factor), members in groups.items()
        if members
    ]


def build_optimizer(
    model: Detector,
    *,
    lr: float,
    backbone_lr: float,
    weight_decay: float,
    slow_parts: Sequence[str] = (),
    layer_decay: float | None = None,
    rates: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """AdamW over the model's trainable parameters.

    Args:
        model: the detector.
        lr: learning rate of everything except the backbone.
        backbone_lr: learning rate of the backbone; 0 leaves it unchanged.
        weight_decay: decay of all parameters.
        slow_parts: components of parameter names (the text between dots) whose parameters learn at a tenth of `lr`.
        layer_decay: factor between the rates of a block of the backbone and the block after it; None means 1.
        rates: factors by the components of parameter names; where several fit, they are multiplied. 0 leaves parameters unchanged.
    """
    groups = parameter_groups(
        model, lr=lr, backbone_lr=backbone_lr, slow_parts=slow_parts, layer_decay=layer_decay, rates=rates
    )
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
