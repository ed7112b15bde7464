"""Light DETR, detrkit's own: a small two-stage detector for a few hundred photos and a computer without a GPU.

Deformable DETR in two stages, with what later papers found most helpful when training data are scarce:

- Content is learned for each rank of the proposals (Zhang et al. 2022, DINO, arXiv:2203.03605, section 3.4). Content made from boxes is
  nearly the same for two proposals of one object, and the decoder takes long to learn which of them to keep.
- Proposals that repeat a better one come last (Zhang et al. 2023, Dense Distinct Query, arXiv:2303.12776).
- Queries see how their boxes lie relative to each other (Hou et al. 2024, Relation DETR, arXiv:2407.11699).
- In training, noised objects go through the decoder together with the queries (DINO, section 3.3).

Symbols: B images, Q queries, S memory tokens, D width, K outputs of the class head, one per class (without no-object).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from detrkit.cards import Category, ModelCard, Preprocessing, Recipe, Variant
from detrkit.errors import OptionError
from detrkit.layers.attention import combine_masks
from detrkit.layers.box_relation import BoxRelation
from detrkit.layers.denoising import ContrastiveDenoising, NoisedObjects
from detrkit.layers.distinct import best_distinct
from detrkit.layers.heads import LayerwiseHeads
from detrkit.layers.initialization import start_heads, xavier_matrices
from detrkit.layers.position_encoding import sine_code
from detrkit.layers.processes import averaged
from detrkit.layers.proposals import TokenProposals, take_rows
from detrkit.layers.selection import TopKSelection
from detrkit.layers.targets import needed
from detrkit.losses.criterion import SetCriterion, focal_criterion
from detrkit.losses.sets import AllProposals, KnownGroup
from detrkit.models import deformable_detr
from detrkit.models.deformable_detr import DeformableDecoder
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.settings import MultiScaleSettings
from detrkit.structures import Memory, Proposals, Queries, QueryGroup, Target


@dataclass(frozen=True)
class Config(MultiScaleSettings):
    """Light DETR's settings; the defaults are for photos.

    Attributes:
        distinct_overlap: IoU with a better proposal above which a proposal is a repetition.
        denoising: in training, the largest number of noised copies of objects per image, in addition to its queries, at least two. A crowded image gets a random choice of its objects in each step.

    Raises:
        ConfigurationError: see `MultiScaleSettings`; or an overlap that is not an IoU.
    """

    backbone: str = "mobilenet_v2"
    levels: int = 3
    queries: int = 60
    width: int = 128
    hidden: int = 256
    encoder_layers: int = 1
    decoder_layers: int = 4
    dropout: float = 0.0
    class_weight: float = 3.0
    giou_weight: float = 4.0
    distinct_overlap: float = 0.8
    denoising: int = 60

    least: ClassVar[dict[str, int]] = MultiScaleSettings.least | {"denoising": 2}

    @property
    def training_queries(self) -> int:
        """See `Settings.training_queries`."""
        return self.queries + self.denoising

    @property
    def proposes(self) -> bool:
        """See `Settings.proposes`."""
        return True

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        if not 0 < self.distinct_overlap < 1:
            raise OptionError(
                f"distinct_overlap must be an IoU between 0 and 1, not {self.distinct_overlap}", "distinct_overlap"
            )


class HiddenPadding(ContrastiveDenoising):
    """DINO's denoising, in which nobody sees the rows without an object."""

    def visible(self, noised: NoisedObjects) -> Tensor:
        """See `ContrastiveDenoising.visible`."""
        return noised.real


class DistinctQueries(nn.Module):
    """The best proposals that do not repeat each other, with content learned for each rank; in training, noised objects are added.

    Args:
        count: Q.
        width: D.
        outputs: K.
        distinct_overlap: IoU with a better proposal above which a proposal is a repetition, see `best_distinct`.
        denoising: see `Config`.
    """

    def __init__(self, *, count: int, width: int, outputs: int, distinct_overlap: float, denoising: int) -> None:
        super().__init__()
        self.count, self.width, self.distinct_overlap = count, width, distinct_overlap
        self.proposals = TokenProposals(width=width, outputs=outputs)
        self.content = nn.Embedding(count, width)
        self.position_projection, self.position_norm = nn.Linear(2 * width, width), nn.LayerNorm(width)
        self.denoising = HiddenPadding(width=width, outputs=outputs, rows=denoising)
        xavier_matrices(self.position_projection)

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:
        """Queries from the best proposals of each image, fewer where memory has fewer tokens."""
        proposals = self.proposals(memory)
        scores, boxes = proposals.logits[..., 0].detach(), proposals.boxes_cxcywh.detach()
        count = min(self.count, scores.shape[1])
        rows = best_distinct(scores, boxes, count=count, overlap=self.distinct_overlap)  # (B, Q)
        references = take_rows(proposals, rows).boxes_cxcywh  # (B, Q, 4)
        position = self.position(references)
        content = self.content.weight[: position.shape[1]].to(position.dtype).expand_as(position)
        queries = Queries(content, position, references, Proposals(all=proposals, rows=rows))
        if not self.training:
            return queries
        return self.denoising(queries, needed(targets), self.position)  # type: ignore[no-any-return]

    def position(self, boxes_cxcywh: Tensor) -> Tensor:
        """(B, Q, 4) boxes to (B, Q, D) position codes."""
        code = sine_code(boxes_cxcywh * (2 * math.pi), channels=self.width // 2).flatten(-2)  # (B, Q, 2 D)
        code = self.position_projection(code.to(self.position_projection.weight.dtype))
        return self.position_norm(code)  # type: ignore[no-any-return]


class RelationDecoder(DeformableDecoder):
    """Deformable DETR's refining decoder, whose queries see how their boxes lie relative to each other.

    Args:
        layers: decoder layers.
        attention_heads: M.
    """

    def __init__(self, layers: list[nn.Module], *, attention_heads: int) -> None:
        super().__init__(layers, refine=True)
        self.relation = BoxRelation(attention_heads=attention_heads)

    def query_mask(self, queries: Queries, references: Tensor) -> Tensor | None:
        """See `DeformableDecoder.query_mask`."""
        return combine_masks(self.relation(references), queries.mask)  # (B, M, Q, Q)


class NoisedGroup(KnownGroup):
    """Noised objects, of which a crowded image has only some: losses are divided by how many are restored."""

    def divisor(self, targets: Sequence[Target], object_count: Tensor, group: QueryGroup) -> Tensor:  # noqa: ARG002
        """See `KnownGroup.divisor`."""
        assert group.objects is not None
        return averaged((group.objects >= 0).sum().to(object_count), at_least=group.repeats)


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """Deformable DETR's parts except for the query source and the decoder."""
    backbone = deformable_detr.build_levels(config)
    source = DistinctQueries(
        count=config.queries,
        width=config.width,
        outputs=config.class_count,
        distinct_overlap=config.distinct_overlap,
        denoising=config.denoising,
    )
    heads = LayerwiseHeads(width=config.width, outputs=config.class_count, layers=config.decoder_layers)
    start_heads(heads, source.proposals)
    return EncoderDecoder(
        backbone=backbone,
        neck=deformable_detr.neck(config, backbone),
        encoder=deformable_detr.encoder(config),
        query_source=source,
        decoder=RelationDecoder(deformable_detr.decoder_layers(config), attention_heads=config.attention_heads),
        heads=heads,
        card=card,
    )


def criterion(config: Config, model: Detector | None = None) -> SetCriterion:  # noqa: ARG001 - for papers with masks
    """Deformable DETR's set loss; the losses of noised objects are weighted like those of the queries."""
    return focal_criterion(
        class_count=config.class_count,
        layers=config.decoder_layers,
        cost_weights=config.term_weights,
        loss_weights=config.term_weights,
        sets=[AllProposals(), NoisedGroup(ContrastiveDenoising.name)],
    )


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> TopKSelection:  # noqa: ARG001
    """The best hundred pairs of a query and a named class."""
    return TopKSelection([category.index for category in categories])


SOURCE = None  # detrkit's own
_PHOTOS = Recipe(
    learning_rate=7e-4,
    backbone_learning_rate=2e-4,
    weight_decay=0.02,
    gradient_clip=1.0,
    epochs=50,
    batch_size=4,
    schedule="cosine",
    warmup_steps=50,
)
# For images of about 128 pixels with few objects, trained from random weights.
_COMPACT = Config(
    backbone="compact",
    queries=30,
    width=96,
    hidden=192,
    encoder_layers=0,
    decoder_layers=2,
    class_weight=2.0,
    giou_weight=2.0,
)
VARIANTS: dict[str, Variant] = {
    "light-detr-mobilenetv2": Variant(Config(), _PHOTOS, Preprocessing(short_side=320, long_side=430)),
    "light-detr-compact": Variant(_COMPACT, deformable_detr.COMPACT_RECIPE, deformable_detr.COMPACT_PREPROCESSING),
}
