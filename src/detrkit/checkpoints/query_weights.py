"""Queries of a trained detector, for one that is to be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detrkit.checkpoints.loading import load_fitting
from detrkit.checkpoints.reading import check_finite
from detrkit.errors import CheckpointError
from detrkit.models.detector import Detector

_CODES = "denoising."  # codes of classes, which a query source may hold, and which are no queries


def load_queries(model: Detector, path: str | Path) -> None:
    """Copies the queries of a trained detector: position codes, reference points, or anchors with their contents.

    Args:
        model: of a paper with the setting `learn_queries`; changed in place.
        path: a file that detrkit, the paper's authors or Hugging Face wrote.

    Raises:
        CheckpointError: the file cannot be read or fits several variants, or its queries are of another kind or number.
    """
    trained = load_fitting(path)
    own, given = _queries(model), _queries(trained)
    if own is None or type(own) is not type(given) or model.card.family != trained.card.family:
        raise CheckpointError(
            f"{path} holds a {trained.card.variant}, whose queries a {model.card.variant} cannot take: give a detector of the same paper, "
            "which must be one with the setting learn_queries"
        )
    expected, state = _without_codes(own), _without_codes(given)
    for name in sorted(expected.keys() ^ state.keys()):
        where = "does not have" if name in expected else "has"
        raise CheckpointError(
            f"{path} {where} '{name}', unlike this {model.card.variant}: train with the same settings for queries"
        )
    for name, tensor in expected.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"{path} has other queries than this {model.card.variant}: '{name}' has the shape {tuple(state[name].shape)} instead of "
                f"{tuple(tensor.shape)}; train with the same settings for queries and the same width"
            )
    check_finite(path, state)
    own.load_state_dict(state, strict=False)


def _queries(model: Detector) -> Any:
    """The part that holds learned queries; None where the paper has none that can be kept."""
    part = getattr(model, "query_source", None)
    return part if "learn_queries" in model.card.config and isinstance(part, nn.Module) else None


def _without_codes(source: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in source.state_dict().items() if not name.startswith(_CODES)}
