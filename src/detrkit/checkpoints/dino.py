"""DINO's weights as the authors write them.

All decoder layers share one pair of heads, which is written under the number of every layer and once more as a part of the decoder. Learned
contents have the name that DAB-DETR gives to its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from detrkit.checkpoints.dab_detr import stated_training
from detrkit.checkpoints.deformable_detr import (
    DECODER_NORMS,
    ENCODER_NORMS,
    SIZES,
    attention_rules,
    points_in,
)
from detrkit.checkpoints.key_mapping import KeyMapping, Rule, same
from detrkit.checkpoints.shared import (
    OFFICIAL_BACKBONE,
    OFFICIAL_COUNTERS,
    Paper,
    Signature,
    Size,
    Table,
    count_modules,
    official_layers,
)
from detrkit.checkpoints.stored import stored_float, stored_number
from detrkit.errors import CheckpointError
from detrkit.models.dino import Config

_TRANSFORMER, _DECODER = "transformer.", "transformer.decoder."
SIGNATURE: Signature = {
    "label_enc.weight": (None, "D"),
    "transformer.tgt_embed.weight": ("Q", "D"),
    "transformer.enc_out_class_embed.weight": ("K", "D"),
    "transformer.decoder.layers.0.cross_attn.sampling_offsets.weight": (None, "D"),
}


def official(config: Config) -> KeyMapping:
    """The authors' names for a model of this configuration."""
    return _official(config.decoder_layers)


def layout(names: Collection[str]) -> KeyMapping:
    """The only naming scheme."""
    return _official(count_modules(names, f"{_DECODER}layers."))


def _official(layers: int) -> KeyMapping:
    attention = "transformer.{part}.layers.{{n}}.{name}"
    modules = {
        "query_source.content": f"{_TRANSFORMER}tgt_embed",
        "query_source.denoising.embedding": "label_enc",
        "query_source.proposals.projection": f"{_TRANSFORMER}enc_output",
        "query_source.proposals.norm": f"{_TRANSFORMER}enc_output_norm",
        "query_source.proposals.class_head": f"{_TRANSFORMER}enc_out_class_embed",
        "query_source.proposals.box_head.layers.{n}": f"{_TRANSFORMER}enc_out_bbox_embed.layers.{{n}}",
        "decoder.position_head.layers.{n}": f"{_DECODER}ref_point_head.layers.{{n}}",
        "decoder.norm": f"{_DECODER}norm",
        "neck.projections.{n}.0": "input_proj.{n}.0",
        "neck.projections.{n}.1": "input_proj.{n}.1",
    }
    return KeyMapping(
        [
            OFFICIAL_BACKBONE,
            *official_layers("encoder", {}, ENCODER_NORMS),
            *official_layers("decoder", {"self_attention": "self_attn"}, DECODER_NORMS),
            *attention_rules("encoder", "attention", attention.format(part="encoder", name="self_attn")),
            *attention_rules("decoder", "cross_attention", attention.format(part="decoder", name="cross_attn")),
            Rule("encoder.level_code", (f"{_TRANSFORMER}level_embed",)),
            *(same(ours, theirs) for ours, theirs in modules.items()),
            *_head_rules(layers),
        ],
        OFFICIAL_COUNTERS,
    )


def _head_rules(layers: int) -> list[Rule]:
    """The heads under all their names; the first one is the name under which the authors' code has the gradients."""
    rules = []
    for ours, theirs, leaf in (
        ("class_head", "class_embed", "{leaf}"),
        ("box_head", "bbox_embed", "layers.{n}.{leaf}"),
    ):
        names = [f"{prefix}{theirs}.{layer}.{leaf}" for prefix in ("", _DECODER) for layer in reversed(range(layers))]
        rules.append(Rule(f"heads.{ours}.{leaf}", (names[0],), aliases=tuple(names[1:])))
    return rules


def stated(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the authors' options say beyond names and shapes: temperature, noise, and the weights of matching and loss.

    Raises:
        CheckpointError: options that detrkit does not build, or a setting of another kind than it should be.
    """
    if not arguments:
        return {}
    values = {name: value for name, value in stated_training(arguments).items() if name != "centers"}
    temperatures = {stored_float(arguments, f"pe_temperature{axis}") for axis in "HW"} - {None}
    if len(temperatures) > 1:
        raise CheckpointError(
            f"the settings have pe_temperatureH {arguments['pe_temperatureH']} and pe_temperatureW {arguments['pe_temperatureW']}: detrkit "
            "builds one temperature for both axes"
        )
    if temperatures:
        values["temperature"] = temperatures.pop()
    pairs = stored_number(arguments, "dn_number", also_zero=True)
    noise = {
        "label_noise": stored_float(arguments, "dn_label_noise_ratio"),
        "box_noise": stored_float(arguments, "dn_box_noise_scale"),
    }
    if pairs:  # without any, the file was trained without denoising, which loading need not know
        values["denoising"] = 2 * pairs
    if noise["label_noise"] is not None:
        noise["label_noise"] /= 2  # the authors flip half as many as they say
    return values | {name: value for name, value in noise.items() if value is not None}


TABLE = Table(
    paper=Paper("DINO", (SIGNATURE,)),
    official=official,
    layout=layout,
    readings=(
        *SIZES,
        Size("queries", "query_source.content.weight"),
        Size("label_codes", "query_source.denoising.embedding.weight"),
    ),
    telling=("levels",),
    stated=stated,
    compute=lambda values, tensors, arguments: points_in(values, tensors),  # noqa: ARG005
)
