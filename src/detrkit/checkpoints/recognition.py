"""Recognises which paper's model a file holds, by the names and shapes of its tensors.

A descendant's file often has all tensors of its ancestor's files, so descendants are tried before ancestors. Papers without a table are
recognised, too, so that the refusal of their files can name them; when a paper gets a table, the table replaces its entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from detrkit.checkpoints import (
    anchor_detr,
    conditional_detr,
    dab_deformable_detr,
    dab_detr,
    deformable_detr,
    detr,
    detr_segmentation,
    dino,
    dn_deformable_detr,
    dn_detr,
    h_detr,
    light_detr,
    sam_detr,
    smca_detr,
    smca_multiscale,
    tsp_fcos,
    tsp_rcnn,
)
from detrkit.checkpoints.shared import Paper, Signature, Table
from detrkit.models.catalog import FAMILIES

_OFFSETS = "transformer.decoder.layers.0.cross_attn.sampling_offsets.weight"
_RT_DECODER: Signature = {
    "decoder.enc_score_head.weight": ("K", "D"),
    "decoder.query_pos_head.layers.0.weight": (None, 4),
    "decoder.decoder.layers.0.cross_attn.sampling_offsets.weight": (None, "D"),
}
_RT_VALUES: Signature = {**_RT_DECODER, "decoder.decoder.layers.0.cross_attn.value_proj.weight": ("D", "D")}
# The same with Hugging Face's names.
_HUGGING_FACE_RT_DECODER: Signature = {
    "model.enc_score_head.weight": ("K", "D"),
    "model.decoder.query_pos_head.layers.0.weight": (None, 4),
    "model.decoder.layers.0.encoder_attn.sampling_offsets.weight": (None, "D"),
}
_HUGGING_FACE_RT_VALUES: Signature = {
    **_HUGGING_FACE_RT_DECODER,
    "model.decoder.layers.0.encoder_attn.value_proj.weight": ("D", "D"),
}
# By family, descendants before ancestors: papers with a table, and papers that are recognised but cannot be loaded.
_KNOWN: dict[str, Table | Paper] = {
    "light_detr": light_detr.TABLE,
    "deim": Paper("DEIMv2", ({**_RT_DECODER, "decoder.decoder.layers.0.swish_ffn.w12.weight": (None, "D")},)),
    "d_fine": Paper(
        "D-FINE (or a DEIM, whose files are the same)",
        (
            {**_RT_DECODER, "decoder.pre_bbox_head.layers.0.weight": ("D", "D"), "decoder.up": None},
            {
                **_HUGGING_FACE_RT_DECODER,
                "model.decoder.pre_bbox_head.layers.0.weight": ("D", "D"),
                "model.decoder.up": None,
            },
        ),
    ),
    "rt_detr_v2": Paper(
        "RT-DETRv2",
        (
            {**_RT_VALUES, "decoder.decoder.layers.0.cross_attn.num_points_scale": (None,)},
            {**_HUGGING_FACE_RT_VALUES, "model.decoder.layers.0.encoder_attn.n_points_scale": (None,)},
        ),
        article="an",
    ),
    "rt_detr": Paper(
        "RT-DETR", ({**_RT_VALUES, "decoder.enc_output.0.weight": ("D", "D")}, _HUGGING_FACE_RT_VALUES), article="an"
    ),
    "dino": dino.TABLE,
    "h_detr": h_detr.TABLE,
    "dn_deformable_detr": dn_deformable_detr.TABLE,
    "dn_deformable_encoder": Paper(
        "DN-DAB-Deformable-DETR with dense attention in the decoder",
        (
            {
                **dab_detr.SIGNATURE,
                **dn_detr.LABELS,
                "transformer.decoder.layers.0.lvl_attn.weight": (None, "D"),  # weighs levels
            },
        ),
    ),
    "dn_detr": dn_detr.TABLE,
    "dab_deformable_detr": dab_deformable_detr.TABLE,
    "dab_detr": dab_detr.TABLE,
    "sam_detr": sam_detr.TABLE,
    "conditional_detr": conditional_detr.TABLE,
    "deformable_detr": deformable_detr.TABLE,
    "smca_multiscale": smca_multiscale.TABLE,
    "smca_detr": smca_detr.TABLE,
    "anchor_detr": anchor_detr.TABLE,
    "tsp_fcos": tsp_fcos.TABLE,
    "tsp_rcnn": tsp_rcnn.TABLE,
    "conditional_detr_segmentation": detr_segmentation.CONDITIONAL_TABLE,
    "deformable_detr_segmentation": detr_segmentation.DEFORMABLE_TABLE,
    "detr_segmentation": detr_segmentation.TABLE,
    "other_segmentation": Paper(
        "a detector with DETR's mask head",
        (
            # The attention to boxes that masks begin with, also in `transformers` and around other detectors.
            {"bbox_attention.q_linear.weight": ("D", "D")},
            {"bbox_attention.q_proj.weight": ("D", "D")},
        ),
    ),
    "detr": detr.TABLE,
}
PAPERS: dict[str, Paper] = {
    family: known.paper if isinstance(known, Table) else known for family, known in _KNOWN.items()
}
# The tables of all families that can be built.
TABLES: dict[str, Table] = {family: known for family in FAMILIES if isinstance(known := _KNOWN.get(family), Table)}


@dataclass(frozen=True)
class Recognised:
    """The paper whose model a file holds.

    Attributes:
        family: key in `PAPERS`, and in `TABLES` if detrkit builds the model.
        paper: the paper's name and signatures.
    """

    family: str
    paper: Paper


def recognise(tensors: Mapping[str, Tensor]) -> Recognised | None:
    """The paper that weights with other codes' names belong to, or None if it is unknown."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for family, paper in PAPERS.items():
        if paper.wrote(shapes):
            return Recognised(family, paper)
    return None
