"""The multi-scale SMCA-DETR's weights as the authors write them."""

from __future__ import annotations

from detrkit.checkpoints.detr import OFFICIAL_FRAME, READINGS
from detrkit.checkpoints.key_mapping import KeyMapping, Rule, same
from detrkit.checkpoints.shared import OFFICIAL_COUNTERS, Paper, Size, Table
from detrkit.checkpoints.smca_detr import Scales, decoder_rules, gaussian

_ENCODER = {
    "enter": "conv_1",
    "leave": "conv_2",
    "to_coarser": "high_to_low",
    "to_finer": "low_to_high",
    **{f"within.{level}": f"self_attn_{8 * 2**level}" for level in range(4)},
}
_PROJECTIONS = ("input_proj_512", "input_proj_1024", "input_proj_2048", "input_proj_2048_3")


def _official() -> KeyMapping:
    own, foreign = "encoder.layers.{n}", "transformer.encoder.layers.{n}"
    frame = [rule for rule in OFFICIAL_FRAME if rule.own != "neck.projections.0.{leaf}"]
    return KeyMapping(
        [
            *frame,
            *decoder_rules(),
            same("decoder.layers.{n}.gaussian.level", "transformer.decoder.layers.{n}.point4"),
            *(same(f"neck.projections.{level}.0", name) for level, name in enumerate(_PROJECTIONS)),
            *(same(f"{own}.{ours}", f"{foreign}.{theirs}") for ours, theirs in _ENCODER.items()),
            Rule("encoder.level_code", ("transformer.level_embed",)),
            same("encoder.reduce", "transformer.conv"),
        ],
        OFFICIAL_COUNTERS,
    )


OFFICIAL = _official()
TABLE = Table(
    paper=Paper(
        "multi-scale SMCA-DETR",
        (
            {
                "query_embed.weight": ("Q", "D"),
                "transformer.decoder.layers.0.point2.weight": (None, "D"),
                "transformer.decoder.layers.0.point4.weight": ("V", "D"),
                "transformer.decoder.layers.0.norm4.weight": ("D",),
            },
        ),
    ),
    official=lambda _: OFFICIAL,
    layout=lambda _: OFFICIAL,
    readings=(
        *READINGS,
        Size("class_count", "heads.class_head.weight"),
        Size("levels", "encoder.level_code"),
        Scales(),
    ),
    telling=("scales", "levels"),
    compute=gaussian,
)
