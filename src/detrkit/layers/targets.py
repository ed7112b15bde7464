"""Checks of targets, shared by everything that reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detrkit.structures import Target


def needed(targets: Sequence[Target] | None) -> Sequence[Target]:
    """The targets, which models with noised objects cannot do without in training.

    Raises:
        ValueError: there are none.
    """
    if targets is None:
        raise ValueError("training needs the targets to make noised objects of: call model(batch, targets)")
    return targets


def check_counts(targets: Sequence[Target], *, images: int) -> None:
    """Checks the number of targets, labels and boxes, for which no GPU has to wait.

    Args:
        targets: the objects of each image.
        images: B, how many targets there should be.

    Raises:
        ValueError: the number of targets is not the number of images, or an image's numbers of labels and boxes differ.
    """
    if len(targets) != images:
        raise ValueError(
            f"the batch has {images} images but {len(targets)} targets were given: give one for each image"
        )
    for image, target in enumerate(targets):
        if len(target.labels) != len(target.boxes_cxcywh):
            raise ValueError(f"target {image} has {len(target.labels)} labels for {len(target.boxes_cxcywh)} boxes")


def labels_are_outputs(targets: Sequence[Target], outputs: int) -> Tensor:
    """Whether all labels lie in [0, outputs), as a bool tensor on the labels' device."""
    labels = torch.cat([target.labels for target in targets])
    return ((labels >= 0) & (labels < outputs)).all()


def refuse_labels(targets: Sequence[Target], outputs: int) -> None:
    """Raises an error that names the first image with a label that is not an output.

    Raises:
        ValueError: a label lies outside [0, outputs).
    """
    for image, target in enumerate(targets):
        if not labels_are_outputs([target], outputs):
            raise ValueError(
                f"target {image} has a label outside 0..{outputs - 1}: labels are indices of the class head's outputs, not category ids"
            )
