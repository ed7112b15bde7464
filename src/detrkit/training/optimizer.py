"""AdamW as in DETR and Deformable DETR: some parts have their own learning rates, and all have the same decay. Some papers leave most parts to SGD."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from detrkit.layers.frozen_batch_norm import FrozenBatchNorm2d
from detrkit.models.detector import Detector
from detrkit.training.rates import fits, layer_factors, named_factor

MOMENTUM = 0.9  # of SGD
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase, FrozenBatchNorm2d)


class SeveralOptimizers(torch.optim.Optimizer):
    """Optimizers of different parts of a model as one.

    Args:
        optimizers: each with groups of its own.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        super().__init__(self._groups(), {})
        self.param_groups = self._groups()

    def _groups(self) -> list[dict[str, Any]]:
        """The groups themselves, so that rates set here are those of the optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of all."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with what `state_dict` returned."""
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = self._groups()


def parameter_groups(
    model: Detector,
    *,
    lr: float,
    backbone_lr: float,
    slow_parts: Sequence[str] = (),
    adamw_parts: Sequence[str] = (),
    sgd_factor: float = 1.0,
    decay_norms: bool = True,
    layer_decay: float | None = None,
    rates: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """The trainable parameters in groups, each with its learning rate.

    There are up to four, "model", "slow", "sgd" and "backbone". Those of their parameters that have factors of their own, or no decay, are in
    further groups. Where SGD trains parts of the model, groups say with "sgd" whether it trains them, and with "clipped" whether their gradients are.
    Arguments as for `build_optimizer`.
    """
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    norms = {
        id(each) for part in model.modules() if isinstance(part, _NORMS) for each in part.parameters(recurse=False)
    }
    depth_factors: dict[str, float] = {}
    if layer_decay is not None:
        names = [name for name, _ in model.backbone.named_parameters()]
        depth_factors = {f"backbone.{name}": factor for name, factor in layer_factors(names, layer_decay).items()}
    # Plain groups come first: the log shows the rate of the first group.
    groups: dict[tuple[str, float, bool], list[nn.Parameter]] = {
        (name, 1.0, True): [] for name in ("model", "slow", "sgd", "backbone")
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in backbone:
            group = "backbone"
        elif adamw_parts and not any(fits(part, name) for part in adamw_parts):
            group = "sgd"
        else:
            group = "slow" if any(fits(part, name) for part in slow_parts) else "model"
        factor = named_factor(name, rates or {}) * depth_factors.get(name, 1.0)
        groups.setdefault((group, factor, decay_norms or id(parameter) not in norms), []).append(parameter)
    base = {"model": lr, "slow": lr / 10, "sgd": sgd_factor * lr, "backbone": backbone_lr}
    found = []
    for (group, factor, decays), members in groups.items():
        if not members:
            continue
        name = group if factor == 1 else f"{group} × {factor:g}"
        entry: dict[str, Any] = {"name": name, "params": members, "lr": base[group] * factor}
        if not decays:
            entry |= {"name": f"{name}, norms", "weight_decay": 0.0}
        if adamw_parts:
            sgd = group in ("sgd", "backbone")
            entry |= {"sgd": sgd, "clipped": not sgd}
        found.append(entry)
    return found


def build_optimizer(
    model: Detector,
    *,
    lr: float,
    backbone_lr: float,
    weight_decay: float,
    slow_parts: Sequence[str] = (),
    adamw_parts: Sequence[str] = (),
    sgd_factor: float = 1.0,
    decay_norms: bool = True,
    layer_decay: float | None = None,
    rates: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """AdamW over the model's trainable parameters, or AdamW over some parts and SGD over the others.

    Args:
        model: the detector.
        lr: learning rate of everything except the backbone.
        backbone_lr: learning rate of the backbone; 0 leaves it unchanged.
        weight_decay: decay of all parameters.
        slow_parts: components of parameter names (the text between dots) whose parameters learn at a tenth of `lr`.
        adamw_parts: components of parameter names whose parameters AdamW trains, and SGD all others; empty where AdamW trains everything.
        sgd_factor: factor of `lr` for what SGD trains, except for the backbone.
        decay_norms: whether the decay also applies to norms.
        layer_decay: factor between the rates of a block of the backbone and the block after it; None means 1.
        rates: factors by the components of parameter names; where several fit, they are multiplied. 0 leaves parameters unchanged.
    """
    groups = parameter_groups(
        model,
        lr=lr,
        backbone_lr=backbone_lr,
        slow_parts=slow_parts,
        adamw_parts=adamw_parts,
        sgd_factor=sgd_factor,
        decay_norms=decay_norms,
        layer_decay=layer_decay,
        rates=rates,
    )
    by_sgd = [group for group in groups if group.get("sgd")]
    adamw = torch.optim.AdamW(
        [group for group in groups if not group.get("sgd")], weight_decay=weight_decay, fused=True
    )
    if not by_sgd:
        return adamw
    return SeveralOptimizers(adamw, torch.optim.SGD(by_sgd, lr=lr, momentum=MOMENTUM, weight_decay=weight_decay))
