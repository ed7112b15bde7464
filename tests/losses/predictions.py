"""Random predictions and objects for tests of the criterion."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from detrkit.losses.criterion import focal_criterion
from detrkit.models import detr
from detrkit.structures import Losses, Output, Target

LAYERS, QUERIES, CLASSES = 3, 5, 4
CONFIG = detr.Config(class_count=CLASSES, queries=QUERIES, decoder_layers=LAYERS)


def prediction(images: int, *, layers: int = LAYERS, classes: int = CLASSES) -> Output:
    shape = (layers, images, QUERIES)
    logits = torch.randn(*shape, classes + 1, dtype=torch.float64, requires_grad=True)
    return Output(logits, (torch.rand(*shape, 4, dtype=torch.float64) * 0.5 + 0.2).requires_grad_())


def objects(count: int) -> Target:
    return Target(torch.randint(0, CLASSES, (count,)), torch.rand(count, 4, dtype=torch.float64) * 0.5 + 0.2)


def corners(boxes: Tensor) -> Tensor:
    return torchvision.ops.box_convert(boxes, "cxcywh", "xyxy")


def shown(losses: Losses) -> dict[str, tuple[float, float]]:
    return {name: (entry.sum.item(), entry.count) for name, entry in losses.shown.items()}


def focal_loss_of(output: Output, targets: list[Target]) -> Tensor:
    """The class loss of the last layer, of a criterion with as many classes as the output has."""
    weights = {"class": 2.0, "l1": 5.0, "giou": 2.0}
    criterion = focal_criterion(
        class_count=output.logits.shape[-1], layers=len(output.logits), cost_weights=weights, loss_weights=weights
    )
    return criterion(output, targets).terms[f"layers.{len(output.logits) - 1}.class"]
