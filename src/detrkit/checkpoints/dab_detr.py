"""DAB-DETR's weights as the authors and Hugging Face write them.

Both write the box head a second time as a part of the decoder. An anchor is one row of four logits there; here centres and sides are two tensors,
since centres may be fixed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from detrkit.checkpoints.conditional_detr import decoder_rules
from detrkit.checkpoints.detr import DECODER_NORMS
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
    Present,
    Rows,
    Signature,
    Size,
    Table,
    Tensors,
    hugging_face_backbone,
    hugging_face_layers,
    official_layers,
)
from detrkit.checkpoints.stored import stored_flag, stored_float
from detrkit.errors import CheckpointError
from detrkit.models.dab_detr import Config

# DN-DETR's files have these tensors, too.
SIGNATURE: Signature = {
    "refpoint_embed.weight": ("Q", 4),
    "transformer.decoder.ref_point_head.layers.0.weight": ("D", "2D"),
    "transformer.decoder.layers.0.ca_qpos_sine_proj.weight": ("D", "D"),
}
_HUGGING_FACE_PROJECTIONS = {
    "self_attention.content_query": "self_attn.self_attn_query_content_proj",
    "self_attention.position_query": "self_attn.self_attn_query_pos_proj",
    "self_attention.content_key": "self_attn.self_attn_key_content_proj",
    "self_attention.position_key": "self_attn.self_attn_key_pos_proj",
    "self_attention.value": "self_attn.self_attn_value_proj",
    "self_attention.output": "self_attn.self_attn.output_proj",
    "self_norm": "self_attn.self_attn_layer_norm",
    "cross_attention.content_query": "cross_attn.cross_attn_query_content_proj",
    "cross_attention.position_query": "cross_attn.cross_attn_query_pos_proj",
    "cross_attention.spatial_query": "cross_attn.cross_attn_query_pos_sine_proj",
    "cross_attention.content_key": "cross_attn.cross_attn_key_content_proj",
    "cross_attention.spatial_key": "cross_attn.cross_attn_key_pos_proj",
    "cross_attention.value": "cross_attn.cross_attn_value_proj",
    "cross_attention.output": "cross_attn.cross_attn.output_proj",
    "cross_norm": "cross_attn.cross_attn_layer_norm",
    "feed_forward.expand": "mlp.fc1",
    "feed_forward.activation": "mlp.activation_fn",
    "feed_forward.contract": "mlp.fc2",
    "feed_forward.norm": "mlp.final_layer_norm",
}


def anchor_rules(anchors: str, patterns: str, content: str) -> list[Rule]:
    """Rules for the query source; arguments are foreign names of its modules."""
    return [
        Rule(("query_source.center_logits", "query_source.side_logits"), (f"{anchors}.weight",), axis=1),
        same("query_source.patterns", patterns),
        same("query_source.content", content),
    ]


def _head_rules(box_head: str, decoder: str) -> list[Rule]:
    """The class head, and the box head or box heads under both of their names."""
    rules = [same("heads.class_head", "class_embed")]
    for ours, number in (("box_head", ""), ("box_heads.{m}", ".{m}")):
        leaf = f"{number}.layers.{{n}}.{{leaf}}"
        alias = f"{decoder}.bbox_embed{leaf}"
        rules.append(Rule(f"heads.{ours}.layers.{{n}}.{{leaf}}", (f"{box_head}{leaf}",), aliases=(alias,)))
    return rules


def _scale_rules(transformer: str) -> list[Rule]:
    """The small networks between references, contents and codes that Conditional DETR does not have."""
    names = {
        "encoder.position_scale": "encoder.query_scale",
        "decoder.position_head": "decoder.ref_point_head",
        "decoder.side_head": "decoder.ref_anchor_head",
    }
    return [same(f"{ours}.layers.{{n}}", f"{transformer}.{theirs}.layers.{{n}}") for ours, theirs in names.items()]


def _official() -> KeyMapping:
    own, foreign = "{part}.layers.{{n}}.feed_forward.activation", "transformer.{part}.layers.{{n}}.activation"
    return KeyMapping(
        [
            OFFICIAL_BACKBONE,
            same("neck.projections.0", "input_proj"),
            *anchor_rules("refpoint_embed", "transformer.patterns", "tgt_embed"),
            *_head_rules("bbox_embed", "transformer.decoder"),
            same("decoder.norm", "transformer.decoder.norm"),
            *official_layers("encoder", {"attention": "self_attn"}, ("norm", "feed_forward.norm")),
            *official_layers("decoder", {}, DECODER_NORMS),
            *(same(own.format(part=part), foreign.format(part=part)) for part in ("encoder", "decoder")),
            *decoder_rules("transformer.decoder", self_attention="self_attn", cross_attention="cross_attn"),
            *_scale_rules("transformer"),
        ],
        OFFICIAL_COUNTERS,
    )


def _hugging_face(backbone: Collection[Rule]) -> KeyMapping:
    projections = _HUGGING_FACE_PROJECTIONS.items()
    return KeyMapping(
        [
            *backbone,
            same("neck.projections.0", "model.input_projection"),
            *anchor_rules("model.query_refpoint_embeddings", "model.patterns", "model.content"),
            *_head_rules("bbox_predictor", "model.decoder"),
            same("decoder.norm", "model.decoder.layernorm"),
            *hugging_face_layers("encoder", {"attention": "self_attn"}),
            same("encoder.layers.{n}.feed_forward.activation", "model.encoder.layers.{n}.activation_fn"),
            *(
                same(f"decoder.layers.{{n}}.{ours}", f"model.decoder.layers.{{n}}.{theirs}")
                for ours, theirs in projections
            ),
            same("decoder.position_scale.layers.{n}", "model.decoder.query_scale.layers.{n}"),
            *_scale_rules("model"),
        ],
        HUGGING_FACE_COUNTERS,
    )


OFFICIAL = _official()
HUGGING_FACE = _hugging_face(hugging_face_backbone())
HUGGING_FACE_TIMM = _hugging_face(TIMM_BACKBONE)
# Unlike in other papers' files, timm's network keeps the name that its wrapper gives it.
_HUGGING_FACE_WRITTEN = _hugging_face(
    [Rule("backbone.{rest}", ("model.backbone.conv_encoder.model._backbone.{rest}",))]
)


def layout(names: Collection[str]) -> KeyMapping:
    """The table for the naming scheme that these names of a DAB-DETR follow."""
    if "refpoint_embed.weight" in names:
        return OFFICIAL
    return HUGGING_FACE if OWN_RESNET in names else HUGGING_FACE_TIMM


def stated(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the authors' options and Hugging Face's settings say beyond names and shapes.

    Raises:
        CheckpointError: two temperatures, or a setting of another kind than it should be.
    """
    return stated_training(arguments) | _stated_temperature(arguments)


def stated_training(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Whether centres are fixed, and the weights of matching and loss.

    Hugging Face's `cls_loss_coefficient` is left out: its loss does not heed it, but weighs classes 1, as is the default here.

    Raises:
        CheckpointError: a setting of another kind than it should be.
    """
    if not arguments:
        return {}
    options = {
        "cls_loss_coef": "class_weight",
        "bbox_loss_coef": "l1_weight",
        "giou_loss_coef": "giou_weight",
        "set_cost_class": "class_cost",
        "set_cost_bbox": "l1_cost",
        "set_cost_giou": "giou_cost",
        "bbox_loss_coefficient": "l1_weight",
        "giou_loss_coefficient": "giou_weight",
        "class_cost": "class_cost",
        "bbox_cost": "l1_cost",
        "giou_cost": "giou_cost",
    }
    values = [(ours, stored_float(arguments, theirs)) for theirs, ours in options.items()]
    stated = {name: value for name, value in values if value is not None}
    fixed = stored_flag(arguments, "random_refpoints_xy")
    return {**stated, "centers": "random" if fixed else "learned"}


def _stated_temperature(arguments: Mapping[str, Any]) -> dict[str, Any]:
    scale = stored_float(arguments, "sine_position_embedding_scale")
    if scale is not None and not math.isclose(scale, 2 * math.pi):
        raise CheckpointError(
            f"the settings have sine_position_embedding_scale {scale}: detrkit builds position codes of one turn, 2 pi, only"
        )
    names = ("pe_temperatureH", "pe_temperatureW", "temperature_height", "temperature_width")
    stored = {name: stored_float(arguments, name) for name in names}
    found = {name: value for name, value in stored.items() if value is not None}
    if len(set(found.values())) > 1:
        pairs = " and ".join(f"{name} {arguments[name]}" for name in found)
        raise CheckpointError(f"the settings have {pairs}: detrkit builds one temperature for both axes")
    return {"temperature": next(iter(found.values()))} if found else {}


def count_queries(values: Mapping[str, Any], tensors: Tensors, arguments: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """Anchors times patterns."""
    anchors = Rows("queries", "query_source.side_logits").read(tensors)
    return {"queries": anchors * max(values["patterns"], 1)}


# What neither the authors' code nor Hugging Face's computes.
_FIXED = {"learned_content": False, "least_side": 0.0, "normed_references": False}


def _settings(config: Config) -> dict[str, Any]:
    """Entries of `config.json`; `num_queries` counts anchors."""
    if not config.temperature.is_integer():
        raise CheckpointError(f"transformers takes whole temperatures only, and this model has {config.temperature}")
    settings = transformer_settings(config)
    weights = {"cls": config.class_weight, "bbox": config.l1_weight, "giou": config.giou_weight}
    return {
        **{name: value for name, value in settings.items() if name not in ("d_model", "position_embedding_type")},
        **loss_settings(config.cost_weights, weights),
        "hidden_size": config.width,
        "activation_function": "prelu",
        "num_queries": config.queries // max(config.patterns, 1),
        "num_patterns": config.patterns,
        "random_refpoints_xy": config.centers != "learned",
        **dict.fromkeys(("temperature_height", "temperature_width"), int(config.temperature)),
    }


TABLE = Table(
    paper=Paper(
        "DAB-DETR",
        (
            SIGNATURE,
            {
                "model.query_refpoint_embeddings.weight": ("Q", 4),
                "model.decoder.ref_point_head.layers.0.weight": ("D", "2D"),
            },
        ),
    ),
    official=lambda _: OFFICIAL,
    layout=layout,
    readings=(
        Size("width", "neck.projections.0.weight"),
        Size("hidden", "decoder.layers.0.feed_forward.expand.weight"),
        Size("class_count", "heads.class_head.weight"),
        Count("encoder_layers", "encoder.layers."),
        Count("decoder_layers", "decoder.layers."),
        Rows("patterns", "query_source.patterns.weight"),
        Present("learned_content", "query_source.content.weight"),
        Present("modulate", "decoder.side_head.layers.0.weight"),
        Present("box_head_per_layer", "heads.box_heads.0.layers.0.weight"),
    ),
    telling=("patterns",),
    stated=stated,
    compute=count_queries,
    fixed=_FIXED,
    hugging_face=HuggingFaceForm(
        model_type="dab-detr",
        architecture="DabDetrForObjectDetection",
        processor="ConditionalDetrImageProcessor",
        names=lambda _, timm: _HUGGING_FACE_WRITTEN if timm else HUGGING_FACE,
        settings=_settings,
        fixed=_FIXED | {"box_head_per_layer": False, "modulate": True},
        note="transformers lets the boxes of DAB-DETR come nearer to the image's border than its authors do, so results there may differ.",
    ),
)
