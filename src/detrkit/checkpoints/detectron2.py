"""Tables of detectron2's names, which both TSP papers share: its backbone, feature pyramid and the papers' encoder."""

from __future__ import annotations

import torch

from detrkit.checkpoints.key_mapping import Dropped, Rule, same
from detrkit.checkpoints.shared import Tensors
from detrkit.errors import CheckpointError

_IN_PREPROCESSING = "the card's preprocessing has them"
STATISTICS = tuple(Dropped(name, _IN_PREPROCESSING) for name in ("pixel_mean", "pixel_std"))
# Means of blue, green and red, and their deviations: the published ones, and none where images are normalised already.
_KNOWN_STATISTICS = (((103.53, 116.28, 123.675), (1.0, 1.0, 1.0)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


def backbone_rules() -> list[Rule]:
    """Detectron2's ResNet, whose stages have the numbers 2 to 5, and which keeps each norm inside its convolution."""
    theirs = "backbone.bottom_up"
    rules = [
        Rule("backbone.conv1.weight", (f"{theirs}.stem.conv1.weight",)),
        same("backbone.bn1", f"{theirs}.stem.conv1.norm"),
    ]
    for stage in range(1, 5):
        our_block, their_block = f"backbone.layer{stage}.{{n}}", f"{theirs}.res{stage + 1}.{{n}}"
        for index in (1, 2, 3):
            rules += [
                Rule(f"{our_block}.conv{index}.weight", (f"{their_block}.conv{index}.weight",)),
                same(f"{our_block}.bn{index}", f"{their_block}.conv{index}.norm"),
            ]
        rules += [
            Rule(f"{our_block}.downsample.0.weight", (f"{their_block}.shortcut.weight",)),
            same(f"{our_block}.downsample.1", f"{their_block}.shortcut.norm"),
        ]
    # Other backbones have no names in detectron2; they keep ours.
    rules += [Rule(f"backbone.{part}.{{rest}}", (f"{theirs}.{part}.{{rest}}",)) for part in ("blocks", "stages")]
    rules.append(Rule("backbone.stem.{rest}", (f"{theirs}.own_stem.{{rest}}",)))
    return rules


def pyramid_rules(first: int) -> list[Rule]:
    """The feature pyramid, in which levels have the numbers of their stages.

    Args:
        first: number of the finest level that the pyramid makes, 2 or 3.
    """
    rules = []
    for index, level in enumerate(range(first, 6)):
        rules += [
            same(f"neck.lateral.{index}", f"backbone.fpn_lateral{level}"),
            same(f"neck.output.{index}", f"backbone.fpn_output{level}"),
        ]
    for index, level in enumerate((6, 7)):
        rules += [
            same(f"neck.coarser.{index}.convolution", f"backbone.top_block.p{level}.conv"),
            same(f"neck.coarser.{index}.norm", f"backbone.top_block.p{level}.bn"),
        ]
    return rules


def encoder_rules(their_encoder: str) -> list[Rule]:
    """The encoder with norms before its parts.

    Args:
        their_encoder: what its names begin with.
    """
    ours, theirs = "encoder.layers.{n}", f"{their_encoder}.layers.{{n}}"
    return [
        Rule(f"{ours}.attention.projection_{{leaf}}", (f"{theirs}.self_attn.in_proj_{{leaf}}",)),
        same(f"{ours}.attention.output", f"{theirs}.self_attn.out_proj"),
        same(f"{ours}.expand", f"{theirs}.linear1"),
        same(f"{ours}.contract", f"{theirs}.linear2"),
        same(f"{ours}.attention_norm", f"{theirs}.norm1"),
        same(f"{ours}.feed_forward_norm", f"{theirs}.norm2"),
        same("encoder.norm", f"{their_encoder}.norm"),
    ]


def check_statistics(tensors: Tensors) -> None:
    """Refuses a file whose images are normalised otherwise than the variants' preprocessing does it.

    Raises:
        CheckpointError: its means or deviations are not the published ones.
    """
    if not {"pixel_mean", "pixel_std"} <= tensors.keys():
        return
    means, deviations = (tensors[name].flatten().double() for name in ("pixel_mean", "pixel_std"))
    known = [torch.tensor(each, dtype=torch.float64) for each in _KNOWN_STATISTICS]
    if not any(torch.allclose(torch.stack([means, deviations]), each, atol=1e-3) for each in known):
        raise CheckpointError(
            f"the weights expect images with the means {means.tolist()} and the deviations {deviations.tolist()}, which no variant has: "
            "build the variant with `preprocessing` for them, and load the weights with detrkit.checkpoints.from_official"
        )
