"""Queries of a trained detector, for one that is to be trained."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from detrkit.checkpoints.loading import load
from detrkit.errors import CheckpointError
from detrkit.models.detector import Detector


def load_queries(model: Detector, path: str | Path) -> None:
    """Copies the queries of a trained detector: learned codes, reference points or anchors, whatever the paper's queries are made of.

    Args:
        model: changed in place.
        path: a file that detrkit, the paper's authors or Hugging Face wrote.

    Raises:
        CheckpointError: the file cannot be read, or its queries are of another kind or number.
    """
    trained = load(path)
    own, other = _queries(model), _queries(trained)
    if own is None or other is None or type(own) is not type(other):
        raise CheckpointError(
            f"{path} holds a {trained.card.variant}, whose queries a {model.card.variant} cannot take: give a detector of the same paper"
        )
    expected, given = own.state_dict(), other.state_dict()
    for name in sorted(expected.keys() | given.keys()):
        shapes = [tuple(state[name].shape) if name in state else None for state in (expected, given)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"{path} has other queries than this {model.card.variant}: '{name}' has the shape {shapes[1]} instead of {shapes[0]}; "
                "give a detector with the same number of queries and the same width"
            )
    own.load_state_dict(given)


def _queries(model: Detector) -> nn.Module | None:
    part = getattr(model, "query_source", None)
    return part if isinstance(part, nn.Module) else None
