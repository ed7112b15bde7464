"""DETR's weights as the authors and Hugging Face write them: names, and what names and shapes tell about the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from detrkit.checkpoints.key_mapping import Dropped, KeyMapping, Rule, same
from detrkit.errors import CheckpointError
from detrkit.models.detr import Config

_COUNTERS = "batch norm counts batches for its running averages, which frozen norms do not update"
# The compact backbone's norms train, so its counters stay.
OFFICIAL_COUNTERS = tuple(
    Dropped(f"backbone.0.body.{norms}.num_batches_tracked", _COUNTERS)
    for norms in ("bn{n}", "layer{rest}", "blocks.{rest}")
)
HUGGING_FACE_COUNTERS = (Dropped("model.backbone.conv_encoder.model.{rest}.num_batches_tracked", _COUNTERS),)


def official_layers(part: str, attentions: Mapping[str, str], norms: tuple[str, ...]) -> list[Rule]:
    """Rules for the layers of a transformer as the authors name them.

    Args:
        part: "encoder" or "decoder".
        attentions: their names of multi-head attentions by ours.
        norms: our norms in the order of their numbers.
    """
    own, foreign = f"{part}.layers.{{n}}", f"transformer.{part}.layers.{{n}}"
    rules = [
        same(f"{own}.feed_forward.expand", f"{foreign}.linear1"),
        same(f"{own}.feed_forward.contract", f"{foreign}.linear2"),
        *(same(f"{own}.{name}", f"{foreign}.norm{index}") for index, name in enumerate(norms, start=1)),
    ]
    for ours, theirs in attentions.items():
        rules.append(Rule(f"{own}.{ours}.projection_{{leaf}}", (f"{foreign}.{theirs}.in_proj_{{leaf}}",)))
        rules.append(same(f"{own}.{ours}.output", f"{foreign}.{theirs}.out_proj"))
    return rules


_HEADS = ("nheads", "encoder_attention_heads", "decoder_attention_heads")
_DECODER_NORMS = ("self_norm", "cross_norm", "feed_forward.norm")
OFFICIAL = KeyMapping(
    [
        Rule("backbone.{rest}", ("backbone.0.body.{rest}",)),
        same("neck.projections.0", "input_proj"),
        same("query_source.position", "query_embed"),
        same("heads.classes", "class_embed"),
        same("heads.boxes.layers.{n}", "bbox_embed.layers.{n}"),
        same("decoder.norm", "transformer.decoder.norm"),
        *official_layers("encoder", {"attention": "self_attn"}, ("norm", "feed_forward.norm")),
        *official_layers(
            "decoder", {"self_attention": "self_attn", "cross_attention": "multihead_attn"}, _DECODER_NORMS
        ),
    ],
    OFFICIAL_COUNTERS,
)


def hugging_face_layers(part: str, attentions: Mapping[str, str]) -> list[Rule]:
    """Rules for the layers of a transformer as Hugging Face names them; arguments as in `official_layers`."""
    own, foreign = f"{part}.layers.{{n}}", f"model.{part}.layers.{{n}}"
    rules = [
        same(f"{own}.feed_forward.expand", f"{foreign}.fc1"),
        same(f"{own}.feed_forward.contract", f"{foreign}.fc2"),
        same(f"{own}.feed_forward.norm", f"{foreign}.final_layer_norm"),
    ]
    for ours, theirs in attentions.items():
        norm = ours.replace("attention", "norm")
        projections = tuple(f"{foreign}.{theirs}.{letter}_proj.{{leaf}}" for letter in "qkv")
        rules += [
            Rule(f"{own}.{ours}.projection_{{leaf}}", projections),
            same(f"{own}.{ours}.output", f"{foreign}.{theirs}.out_proj"),
            same(f"{own}.{norm}", f"{foreign}.{theirs}_layer_norm"),
        ]
    return rules


def hugging_face_backbone() -> list[Rule]:
    """Rules for their own ResNet, which numbers stages and convolutions from 0 and pairs each convolution with its norm."""
    foreign = "model.backbone.conv_encoder.model"
    rules = []
    for ours, theirs in (("conv", "convolution"), ("bn", "normalization")):
        rules.append(same(f"backbone.{ours}1", f"{foreign}.embedder.embedder.{theirs}"))
        for stage in range(4):
            own, block = f"backbone.layer{stage + 1}.{{n}}", f"{foreign}.encoder.stages.{stage}.layers.{{n}}"
            rules += [same(f"{own}.{ours}{index + 1}", f"{block}.layer.{index}.{theirs}") for index in range(3)]
            rules.append(same(f"{own}.downsample.{0 if ours == 'conv' else 1}", f"{block}.shortcut.{theirs}"))
    return rules


def _hugging_face(backbone: list[Rule]) -> KeyMapping:
    return KeyMapping(
        [
            *backbone,
            same("neck.projections.0", "model.input_projection"),
            same("query_source.position", "model.query_position_embeddings"),
            same("heads.classes", "class_labels_classifier"),
            same("heads.boxes.layers.{n}", "bbox_predictor.layers.{n}"),
            same("decoder.norm", "model.decoder.layernorm"),
            *hugging_face_layers("encoder", {"attention": "self_attn"}),
            *hugging_face_layers("decoder", {"self_attention": "self_attn", "cross_attention": "encoder_attn"}),
        ],
        HUGGING_FACE_COUNTERS,
    )


# Hugging Face writes one of two backbones: its own ResNet, or timm's, whose names are torchvision's.
OWN_RESNET = "model.backbone.conv_encoder.model.embedder.embedder.convolution.weight"
TIMM_BACKBONE = [Rule("backbone.{rest}", ("model.backbone.conv_encoder.model.{rest}",))]
HUGGING_FACE = _hugging_face(hugging_face_backbone())
HUGGING_FACE_TIMM = _hugging_face(TIMM_BACKBONE)


def official(config: Config) -> KeyMapping:  # noqa: ARG001 - other papers' names depend on their settings
    """The authors' names for a model of this configuration."""
    return OFFICIAL


def find_layout(names: Collection[str]) -> KeyMapping | None:
    """The table that these names are written in, or None where they are not DETR's."""
    if "transformer.decoder.layers.0.multihead_attn.in_proj_weight" in names and "query_embed.weight" in names:
        return None if any("sampling_offsets" in name or ".ca_" in name for name in names) else OFFICIAL
    if (
        "model.query_position_embeddings.weight" in names
        and "model.decoder.layers.0.encoder_attn.q_proj.weight" in names
    ):
        return HUGGING_FACE if OWN_RESNET in names else HUGGING_FACE_TIMM
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


def candidates(tensors: Mapping[str, Tensor], configs: Mapping[str, Config]) -> list[str]:  # noqa: ARG001 - all have these names
    """Variants that the weights could be of.

    Args:
        tensors: the weights by our names.
        configs: the variants with a backbone that the weights fit.
    """
    return list(configs)


def fit_config(config: Config, tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Config:
    """A configuration with everything that shapes and stored arguments tell.

    Args:
        config: of the variant; what nothing tells (dilation, number of heads) stays as it is there.
        tensors: the weights by our names.
        arguments: options stored beside the weights.

    Raises:
        CheckpointError: the weights are only a part of a model.
    """
    needed = ("query_source.position.weight", "heads.classes.weight", "decoder.layers.0.feed_forward.expand.weight")
    check_whole(tensors, needed, "DETR")
    queries, width = tensors["query_source.position.weight"].shape
    return dataclasses.replace(
        config,
        queries=queries,
        width=width,
        classes=tensors["heads.classes.weight"].shape[0] - 1,
        hidden=tensors["decoder.layers.0.feed_forward.expand.weight"].shape[0],
        encoder_layers=count_layers(tensors, "encoder.layers."),
        decoder_layers=count_layers(tensors, "decoder.layers."),
        heads=told_heads(arguments, config.heads),
    )


def check_whole(tensors: Mapping[str, Tensor], needed: Collection[str], paper: str) -> None:
    """Raises a CheckpointError where a tensor is missing that a model's size is read from."""
    for name in needed:
        if name not in tensors:
            raise CheckpointError(f"the weights lack '{name}': this is only a part of a {paper}")


def count_layers(names: Collection[str], prefix: str) -> int:
    """How many numbers follow this beginning of a name."""
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})


def told_heads(arguments: Mapping[str, Any], default: int) -> int:
    """The number of attention heads that stored arguments tell, or else the default.

    Raises:
        CheckpointError: encoder and decoder have different numbers.
    """
    told = {int(arguments[name]) for name in _HEADS if name in arguments}
    if len(told) > 1:
        raise CheckpointError(
            f"the settings give encoder and decoder {' and '.join(map(str, sorted(told)))} attention heads: "
            "detrkit builds them with the same number only"
        )
    return told.pop() if told else default


def told_dilation(arguments: Mapping[str, Any]) -> bool | None:
    """Whether stored arguments say that the backbone's last stage is dilated; None where they say nothing."""
    backbone = arguments.get("backbone_config")
    if isinstance(backbone, Mapping) and "output_stride" in backbone:  # as timm's backbones are told
        return int(backbone["output_stride"]) == 16
    return bool(arguments["dilation"]) if "dilation" in arguments else None
