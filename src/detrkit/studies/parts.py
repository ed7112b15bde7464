"""Parts of detectors that studies change, whatever the paper."""

from __future__ import annotations

from typing import Any

from detrkit.models.detector import Detector


def encoder_layers(model: Detector) -> Any:
    """The layers of its encoder."""
    return model.get_submodule("encoder").layers


def decoder_layers(model: Detector) -> Any:
    """The layers of its decoder."""
    return model.get_submodule("decoder").layers


def width_of(model: Detector) -> int:
    """D of its tokens and queries."""
    width: int = model.card.config["width"]
    return width
