"""Refuses targets that do not fit and numbers that are not finite, for criteria without Hungarian matching."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from detrkit.errors import NonFiniteError
from detrkit.layers.targets import check_counts, labels_are_outputs, refuse_labels
from detrkit.structures import Output, Target


def check_batch(output: Output, targets: Sequence[Target], *, class_count: int) -> None:
    """Checks the number of targets, their labels, and all scores and boxes.

    Args:
        output: predictions of a model.
        targets: the objects of each image.
        class_count: number of classes; labels must be below it.

    Raises:
        NonFiniteError: a prediction or a target is NaN or infinite; the message names the image.
        ValueError: the number of targets is not the number of images, or a label is not one of the model's.
    """
    check_counts(targets, images=output.logits.shape[1])
    if not labels_are_outputs(targets, class_count):
        refuse_labels(targets, class_count)
    _check_finite(output, targets)


def _check_finite(output: Output, targets: Sequence[Target]) -> None:
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
