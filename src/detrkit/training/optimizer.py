"""AdamW as DETR uses it: the backbone at a rate of its own, the same decay for everything."""

from __future__ import annotations

import torch
from torch import nn

from detrkit.models.detector import Detector


def parameter_groups(model: Detector, *, lr: float, backbone_lr: float) -> list[dict[str, object]]:
    """Trainable parameters in two groups, "model" and "backbone", each with its learning rate."""
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    groups: dict[str, list[nn.Parameter]] = {"model": [], "backbone": []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups["backbone" if id(parameter) in backbone else "model"].append(parameter)
    rates = {"model": lr, "backbone": backbone_lr}
    return [{"name": name, "params": members, "lr": rates[name]} for name, members in groups.items() if members]


def build_optimizer(model: Detector, *, lr: float, backbone_lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the model's trainable parameters.

    Args:
        model: the detector.
        lr: of everything but the backbone.
        backbone_lr: of the backbone; 0 leaves it as it is.
        weight_decay: of all parameters.
    """
    groups = parameter_groups(model, lr=lr, backbone_lr=backbone_lr)
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
