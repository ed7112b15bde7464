"""SAM-DETR's weights as the authors write them: Conditional DETR's names for attention among queries, and those of the aligner.

Shapes tell whether there is a Gaussian, and names whether levels are normed; dilation stands only in the stored arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from detrkit.checkpoints.conditional_detr import SELF_ATTENTION
from detrkit.checkpoints.deformable_detr import ENCODER_NORMS, attention_rules
from detrkit.checkpoints.detr import DECODER_NORMS
from detrkit.checkpoints.key_mapping import KeyMapping, Rule, same
from detrkit.checkpoints.shared import (
    OFFICIAL_BACKBONE,
    OFFICIAL_COUNTERS,
    Count,
    Paper,
    Present,
    Size,
    Table,
    Tensors,
    official_layers,
    size,
)
from detrkit.models.sam_detr import Config

_DECODER = {
    **SELF_ATTENTION,
    "self_attention.output": "self_attn.out_proj",
    "cross_attention.content_query": "ca_qcontent_proj",
    "cross_attention.content_key": "ca_kcontent_proj",
    "cross_attention.position_query.layers.{m}": "ca_qpos_sine_proj.layers.{m}",
    "cross_attention.position_key.layers.{m}": "ca_kpos_sine_proj.layers.{m}",
    "cross_attention.value": "ca_v_proj",
    "cross_attention.output": "cross_attn.out_proj",
    "aligner.squeeze": "point1.0",
    **{f"aligner.points.layers.{index}": f"point2.{2 * index}" for index in range(4)},
    "aligner.content_gate": "attn1",
    "aligner.position_gate": "attn2",
}


def _official(*, multi_scale: bool) -> KeyMapping:
    own, foreign = "decoder.layers.{n}", "transformer.decoder.layers.{n}"
    box_head = "bbox_embed.{m}.layers.{n}.{leaf}"
    if multi_scale:
        encoder = [
            *official_layers("encoder", {}, ENCODER_NORMS),
            *attention_rules("encoder", "attention", "transformer.encoder.layers.{n}.self_attn"),
            Rule("encoder.level_code", ("transformer.level_embed",)),
        ]
    else:
        encoder = official_layers("encoder", {"attention": "self_attn"}, ENCODER_NORMS)
    return KeyMapping(
        [
            OFFICIAL_BACKBONE,
            *(same(f"neck.projections.{{n}}.{index}", f"input_proj.{{n}}.{index}") for index in range(2)),
            *encoder,
            Rule("query_source.logits", ("query_embed.weight",)),
            *official_layers("decoder", {}, DECODER_NORMS),
            *(same(f"{own}.{ours}", f"{foreign}.{theirs}") for ours, theirs in _DECODER.items()),
            same("heads.class_heads.{n}", "class_embed.{n}"),
            Rule(
                "heads.box_heads.{m}.layers.{n}.{leaf}",
                (box_head,),
                aliases=(f"transformer.decoder.{box_head}",),
            ),
        ],
        OFFICIAL_COUNTERS,
    )


def official(config: Config) -> KeyMapping:
    """The authors' names for a model of this configuration."""
    return _official(multi_scale=config.levels > 1)


def layout(names: Collection[str]) -> KeyMapping:
    """The table that these names of a SAM-DETR are written in."""
    return _official(multi_scale="transformer.level_embed" in names)


class _Gaussian:
    """Whether each head has two numbers for its point, or two more for the Gaussian around it."""

    setting = "gaussian"

    def read(self, tensors: Tensors) -> bool:
        """See `Reading`."""
        numbers = Size("numbers", "decoder.layers.0.aligner.points.layers.3.weight").read(tensors)
        return numbers == 4 * _heads(tensors)


def _heads(tensors: Tensors) -> int:
    """Each of them has a gate as wide as the model."""
    gate = "decoder.layers.0.aligner.content_gate.weight"
    return Size("gates", gate).read(tensors) // max(size(tensors, gate, 1), 1)


def _computed(values: Mapping[str, Any], tensors: Tensors, arguments: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - see `Table.compute`
    """The encoder of several levels has half the hidden width, and shows its sampling points."""
    computed: dict[str, Any] = {"attention_heads": _heads(tensors)}
    weights = size(tensors, "encoder.layers.0.attention.weights.weight")
    if weights:
        computed["points"] = weights // max(computed["attention_heads"] * values["levels"], 1)
    return computed


TABLE = Table(
    paper=Paper(
        "SAM-DETR",
        (
            {
                "query_embed.weight": ("Q", 4),
                "transformer.decoder.layers.0.point1.0.weight": (None, "D", 1, 1),
                "transformer.decoder.layers.0.attn1.weight": (None, "D"),
            },
        ),
    ),
    official=official,
    layout=layout,
    readings=(
        Size("queries", "query_source.logits"),
        Size("width", "neck.projections.0.0.weight"),
        Size("hidden", "decoder.layers.0.feed_forward.expand.weight"),
        Size("class_count", "heads.class_heads.0.weight"),
        Count("levels", "neck.projections."),
        Count("encoder_layers", "encoder.layers."),
        Count("decoder_layers", "decoder.layers."),
        Present("normed_levels", "neck.projections.0.1.weight"),
        Present("cross_attention", "decoder.layers.0.cross_attention.content_query.weight"),
        _Gaussian(),
    ),
    telling=("gaussian", "levels", "cross_attention"),
    compute=_computed,
    fixed={"cross_attention": True},
)
