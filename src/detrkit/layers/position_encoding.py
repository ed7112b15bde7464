"""Position codes: sines and cosines of decreasing frequency (Vaswani et al. 2017, section 3.5) for the two axes of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sine_code(values: Tensor, *, channels: int, temperature: float = 10000.0) -> Tensor:
    """Sines (even channels) and cosines (odd channels) of values at `channels / 2` frequencies.

    Args:
        values: (...,) float32 angles; 2 π is one full turn of the fastest wave.
        channels: number of channels of the result; even.
        temperature: ratio of the fastest to (nearly) the slowest frequency.

    Returns:
        (..., channels) float32.
    """
    index = torch.arange(channels, dtype=torch.float32, device=values.device)
    wavelength = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / channels)
    angles = values[..., None] / wavelength  # (..., channels)
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)


def reference_code(references: Tensor, *, width: int) -> Tensor:
    """Sine codes of points or boxes. Their centres are in the order of an image's codes, which they are compared with: y, then x.

    Args:
        references: (B, Q, 2) x and y, or (B, Q, 4) cxcywh; all in [0, 1].
        width: D; each coordinate gets D / 2 channels.

    Returns:
        (B, Q, D) of points, (B, Q, 2 D) of boxes (y, x, width, height); float32 or better.
    """
    ordered = torch.cat([references[..., :2].flip(-1), references[..., 2:]], dim=-1)
    return sine_code(ordered * (2 * math.pi), channels=width // 2).flatten(-2)


class SinePositionEncoding(nn.Module):
    """Codes of the cells of a feature map, normalised by the size of the image without its padding (DETR, section A.4).

    Args:
        width: D of the code; half for y, then half for x.
        temperature: see `sine_code`.
        shift: subtracted from the cell's count (1, 2, ...) before normalising. 0 puts the first cell at 1 / h and the last at 1, as DETR
            does; 0.5 uses the centres of the cells, as Deformable DETR does.
    """

    epsilon = 1e-6  # avoids division by zero in rows and columns that are all padding

    def __init__(self, *, width: int, temperature: float = 10000.0, shift: float = 0.0) -> None:
        super().__init__()
        self.width, self.temperature, self.shift = width, temperature, shift

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """Codes for a feature map.

        Args:
            features: (B, C, h, w); determines size, device and type of the result.
            padding: (B, h, w) bool, True where padded, or None.

        Returns:
            (B, D, h, w), computed in float32 and cast to the features' type.
        """
        batch, _, height, width = features.shape
        if padding is None:
            inside = torch.ones(1, height, width, dtype=torch.float32, device=features.device)
        else:
            inside = (~padding).to(torch.float32)
        channels = self.width // 2
        codes = [sine_code(self.angles(inside, dim), channels=channels, temperature=self.temperature) for dim in (1, 2)]
        code = torch.cat(codes, dim=-1).permute(0, 3, 1, 2)  # (B or 1, D, h, w)
        return code.to(features.dtype).expand(batch, -1, -1, -1)

    def angles(self, inside: Tensor, dim: int) -> Tensor:
        """Where each cell lies along one axis, as an angle; papers that normalise differently override this.

        Args:
            inside: (B, h, w) float32, 1 inside the image, 0 behind padding.
            dim: 1 for rows (y), 2 for columns (x).

        Returns:
            (B, h, w) float32; 2 π at the last cell of the image.
        """
        count = inside.cumsum(dim)
        last = count.narrow(dim, count.shape[dim] - 1, 1)
        return (count - self.shift) / (last + self.epsilon) * (2 * math.pi)


class CellCenterEncoding(SinePositionEncoding):
    """Codes of the cells' centres in SAM-DETR's order of operations: it gives other values behind padding, which reach that model's results.

    Args:
        width: D.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__(width=width, shift=0.5)

    def angles(self, inside: Tensor, dim: int) -> Tensor:
        """See `SinePositionEncoding.angles`."""
        place = inside.cumsum(dim) - self.shift
        last = place.narrow(dim, place.shape[dim] - 1, 1)
        # Where all is padding, this divides by a millionth. Any fixed value would be sound there.
        return place / ((last + self.epsilon) + self.shift) * (2 * math.pi)
