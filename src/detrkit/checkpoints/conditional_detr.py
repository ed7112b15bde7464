"""Conditional DETR's weights as the authors and Hugging Face write them.

Both name the projections of an attention after what they project: content, position or, in cross-attention, the sine code of the reference.
Where the decoder's first layer also adds the queries' learned position, only that layer has a projection for it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from detrkit.checkpoints.detr import DECODER_NORMS, OFFICIAL_FRAME, READINGS, hugging_face_frame
from detrkit.checkpoints.hugging_face import HuggingFaceForm, loss_settings, transformer_settings
from detrkit.checkpoints.key_mapping import KeyMapping, Rule, same
from detrkit.checkpoints.shared import (
    HUGGING_FACE_COUNTERS,
    OFFICIAL_COUNTERS,
    OWN_RESNET,
    TIMM_BACKBONE,
    Paper,
    Size,
    Table,
    hugging_face_backbone,
    hugging_face_layers,
    official_layers,
)

# Attention among queries; SAM-DETR's files have the same names.
SELF_ATTENTION = {
    "self_attention.content_query": "sa_qcontent_proj",
    "self_attention.position_query": "sa_qpos_proj",
    "self_attention.content_key": "sa_kcontent_proj",
    "self_attention.position_key": "sa_kpos_proj",
    "self_attention.value": "sa_v_proj",
}
_PROJECTIONS = {
    **SELF_ATTENTION,
    "cross_attention.content_query": "ca_qcontent_proj",
    "cross_attention.spatial_query": "ca_qpos_sine_proj",
    "cross_attention.content_key": "ca_kcontent_proj",
    "cross_attention.spatial_key": "ca_kpos_proj",
    "cross_attention.value": "ca_v_proj",
}


def decoder_rules(decoder: str, *, self_attention: str, cross_attention: str) -> list[Rule]:
    """Rules for the parts of the decoder that DETR does not have.

    Args:
        decoder: beginning of foreign names in the decoder.
        self_attention: foreign name of the module that holds the self-attention's output projection.
        cross_attention: the same of the cross-attention.
    """
    own, foreign = "decoder.layers.{n}", f"{decoder}.layers.{{n}}"
    return [
        *(same(f"{own}.{ours}", f"{foreign}.{theirs}") for ours, theirs in _PROJECTIONS.items()),
        same("decoder.layers.0.cross_attention.position_query", f"{decoder}.layers.0.ca_qpos_proj"),
        same(f"{own}.self_attention.output", f"{foreign}.{self_attention}.out_proj"),
        same(f"{own}.cross_attention.output", f"{foreign}.{cross_attention}.out_proj"),
        same("decoder.position_scale.layers.{n}", f"{decoder}.query_scale.layers.{{n}}"),
    ]


def _reference_head(decoder: str) -> Rule:
    return same("query_source.reference_head.layers.{n}", f"{decoder}.ref_point_head.layers.{{n}}")


OFFICIAL = KeyMapping(
    [
        *OFFICIAL_FRAME,
        *official_layers("decoder", {}, DECODER_NORMS),
        *decoder_rules("transformer.decoder", self_attention="self_attn", cross_attention="cross_attn"),
        _reference_head("transformer.decoder"),
    ],
    OFFICIAL_COUNTERS,
)


def _hugging_face(backbone: Collection[Rule]) -> KeyMapping:
    """Hugging Face's names in files, which newer releases keep though their modules have other names."""
    own, foreign = "decoder.layers.{n}", "model.decoder.layers.{n}"
    return KeyMapping(
        [
            *hugging_face_frame(backbone),
            *hugging_face_layers("decoder", {}),
            *decoder_rules("model.decoder", self_attention="self_attn", cross_attention="encoder_attn"),
            same(f"{own}.self_norm", f"{foreign}.self_attn_layer_norm"),
            same(f"{own}.cross_norm", f"{foreign}.encoder_attn_layer_norm"),
            _reference_head("model.decoder"),
        ],
        HUGGING_FACE_COUNTERS,
    )


HUGGING_FACE = _hugging_face(hugging_face_backbone())
HUGGING_FACE_TIMM = _hugging_face(TIMM_BACKBONE)


def layout(names: Collection[str]) -> KeyMapping:
    """The table that these names of a Conditional DETR are written in."""
    if "query_embed.weight" in names:
        return OFFICIAL
    return HUGGING_FACE if OWN_RESNET in names else HUGGING_FACE_TIMM


def _settings(config: Any) -> dict[str, Any]:
    """Entries of `config.json`; `auxiliary_loss` would have their decoder norm its states between layers, too."""
    weights = {"cls": config.class_weight, "bbox": config.l1_weight, "giou": config.giou_weight}
    losses = loss_settings(config.term_weights, weights)
    return {**transformer_settings(config), **losses, "auxiliary_loss": False}


TABLE = Table(
    paper=Paper(
        "Conditional DETR",
        (
            {
                "query_embed.weight": ("Q", "D"),
                "transformer.decoder.layers.0.ca_qpos_sine_proj.weight": ("D", "D"),
                "transformer.decoder.ref_point_head.layers.1.weight": (2, "D"),
            },
            {
                "model.query_position_embeddings.weight": ("Q", "D"),
                "model.decoder.layers.0.ca_qpos_sine_proj.weight": ("D", "D"),
                "model.decoder.ref_point_head.layers.1.weight": (2, "D"),
            },
        ),
    ),
    official=lambda _: OFFICIAL,
    layout=layout,
    readings=(*READINGS, Size("class_count", "heads.class_head.weight")),
    hugging_face=HuggingFaceForm(
        model_type="conditional_detr",
        architecture="ConditionalDetrForObjectDetection",
        processor="ConditionalDetrImageProcessor",
        names=lambda _, timm: HUGGING_FACE_TIMM if timm else HUGGING_FACE,
        settings=_settings,
    ),
)
