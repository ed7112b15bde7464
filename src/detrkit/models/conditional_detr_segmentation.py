"""Masks for Conditional DETR: DETR's mask head (section 4.4 there) on the queries of this paper; nobody published it in this form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from detrkit.cards import Category, ModelCard, Variant
from detrkit.layers.mask_selection import MaskSelection
from detrkit.losses.masks import MaskCriterion
from detrkit.models import conditional_detr, detr_segmentation
from detrkit.models.detector import Detector
from detrkit.models.detr_segmentation import (
    COMPACT,
    COMPACT_PREPROCESSING,
    COMPACT_RECIPE,
    MaskDetector,
    MaskSettings,
)


@dataclass(frozen=True)
class Config(conditional_detr.Config, MaskSettings):
    """The paper's settings with masks; the class head is that of COCO's panoptic ids, of which the highest is 200.

    Raises:
        ConfigurationError: see `MaskSettings`.
    """

    class_count: int = 250

    least: ClassVar[dict[str, int]] = conditional_detr.Config.least | MaskSettings.least

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        self.check_mask_head()


def build(config: Config, card: ModelCard) -> MaskDetector:
    """Conditional DETR with a mask head."""
    return MaskDetector.around(conditional_detr.build(config, card), config)


def criterion(config: Config, model: Detector | None = None) -> MaskCriterion:
    """The paper's loss, and the focal and Dice loss of masks in the last layer."""
    return detr_segmentation.mask_criterion(conditional_detr.criterion(config, model), config, model)


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> MaskSelection:
    """The paper's detections, with masks on request, and panoptic results."""
    return detr_segmentation.mask_selection(conditional_detr.selection(config, categories, model), categories, model)


SOURCE = conditional_detr.SOURCE
VARIANTS: dict[str, Variant] = {
    "conditional-detr-r50-panoptic": Variant(Config(), conditional_detr.RECIPE),
    "conditional-detr-compact-panoptic": Variant(Config(**COMPACT), COMPACT_RECIPE, COMPACT_PREPROCESSING),
}
