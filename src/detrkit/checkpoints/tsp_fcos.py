"""TSP-FCOS's weights as detectron2 writes them for the authors' code."""

from __future__ import annotations

from detrkit.checkpoints.detectron2 import STATISTICS, backbone_rules, check_statistics, encoder_rules, pyramid_rules
from detrkit.checkpoints.key_mapping import KeyMapping, Rule, same
from detrkit.checkpoints.shared import Count, Paper, Size, Table, Tensors

OFFICIAL = KeyMapping(
    [
        *backbone_rules(),
        *pyramid_rules(3),
        *encoder_rules("transformer_encoder"),
        same("head.class_tower.{n}", "fcos_head.cls_tower.{n}"),
        same("head.box_tower.{n}", "fcos_head.bbox_tower.{n}"),
        same("head.class_head", "fcos_head.cls_logits"),
        Rule("positions.levels", ("pyramid_position_embedding",)),
        same("projection", "enc_proj"),
        same("norm", "post_enc_proj_norm"),
        same("predictor.class_head", "cls_logits"),
        same("predictor.box_head", "bbox_pred"),
        same("predictor.centerness_head", "ctrness"),
        Rule("predictor.scales", ("scales",)),
    ],
    STATISTICS,
)


def layout(tensors: Tensors) -> KeyMapping:
    """The table for these tensors of a TSP-FCOS; there is one.

    Raises:
        CheckpointError: images are normalised otherwise than for any variant.
    """
    check_statistics(tensors)
    return OFFICIAL


TABLE = Table(
    paper=Paper(
        "TSP-FCOS",
        (
            {
                "pyramid_position_embedding": (None, "D"),
                "transformer_encoder.layers.0.self_attn.in_proj_weight": ("3D", "D"),
                "fcos_head.cls_logits.weight": (None, None, 3, 3),
            },
        ),
    ),
    official=lambda _: OFFICIAL,
    layout=layout,
    readings=(
        Size("width", "positions.levels", axis=1),
        Size("pyramid_width", "neck.lateral.0.weight"),
        Size("hidden", "encoder.layers.0.expand.weight"),
        Size("class_count", "predictor.class_head.weight"),
        Count("encoder_layers", "encoder.layers."),
    ),
)
