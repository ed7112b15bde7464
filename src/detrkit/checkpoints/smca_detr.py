"""SMCA-DETR's weights as the authors write them: DETR's names, and three or four small layers in the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detrkit.checkpoints.detr import DECODER_NORMS, OFFICIAL_FRAME, READINGS
from detrkit.checkpoints.key_mapping import KeyMapping, Rule, same
from detrkit.checkpoints.shared import OFFICIAL_COUNTERS, Paper, Size, Table, Tensors, official_layers, size
from detrkit.checkpoints.stored import stored_float
from detrkit.errors import CheckpointError


def decoder_rules() -> list[Rule]:
    """Rules for the decoder's layers; the authors call what decides on centres, offsets and scales points 1 to 3."""
    own, foreign = "decoder.layers.{n}", "transformer.decoder.layers.{n}"
    return [
        *official_layers(
            "decoder", {"self_attention": "self_attn", "cross_attention": "multihead_attn"}, DECODER_NORMS
        ),
        same(f"{own}.gaussian_norm", f"{foreign}.norm4"),
        same(f"{own}.gaussian.offset", f"{foreign}.point2"),
        same(f"{own}.gaussian.scale", f"{foreign}.point3"),
        same("decoder.center_head.layers.{n}", "transformer.decoder.layers.0.point1.layers.{n}"),
    ]


OFFICIAL = KeyMapping([*OFFICIAL_FRAME, *decoder_rules()], OFFICIAL_COUNTERS)


OFFSET, SCALE = "decoder.layers.0.gaussian.offset.weight", "decoder.layers.0.gaussian.scale.weight"


class Scales:
    """The numbers by which each head scales its Gaussian, told by how many there are beside the offsets, of which a head has two a level."""

    setting = "scales"

    def read(self, tensors: Tensors) -> int:
        """See `Reading`.

        Raises:
            CheckpointError: scales and offsets do not fit.
        """
        scales, offsets = size(tensors, SCALE), Size("offsets", OFFSET).read(tensors)
        number, rest = divmod(2 * scales, max(offsets, 1))
        if not offsets or rest or number > 3:
            raise CheckpointError(f"{scales} scales do not fit {offsets} offsets: the weights are of another model")
        return number


def gaussian(values: Mapping[str, Any], tensors: Tensors, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """How many heads have two offsets each on every level, and what squared distances are divided by, which no shape tells."""
    smooth = stored_float(arguments, "smooth")
    if smooth is not None and not smooth > 0:
        raise CheckpointError(f"the stored setting smooth must be above 0, not {arguments['smooth']!r}: correct it")
    heads = size(tensors, OFFSET) // (2 * max(values.get("levels", 1), 1))
    return {"attention_heads": heads, "smooth": values["smooth"] if smooth is None else smooth}


TABLE = Table(
    paper=Paper(
        "SMCA-DETR",
        (
            {
                "query_embed.weight": ("Q", "D"),
                "transformer.decoder.layers.0.point1.layers.0.weight": ("D", "D"),
                "transformer.decoder.layers.0.point2.weight": (None, "D"),
                "transformer.decoder.layers.0.norm4.weight": ("D",),
            },
        ),
        article="an",
    ),
    official=lambda _: OFFICIAL,
    layout=lambda _: OFFICIAL,
    readings=(*READINGS, Size("class_count", "heads.class_head.weight"), Scales()),
    telling=("scales",),
    compute=gaussian,
)
