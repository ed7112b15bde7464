"""The head of FCOS (Tian et al. 2019, arXiv:1904.01355, section 3.1) as TSP-FCOS uses it: its features become tokens, and its classes say which."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detrkit.layers.initialization import PRIOR_LOGIT
from detrkit.structures import Output, TensorRecord, record

_DEPTH = 4  # convolutions of each tower


@record
class FeaturesOfInterest(TensorRecord):
    """What the criterion and the selection have to know of predictions that come from cells of a feature pyramid.

    Attributes:
        cells: (B, Q) int64, the cell of all levels that each prediction comes from.
        distances: (B, Q, 4) from the cell's centre to left, top, right and bottom side in strides of its level.
        centerness_logits: (B, Q).
        cell_logits: (B, S, K) class scores of all cells, by which features were chosen.
        level_sizes: (h, w) of each level; the sum of h · w is S.
        strides: pixels per cell of each level.
        image_sizes: (B, 2) width and height in pixels of each image without its padding.
    """

    cells: Tensor
    distances: Tensor
    centerness_logits: Tensor
    cell_logits: Tensor
    level_sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    image_sizes: Tensor


@record
class FeatureOutput(Output):
    """Predictions of the chosen features.

    Attributes:
        features: where they come from.
    """

    features: FeaturesOfInterest | None = None


@dataclass(frozen=True)
class CellFeatures:
    """What the head makes of all levels.

    Attributes:
        features: (B, S, 2 · C), those for classes, then those for boxes.
        logits: (B, S, K) class scores.
    """

    features: Tensor
    logits: Tensor


class FCOSHead(nn.Module):
    """Two towers of convolutions, shared by all levels, and a classifier on the first.

    Args:
        width: C of the levels.
        outputs: K.
    """

    def __init__(self, *, width: int, outputs: int) -> None:
        super().__init__()
        self.class_tower, self.box_tower = _tower(width), _tower(width)
        self.class_head = nn.Conv2d(width, outputs, kernel_size=3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.class_head.bias, PRIOR_LOGIT)  # type: ignore[arg-type]

    def forward(self, levels: tuple[Tensor, ...]) -> CellFeatures:
        """Features and class scores of the cells of all levels (B, C, h, w), row by row, level after level."""
        features, logits = [], []
        for level in levels:
            of_classes = self.class_tower(level)
            features.append(torch.cat([of_classes, self.box_tower(level)], dim=1).flatten(2).mT)
            logits.append(self.class_head(of_classes).flatten(2).mT)
        return CellFeatures(torch.cat(features, dim=1), torch.cat(logits, dim=1))

    def by_class(self) -> list[nn.Module]:
        """Layers with a row for each class."""
        return [self.class_head]


def _tower(width: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(_DEPTH):
        parts += [nn.Conv2d(width, width, kernel_size=3, padding=1), nn.GroupNorm(32, width), nn.ReLU()]
    return nn.Sequential(*parts)
