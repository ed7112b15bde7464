"""H-DETR's weights as the authors write them: two-stage Deformable DETR's, with learned content where queries are selected by the mixed scheme.

Without learned content, names and shapes are exactly those of two-stage Deformable DETR, so such a file is recognised as one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from detrkit.checkpoints import deformable_detr
from detrkit.checkpoints.deformable_detr import Form, official_frame, query_rules
from detrkit.checkpoints.key_mapping import KeyMapping, same
from detrkit.checkpoints.shared import OFFICIAL_COUNTERS, Paper, Present, Rows, Table, Tensors, count_modules
from detrkit.checkpoints.stored import stored_flag, stored_number
from detrkit.errors import CheckpointError
from detrkit.models.h_detr import Config


def official(config: Config) -> KeyMapping:
    """The authors' names for a model of this configuration."""
    return _official(config.decoder_layers)


def layout(names: Collection[str]) -> KeyMapping:
    """The only naming scheme."""
    return _official(count_modules(names, "transformer.decoder.layers."))


def _official(layers: int) -> KeyMapping:
    form = Form(layers=layers, refine=True, two_stage=True)
    return KeyMapping(
        [
            *official_frame(form),
            *query_rules(form, "transformer.", "query_embed"),
            same("query_source.content", "query_embed"),
        ],
        OFFICIAL_COUNTERS,
    )


def stated(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the authors' options say beyond names and shapes.

    Raises:
        CheckpointError: a setting of another kind than it should be.
    """
    values = {
        "one_to_many_queries": stored_number(arguments, "num_queries_one2many", also_zero=True),
        "repeats": stored_number(arguments, "k_one2many"),
        "look_forward_twice": stored_flag(arguments, "look_forward_twice"),
    }
    return {name: value for name, value in values.items() if value is not None}


def _computed(values: Mapping[str, Any], tensors: Tensors, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return deformable_detr.points_in(values, tensors) | _kinds_of_queries(values, tensors, arguments)


def _kinds_of_queries(values: Mapping[str, Any], tensors: Tensors, arguments: Mapping[str, Any]) -> dict[str, int]:
    """How many queries are one-to-one: as the options say, otherwise as many as the variant has, and the rest are one-to-many.

    Raises:
        CheckpointError: the options contradict the weights.
    """
    own = stored_number(arguments, "num_queries_one2one")
    more = stored_number(arguments, "num_queries_one2many", also_zero=True)
    total = Rows("training_queries", "query_source.content.weight").read(tensors)
    if total == 0:  # content is not learned, so the weights show no number
        own, more = own or values["queries"], values["one_to_many_queries"] if more is None else more
    elif own is None:
        own = min(values["queries"], total) if more is None else total - more
    more = total - own if more is None else more
    if own < 1 or more < 0 or total not in (0, own + more):
        raise CheckpointError(
            f"the stored settings num_queries_one2one and num_queries_one2many do not add up to the {total} queries of the weights: correct them"
        )
    return {"queries": own, "one_to_many_queries": more}


TABLE = Table(
    paper=Paper(
        "H-DETR",
        (
            {
                "query_embed.weight": ("Q", "D"),
                "transformer.pos_trans.weight": ("2D", "2D"),
                "transformer.decoder.layers.0.cross_attn.sampling_offsets.weight": (None, "D"),
            },
        ),
        article="an",
    ),
    official=official,
    layout=layout,
    readings=(
        *deformable_detr.SIZES,
        Present("mixed_selection", "query_source.content.weight"),
        Rows("training_queries", "query_source.content.weight"),
    ),
    telling=("levels", "training_queries"),
    stated=stated,
    compute=_computed,
)
