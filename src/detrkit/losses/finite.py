"""Refuses predictions and targets that are not finite, for criteria without Hungarian matching."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from detrkit.errors import NonFiniteError
from detrkit.structures import Output, Target


def check_finite(output: Output, targets: Sequence[Target]) -> None:
    """Checks scores and boxes.

    Raises:
        NonFiniteError: one of them is NaN or infinite; the message names the image.
    """
    predictions = output.logits.isfinite().all() & output.boxes_cxcywh.isfinite().all()
    if predictions & torch.cat([target.boxes_cxcywh for target in targets]).isfinite().all():  # one wait for the device
        return
    for image, target in enumerate(targets):
        if not (output.logits[:, image].isfinite().all() and output.boxes_cxcywh[:, image].isfinite().all()):
            cause = "the model's predictions are not; lower the learning rate, or train in float32"
        elif not target.boxes_cxcywh.isfinite().all():
            cause = "its targets are not; check its boxes"
        else:
            continue
        raise NonFiniteError(f"image {image} of the batch: the loss is not finite, because {cause}", image)
