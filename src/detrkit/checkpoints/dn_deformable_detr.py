"""DN-DAB-Deformable-DETR's weights as the authors write them: DAB-Deformable-DETR's, and codes of the classes with one more for none."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from detrkit.checkpoints import dab_deformable_detr
from detrkit.checkpoints.dab_detr import stated_training
from detrkit.checkpoints.dn_detr import LABEL_RULE, LABELS, stated_denoising
from detrkit.checkpoints.key_mapping import KeyMapping
from detrkit.checkpoints.shared import Paper, Table
from detrkit.models.dn_deformable_detr import Config


def official(config: Config) -> KeyMapping:
    """The authors' names for a model of this configuration."""
    return _with_labels(dab_deformable_detr.official(config))


def layout(names: Collection[str]) -> KeyMapping:
    """The only naming scheme."""
    return _with_labels(dab_deformable_detr.layout(names))


def stated(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the authors' options say beyond names and shapes.

    Raises:
        CheckpointError: an option of another kind than it should be.
    """
    return stated_training(arguments) | stated_denoising(arguments)


def _with_labels(mapping: KeyMapping) -> KeyMapping:
    return KeyMapping([*mapping.rules, LABEL_RULE], mapping.dropped)


TABLE: Table = dataclasses.replace(
    dab_deformable_detr.TABLE,
    paper=Paper(
        "DN-DAB-Deformable-DETR", ({**dab_deformable_detr.ANCHORS, **LABELS, "tgt_embed.weight": ("Q", "D-1")},)
    ),
    official=official,
    layout=layout,
    stated=stated,
)
