"""Small models of Deformable DETR, and memory of two levels, for tests that look inside."""

from __future__ import annotations

from typing import Any

import torch
from support import make_memory
from torch import Tensor, nn

from detrkit.models.catalog import build
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, Memory

SMALL = {"width": 64, "hidden": 64, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 3, "queries": 5}
LEVELS = ((2, 4), (1, 2))  # height and width
CELLS = 2 * 4 + 1 * 2


def small(**changes: Any) -> Detector:
    """In float64 and eval mode, with random parameters, since the box heads start at zero."""
    model = build("deformable-detr-compact", classes=["a", "b", "c"], **(SMALL | changes))
    for part in (model.encoder, model.decoder, model.query_source, model.heads):
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model.double().eval()


def refining() -> Detector:
    return small(refine=True)


def two_stage() -> Detector:
    return small(refine=True, two_stage=True)


def batch() -> ImageBatch:
    """A whole image and one of 48 x 56 pixels, in a batch of 64 x 96."""
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, 48:], padding[1, :, 56:] = True, True
    return ImageBatch(torch.randn(2, 3, 64, 96, dtype=torch.float64), padding)


def memory_of(images: int = 1, *, width: int = 8, padding: Tensor | None = None) -> Memory:
    tokens, positions = (torch.randn(images, CELLS, width, dtype=torch.float64) for _ in range(2))
    return make_memory(tokens, positions, padding, LEVELS)


def half_padding() -> Tensor:
    """One image that fills one of two rows and two of four columns (and one of two columns on the coarser level)."""
    fine = torch.ones(1, 2, 4, dtype=torch.bool)
    fine[:, :1, :2] = False
    return torch.cat([fine.flatten(1), torch.tensor([[False, True]])], dim=1)
