"""Small untrained models whose attention is not the same everywhere, and pictures for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import detrkit
from detrkit.models.catalog import CATALOG
from detrkit.models.detector import Detector

COMPACT = [name for name in CATALOG if "compact" in name]


def small_model(variant: str, **changes: Any) -> Detector:
    torch.manual_seed(0)
    size = detrkit.Preprocessing(128, 208)
    settings = {"classes": ["a", "b"], "encoder_layers": 1, **changes}
    model = detrkit.build(variant, preprocessing=size, **settings).eval()
    for parameter in model.parameters():  # zeros at the start would hide mistakes
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    if variant == "tsp-fcos-compact":  # otherwise its boxes have no area, and nothing is found
        head: Any = model.predictor
        nn.init.constant_(head.box_head.bias, 3.0)
    return model


def picture(width: int = 200, height: int = 120, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
