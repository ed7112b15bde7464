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
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from detrkit.cards import Category, ModelCard, PublishedWeights, Recipe, Variant
from detrkit.layers.heads import MLP, LayerwiseHeads
from detrkit.layers.initialization import start_heads, xavier_matrices
from detrkit.layers.position_encoding import reference_code
from detrkit.layers.references import ReferenceTrail
from detrkit.layers.selection import TopKSelection
from detrkit.losses.criterion import SetCriterion
from detrkit.models import dab_detr, deformable_detr
from detrkit.models.dab_detr import EPSILON, AnchorQueries
from detrkit.models.deformable_detr import DeformableDecoder
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.settings import CostSettings, MultiScaleSettings
from detrkit.structures import Memory, Queries


@dataclass(frozen=True)
class Config(MultiScaleSettings, CostSettings):
    """DAB-Deformable-DETR's settings; the defaults are the authors'.

    Attributes:
        queries: Q, counting every pattern.
        patterns: P, learned codes that are added to the anchors' contents, each to all Q / P anchors; 0 for none.
        centers: see `dab_detr.Config`.
        padded_positions: whether a query's box is coded as a part of the padded batch. By default it is, as in the authors' code, so the padding
            of a batch changes results a little. False codes it as a part of its image, which is sounder when training from scratch.

    Raises:
        ConfigurationError: see `MultiScaleSettings`; or settings that do not fit together.
    """

    hidden: int = 2048
    dropout: float = 0.0
    class_weight: float = 1.0  # again, since `MultiScaleSettings` has that of `Settings`
    patterns: int = 0
    centers: str = "learned"
    padded_positions: bool = True

    least: ClassVar[dict[str, int]] = {
        **MultiScaleSettings.least,
        **CostSettings.least,
        "patterns": 0,
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
        padded_positions: see `Config`.
    """

    def __init__(self, layers: list[nn.Module], *, width: int, padded_positions: bool) -> None:
        super().__init__(layers, refine=True)
        self.width, self.padded_positions = width, padded_positions
        self.position_head = MLP(2 * width, width, width)  # from a box's code to its query's position
        self.position_scale = MLP(width, width, width)  # from what a query carries to the scale of its position
        xavier_matrices(self.position_head, self.position_scale)

    def trail(self, start: Tensor) -> ReferenceTrail:
        """See `DeformableDecoder.trail`."""
        return ReferenceTrail(start, epsilon=EPSILON)

    def query_position(
        self,
        queries: Queries,  # noqa: ARG002 - its positions are made here
        content: Tensor,
        references: Tensor,
        memory: Memory,
        *,
        layer: int,
    ) -> Tensor:
        """See `DeformableDecoder.query_position`."""
        if self.padded_positions:  # the share of the first level's cells that is no padding
            references = references * memory.valid_ratios()[:, :1].repeat(1, 1, 2)
        code = reference_code(references, width=self.width)  # (B, Q, 2 D)
        position: Tensor = self.position_head(code.to(content.dtype))
        return position if layer == 0 else position * self.position_scale(content)


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """Deformable DETR's parts except for the query source and the decoder."""
    backbone, detection_heads = deformable_detr.build_levels(config), heads(config)
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
        decoder=decoder(config),
        heads=detection_heads,
        card=card,
    )


def heads(config: Config) -> LayerwiseHeads:
    """A pair of heads for each layer; as where references are points, the first layer's boxes start smaller than their anchors."""
    made = LayerwiseHeads(width=config.width, outputs=config.class_count, layers=config.decoder_layers)
    start_heads(made)
    with torch.no_grad():
        nn.init.constant_(made.pairs()[0][1].output.bias[2:], -2.0)
    return made


def decoder(config: Config) -> AnchorDeformableDecoder:
    """Deformable DETR's layers around moving boxes."""
    layers = deformable_detr.decoder_layers(config)
    return AnchorDeformableDecoder(layers, width=config.width, padded_positions=config.padded_positions)


def criterion(config: Config, model: Detector | None = None) -> SetCriterion:
    """DAB-DETR's."""
    return dab_detr.criterion(config, model)


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> TopKSelection:  # noqa: ARG001
    """The best hundred pairs of a query and a named class, as Deformable DETR."""
    return TopKSelection([category.index for category in categories])


SOURCE = dab_detr.SOURCE
RECIPE = Recipe(epochs=50, batch_size=16)
# The authors say that it was trained with other loss coefficients than their code has; they are read from the file's arguments.
_WEIGHTS = PublishedWeights(
    "https://drive.google.com/drive/folders/1uP9N0HIBPB6OPxLq5aqeIfKNOFFYQl2t", 0.487, "Apache-2.0", tag="v2"
)
EXCEPTIONS = {
    "tokens_behind_padding_are_not_looked_at": "Queries code their boxes as parts of the padded batch, as in the authors' code, so results "
    "change a little with the padding; padded_positions=False ends that."
}
COMPACT: dict[str, Any] = {
    "backbone": "compact",
    "levels": 3,
    "queries": 30,
    "width": 96,
    "hidden": 192,
    "encoder_layers": 0,
    "decoder_layers": 2,
    "padded_positions": False,
}
VARIANTS: dict[str, Variant] = {
    "dab-deformable-detr-r50": Variant(Config(), RECIPE, weights=(_WEIGHTS,), exceptions=EXCEPTIONS),
    "dab-deformable-detr-compact": Variant(
        Config(**COMPACT), deformable_detr.COMPACT_RECIPE, deformable_detr.COMPACT_PREPROCESSING
    ),
}
