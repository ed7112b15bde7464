"""Which cells of a feature map are padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shrink_padding(padding: Tensor | None, features: Tensor) -> Tensor | None:
    """The padding of a feature map: each cell takes the value at its nearest pixel, row floor(i · H / h), as in the authors' code.

    Args:
        padding: (B, H, W) bool or None.
        features: (B, C, h, w).

    Returns:
        (B, h, w) bool or None.
    """
    if padding is None:
        return None
    return F.interpolate(padding[:, None].to(torch.float32), size=features.shape[-2:])[:, 0].to(torch.bool)
