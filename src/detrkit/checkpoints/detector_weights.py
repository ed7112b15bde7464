"""A trained detector for a model with masks, whose head then learns with the detector frozen (DETR, section 4.4)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from detrkit.cards import Colours
from detrkit.checkpoints.loading import load_fitting
from detrkit.checkpoints.reading import check_finite
from detrkit.errors import CheckpointError
from detrkit.models.detector import Detector

_HEAD = "mask_"  # what the names of a mask head's parts begin with
# Settings without an effect on what a trained detector gives.
FOR_TRAINING = {
    *("dropout", "learn_queries", "no_object_weight", "class_weight", "l1_weight", "giou_weight"),
    *("class_cost", "l1_cost", "giou_cost", "repeats", "look_forward_twice"),
    *("drop", "centerness_weight", "proposal_weight"),
}


def load_detector(model: Detector, path: str | Path) -> None:
    """Copies all weights of a trained detector but those of a mask head, and the colours that its images have.

    Args:
        model: with masks; changed in place.
        path: a file that detrkit, the paper's authors or Hugging Face wrote, or the folder of a run; of the same paper, classes and sizes,
            with masks or without.

    Raises:
        CheckpointError: the file cannot be read, or holds a detector of another kind, of other classes or other sizes.
    """
    trained = load_fitting(path)
    own, given = _without_head(model), _without_head(trained)
    if own.keys() != given.keys():
        raise CheckpointError(
            f"{path} holds a {trained.card.variant}, whose parts a {model.card.variant} does not have: give a detector of the same paper and backbone"
        )
    for name, value in model.card.config.items():
        if name not in FOR_TRAINING and trained.card.config.get(name, value) != value and name != "class_count":
            raise CheckpointError(
                f"{path} has {name}={trained.card.config[name]!r} and this {model.card.variant} {value!r}: train with the same settings"
            )
    names, learned = ([category.name for category in each.card.categories] for each in (model, trained))
    if names != learned:
        raise CheckpointError(
            f"{path} has learned other classes ({_few(learned)}) than those of the data ({_few(names)}): first train its boxes on the same data"
        )
    for name, tensor in own.items():
        if tensor.shape != given[name].shape:
            raise CheckpointError(
                f"{path} has other sizes than this {model.card.variant}: '{name}' has the shape {tuple(given[name].shape)} instead of "
                f"{tuple(tensor.shape)}; train with the same settings"
            )
    check_finite(path, given)
    model.load_state_dict({**model.state_dict(), **given})
    take_colours(model, trained.card.preprocessing.colours)


def take_colours(model: Detector, colours: Colours | None) -> None:
    """Lets the images of a model have other colours.

    Args:
        model: its card is changed.
        colours: those that its weights were trained with; None leaves them as they are.
    """
    if colours is not None:
        preprocessing = model.card.preprocessing.with_colours(colours)
        model.card = dataclasses.replace(model.card, preprocessing=preprocessing)


def _without_head(model: Detector) -> dict[str, Any]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(_HEAD)}


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f", … {len(names)} in all" if len(names) > most else "")
