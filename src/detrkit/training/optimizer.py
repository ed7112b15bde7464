"""AdamW as in DETR and Deformable DETR: some parts have their own learning rates, and all have the same decay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from detrkit.models.detector import Detector


def parameter_groups(
    model: Detector, *, lr: float, backbone_lr: float, slow_parts: Sequence[str] = ()
) -> list[dict[str, object]]:
    """The trainable parameters in up to three groups, "model", "slow" and "backbone", each with its learning rate."""
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    groups: dict[str, list[nn.Parameter]] = {"model": [], "slow": [], "backbone": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        slow = any(part in name.split(".") for part in slow_parts)
        groups["backbone" if id(parameter) in backbone else "slow" if slow else "model"].append(parameter)
    rates = {"model": lr, "slow": lr / 10, "backbone": backbone_lr}
    return [{"name": name, "params": members, "lr": rates[name]} for name, members in groups.items() if members]


def build_optimizer(
    model: Detector, *, lr: float, backbone_lr: float, weight_decay: float, slow_parts: Sequence[str] = ()
) -> torch.optim.AdamW:
    """AdamW over the model's trainable parameters.

    Args:
        model: the detector.
        lr: learning rate of everything except the backbone.
        backbone_lr: learning rate of the backbone; 0 leaves it unchanged.
        weight_decay: decay of all parameters.
        slow_parts: components of parameter names (the text between dots) whose parameters learn at a tenth of `lr`.
    """
    groups = parameter_groups(model, lr=lr, backbone_lr=backbone_lr, slow_parts=slow_parts)
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
