"""DAB-Deformable-DETR's weights as the authors write them: Deformable DETR's with refinement, except for the queries."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from detrkit.checkpoints import deformable_detr
from detrkit.checkpoints.dab_detr import anchor_rules, count_queries, stated_training
from detrkit.checkpoints.deformable_detr import Form, official_frame
from detrkit.checkpoints.key_mapping import KeyMapping, same
from detrkit.checkpoints.shared import OFFICIAL_COUNTERS, Paper, Rows, Signature, Table, Tensors, count_modules
from detrkit.models.dab_deformable_detr import Config

_OFFSETS = "transformer.decoder.layers.0.cross_attn.sampling_offsets.weight"
# DN-Deformable-DETR's files have these tensors, too.
ANCHORS: Signature = {
    "refpoint_embed.weight": ("Q", 4),
    "transformer.decoder.ref_point_head.layers.0.weight": ("D", "2D"),
    _OFFSETS: (None, "D"),
}


def official(config: Config) -> KeyMapping:
    """The authors' names for a model of this configuration."""
    return _official(config.decoder_layers)


def layout(names: Collection[str]) -> KeyMapping:
    """The only naming scheme."""
    return _official(count_modules(names, "transformer.decoder.layers."))


def _official(layers: int) -> KeyMapping:
    names = {"position_head": "ref_point_head", "position_scale": "query_scale"}
    return KeyMapping(
        [
            *official_frame(Form(layers=layers, refine=True, two_stage=False)),
            *anchor_rules("refpoint_embed", "patterns_embed", "tgt_embed"),
            *(
                same(f"decoder.{ours}.layers.{{n}}", f"transformer.decoder.{theirs}.layers.{{n}}")
                for ours, theirs in names.items()
            ),
        ],
        OFFICIAL_COUNTERS,
    )


def _computed(values: Mapping[str, Any], tensors: Tensors, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return deformable_detr.points_in(values, tensors) | count_queries(values, tensors, arguments)


TABLE = Table(
    paper=Paper("DAB-Deformable-DETR", ({**ANCHORS, "tgt_embed.weight": ("Q", "D")},)),
    official=official,
    layout=layout,
    readings=(*deformable_detr.SIZES, Rows("patterns", "query_source.patterns.weight")),
    telling=("levels",),
    stated=stated_training,
    compute=_computed,
    fixed={"padded_positions": True},
)
