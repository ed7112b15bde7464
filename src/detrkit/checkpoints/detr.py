"""DETR's weights as the authors and Hugging Face write them: their names, and the settings that names and shapes determine."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from detrkit.checkpoints.hugging_face import HuggingFaceForm, loss_settings, transformer_settings
from detrkit.checkpoints.key_mapping import KeyMapping, Rule, same
from detrkit.checkpoints.shared import (
    HUGGING_FACE_COUNTERS,
    OFFICIAL_BACKBONE,
    OFFICIAL_COUNTERS,
    OWN_RESNET,
    TIMM_BACKBONE,
    Count,
    Paper,
    Size,
    Table,
    hugging_face_backbone,
    hugging_face_layers,
    official_layers,
)

DECODER_NORMS = ("self_norm", "cross_norm", "feed_forward.norm")
# Everything except the decoder's layers; descendants share these rules.
OFFICIAL_FRAME = (
    OFFICIAL_BACKBONE,
    same("neck.projections.0", "input_proj"),
    same("query_source.position", "query_embed"),
    same("heads.class_head", "class_embed"),
    same("heads.box_head.layers.{n}", "bbox_embed.layers.{n}"),
    same("decoder.norm", "transformer.decoder.norm"),
    *official_layers("encoder", {"attention": "self_attn"}, ("norm", "feed_forward.norm")),
)
OFFICIAL = KeyMapping(
    [
        *OFFICIAL_FRAME,
        *official_layers(
            "decoder", {"self_attention": "self_attn", "cross_attention": "multihead_attn"}, DECODER_NORMS
        ),
    ],
    OFFICIAL_COUNTERS,
)


def hugging_face_frame(backbone: Collection[Rule]) -> list[Rule]:
    """Hugging Face's names of everything except the decoder's layers; `backbone` holds the rules of one of the two backbones."""
    return [
        *backbone,
        same("neck.projections.0", "model.input_projection"),
        same("query_source.position", "model.query_position_embeddings"),
        same("heads.class_head", "class_labels_classifier"),
        same("heads.box_head.layers.{n}", "bbox_predictor.layers.{n}"),
        same("decoder.norm", "model.decoder.layernorm"),
        *hugging_face_layers("encoder", {"attention": "self_attn"}),
    ]


def _hugging_face(backbone: Collection[Rule]) -> KeyMapping:
    attentions = {"self_attention": "self_attn", "cross_attention": "encoder_attn"}
    return KeyMapping(
        [*hugging_face_frame(backbone), *hugging_face_layers("decoder", attentions)], HUGGING_FACE_COUNTERS
    )


HUGGING_FACE = _hugging_face(hugging_face_backbone())
HUGGING_FACE_TIMM = _hugging_face(TIMM_BACKBONE)


def layout(names: Collection[str]) -> KeyMapping:
    """The table for the naming scheme that these names of a DETR follow."""
    if "query_embed.weight" in names:
        return OFFICIAL
    return HUGGING_FACE if OWN_RESNET in names else HUGGING_FACE_TIMM


def _settings(config: Any) -> dict[str, Any]:
    """Entries of `config.json`; in the loss their classes weigh 1."""
    weights = {"bbox": config.l1_weight, "giou": config.giou_weight}
    losses = loss_settings(config.term_weights, weights)
    return {**transformer_settings(config), **losses, "eos_coefficient": config.no_object_weight}


READINGS = (
    Size("queries", "query_source.position.weight"),
    Size("width", "query_source.position.weight", axis=1),
    Size("hidden", "decoder.layers.0.feed_forward.expand.weight"),
    Count("encoder_layers", "encoder.layers."),
    Count("decoder_layers", "decoder.layers."),
)
FORM = HuggingFaceForm(
    model_type="detr",
    architecture="DetrForObjectDetection",
    processor="DetrImageProcessor",
    names=lambda _, timm: HUGGING_FACE_TIMM if timm else HUGGING_FACE,
    settings=_settings,
)
TABLE = Table(
    paper=Paper(
        "DETR",
        (
            {
                "query_embed.weight": ("Q", "D"),
                "transformer.decoder.layers.0.multihead_attn.in_proj_weight": ("3D", "D"),
            },
            {
                "model.query_position_embeddings.weight": ("Q", "D"),
                "model.decoder.layers.0.encoder_attn.q_proj.weight": ("D", "D"),
            },
        ),
    ),
    official=lambda _: OFFICIAL,
    layout=layout,
    readings=(*READINGS, Size("class_count", "heads.class_head.weight", offset=-1)),  # the last output is for no-object
    hugging_face=FORM,
)
