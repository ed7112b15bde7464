"""Deformable DETR's weights as the authors and Hugging Face write them.

Both write some tensors more than once. Without refinement, the same pair of heads is written under the number of every decoder layer. With
refinement, the decoder holds the box heads a second time, and in two-stage models also the class heads; the last number is the encoder's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
    Present,
    Signature,
    Size,
    Table,
    Tensors,
    count_modules,
    hugging_face_backbone,
    hugging_face_layers,
    official_layers,
)
from detrkit.checkpoints.stored import stored_number
from detrkit.errors import CheckpointError
from detrkit.models.deformable_detr import Config

# Norms are numbered in the order of the paper's figure, not in the order in which the decoder applies them.
ENCODER_NORMS, DECODER_NORMS = ("norm", "feed_forward.norm"), ("cross_norm", "self_norm", "feed_forward.norm")


@dataclass(frozen=True)
class Form:
    """The settings that determine a model's tensor names."""

    layers: int
    refine: bool
    two_stage: bool


def official(config: Config) -> KeyMapping:
    """The authors' names for a model of this configuration."""
    return _official(_form_of(config))


def _form_of(config: Config) -> Form:
    return Form(layers=config.decoder_layers, refine=config.refine, two_stage=config.two_stage)


def layout(names: Collection[str]) -> KeyMapping:
    """The table for the naming scheme that these names of a Deformable DETR follow."""
    if "transformer.decoder.layers.0.cross_attn.sampling_offsets.weight" in names:
        return _official(_form(names, "transformer."))
    form = _form(names, "model.")
    # Newer releases tie the class heads of refining models to the first one, and then write only that one.
    tied = form.refine and not form.two_stage and "class_embed.1.weight" not in names
    return _hugging_face(form, timm=OWN_RESNET not in names, tied=tied)


def _computed(values: Mapping[str, Any], tensors: Tensors, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The weights show the number of queries in one-stage models only."""
    return points_in(values, tensors) | {"queries": _queries_in(values, tensors, arguments)}


def points_in(values: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    """The number of points follows from that of the heads.

    Args:
        values: all settings so far.
        tensors: the weights by our names.

    Raises:
        CheckpointError: weights of attention that do not fit the heads.
    """
    outputs = Size("points", "decoder.layers.0.cross_attention.weights.weight").read(tensors)
    heads, levels = values["attention_heads"], values["levels"]
    points, rest = divmod(outputs, heads * levels)
    if rest:
        raise CheckpointError(
            f"{outputs} attention weights do not fit {heads} heads on {levels} levels: "
            "give the variant that it was trained as"
        )
    return {"points": points}


def _queries_in(values: Mapping[str, Any], tensors: Tensors, arguments: Mapping[str, Any]) -> int:
    if not values["two_stage"]:
        return Size("queries", "query_source.embedding.weight").read(tensors)
    # The last name is that of H-DETR's code, which also writes two-stage Deformable DETR's files.
    names = ("two_stage_num_proposals", "num_queries", "num_queries_one2one")
    stored = (stored_number(arguments, name) for name in names)
    return next((number for number in stored if number is not None), int(values["queries"]))


def _form(names: Collection[str], transformer: str) -> Form:
    return Form(
        layers=count_modules(names, f"{transformer}decoder.layers."),
        refine=f"{transformer}decoder.bbox_embed.0.layers.0.weight" in names,
        two_stage=f"{transformer}pos_trans.weight" in names,
    )


def official_frame(form: Form) -> list[Rule]:
    """The authors' names of everything except the query source; descendants share these rules."""
    attention = "transformer.{part}.layers.{{n}}.{name}"
    return [
        OFFICIAL_BACKBONE,
        *official_layers("encoder", {}, ENCODER_NORMS),
        *official_layers("decoder", {"self_attention": "self_attn"}, DECODER_NORMS),
        *attention_rules("encoder", "attention", attention.format(part="encoder", name="self_attn")),
        *attention_rules("decoder", "cross_attention", attention.format(part="decoder", name="cross_attn")),
        Rule("encoder.level_code", ("transformer.level_embed",)),
        *head_rules(form, "transformer.decoder."),
        same("neck.projections.{n}.0", "input_proj.{n}.0"),
        same("neck.projections.{n}.1", "input_proj.{n}.1"),
    ]


def _official(form: Form) -> KeyMapping:
    return KeyMapping(
        [*official_frame(form), *query_rules(form, "transformer.", "query_embed")],
        OFFICIAL_COUNTERS,
    )


def _hugging_face(form: Form, *, timm: bool, tied: bool = False) -> KeyMapping:
    """Hugging Face's names in files; newer releases keep these names although their modules have others."""
    encoder, decoder = "model.encoder.layers.{n}", "model.decoder.layers.{n}"
    return KeyMapping(
        [
            *(TIMM_BACKBONE if timm else hugging_face_backbone()),
            *hugging_face_layers("encoder", {}),
            *hugging_face_layers("decoder", {"self_attention": "self_attn"}),
            *attention_rules("encoder", "attention", f"{encoder}.self_attn"),
            *attention_rules("decoder", "cross_attention", f"{decoder}.encoder_attn"),
            same("encoder.layers.{n}.norm", f"{encoder}.self_attn_layer_norm"),
            same("decoder.layers.{n}.cross_norm", f"{decoder}.encoder_attn_layer_norm"),
            Rule("encoder.level_code", ("model.level_embed",)),
            *query_rules(form, "model.", "model.query_position_embeddings"),
            *head_rules(form, "model.decoder.", one_class_head=tied),
            same("neck.projections.{n}.0", "model.input_proj.{n}.0"),
            same("neck.projections.{n}.1", "model.input_proj.{n}.1"),
        ],
        HUGGING_FACE_COUNTERS,
    )


def attention_rules(part: str, our_module: str, their_module: str) -> list[Rule]:
    names = {
        "offsets": "sampling_offsets",
        "weights": "attention_weights",
        "values": "value_proj",
        "output": "output_proj",
    }
    return [
        same(f"{part}.layers.{{n}}.{our_module}.{our_name}", f"{their_module}.{their_name}")
        for our_name, their_name in names.items()
    ]


def query_rules(form: Form, transformer: str, embedding: str) -> list[Rule]:
    """The query source.

    Args:
        form: form of the model.
        transformer: what names in the transformer begin with.
        embedding: name of the learned queries of one-stage models.
    """
    names = {"embedding": embedding, "reference_points": f"{transformer}reference_points"}
    if form.two_stage:
        names = {
            "proposals.projection": f"{transformer}enc_output",
            "proposals.norm": f"{transformer}enc_output_norm",
            "position_projection": f"{transformer}pos_trans",
            "position_norm": f"{transformer}pos_trans_norm",
        }
    return [same(f"query_source.{our_name}", their_name) for our_name, their_name in names.items()]


def head_rules(form: Form, decoder: str, *, one_class_head: bool = False) -> list[Rule]:
    """Heads under all their names; the first one is the name under which the authors' code has the gradients.

    Args:
        form: form of the model.
        decoder: what names in the decoder begin with.
        one_class_head: whether all layers of a refining model share the first layer's class head.
    """
    rules = []
    for our_head, their_head, leaf, copied in (
        ("class_head", "class_embed", "{leaf}", form.two_stage),
        ("box_head", "bbox_embed", "layers.{n}.{leaf}", form.refine),
    ):
        first_only = one_class_head and our_head == "class_head"
        their_numbers = {f"heads.{our_head}": list(reversed(range(form.layers)))}
        if form.refine:
            their_numbers = {f"heads.{our_head}s.{layer}": [0 if first_only else layer] for layer in range(form.layers)}
        if form.two_stage:
            their_numbers[f"query_source.proposals.{our_head}"] = [form.layers]
        prefixes = ("", decoder) if copied else ("",)
        for our_module, numbers in their_numbers.items():
            names = [f"{prefix}{their_head}.{number}.{leaf}" for prefix in prefixes for number in numbers]
            rules.append(Rule(f"{our_module}.{leaf}", (names[0],), aliases=tuple(names[1:])))
    return rules


def _signatures(transformer: str, cross_attention: str, embedding: str) -> tuple[Signature, Signature]:
    """One-stage models have learned queries, with content and position side by side; two-stage models make both from proposals."""
    attention: Signature = {f"{transformer}decoder.layers.0.{cross_attention}.sampling_offsets.weight": (None, "D")}
    one_stage: Signature = {f"{embedding}.weight": ("Q", "2D"), f"{transformer}reference_points.weight": (2, "D")}
    two_stage: Signature = {f"{transformer}pos_trans.weight": ("2D", "2D")}
    return {**attention, **one_stage}, {**attention, **two_stage}


def _settings(config: Config) -> dict[str, Any]:
    """Entries of `config.json`."""
    if config.two_stage and not config.refine:
        raise CheckpointError("transformers builds two stages with refinement only, and this model does not refine")
    weights = {"bbox": config.l1_weight, "giou": config.giou_weight}
    return {
        **transformer_settings(config),
        **loss_settings(config.term_weights, weights),
        "num_feature_levels": config.levels,
        **dict.fromkeys(("encoder_n_points", "decoder_n_points"), config.points),
        "with_box_refine": config.refine,
        "two_stage": config.two_stage,
        "two_stage_num_proposals": config.queries,
    }


SIZES = (
    Size("width", "neck.projections.0.0.weight"),
    Size("hidden", "decoder.layers.0.feed_forward.expand.weight"),
    Size("class_count", ("heads.class_head.weight", "heads.class_heads.0.weight")),
    Count("levels", "neck.projections."),
    Count("encoder_layers", "encoder.layers."),
    Count("decoder_layers", "decoder.layers."),
)
TABLE = Table(
    paper=Paper(
        "Deformable DETR",
        (
            *_signatures("transformer.", "cross_attn", "query_embed"),
            *_signatures("model.", "encoder_attn", "model.query_position_embeddings"),
        ),
    ),
    official=official,
    layout=layout,
    readings=(
        *SIZES,
        Present("refine", "heads.class_heads.0.weight"),
        Present("two_stage", "query_source.position_projection.weight"),
    ),
    telling=("two_stage", "refine", "levels"),
    compute=_computed,
    hugging_face=HuggingFaceForm(
        model_type="deformable_detr",
        architecture="DeformableDetrForObjectDetection",
        processor="DeformableDetrImageProcessor",
        names=lambda config, timm: _hugging_face(_form_of(config), timm=timm),
        settings=_settings,
        stages=lambda config: (2, 3, 4) if config.levels > 1 else (4,),
    ),
)
