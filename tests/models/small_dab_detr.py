"""Small models of DAB-DETR, for tests that look inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from detrkit.models.catalog import build
from detrkit.models.detector import Detector
from detrkit.structures import Target

WIDTH = 64
# All switches as in the paper.
SMALL = {
    "width": WIDTH,
    "hidden": 64,
    "attention_heads": 4,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "queries": 6,
    "least_side": 0.0,
    "normed_references": False,
}
TARGETS = [
    Target(torch.tensor([0, 2]), torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.5]])),
    Target(torch.tensor([1]), torch.tensor([[0.4, 0.5, 0.5, 0.2]])),
]


def small(**changes: Any) -> Detector:
    """In float64 and eval mode; box heads, which start at zero, move boxes, and the norm for the heads changes states."""
    model = build("dab-detr-compact", classes=["a", "b", "c"], **(SMALL | changes))
    for _, box_head in model.heads.pairs():
        nn.init.normal_(box_head.output.weight, std=0.2)
    nn.init.uniform_(model.decoder.norm.weight, 0.5, 2.0)
    nn.init.normal_(model.decoder.norm.bias, std=0.2)
    return model.double().eval()
