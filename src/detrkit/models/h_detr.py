"""H-DETR (Jia et al. 2023, arXiv:2207.13080): in training, a second set of queries learns every object several times.

One-to-one matching needs no suppression of repetitions, but teaches little: in an image with five objects, five of 300 queries learn a box. Here
more queries go through the same decoder in training. They are matched to every object several times, and a mask keeps them apart from
the others. Evaluation does not have them, so results and cost are those of a model without them.

The model is two-stage Deformable DETR with three changes that the authors call tricks: no dropout, content that is learned for each rank of the
proposals (mixed query selection), and box losses that also teach the layer before (looking forward twice).

Symbols: B images, Q one-to-one queries, T one-to-many queries, D width, K outputs of the class head, one per class (without no-object).

Deviations from the authors' code: as in Deformable DETR, none of which changes a value beyond rounding. The authors' models make one-to-many queries
in evaluation mode, too, unless their number is changed; here only training mode has them. Their weight of one-to-many losses is 1, and no setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from detrkit.cards import Category, ModelCard, PublishedWeights, Source, Variant
from detrkit.layers.heads import LayerwiseHeads
from detrkit.layers.initialization import start_heads
from detrkit.layers.references import ReferenceTrail
from detrkit.layers.selection import TopKSelection
from detrkit.layers.training_groups import split_off
from detrkit.losses.criterion import SetCriterion, focal_criterion
from detrkit.losses.sets import AllProposals, PredictionSet, RepeatedGroup
from detrkit.models import deformable_detr
from detrkit.models.deformable_detr import EPSILON, DeformableDecoder, ProposalQueries
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.settings import MultiScaleSettings
from detrkit.structures import Memory, Queries, QueryGroup, Target

ONE_TO_MANY = "one_to_many"  # name of the group, and beginning of its losses' names


@dataclass(frozen=True)
class Config(MultiScaleSettings):
    """H-DETR's settings; the defaults are the authors' with all tricks.

    Attributes:
        queries: Q, the one-to-one queries.
        one_to_many_queries: T, the queries that training has in addition; 0 leaves them out.
        repeats: how many one-to-many queries learn each object. Where they do not suffice for an image, some objects are learned less often.
        mixed_selection: whether content is learned; if not, it is made from proposals, as in Deformable DETR.
        look_forward_twice: whether a layer's box losses also teach the layer before; if not, as in Deformable DETR.

    Raises:
        ConfigurationError: see `MultiScaleSettings`.
    """

    hidden: int = 2048
    dropout: float = 0.0
    one_to_many_queries: int = 1500
    repeats: int = 6
    mixed_selection: bool = True
    look_forward_twice: bool = True

    least: ClassVar[dict[str, int]] = MultiScaleSettings.least | {"one_to_many_queries": 0, "repeats": 1}

    @property
    def training_queries(self) -> int:
        """See `Settings.training_queries`."""
        return self.queries + self.one_to_many_queries

    @property
    def proposes(self) -> bool:
        """See `Settings.proposes`."""
        return True


class HybridQueries(ProposalQueries):
    """Queries from the best proposals; in training, one-to-many queries from the next best (section 3.2).

    Args:
        count: Q.
        one_to_many: T.
        repeats: how many of them are matched to each object.
        width: D.
        outputs: K.
    """

    def __init__(self, *, count: int, one_to_many: int, repeats: int, width: int, outputs: int) -> None:
        super().__init__(count=count, width=width, outputs=outputs)
        self.one_to_many, self.repeats = one_to_many, repeats

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:  # noqa: ARG002 - ignores the targets
        """Q queries for each image, in training Q + T; fewer where memory has fewer tokens, first of all one-to-many queries."""
        if not self.training:
            return self.best(memory, self.count)
        queries = self.best(memory, self.count + self.one_to_many)
        rows = queries.content.shape[1] - self.count
        if rows <= 0:
            return queries
        return split_off(queries, own=self.count, groups=[QueryGroup(ONE_TO_MANY, rows=rows, repeats=self.repeats)])


class MixedQueries(HybridQueries):
    """The same with content that is learned for each rank of the proposals (mixed query selection, as in DINO, Zhang et al. 2022, section 3.4).

    Positions are still half of what the projection makes of a proposal. The other half only takes part in the norm's mean and variance, as in
    the authors' weights. Arguments are those of `HybridQueries`.
    """

    def __init__(self, *, count: int, one_to_many: int, repeats: int, width: int, outputs: int) -> None:
        super().__init__(count=count, one_to_many=one_to_many, repeats=repeats, width=width, outputs=outputs)
        self.content = nn.Embedding(count + one_to_many, width)

    def best(self, memory: Memory, count: int) -> Queries:
        """See `ProposalQueries.best`."""
        queries = super().best(memory, count)
        learned = self.content.weight[: queries.content.shape[1]]  # (Q or Q + T, D)
        return replace(queries, content=learned.to(queries.content.dtype).expand_as(queries.content))


class TwiceLookingDecoder(DeformableDecoder):
    """Deformable DETR's refining decoder, in which box losses also teach the layer before (as in DINO, section 3.5).

    Args:
        layers: decoder layers.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__(layers, refine=True)

    def trail(self, start: Tensor) -> ReferenceTrail:
        """See `DeformableDecoder.trail`."""
        return ReferenceTrail(start, epsilon=EPSILON, look_forward_twice=True)


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """Deformable DETR's parts except for the query source and the decoder."""
    backbone = deformable_detr.build_levels(config)
    make_queries = MixedQueries if config.mixed_selection else HybridQueries
    source = make_queries(
        count=config.queries,
        one_to_many=config.one_to_many_queries,
        repeats=config.repeats,
        width=config.width,
        outputs=config.class_count,
    )
    layers = deformable_detr.decoder_layers(config)
    heads = LayerwiseHeads(width=config.width, outputs=config.class_count, layers=config.decoder_layers)
    start_heads(heads, source.proposals)
    return EncoderDecoder(
        backbone=backbone,
        neck=deformable_detr.neck(config, backbone),
        encoder=deformable_detr.encoder(config),
        query_source=source,
        decoder=TwiceLookingDecoder(layers) if config.look_forward_twice else DeformableDecoder(layers, refine=True),
        heads=heads,
        card=card,
    )


def criterion(config: Config, model: Detector | None = None) -> SetCriterion:  # noqa: ARG001 - for papers with masks
    """Deformable DETR's set loss, and the same for one-to-many queries, with equal weights (section 3.2)."""
    sets: list[PredictionSet] = [AllProposals()]
    if config.one_to_many_queries > 0:
        sets.append(RepeatedGroup(ONE_TO_MANY))
    return focal_criterion(
        class_count=config.class_count,
        layers=config.decoder_layers,
        cost_weights=config.term_weights,
        loss_weights=config.term_weights,
        sets=sets,
    )


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> TopKSelection:  # noqa: ARG001
    """The best hundred pairs of a query and a named class, as Deformable DETR."""
    return TopKSelection([category.index for category in categories])


def _published(name: str, aps: dict[int, float]) -> tuple[PublishedWeights, ...]:
    """Files of one model by their numbers of epochs."""
    folder = "https://github.com/HDETR/H-Deformable-DETR/releases/download/v0.1"
    ending = "deformable_detr_plus_iterative_bbox_refinement_plus_plus_two_stage"
    return tuple(
        PublishedWeights(f"{folder}/{name}_{ending}_{epochs}eps.pth", ap, "MIT", tag=f"{epochs} epochs")
        for epochs, ap in aps.items()
    )


SOURCE = Source("HDETR/H-Deformable-DETR", "f58ceb1", "MIT", "2207.13080")
RECIPE = replace(deformable_detr.RECIPE, epochs=12, batch_size=16, drop_after=11 / 12)
# For images of about 128 pixels with few objects.
_COMPACT: dict[str, Any] = {
    "backbone": "compact",
    "levels": 3,
    "queries": 30,
    "one_to_many_queries": 150,
    "width": 96,
    "hidden": 192,
    "encoder_layers": 0,
    "decoder_layers": 2,
}
VARIANTS: dict[str, Variant] = {
    "h-deformable-detr-r50": Variant(
        Config(),
        RECIPE,
        weights=_published("r50_hybrid_branch_lambda1_group6_t1500_dp0_mqs_lft", {12: 0.487, 36: 0.500}),
    ),
    "h-deformable-detr-r50-one-to-one": Variant(
        Config(one_to_many_queries=0), RECIPE, weights=_published("r50_dp0_mqs_lft", {12: 0.470, 36: 0.490})
    ),
    "h-deformable-detr-compact": Variant(
        Config(**_COMPACT), deformable_detr.COMPACT_RECIPE, deformable_detr.COMPACT_PREPROCESSING
    ),
}
