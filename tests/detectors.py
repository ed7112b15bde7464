"""Detectors without a network, whose results a test can foresee."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from detrkit.cards import Category, ModelCard, Preprocessing
from detrkit.models import detr
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, Output

CATEGORIES = (Category(90, "toothbrush", 0), Category(3, "car", 1))


def make_card(
    preprocessing: Preprocessing, threshold: float = 0.5, class_thresholds: Mapping[int, float] | None = None
) -> ModelCard:
    """A card of a DETR with two classes."""
    config = dataclasses.asdict(detr.Config(class_count=2))
    return ModelCard("detr", "fixed", config, CATEGORIES, preprocessing, threshold, class_thresholds or {})


class BrightDetector(Detector):
    """Finds one object in every picture, a car: what is white, with a score that grows with its size; and records the batches it gets.

    A picture without white has scores of 0.01.
    """

    def __init__(
        self, *, side: int = 64, threshold: float = 0.1, class_thresholds: Mapping[int, float] | None = None
    ) -> None:
        preprocessing = Preprocessing(side, 4 * side, mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0), smallest_side=1)
        super().__init__(backbone=nn.Identity(), card=make_card(preprocessing, threshold, class_thresholds))  # type: ignore[arg-type]
        self.unused = nn.Parameter(torch.zeros(1))  # says which device the model is on
        self.seen: list[ImageBatch] = []

    def forward(self, batch: ImageBatch, targets: object = None) -> Output:
        self.seen.append(batch)
        found = [self._look(pixels.amin(0) > 0.5) for pixels in batch.pixels]
        logits = torch.stack([scores for scores, _ in found]).log()
        return Output(logits[None, :, None], torch.stack([box for _, box in found])[None, :, None])

    def _look(self, bright: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = (bright.any(axis).nonzero().flatten() for axis in (1, 0))
        if not len(rows):
            return torch.tensor([0.005, 0.01, 0.985]), torch.tensor([0.5, 0.5, 0.1, 0.1])
        height, width = bright.shape
        edges = torch.tensor([columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height])
        score = 0.2 + 0.7 * float(bright.float().mean())
        box = torch.cat([(edges[:2] + edges[2:]) / 2, edges[2:] - edges[:2]])
        return torch.tensor([0.02, score, 0.98 - score]), box
