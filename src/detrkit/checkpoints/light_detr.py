"""Light DETR is detrkit's own: no other code writes its weights, so its official names are detrkit's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detrkit.checkpoints.deformable_detr import SIZES, points_in
from detrkit.checkpoints.key_mapping import KeyMapping, Rule
from detrkit.checkpoints.shared import Paper, Size, Table, Tensors

_UNCHANGED = KeyMapping([Rule("{rest}", ("{rest}",))])


def _computed(values: Mapping[str, Any], tensors: Tensors, arguments: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - stored options say nothing more
    """Unlike in Deformable DETR, the weights show the number of heads: each sees the boxes' relations in its own way."""
    heads = Size("attention_heads", "decoder.relation.projection.weight").read(tensors)
    return {"attention_heads": heads, **points_in({**values, "attention_heads": heads}, tensors)}


TABLE = Table(
    paper=Paper("Light DETR", ()),
    official=lambda _: _UNCHANGED,
    layout=lambda _: _UNCHANGED,
    readings=(*SIZES, Size("queries", "query_source.content.weight")),
    compute=_computed,
    ours_alone="it is detrkit's own",
)
