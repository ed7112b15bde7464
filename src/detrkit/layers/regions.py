"""What lies in boxes of an image: a small map of each, and points in between.

RoIAlign (He et al. 2017) averages samples on a grid in each cell of a box, each interpolated between four pixels. Its weights are products of one for
the row and one for the column, and so is interpolation between its cells. So a map is cut out by two matrix products, and a point is looked up
with the weights of all pixels, which is the only product with all channels. These weights are as many as those of a head's attention in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.layers.precision import at_least_float32

REACH = (-1, 2)  # how far a box may reach, as fractions of the image; boxes within [0, 1] end at -0.5 and 1.5


@dataclass(frozen=True)
class Regions:
    """Boxes of an image, divided into cells.

    A pixel that is NaN makes all boxes NaN, since products have a term for it in each of them.

    Attributes:
        rows: (B, Q, cells, h) weight of each row of pixels in each row of cells, float32 or better.
        columns: (B, Q, cells, w) the same for columns.
    """

    rows: Tensor
    columns: Tensor

    def cut_out(self, image: Tensor) -> Tensor:
        """(B, Q, D, cells, cells): each box of an image (B, D, h, w), in float32 or better; nothing lies beyond the image."""
        with torch.autocast(image.device.type, enabled=False):
            pixels = at_least_float32(image).permute(0, 3, 2, 1)  # (B, w, h, D)
            batch, queries, cells = self.columns.shape[:3]
            # Columns first: most images are wider than high, so that less remains.
            in_columns = self.columns.flatten(1, 2).to(pixels.dtype) @ pixels.flatten(2)  # (B, Q · cells, h · D)
            in_columns = in_columns.reshape(batch, queries, cells, *pixels.shape[2:])
            return (self.rows[:, :, None].to(pixels.dtype) @ in_columns).permute(0, 1, 4, 3, 2)

    def sample(self, tokens: Tensor, points: Tensor) -> Tensor:
        """What `cut_out` shows at points, interpolated between its cells.

        Args:
            tokens: (B, h · w, D) the image, row by row.
            points: (B, Q, N, 2) x and y of each box's own points; -1 and 1 are its sides.

        Returns:
            (B, Q, N, D) in float32 or better.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            x, y = points.to(self.rows.dtype).unbind(-1)  # (B, Q, N)
            across = _between_cells(x, cells=self.columns.shape[2]) @ self.columns  # (B, Q, N, w)
            down = _between_cells(y, cells=self.rows.shape[2]) @ self.rows  # (B, Q, N, h)
            weights = (down[..., :, None] * across[..., None, :]).flatten(3)  # (B, Q, N, h · w)
            pixels = at_least_float32(tokens)
            return torch.unflatten(weights.flatten(1, 2).to(pixels.dtype) @ pixels, 1, points.shape[1:3])


def regions_of(boxes_cxcywh: Tensor, ratios: Tensor, *, size: tuple[int, int], cells: int) -> Regions:
    """Boxes that may reach beyond the image, and then see its padding. No gradient goes through them, as through RoIAlign's.

    Args:
        boxes_cxcywh: (B, Q, 4) in [0, 1] of the image without its padding; what lies beyond `REACH` is cut off, and NaN is 0.
        ratios: (B, 2) share of the image's width and height that is not padding.
        size: h and w.
        cells: rows and columns of a region.
    """
    height, width = size
    pixels = torch.stack([ratios[:, 0] * width, ratios[:, 1] * height], dim=-1).repeat(1, 2)[:, None]  # (B, 1, 4)
    # A model that has become NaN is found by its boxes, which keep it.
    boxes = at_least_float32(boxes_cxcywh.detach())
    corners = cxcywh_to_xyxy(boxes).nan_to_num().clamp(*REACH) * pixels.to(boxes.dtype)
    left, top, right, bottom = (corners - 0.5).unbind(-1)  # pixels' centres have whole numbers
    return Regions(
        rows=_weights(top, bottom, length=height, cells=cells), columns=_weights(left, right, length=width, cells=cells)
    )


def _weights(start: Tensor, end: Tensor, *, length: int, cells: int) -> Tensor:
    """(B, Q, cells, length) weight of each pixel of an axis in each cell; nothing is in boxes whose end (B, Q) lies before their start."""
    side = (end - start)[..., None, None]  # (B, Q, 1, 1)
    samples = (side / cells).ceil()  # of each cell, some for each pixel that it covers
    most = -(-(REACH[1] - REACH[0]) * length // cells)
    number = torch.arange(most, device=start.device, dtype=start.dtype)
    cell = torch.arange(cells, device=start.device, dtype=start.dtype)[:, None]
    cell_side = side / cells
    place = start[..., None, None] + cell * cell_side + (number + 0.5) * cell_side / samples.clamp(min=1)
    known = (number < samples) & (place >= -1) & (place <= length)  # (B, Q, cells, most)
    place = place.clamp(0, length - 1)
    low = place.floor()
    share = known / samples.clamp(min=1)
    weights = start.new_zeros(*start.shape, cells, length)
    weights = weights.scatter_add(-1, low.long(), share * (1 - (place - low)))
    return weights.scatter_add(-1, (low.long() + 1).clamp(max=length - 1), share * (place - low))


def _between_cells(place: Tensor, *, cells: int) -> Tensor:
    """(B, Q, N, cells) weights of the two cells on either side of a place (B, Q, N), -1 to 1; beyond the outer cells' centres there is nothing."""
    place = ((place + 1) * cells - 1) / 2
    low = place.floor()
    share = (place - low)[..., None]
    cell = torch.arange(cells, device=place.device, dtype=place.dtype)
    return (cell == low[..., None]) * (1 - share) + (cell == low[..., None] + 1) * share
