"""Colours that vary, by torchvision's operations."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.data.augmentation import ColourJitter

_PROBABILITY = 0.5  # of each operation


def with_other_colours(levels: Tensor, jitter: ColourJitter, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue changed, each with probability 0.5 and in random order.

    Torchvision's own transforms draw from PyTorch's global generator, so the numbers are drawn here and its functions change the pixels.

    Args:
        levels: (3, H, W) uint8.
        jitter: how far each may vary.
        generator: the only source of random numbers.
    """
    from torchvision.transforms.v2 import functional  # takes a second, which nobody needs who does not change colours

    operations = (
        (functional.adjust_brightness, 1.0, jitter.brightness),
        (functional.adjust_contrast, 1.0, jitter.contrast),
        (functional.adjust_saturation, 1.0, jitter.saturation),
        (functional.adjust_hue, 0.0, jitter.hue),
    )
    levels = levels.contiguous()  # plane by plane takes two thirds of the time
    drawn = torch.rand(len(operations), 2, generator=generator, dtype=torch.float64).tolist()
    for place in torch.randperm(len(operations), generator=generator).tolist():
        change, middle, reach = operations[place]
        chance, position = drawn[place]
        if reach and chance < _PROBABILITY:
            levels = change(levels, middle + reach * (2 * position - 1))
    return levels
