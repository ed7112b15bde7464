"""detrkit's own checkpoint: one safetensors file whose JSON header says all that is needed to build the model again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from detrkit.checkpoints.reading import WeightFile
from detrkit.errors import CheckpointError, ConfigurationError
from detrkit.files import write_atomically
from detrkit.models.catalog import FAMILIES, build_from_config, changed_config
from detrkit.models.detector import Detector
from detrkit.structures import Category, ModelCard, Preprocessing

_HEADER = "detrkit"
_FORMAT = 1


def save(model: Detector, path: str | Path) -> Path:
    """Writes a model so that `load` gives it back bit by bit, with its classes, preprocessing and figures.

    Args:
        model: any detector; its card goes into the header.
        path: the file to be; must end in `.safetensors`.

    Raises:
        CheckpointError: another ending.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} must end in .safetensors: that is the one format detrkit writes")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {_HEADER: json.dumps({"format": _FORMAT, **dataclasses.asdict(model.card)})}

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, header)
        except SafetensorError as problem:  # a full disk, say
            raise OSError(str(problem)) from problem

    return write_atomically(path, write)


def is_own(file: WeightFile) -> bool:
    """True for a file that `save` wrote."""
    return _HEADER in file.metadata


def restore(file: WeightFile) -> Detector:
    """The model that `save` wrote, in eval mode.

    Raises:
        CheckpointError: the header is of a newer detrkit, names an unknown family, or does not fit the tensors.
    """
    try:
        header = json.loads(file.metadata[_HEADER])
        written = header.get("format")
        card = _card(header) if written == _FORMAT else None
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise CheckpointError(f"{file.path} has a damaged header ({problem}): write it again") from problem
    if card is None:
        raise CheckpointError(
            f"{file.path} has format {written}, this detrkit reads format {_FORMAT}: install a newer detrkit"
        )
    if card.family not in FAMILIES:
        raise CheckpointError(
            f"{file.path} holds a model of the family '{card.family}', which this detrkit does not know"
        )
    try:
        config = changed_config(FAMILIES[card.family].Config(), dict(card.config))
    except (ConfigurationError, TypeError) as problem:
        raise CheckpointError(
            f"{file.path} has settings that this detrkit cannot use ({problem}): install a newer detrkit"
        ) from problem
    model = build_from_config(
        card.family, card.variant, config, categories=card.categories, preprocessing=card.preprocessing
    )
    model.card = card
    try:
        model.load_state_dict(
            file.tensors, assign=True
        )  # takes over the file's types, so that what comes back is what was written
    except RuntimeError as problem:
        raise CheckpointError(
            f"{file.path} does not hold the tensors that its own header describes: write it again"
        ) from problem
    model.backbone.to(memory_format=torch.channels_last)
    return model.eval()


def _card(header: Mapping[str, Any]) -> ModelCard:
    preprocessing = dict(header["preprocessing"])
    for name in ("mean", "deviation"):
        preprocessing[name] = tuple(preprocessing[name])
    return ModelCard(
        family=header["family"],
        variant=header["variant"],
        config=header["config"],
        categories=tuple(Category(**entry) for entry in header["categories"]),
        preprocessing=Preprocessing(**preprocessing),
        threshold=header["threshold"],
        metrics=header["metrics"],
    )
