"""DAB-Deformable-DETR (Liu et al. 2022, arXiv:2201.12329, section 5): Deformable DETR whose queries are anchor boxes.

The refining form of Deformable DETR, with DAB-DETR's anchors and contents for queries. In every layer a query's position code is made anew from
its box, and scaled by what the query carries. Width and height need no modulation here: sampling points spread with the box.

Symbols: B images, Q queries, S memory tokens, D width, P patterns, L decoder layers, K outputs of the class head, one per class (no no-object).

Deviations from the authors' code: as in Deformable DETR, none of which changes a value beyond rounding. Their option for two stages fails, and is
not offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from detrkit.cards import Category, ModelCard, PublishedWeights, Recipe, Variant
from detrkit.layers.heads import MLP, LayerwiseHeads
from detrkit.layers.initialization import start_heads, xavier_matrices
from detrkit.layers.position_encoding import reference_code
from detrkit.layers.references import ReferenceTrail
from detrkit.layers.selection import TopKSelection
from detrkit.losses.criterion import SetCriterion, focal_criterion
from detrkit.models import dab_detr, deformable_detr
from detrkit.models.dab_detr import EPSILON, GIOU_EPSILON, AnchorQueries
from detrkit.models.deformable_detr import DeformableDecoder
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.settings import MultiScaleSettings
from detrkit.structures import Queries


@dataclass(frozen=True)
class Config(MultiScaleSettings):
    """DAB-Deformable-DETR's settings; the defaults are the authors'.

    Attributes:
        queries: Q, counting every pattern.
        class_weight: weight of the class term in the loss; so do `l1_weight` and `giou_weight` belong to the loss alone.
        class_cost: weight of the class term in the matching cost.
        l1_cost: weight of the box distance in the matching cost.
        giou_cost: weight of the generalised IoU in the matching cost.
        patterns: P, learned codes that are added to the anchors' contents, each to all Q / P anchors; 0 for none.
        centers: see `dab_detr.Config`.

    Raises:
        ConfigurationError: see `MultiScaleSettings`; or settings that do not fit together.
    """

    hidden: int = 2048
    dropout: float = 0.0
    class_weight: float = 1.0
    class_cost: float = 2.0
    l1_cost: float = 5.0
    giou_cost: float = 2.0
    patterns: int = 0
    centers: str = "learned"

    least: ClassVar[dict[str, int]] = {
        **MultiScaleSettings.least,
        **dict.fromkeys(("class_cost", "l1_cost", "giou_cost", "patterns"), 0),
    }

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        dab_detr.check_anchors(self.queries, self.patterns, self.centers)


class AnchorDeformableDecoder(DeformableDecoder):
    """Deformable DETR's refining decoder, which makes its queries' positions from their boxes.

    Args:
        layers: decoder layers.
        width: D.
    """

    def __init__(self, layers: list[nn.Module], *, width: int) -> None:
        super().__init__(layers, refine=True)
        self.width = width
        self.position_head = MLP(2 * width, width, width)  # from a box's code to its query's position
        self.position_scale = MLP(width, width, width)  # from what a query carries to the scale of its position
        xavier_matrices(self.position_head, self.position_scale)

    def trail(self, start: Tensor) -> ReferenceTrail:
        """See `DeformableDecoder.trail`."""
        return ReferenceTrail(start, epsilon=EPSILON)

    def query_position(self, queries: Queries, content: Tensor, references: Tensor, layer: int) -> Tensor:  # noqa: ARG002
        """See `DeformableDecoder.query_position`; references are those of the first level, which padding moves, as in the authors' code."""
        code = reference_code(references[:, :, 0], width=self.width)  # (B, Q, 2 D)
        position: Tensor = self.position_head(code.to(content.dtype))
        return position if layer == 0 else position * self.position_scale(content)


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """Deformable DETR's parts except for the query source and the decoder."""
    backbone = deformable_detr.build_levels(config)
    heads = LayerwiseHeads(width=config.width, outputs=config.class_count, layers=config.decoder_layers)
    start_heads(heads)
    with torch.no_grad():  # as where references are points: the first layer's boxes start smaller than their anchors
        nn.init.constant_(heads.pairs()[0][1].output.bias[2:], -2.0)
    return EncoderDecoder(
        backbone=backbone,
        neck=deformable_detr.neck(config, backbone),
        encoder=deformable_detr.encoder(config),
        query_source=AnchorQueries(
            count=config.queries,
            width=config.width,
            patterns=config.patterns,
            learned_content=True,
            centers=config.centers,
        ),
        decoder=AnchorDeformableDecoder(deformable_detr.decoder_layers(config), width=config.width),
        heads=heads,
        card=card,
    )


def criterion(config: Config, model: Detector | None = None) -> SetCriterion:  # noqa: ARG001 - for papers with masks
    """DAB-DETR's: classes weigh less in the loss than in matching."""
    return focal_criterion(
        class_count=config.class_count,
        layers=config.decoder_layers,
        cost_weights={"class": config.class_cost, "l1": config.l1_cost, "giou": config.giou_cost},
        loss_weights=config.term_weights,
        giou_epsilon=GIOU_EPSILON,
    )


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> TopKSelection:  # noqa: ARG001
    """The best hundred pairs of a query and a named class, as Deformable DETR."""
    return TopKSelection([category.index for category in categories])


RECIPE = Recipe(epochs=50, batch_size=16)
# Trained with other weights of the loss's terms than the authors' code has; they stand in the file and are read from it.
_WEIGHTS = PublishedWeights(
    "https://drive.google.com/drive/folders/1uP9N0HIBPB6OPxLq5aqeIfKNOFFYQl2t", 0.487, "Apache-2.0", tag="v2"
)
VARIANTS: dict[str, Variant] = {
    "dab-deformable-detr-r50": Variant(Config(), RECIPE, weights=(_WEIGHTS,)),
    "dab-deformable-detr-compact": Variant(
        Config(
            backbone="compact",
            levels=3,
            queries=30,
            width=96,
            hidden=192,
            encoder_layers=0,
            decoder_layers=2,
        ),
        deformable_detr.COMPACT_RECIPE,
        deformable_detr.COMPACT_PREPROCESSING,
    ),
}
