"""Anchor DETR's weights as the authors write them.

The projections of row-column attention are packed into one matrix of five; class head and box head are written once for every decoder layer.
Whether attention is row-column or plain can be read from that matrix; files of plain models also hold the network for lines, which nothing
uses. C5 and DC5 have the same names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detrkit.checkpoints.key_mapping import Dropped, KeyMapping, Rule, same
from detrkit.checkpoints.shared import Count, Paper, Present, Size, Table, Tensors, count_modules
from detrkit.models.anchor_detr import Config

_COUNTERS = "batch norm counts batches for its running averages, which frozen norms do not update"
_FLOPS = "a counter of operations left its sums among the weights"
_DROPPED = (
    *(Dropped(f"backbone.body.{norms}.num_batches_tracked", _COUNTERS) for norms in ("bn{n}", "layer{rest}")),
    *(Dropped(f"{module}total_{sums}", _FLOPS) for module in ("", "{rest}.") for sums in ("params", "ops")),
)
_LINE_PARTS = ("column_query", "row_query", "column_key", "row_key", "value")


def _official(layers: int, *, row_column: bool) -> KeyMapping:
    networks = {"point": "2d", "line": "1d"} if row_column else {"point": "2d"}
    codes = [
        same(f"neck.position_encoding.{ours}.layers.{index}", f"transformer.adapt_pos{theirs}.{2 * index}")
        for ours, theirs in networks.items()
        for index in range(2)
    ]
    unused = () if row_column else (Dropped("transformer.adapt_pos1d.{rest}", "plain attention does not use it"),)
    return KeyMapping(
        [
            Rule("backbone.{rest}", ("backbone.body.{rest}",)),
            *(same(f"neck.projections.0.{index}", f"input_proj.0.{index}") for index in range(2)),
            same("query_source.patterns", "transformer.pattern"),
            Rule("query_source.points", ("transformer.position.weight",)),
            *codes,
            *_layers("encoder", {"attention": "self_attn"}, {"norm": "norm1"}, row_column=row_column),
            *_layers(
                "decoder",
                {"cross_attention": "cross_attn"},
                {"cross_norm": "norm1", "self_norm": "norm2"},
                row_column=row_column,
            ),
            *_multi_head("decoder.layers.{n}.self_attention", "transformer.decoder_layers.{n}.self_attn"),
            *_copies("heads.class_head.{leaf}", "transformer.class_embed.{copy}.{{leaf}}", layers),
            *_copies("heads.box_head.layers.{n}.{leaf}", "transformer.bbox_embed.{copy}.layers.{{n}}.{{leaf}}", layers),
        ],
        (*_DROPPED, *unused),
    )


def _layers(part: str, attentions: Mapping[str, str], norms: Mapping[str, str], *, row_column: bool) -> list[Rule]:
    """Rules for the layers of encoder or decoder; mappings from our names to the authors'."""
    own, foreign = f"{part}.layers.{{n}}", f"transformer.{part}_layers.{{n}}"
    rules = [
        same(f"{own}.feed_forward.expand", f"{foreign}.ffn.linear1"),
        same(f"{own}.feed_forward.contract", f"{foreign}.ffn.linear2"),
        same(f"{own}.feed_forward.norm", f"{foreign}.ffn.norm2"),
        *(same(f"{own}.{ours}", f"{foreign}.{theirs}") for ours, theirs in norms.items()),
    ]
    for ours, theirs in attentions.items():
        if row_column:
            parts = tuple(f"{own}.{ours}.{name}.{{leaf}}" for name in _LINE_PARTS)
            rules += [
                Rule(parts, (f"{foreign}.{theirs}.in_proj_{{leaf}}",)),
                same(f"{own}.{ours}.output", f"{foreign}.{theirs}.out_proj"),
            ]
        else:
            rules += _multi_head(f"{own}.{ours}", f"{foreign}.{theirs}")
    return rules


def _multi_head(own: str, foreign: str) -> list[Rule]:
    return [
        Rule(f"{own}.projection_{{leaf}}", (f"{foreign}.in_proj_{{leaf}}",)),
        same(f"{own}.output", f"{foreign}.out_proj"),
    ]


def _copies(own: str, foreign: str, count: int) -> list[Rule]:
    """One of our tensors that the authors write `count` times."""
    first, *others = (foreign.format(copy=copy) for copy in range(count))
    return [Rule(own, (first,), aliases=tuple(others))]


def official(config: Config) -> KeyMapping:
    """The authors' names for a model of this configuration."""
    return _official(config.decoder_layers, row_column=config.row_column)


def layout(tensors: Tensors) -> KeyMapping:
    """The table that these tensors of an Anchor DETR are written in; the packed matrix has five projections, or three."""
    packed = tensors.get("transformer.decoder_layers.0.cross_attn.in_proj_weight")
    row_column = packed is None or packed.dim() < 2 or packed.shape[0] == len(_LINE_PARTS) * packed.shape[1]
    return _official(max(1, count_modules(tensors, "transformer.decoder_layers.")), row_column=row_column)


def _computed(values: Mapping[str, Any], tensors: Tensors, arguments: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - see `Table.compute`
    """Every point comes once with each pattern."""
    return {"queries": Size("points", "query_source.points").read(tensors) * values["patterns"]}


TABLE = Table(
    paper=Paper(
        "Anchor DETR",
        ({"transformer.pattern.weight": (None, "D"), "transformer.position.weight": ("A", 2)},),
        article="an",
    ),
    official=official,
    layout=layout,
    readings=(
        Present("row_column", "decoder.layers.0.cross_attention.column_query.weight"),
        Size("patterns", "query_source.patterns.weight"),
        Size("width", "query_source.patterns.weight", axis=1),
        Size("class_count", "heads.class_head.weight"),
        Size("hidden", "decoder.layers.0.feed_forward.expand.weight"),
        Count("encoder_layers", "encoder.layers."),
        Count("decoder_layers", "decoder.layers."),
    ),
    telling=("row_column",),
    compute=_computed,
)
