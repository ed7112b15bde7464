"""The skeleton that every paper of the family fills: six parts, called in the order in which the papers tell the story.

    ImageBatch -> backbone -> neck -> encoder -> query source -> decoder -> heads -> Output

What a paper adds is a part, handed in here; nothing below depends on which paper it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.structures import GroupOutput, ImageBatch, Levels, Memory, ModelCard, Output, Queries, Stages, Target


class Detector(nn.Module):
    """A detector made of six parts.

    Args:
        backbone: ImageBatch to a tuple of FeatureMap.
        neck: FeatureMaps (and the padding of the images, for levels of its own) to Levels.
        encoder: Memory to Memory.
        query_source: Memory (and the targets, in training, for papers that show them to the queries) to Queries.
        decoder: Queries, Memory and the heads to Decoded; it gets the heads because some papers predict boxes between layers.
        heads: Decoded to Output.
        card: what the model is, beside its weights.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        encoder: nn.Module,
        query_source: nn.Module,
        decoder: nn.Module,
        heads: nn.Module,
        card: ModelCard,
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.encoder = backbone, neck, encoder
        self.query_source, self.decoder, self.heads = query_source, decoder, heads
        self.card = card

    def forward(self, batch: ImageBatch, targets: Sequence[Target] | None = None) -> Output:
        """Class scores and boxes of every query, from every decoder layer.

        Args:
            batch: normalised images, padded at the right and below.
            targets: the objects of each image; only papers that show them to the queries in training look at them.

        Returns:
            Predictions of all layers, in eval mode, too; the last layer is the result.
        """
        # The steps of `stages`, but nothing keeps a name that is not needed any more: for Deformable DETR at 800 x 1066 that is features of
        # 47 MB and levels of 36 MB while the encoder works.
        memory = self.encoder(flatten_levels(self.neck(self.backbone(without_padding(batch)), batch.padding)))
        queries = self.query_source(memory, targets)
        return _completed(self.heads(self.decoder(queries, memory, self.heads)), queries)

    def stages(self, batch: ImageBatch, targets: Sequence[Target] | None = None) -> Stages:
        """Like `forward`, with everything on the way by name. A subclass with steps of its own overrides both."""
        features = self.backbone(without_padding(batch))
        levels = self.neck(features, batch.padding)
        memory = self.encoder(flatten_levels(levels))
        queries = self.query_source(memory, targets)
        decoded = self.decoder(queries, memory, self.heads)
        return Stages(features, levels, memory, queries, decoded, _completed(self.heads(decoded), queries))


def _completed(output: Output, queries: Queries) -> Output:
    """The heads' predictions with what the queries already knew, those of training groups by themselves."""
    if not queries.training_groups:
        return dataclasses.replace(output, proposals=queries.proposals)
    counts = [group.objects.shape[1] for group in queries.training_groups]
    counts.insert(0, output.logits.shape[2] - sum(counts))
    (logits, *group_logits), (boxes, *group_boxes) = (
        torch.split(values, counts, dim=2) for values in (output.logits, output.boxes_cxcywh)
    )
    groups = zip(queries.training_groups, group_logits, group_boxes, strict=True)
    return Output(logits, boxes, queries.proposals, tuple(GroupOutput(*each) for each in groups))


def without_padding(batch: ImageBatch) -> ImageBatch:
    """The batch with zeros behind its padding, so that nothing there can matter."""
    if batch.padding is None:
        return batch
    pixels = batch.pixels.masked_fill(batch.padding[:, None], 0.0)
    return ImageBatch(pixels, batch.padding, batch.image_ids, batch.original_sizes)


def flatten_levels(levels: Levels) -> Memory:
    """The cells of all levels as tokens, row by row, level after level."""

    def tokens(maps: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)  # (B, S, D)

    paddings = [padding.flatten(1) for padding in levels.paddings if padding is not None]
    return Memory(
        tokens=tokens(levels.maps),
        positions=tokens(levels.positions),
        padding=torch.cat(paddings, dim=1) if paddings else None,
        level_sizes=tuple((level.shape[-2], level.shape[-1]) for level in levels.maps),
    )
