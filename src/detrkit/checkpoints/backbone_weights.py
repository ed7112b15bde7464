"""Pretrained weights for a backbone, with torchvision's names or with timm's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from detrkit.backbones import Backbone, TimmBackbone
from detrkit.checkpoints.names import by_prefix
from detrkit.checkpoints.reading import check_finite, read_weights
from detrkit.checkpoints.timm_weights import is_counter, own_tensors
from detrkit.errors import CheckpointError

_ONLY_IN_DETECTORS = ("backbone", "class_labels_classifier")  # ours and the authors', and Hugging Face's


def load_backbone_weights(backbone: Backbone, path: str | Path) -> None:
    """Fills a backbone from a file with torchvision's keys, or a network of timm's from one with timm's.

    Args:
        backbone: changed in place.
        path: `.safetensors` or `.pth`; float16 is converted to the backbone's type. The classifier, stages that the backbone
            does not have and the counters of batch norm are ignored; everything else must fit. A prefix that all names have in common
            is taken off.

    Raises:
        CheckpointError: the file cannot be read or holds another network.
    """
    file = read_weights(path)
    parts = {name.split(".")[0] for name in file.tensors}
    if len(parts) > 1 and not parts.isdisjoint(_ONLY_IN_DETECTORS):
        raise CheckpointError(
            f"{path} holds a whole detector, not the weights of a backbone: start from it with weights (--weights FILE)"
        )
    expected = backbone.state_dict()
    if isinstance(backbone, TimmBackbone):
        given = own_tensors(backbone, file.tensors, path)
    else:
        given = _own_names(file.tensors, expected)
    given = {
        name: tensor
        for name, tensor in given.items()
        if not name.startswith(backbone.unused_weights) and (name in expected or not is_counter(name))
    }
    if isinstance(backbone, TimmBackbone):  # its norms are frozen, so counters that a file lacks mean nothing
        given = {name: each for name, each in expected.items() if is_counter(name)} | given
    missing = sorted(name for name in expected if name not in given)
    if missing:
        stage = missing[0].split(".")[0]
        remedy = (
            "choose the variant that ends before it (-c4)" if stage == "layer4" else "give weights of the same network"
        )
        raise CheckpointError(f"{path} lacks {len(missing)} tensors of this backbone, such as '{missing[0]}': {remedy}")
    unfit = sorted(name for name in given if name not in expected or expected[name].shape != given[name].shape)
    if unfit:
        raise CheckpointError(
            f"{path} is of another network: '{unfit[0]}' does not fit; give weights of the same network"
        )
    check_finite(path, given)
    backbone.load_state_dict(given)


def _own_names(tensors: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """The tensors by our names, without a prefix that all have in common."""
    levels = [{_own_name(name): tensor for name, tensor in level.items()} for level in by_prefix(tensors)]
    return next((level for level in levels if any(name in expected for name in level)), levels[0])


def _own_name(name: str) -> str:
    """MobileNetV2's blocks are `features` in torchvision's file."""
    return "blocks." + name.removeprefix("features.") if name.startswith("features.") else name
