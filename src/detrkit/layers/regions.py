"""What lies in a box of an image, as a small map."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.layers.precision import at_least_float32

REACH = (-1, 2)  # how far a box may reach, as fractions of the image; boxes within [0, 1] end at -0.5 and 1.5


def cut_out(image: Tensor, boxes_cxcywh: Tensor, ratios: Tensor, *, cells: int) -> Tensor:
    """Each box as a small map (RoIAlign, He et al. 2017), in float32 or better. Boxes may reach beyond the image, and then see its padding.

    Args:
        image: (B, D, h, w).
        boxes_cxcywh: (B, Q, 4) in [0, 1] of the image without its padding; what lies beyond `REACH` is cut off.
        ratios: (B, 2) share of its width and height that is not padding.
        cells: rows and columns of the result.

    Returns:
        (B · Q, D, cells, cells), image by image.
    """
    from torchvision.ops import roi_align  # here, since other models need not wait for it

    batch, queries = boxes_cxcywh.shape[:2]
    height, width = image.shape[-2:]
    size = torch.stack([ratios[:, 0] * width, ratios[:, 1] * height], dim=-1).repeat(1, 2)[:, None]  # (B, 1, 4)
    # The operator has no answer for NaN and for boxes of any size; a model that has become NaN is found by its boxes, which keep it.
    corners = cxcywh_to_xyxy(boxes_cxcywh).nan_to_num().clamp(*REACH) * size.to(boxes_cxcywh.dtype)
    image = at_least_float32(image)
    rows = torch.arange(batch, device=image.device, dtype=image.dtype)[:, None, None].expand(-1, queries, 1)
    regions = torch.cat([rows, corners.to(image.dtype)], dim=-1).flatten(0, 1)  # (B · Q, 5)
    with torch.autocast(image.device.type, enabled=False):
        return roi_align(image, regions, (cells, cells), sampling_ratio=-1, aligned=True)  # type: ignore[no-any-return]
