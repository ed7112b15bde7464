"""One small model for each paper's tables of names, with a card of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from checkpoints.authors_files import SMALL, assert_equal

import detrkit

# One small model for each paper's tables; the backbone is the smallest of those that other code has.
MODELS: dict[str, dict[str, Any]] = {
    "detr-r50": {"backbone": "resnet18"},
    "conditional-detr-r50": {"backbone": "resnet18"},
    "dab-detr-r50": {"backbone": "resnet18"},
    "anchor-detr-r50-c5": {"backbone": "resnet18"},
    "smca-detr-r50": {"backbone": "resnet18"},
    "smca-detr-r50-multiscale": {"backbone": "resnet18"},
    "sam-detr-r50": {"backbone": "resnet18"},
    "sam-detr-r50-multiscale-smca": {"backbone": "resnet18"},
    "deformable-detr-r18": {},
    "deformable-detr-r18-two-stage": {},
    "dab-deformable-detr-r50": {"backbone": "resnet18"},
    "detr-r50-panoptic": {"backbone": "resnet18", "width": 128, "attention_heads": 8},
    "conditional-detr-r50-panoptic": {"backbone": "resnet18", "width": 128, "attention_heads": 8},
}


def small(variant: str, **changes: Any) -> detrkit.Detector:
    """A model with a card of its own: class ids, thresholds, sizes of images."""
    classes = [detrkit.Category(7, "cat", 0), detrkit.Category(9, "Hündin", 1), detrkit.Category(3, "N/A?", 2)]
    preprocessing = detrkit.Preprocessing(120, 200, mean=(0.1, 0.2, 0.3), deviation=(0.4, 0.5, 0.6))
    settings = {**SMALL, **MODELS.get(variant, {}), **changes}
    model = detrkit.build(variant, classes=classes, preprocessing=preprocessing, **settings)
    card = {"threshold": 0.37, "class_thresholds": {1: 0.25}, "nms": 0.7, "metrics": {"AP": 0.125}}
    model.card = dataclasses.replace(model.card, **card)
    with torch.no_grad():  # what starts at zero, or as a copy, could change places unnoticed
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor).abs(), alpha=0.1)
    return model.eval()


def assert_same(found: detrkit.Detector, wanted: detrkit.Detector) -> None:
    assert found.card == wanted.card
    assert_equal(found.state_dict(), wanted.state_dict())
    assert not found.training
