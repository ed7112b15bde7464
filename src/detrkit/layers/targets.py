"""What targets have to keep, whoever looks at them first."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from detrkit.structures import Target


def check_targets(targets: Sequence[Target], *, images: int, outputs: int) -> None:
    """Looks at numbers and labels; boxes that are not finite are for the matching to name.

    Args:
        targets: the objects of each image.
        images: B, how many there should be.
        outputs: labels lie below.

    Raises:
        ValueError: the number of targets is not the number of images, an image has not as many labels as boxes, or a label is not an output of
            the class head.
    """
    if len(targets) != images:
        raise ValueError(
            f"the batch has {images} images but {len(targets)} targets were given: give one for each image"
        )
    for image, target in enumerate(targets):
        if len(target.labels) != len(target.boxes_cxcywh):
            raise ValueError(f"target {image} has {len(target.labels)} labels for {len(target.boxes_cxcywh)} boxes")
    labels = torch.cat([target.labels for target in targets])
    if bool(((labels < 0) | (labels >= outputs)).any()):  # one look for the whole batch, since looking makes a GPU wait
        image = next(image for image, target in enumerate(targets) if _outside(target, outputs))
        raise ValueError(
            f"target {image} has a label outside 0..{outputs - 1}: labels are indices of the class head's outputs, not category ids"
        )


def _outside(target: Target, outputs: int) -> bool:
    return bool(((target.labels < 0) | (target.labels >= outputs)).any())
