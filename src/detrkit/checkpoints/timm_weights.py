"""The tensors of a file of timm's, or of authors whose files timm reads, by the names of a backbone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detrkit.backbones.timm_networks import TimmBackbone, architecture
from detrkit.checkpoints.blank import WithoutRandomValues
from detrkit.errors import CheckpointError

_TRANSLATION = "checkpoint_filter_fn"  # what most of timm's modules call the function that timm reads a file with


def own_tensors(backbone: TimmBackbone, tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by the names of a backbone, without those of parts that it does not have, such as the classifier.

    Args:
        backbone: that they are for.
        tensors: of the whole network or of its features, with timm's names or with those of authors whose files timm reads.
        path: of the file, for messages.

    Returns:
        The backbone's tensors; and with their own names those that the whole network does not have either.

    Raises:
        CheckpointError: the file is of another network.
    """
    expected = backbone.state_dict()
    with WithoutRandomValues():
        whole = backbone.whole()
    own = {_plain(name): name for name in expected}
    elsewhere = {_plain(name) for name in whole.state_dict()} - own.keys()

    def renamed(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = {name: _plain(name) for name in given}
        return {own.get(names[name], name): each for name, each in given.items() if names[name] not in elsewhere}

    found = renamed(tensors)
    if all(
        name in found and found[name].shape == each.shape for name, each in expected.items() if not is_counter(name)
    ):
        return found
    translate = getattr(sys.modules[type(whole).__module__], _TRANSLATION, None)
    if translate is None:
        return found
    try:
        translated: Any = translate(dict(tensors), whole)
    except Exception as problem:  # whatever it raises for names that it does not expect
        raise CheckpointError(
            f"{path} is of another network than {architecture(backbone.name)}, and timm cannot read it as one "
            f"({type(problem).__name__}: {problem}): give weights of the same network"
        ) from problem
    return renamed(translated)


def is_counter(name: str) -> bool:
    """Whether a tensor counts the batches that a batch norm has seen, which changes nothing."""
    return name.endswith("num_batches_tracked")


def _plain(name: str) -> str:
    """A name without what tells timm's whole networks from their features: `stages.0` is `stages_0` there, below one or two modules more."""
    for outer in ("net.", "model.", "body."):
        name = name.removeprefix(outer)
    return name.replace("_", ".")
