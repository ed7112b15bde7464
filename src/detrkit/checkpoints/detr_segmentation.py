"""Panoptic DETR's weights as the authors and Hugging Face write them: a detector under a prefix, and the mask head beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from detrkit.checkpoints import conditional_detr, deformable_detr, detr
from detrkit.checkpoints.hugging_face import HuggingFaceForm, loss_settings
from detrkit.checkpoints.key_mapping import Dropped, KeyMapping, Rule, same
from detrkit.checkpoints.shared import Paper, Table, Tensors

_PREFIX = "detr."
_CONVOLUTIONS = ("first", "second", "refinements.0", "refinements.1", "refinements.2")
_OFFICIAL_HEAD = [
    same("mask_attention.query", "bbox_attention.q_linear"),
    same("mask_attention.key", "bbox_attention.k_linear"),
    *(
        same(f"mask_head.{own}.convolution", f"mask_head.lay{place}")
        for place, own in enumerate(_CONVOLUTIONS, start=1)
    ),
    *(same(f"mask_head.{own}.norm", f"mask_head.gn{place}") for place, own in enumerate(_CONVOLUTIONS, start=1)),
    *(same(f"mask_head.adapters.{place}", f"mask_head.adapter{place + 1}") for place in range(3)),
    same("mask_head.output", "mask_head.out_lay"),
]
# Modules of `transformers` since release 5; its files still have the authors' names of the head.
_HUGGING_FACE_HEAD = [
    same("mask_attention.query", "bbox_attention.q_proj"),
    same("mask_attention.key", "bbox_attention.k_proj"),
    *(
        same(f"mask_head.{own}.convolution", f"mask_head.{theirs}.conv")
        for own, theirs in (("first", "conv1"), ("second", "conv2"))
    ),
    *(
        same(f"mask_head.{own}.norm", f"mask_head.{theirs}.norm")
        for own, theirs in (("first", "conv1"), ("second", "conv2"))
    ),
    same("mask_head.refinements.{n}.convolution", "mask_head.fpn_stages.{n}.refine.conv"),
    same("mask_head.refinements.{n}.norm", "mask_head.fpn_stages.{n}.refine.norm"),
    same("mask_head.adapters.{n}", "mask_head.fpn_stages.{n}.fpn_adapter"),
    same("mask_head.output", "mask_head.output_conv"),
]


def with_masks(
    name: str, detector: Table, *, ours_alone: str = "", hugging_face: HuggingFaceForm | None = None
) -> Table:
    """The table of a detector with a mask head.

    Args:
        name: what people call it.
        detector: the table of the detector alone.
        ours_alone: see `Table`.
        hugging_face: see `Table`.
    """
    signatures = tuple(
        {_PREFIX + tensor: shape for tensor, shape in signature.items()} | {attention: ("D", "D")}
        for signature in detector.paper.signatures
        for attention in ("bbox_attention.q_linear.weight", "bbox_attention.q_proj.weight")
    )
    return dataclasses.replace(
        detector,
        paper=Paper(name, signatures, detector.paper.article),
        official=lambda config: _with_head(detector.official(config), _OFFICIAL_HEAD),
        layout=_layout(detector.layout),
        ours_alone=ours_alone,
        hugging_face=hugging_face,
    )


def _layout(detector: Callable[[Tensors], KeyMapping]) -> Callable[[Tensors], KeyMapping]:
    def layout(tensors: Tensors) -> KeyMapping:
        inner = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
        head = _OFFICIAL_HEAD if "bbox_attention.q_linear.weight" in tensors else _HUGGING_FACE_HEAD
        return _with_head(detector(inner), head)

    return layout


def _with_head(detector: KeyMapping, head: Sequence[Rule]) -> KeyMapping:
    """A detector's rules with the prefix, and the head's."""
    rules = [
        dataclasses.replace(
            rule,
            foreign=tuple(_PREFIX + name for name in rule.foreign),
            aliases=tuple(_PREFIX + name for name in rule.aliases),
        )
        for rule in detector.rules
    ]
    dropped = [Dropped(_PREFIX + entry.foreign, entry.reason) for entry in detector.dropped]
    return KeyMapping([*rules, *head], dropped)


def _hugging_face(detector: HuggingFaceForm) -> HuggingFaceForm:
    """DETR with masks as `transformers` has it; all stages of the backbone give features for masks."""

    def settings(config: Any) -> dict[str, Any]:
        masks = loss_settings({}, {"mask": config.mask_weight, "dice": config.dice_weight})
        return {**detector.settings(config), **masks}

    return dataclasses.replace(
        detector,
        architecture="DetrForSegmentation",
        names=lambda config, timm: _with_head(detector.names(config, timm), _OFFICIAL_HEAD),
        settings=settings,
        stages=lambda _: (1, 2, 3, 4),
    )


TABLE = with_masks("panoptic DETR", detr.TABLE, hugging_face=_hugging_face(detr.FORM))
# `transformers` has a class for it, which forgets the queries' reference points, so that it puts boxes elsewhere.
CONDITIONAL_TABLE = with_masks("Conditional DETR with masks", conditional_detr.TABLE)
DEFORMABLE_TABLE = with_masks(
    "Deformable DETR with masks", deformable_detr.TABLE, ours_alone="their mask head does not fit several levels"
)
