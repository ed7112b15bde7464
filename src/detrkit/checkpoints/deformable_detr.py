"""Deformable DETR's weights as the authors and Hugging Face write them.

Both write some tensors more than once. Without refinement one pair of heads stands under the number of every decoder layer; with it the
decoder holds the box heads a second time, and in two stages also the class heads, whose last number is the encoder's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from detrkit.checkpoints.detr import (
    HUGGING_FACE_COUNTERS,
    OFFICIAL_COUNTERS,
    OWN_RESNET,
    TIMM_BACKBONE,
    check_whole,
    count_layers,
    hugging_face_backbone,
    hugging_face_layers,
    official_layers,
    told_dilation,
    told_heads,
)
from detrkit.checkpoints.key_mapping import KeyMapping, Rule, same
from detrkit.errors import CheckpointError
from detrkit.models.deformable_detr import Config

# Norms are numbered in the order of the paper's figure, not in the order that the decoder runs them.
_ENCODER_NORMS, _DECODER_NORMS = ("norm", "feed_forward.norm"), ("cross_norm", "self_norm", "feed_forward.norm")
# Ours, by the setting that they come from: Relation DETR's own layer is another one, and DINO's codes of classes have a row more.
OWN_NAMES = {"transformer.decoder.box_relation.": "box_relation", "transformer.denoising.": "denoising"}
# Begin names that the paper's own models have not: they are another paper's, or no paper's at all.
_DESCENDANTS = (
    "refpoint_embed.",
    "tgt_embed.",
    "label_enc.",
    "transformer.decoder.norm.",
    "transformer.decoder.ref_point_head.",
    *OWN_NAMES,
)


@dataclass(frozen=True)
class _Form:
    """What decides which names a model has."""

    layers: int
    refine: bool
    two_stage: bool
    learned_content: bool = False
    box_relation: bool = False
    denoising: bool = False


def official(config: Config) -> KeyMapping:
    """The authors' names for a model of this configuration. Learned content has its descendants' name; see `OWN_NAMES` for the rest."""
    return _official(
        _Form(
            layers=config.decoder_layers,
            refine=config.refine,
            two_stage=config.two_stage,
            learned_content=config.learned_content,
            box_relation=config.box_relation,
            denoising=config.denoising > 0,
        )
    )


def find_layout(names: Collection[str]) -> KeyMapping | None:
    """The table that these names are written in, or None where they are not Deformable DETR's."""
    if _attends_deformably(names, "transformer.", "cross_attn", "query_embed"):
        descendant = any(name.startswith(_DESCENDANTS) for name in names)
        return None if descendant else _official(_form(names, "transformer."))
    if _attends_deformably(names, "model.", "encoder_attn", "model.query_position_embeddings"):
        return _hugging_face(_form(names, "model."), names)
    return None


def candidates(tensors: Mapping[str, Tensor], configs: Mapping[str, Config]) -> list[str]:
    """Variants that the weights could be of: those nearest in stages, then in refinement, then in levels.

    A model that was built with changed settings may agree with none in all; its own settings are then read from the weights.

    Args:
        tensors: the weights by our names.
        configs: the variants with a backbone that the weights fit.
    """
    two_stage, refine, levels = _two_stage(tensors), _refined(tensors), _levels(tensors)
    agreement = {
        # Weights with learned content or names of ours are not read from the authors' layout, see `find_layout`.
        name: (
            config.two_stage == two_stage,
            not (config.learned_content or config.box_relation or config.denoising),
            config.refine == refine,
            config.levels == levels,
        )
        for name, config in configs.items()
    }
    return [name for name, found in agreement.items() if found == max(agreement.values())]


def fit_config(config: Config, tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Config:
    """A configuration with everything that shapes and stored arguments tell.

    Args:
        config: of the variant; what nothing tells (number of heads, dilation, in two stages the number of queries and `distinct_overlap`)
            stays as it is there.
        tensors: the weights by our names.
        arguments: options stored beside the weights.

    Raises:
        CheckpointError: the weights are only a part of a model, or do not fit the number of heads.
    """
    refine, two_stage = _refined(tensors), _two_stage(tensors)
    classes, attention = f"heads.classes.{'0.' * refine}weight", "decoder.layers.0.cross_attention.weights.weight"
    hidden, projection = "decoder.layers.0.feed_forward.expand.weight", "neck.projections.0.0.weight"
    queries = [] if two_stage else ["query_source.embedding.weight"]
    check_whole(tensors, (classes, attention, hidden, projection, *queries), "Deformable DETR")
    heads, levels = told_heads(arguments, config.heads), _levels(tensors)
    points, rest = divmod(len(tensors[attention]), heads * levels)
    if rest:
        raise CheckpointError(
            f"{len(tensors[attention])} attention weights do not fit {heads} heads on {levels} levels: "
            "give the variant that it was trained as"
        )
    return dataclasses.replace(
        config,
        classes=len(tensors[classes]),
        backbone=_backbone(config.backbone, arguments),
        levels=levels,
        queries=_told_queries(arguments, config.queries) if two_stage else len(tensors[queries[0]]),
        width=len(tensors[projection]),
        heads=heads,
        points=points,
        hidden=len(tensors[hidden]),
        encoder_layers=count_layers(tensors, "encoder.layers."),
        decoder_layers=count_layers(tensors, "decoder.layers."),
        refine=refine,
        two_stage=two_stage,
    )


def _levels(names: Collection[str]) -> int:
    return count_layers(names, "neck.projections.")


def _refined(names: Collection[str]) -> bool:
    return "heads.classes.0.weight" in names


def _two_stage(names: Collection[str]) -> bool:
    return "query_source.position_projection.weight" in names


def _told_queries(arguments: Mapping[str, Any], default: int) -> int:
    """In two stages queries leave no trace in the weights."""
    return int(arguments.get("two_stage_num_proposals", arguments.get("num_queries", default)))


def _backbone(name: str, arguments: Mapping[str, Any]) -> str:
    """Dilation can be had with several levels, too, which no published variant has."""
    dilated = told_dilation(arguments)
    return name if dilated is None else name.removesuffix("-dc5") + "-dc5" * dilated


def _attends_deformably(names: Collection[str], transformer: str, cross_attention: str, queries: str) -> bool:
    """Whether the decoder attends deformably, from learned queries or from proposals; both together is another paper's way."""
    from_proposals, learned = f"{transformer}pos_trans.weight" in names, f"{queries}.weight" in names
    attends = f"{transformer}decoder.layers.0.{cross_attention}.sampling_offsets.weight" in names
    return attends and from_proposals != learned


def _form(names: Collection[str], transformer: str) -> _Form:
    return _Form(
        layers=count_layers(names, f"{transformer}decoder.layers."),
        refine=f"{transformer}decoder.bbox_embed.0.layers.0.weight" in names,
        two_stage=f"{transformer}pos_trans.weight" in names,
    )


def _official(form: _Form) -> KeyMapping:
    attention = "transformer.{part}.layers.{{n}}.{name}"
    return KeyMapping(
        [
            Rule("backbone.{rest}", ("backbone.0.body.{rest}",)),
            *official_layers("encoder", {}, _ENCODER_NORMS),
            *official_layers("decoder", {"self_attention": "self_attn"}, _DECODER_NORMS),
            *_attention("encoder", "attention", attention.format(part="encoder", name="self_attn")),
            *_attention("decoder", "cross_attention", attention.format(part="decoder", name="cross_attn")),
            *_queries(form, "transformer.", "query_embed"),
            *_heads(form, "transformer.decoder."),
            *(
                [same("decoder.relation.projection", "transformer.decoder.box_relation.projection")]
                if form.box_relation
                else []
            ),
            same("neck.projections.{n}.0", "input_proj.{n}.0"),
            same("neck.projections.{n}.1", "input_proj.{n}.1"),
        ],
        OFFICIAL_COUNTERS,
    )


def _hugging_face(form: _Form, names: Collection[str]) -> KeyMapping:
    """Hugging Face's names in files, which newer releases keep though their modules are called otherwise."""
    encoder, decoder = "model.encoder.layers.{n}", "model.decoder.layers.{n}"
    # Newer releases tie the class heads of refining models to the first, and then write that one alone.
    tied = form.refine and not form.two_stage and "class_embed.1.weight" not in names
    return KeyMapping(
        [
            *(hugging_face_backbone() if OWN_RESNET in names else TIMM_BACKBONE),
            *hugging_face_layers("encoder", {}),
            *hugging_face_layers("decoder", {"self_attention": "self_attn"}),
            *_attention("encoder", "attention", f"{encoder}.self_attn"),
            *_attention("decoder", "cross_attention", f"{decoder}.encoder_attn"),
            same("encoder.layers.{n}.norm", f"{encoder}.self_attn_layer_norm"),
            same("decoder.layers.{n}.cross_norm", f"{decoder}.encoder_attn_layer_norm"),
            *_queries(form, "model.", "model.query_position_embeddings"),
            *_heads(form, "model.decoder.", one_class_head=tied),
            same("neck.projections.{n}.0", "model.input_proj.{n}.0"),
            same("neck.projections.{n}.1", "model.input_proj.{n}.1"),
        ],
        HUGGING_FACE_COUNTERS,
    )


def _attention(part: str, own: str, foreign: str) -> list[Rule]:
    names = {
        "offsets": "sampling_offsets",
        "weights": "attention_weights",
        "values": "value_proj",
        "output": "output_proj",
    }
    return [same(f"{part}.layers.{{n}}.{own}.{ours}", f"{foreign}.{theirs}") for ours, theirs in names.items()]


def _queries(form: _Form, transformer: str, embedding: str) -> list[Rule]:
    """Level codes, and where queries come from."""
    names = {"embedding": embedding, "reference_points": f"{transformer}reference_points"}
    if form.two_stage:
        names = {
            "projection": f"{transformer}enc_output",
            "norm": f"{transformer}enc_output_norm",
            "position_projection": f"{transformer}pos_trans",
            "position_norm": f"{transformer}pos_trans_norm",
        }
        if form.learned_content:
            names["embedding"] = embedding
        if form.denoising:
            names["denoising.embedding"] = f"{transformer}denoising.embedding"
    level_code = Rule("encoder.level_code", (f"{transformer}level_embed",))
    return [level_code, *(same(f"query_source.{ours}", theirs) for ours, theirs in names.items())]


def _heads(form: _Form, decoder: str, *, one_class_head: bool = False) -> list[Rule]:
    """Heads under every name that they have; the first name is the one that the authors' gradients go by.

    Args:
        form: of the model.
        decoder: beginning of names in the decoder.
        one_class_head: whether all layers of a refining model share the first layer's class head.
    """
    rules = []
    for own, kind, leaf, copied in (
        ("classes", "class_embed", "{leaf}", form.two_stage),
        ("boxes", "bbox_embed", "layers.{n}.{leaf}", form.refine),
    ):
        first_only = one_class_head and own == "classes"
        places = {f"heads.{own}": list(reversed(range(form.layers)))}
        if form.refine:
            places = {f"heads.{own}.{layer}": [0 if first_only else layer] for layer in range(form.layers)}
        if form.two_stage:
            places[f"query_source.{own}"] = [form.layers]
        for ours, numbers in places.items():
            names = [f"{start}{kind}.{number}.{leaf}" for start in ("", decoder)[: 1 + copied] for number in numbers]
            rules.append(Rule(f"{ours}.{leaf}", (names[0],), aliases=tuple(names[1:])))
    return rules
