"""DETR's weights as the authors and Hugging Face write them: names, and what names and shapes tell about the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from detrkit.checkpoints.key_mapping import Dropped, KeyMapping, Rule
from detrkit.errors import CheckpointError
from detrkit.models.detr import Config

_COUNTERS = "batch norm counts batches for its running averages, which frozen norms do not update"


def _same(own: str, foreign: str) -> Rule:
    return Rule(own + ".{leaf}", (foreign + ".{leaf}",))


def _official_layers(part: str, attentions: Mapping[str, str], norms: tuple[str, ...]) -> list[Rule]:
    own, foreign = f"{part}.layers.{{n}}", f"transformer.{part}.layers.{{n}}"
    rules = [
        _same(f"{own}.feed_forward.expand", f"{foreign}.linear1"),
        _same(f"{own}.feed_forward.contract", f"{foreign}.linear2"),
        *(_same(f"{own}.{name}", f"{foreign}.norm{index}") for index, name in enumerate(norms, start=1)),
    ]
    for ours, theirs in attentions.items():
        rules.append(Rule(f"{own}.{ours}.projection_{{leaf}}", (f"{foreign}.{theirs}.in_proj_{{leaf}}",)))
        rules.append(_same(f"{own}.{ours}.output", f"{foreign}.{theirs}.out_proj"))
    return rules


_DECODER_NORMS = ("self_norm", "cross_norm", "feed_forward.norm")
OFFICIAL = KeyMapping(
    [
        Rule("backbone.{rest}", ("backbone.0.body.{rest}",)),
        _same("neck.projections.0", "input_proj"),
        _same("query_source.position", "query_embed"),
        _same("heads.classes", "class_embed"),
        _same("heads.boxes.layers.{n}", "bbox_embed.layers.{n}"),
        _same("decoder.norm", "transformer.decoder.norm"),
        *_official_layers("encoder", {"attention": "self_attn"}, ("norm", "feed_forward.norm")),
        *_official_layers(
            "decoder", {"self_attention": "self_attn", "cross_attention": "multihead_attn"}, _DECODER_NORMS
        ),
    ],
    # The compact backbone's norms train, so its counters stay.
    [
        Dropped(f"backbone.0.body.{norms}.num_batches_tracked", _COUNTERS)
        for norms in ("bn{n}", "layer{rest}", "blocks.{rest}")
    ],
)


def _hugging_face_layers(part: str, attentions: Mapping[str, str]) -> list[Rule]:
    own, foreign = f"{part}.layers.{{n}}", f"model.{part}.layers.{{n}}"
    rules = [
        _same(f"{own}.feed_forward.expand", f"{foreign}.fc1"),
        _same(f"{own}.feed_forward.contract", f"{foreign}.fc2"),
        _same(f"{own}.feed_forward.norm", f"{foreign}.final_layer_norm"),
    ]
    for ours, theirs in attentions.items():
        norm = ours.replace("attention", "norm")
        projections = tuple(f"{foreign}.{theirs}.{letter}_proj.{{leaf}}" for letter in "qkv")
        rules += [
            Rule(f"{own}.{ours}.projection_{{leaf}}", projections),
            _same(f"{own}.{ours}.output", f"{foreign}.{theirs}.out_proj"),
            _same(f"{own}.{norm}", f"{foreign}.{theirs}_layer_norm"),
        ]
    return rules


def _hugging_face_backbone() -> list[Rule]:
    """Their own ResNet numbers stages and convolutions from 0 and pairs each convolution with its norm."""
    foreign = "model.backbone.conv_encoder.model"
    rules = []
    for ours, theirs in (("conv", "convolution"), ("bn", "normalization")):
        rules.append(_same(f"backbone.{ours}1", f"{foreign}.embedder.embedder.{theirs}"))
        for stage in range(4):
            own, block = f"backbone.layer{stage + 1}.{{n}}", f"{foreign}.encoder.stages.{stage}.layers.{{n}}"
            rules += [_same(f"{own}.{ours}{index + 1}", f"{block}.layer.{index}.{theirs}") for index in range(3)]
            rules.append(_same(f"{own}.downsample.{0 if ours == 'conv' else 1}", f"{block}.shortcut.{theirs}"))
    return rules


def _hugging_face(backbone: list[Rule]) -> KeyMapping:
    return KeyMapping(
        [
            *backbone,
            _same("neck.projections.0", "model.input_projection"),
            _same("query_source.position", "model.query_position_embeddings"),
            _same("heads.classes", "class_labels_classifier"),
            _same("heads.boxes.layers.{n}", "bbox_predictor.layers.{n}"),
            _same("decoder.norm", "model.decoder.layernorm"),
            *_hugging_face_layers("encoder", {"attention": "self_attn"}),
            *_hugging_face_layers("decoder", {"self_attention": "self_attn", "cross_attention": "encoder_attn"}),
        ],
        [Dropped("model.backbone.conv_encoder.model.{rest}.num_batches_tracked", _COUNTERS)],
    )


# Hugging Face writes one of two backbones: its own ResNet, or timm's, whose names are torchvision's.
HUGGING_FACE = _hugging_face(_hugging_face_backbone())
HUGGING_FACE_TIMM = _hugging_face([Rule("backbone.{rest}", ("model.backbone.conv_encoder.model.{rest}",))])


def find_layout(names: Collection[str]) -> KeyMapping | None:
    """The table that these names are written in, or None where they are not DETR's."""
    if "transformer.decoder.layers.0.multihead_attn.in_proj_weight" in names and "query_embed.weight" in names:
        return None if any("sampling_offsets" in name or ".ca_" in name for name in names) else OFFICIAL
    if (
        "model.query_position_embeddings.weight" in names
        and "model.decoder.layers.0.encoder_attn.q_proj.weight" in names
    ):
        own_resnet = "model.backbone.conv_encoder.model.embedder.embedder.convolution.weight"
        return HUGGING_FACE if own_resnet in names else HUGGING_FACE_TIMM
    return None


def backbone_names(own_names: Collection[str]) -> list[str]:
    """Backbones that the weights fit, by our names; more than one where only dilation tells them apart."""
    if "backbone.conv1.weight" not in own_names:
        first = {"backbone.blocks.0.0.weight": "mobilenet_v2", "backbone.stem.0.0.weight": "compact"}
        return [backbone for name, backbone in first.items() if name in own_names]
    bottleneck = "backbone.layer1.0.conv3.weight" in own_names
    deep = "backbone.layer3.22.conv1.weight" in own_names
    middling = "backbone.layer3.5.conv1.weight" in own_names
    name = ("resnet101" if deep else "resnet50") if bottleneck else "resnet34" if middling else "resnet18"
    if "backbone.layer4.0.conv1.weight" not in own_names:
        return [f"{name}-c4"]
    return [name, f"{name}-dc5"] if bottleneck else [name]


def fit_config(config: Config, tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Config:
    """A configuration with everything that shapes and stored arguments tell.

    Args:
        config: of the variant; what nothing tells (dilation, number of heads) stays as it is there.
        tensors: the weights by our names.
        arguments: options stored beside the weights.
    """
    needed = ("query_source.position.weight", "heads.classes.weight", "decoder.layers.0.feed_forward.expand.weight")
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise CheckpointError(f"the weights lack '{missing[0]}': this is only a part of a DETR")

    def layers(part: str) -> int:
        return len({name.split(".")[2] for name in tensors if name.startswith(f"{part}.layers.")})

    queries, width = tensors["query_source.position.weight"].shape
    return dataclasses.replace(
        config,
        queries=queries,
        width=width,
        classes=tensors["heads.classes.weight"].shape[0] - 1,
        hidden=tensors["decoder.layers.0.feed_forward.expand.weight"].shape[0],
        encoder_layers=layers("encoder"),
        decoder_layers=layers("decoder"),
        heads=int(arguments.get("nheads", arguments.get("encoder_attention_heads", config.heads))),
    )
