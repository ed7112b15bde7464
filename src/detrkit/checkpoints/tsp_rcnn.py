"""TSP-RCNN's weights as detectron2 writes them for the authors' code."""

from __future__ import annotations

from detrkit.checkpoints.detectron2 import STATISTICS, backbone_rules, check_statistics, encoder_rules, pyramid_rules
from detrkit.checkpoints.key_mapping import KeyMapping, Rule, same
from detrkit.checkpoints.shared import Count, Paper, Size, Table, Tensors

_BOX_HEAD, _PREDICTOR = "roi_heads.box_head", "roi_heads.box_predictor"
_PROPOSALS = "proposal_generator.rpn_head"
_BRANCHES = {"objectness": ("obj", "objectness_logits"), "boxes": ("anchor", "anchor_deltas")}
OFFICIAL = KeyMapping(
    [
        *backbone_rules(),
        *pyramid_rules(2),
        *encoder_rules(f"{_BOX_HEAD}.transformer_encoder"),
        *(
            rule
            for ours, (theirs, output) in _BRANCHES.items()
            for rule in (
                same(f"proposals.{ours}.convolutions.{{n}}", f"{_PROPOSALS}.{theirs}_conv.{{n}}.conv"),
                same(f"proposals.{ours}.norms.{{n}}.{{m}}", f"{_PROPOSALS}.{theirs}_bn_list.{{n}}.{{m}}"),
                same(f"proposals.{ours}.output", f"{_PROPOSALS}.{output}"),
            )
        ),
        Rule("proposals.anchors.level{n}", ("proposal_generator.anchor_generator.cell_anchors.{n}",)),
        same("regions.features", f"{_BOX_HEAD}.input_proj"),
        same("regions.place", f"{_BOX_HEAD}.dec_pos_embed_proj"),
        same("regions.norm", f"{_BOX_HEAD}.post_input_proj_norm"),
        same("predictor.class_head", f"{_PREDICTOR}.cls_score"),
        same("predictor.box_head.layers.{n}", f"{_PREDICTOR}.bbox_pred.layers.{{n}}"),
    ],
    STATISTICS,
)


def layout(tensors: Tensors) -> KeyMapping:
    """The table for these tensors of a TSP-RCNN; there is one.

    Raises:
        CheckpointError: images are normalised otherwise than for any variant.
    """
    check_statistics(tensors)
    return OFFICIAL


TABLE = Table(
    paper=Paper("TSP-RCNN", ({f"{_BOX_HEAD}.transformer_encoder.layers.0.self_attn.in_proj_weight": ("3D", "D")},)),
    official=lambda _: OFFICIAL,
    layout=layout,
    readings=(
        Size("width", "regions.norm.weight"),
        Size("pyramid_width", "neck.lateral.0.weight"),
        Size("hidden", "encoder.layers.0.expand.weight"),
        Size("class_count", "predictor.class_head.weight", offset=-1),
        Count("encoder_layers", "encoder.layers."),
    ),
)
