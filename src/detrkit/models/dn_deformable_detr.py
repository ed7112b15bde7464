"""DN-DAB-Deformable-DETR (Li et al. 2022, arXiv:2203.01305, and its code): denoising for DAB-Deformable-DETR.

As in DN-DETR, except that each anchor learns a content of its own, one channel narrower, instead of sharing the code of no known class.

Symbols: B images, Q queries, D width, K outputs of the class head, one per class (no no-object).

Deviations from the authors' code: as in DN-DETR and DAB-Deformable-DETR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from detrkit.cards import Category, ModelCard, PublishedWeights, Variant
from detrkit.layers.selection import TopKSelection
from detrkit.losses.criterion import SetCriterion
from detrkit.models import dab_deformable_detr, deformable_detr, dn_detr
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.dn_detr import DenoisingSettings, LabelledAnchors, check_noise, with_indicator


@dataclass(frozen=True)
class Config(dab_deformable_detr.Config, DenoisingSettings):
    """DN-DAB-Deformable-DETR's settings: DAB-Deformable-DETR's and those of denoising.

    Raises:
        ConfigurationError: see `dab_deformable_detr.Config`; or noise above 1.
    """

    least: ClassVar[dict[str, int]] = {**DenoisingSettings.least, **dab_deformable_detr.Config.least}

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        check_noise(self)


class ContentAnchors(LabelledAnchors):
    """Anchors with learned contents of D - 1 channels, and the indicator; in training, noised objects follow them."""

    def labelled(self, content: Tensor) -> Tensor:
        """See `LabelledAnchors.labelled`."""
        return with_indicator(content, 0.0)


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """DAB-Deformable-DETR's parts; what queries carry is new."""
    backbone, heads = deformable_detr.build_levels(config), dab_deformable_detr.heads(config)
    return EncoderDecoder(
        backbone=backbone,
        neck=deformable_detr.neck(config, backbone),
        encoder=deformable_detr.encoder(config),
        query_source=query_source(config),
        decoder=dab_deformable_detr.decoder(config),
        heads=heads,
        card=card,
    )


def query_source(config: Config) -> ContentAnchors:
    """The anchors, whose contents leave a channel for the indicator."""
    return ContentAnchors(
        dn_detr.denoising(config),
        count=config.queries,
        width=config.width - 1,
        patterns=config.patterns,
        learned_content=True,
        centers=config.centers,
    )


def criterion(config: Config, model: Detector | None = None) -> SetCriterion:
    """DN-DETR's."""
    return dn_detr.criterion(config, model)


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> TopKSelection:
    """The best hundred pairs of a query and a named class, as DAB-Deformable-DETR."""
    return dab_deformable_detr.selection(config, categories, model)


# The code is an optimised one, "v2"; the authors report 48.4 AP after 24 epochs, too.
_WEIGHTS = PublishedWeights(
    "https://drive.google.com/drive/folders/1pIllR0VfSIqX8TmQy0PFNiPdp87j-78j", 0.495, "Apache-2.0", tag="v2, 50 epochs"
)
SOURCE = dn_detr.SOURCE
VARIANTS: dict[str, Variant] = {
    "dn-dab-deformable-detr-r50": Variant(
        Config(), dab_deformable_detr.RECIPE, weights=(_WEIGHTS,), exceptions=dab_deformable_detr.EXCEPTIONS
    ),
    # Like DAB-Deformable-DETR's, with few rows for small memories.
    "dn-dab-deformable-detr-compact": Variant(
        Config(**dab_deformable_detr.COMPACT, denoising=100),
        deformable_detr.COMPACT_RECIPE,
        deformable_detr.COMPACT_PREPROCESSING,
    ),
}
