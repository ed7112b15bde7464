"""Learning one batch by heart: the shortest test that gradients reach every part."""

from __future__ import annotations

import torch
from torch import nn

from detrkit.models.catalog import criterion_for, selection_for
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, Target


def assert_learns_by_heart(model: Detector, *, steps: int, clip: float = float("inf")) -> None:
    """After some steps, two objects are detected where they are.

    Args:
        model: with at least three classes, in training mode.
        steps: of AdamW.
        clip: largest norm of the gradient.
    """
    images = ImageBatch(torch.randn(1, 3, 64, 96))
    targets = [Target(torch.tensor([0, 2]), torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.5]]))]
    optimizer, criterion = torch.optim.AdamW(model.parameters(), 1e-3), criterion_for(model)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(model(images, targets), targets).total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        best = selection_for(model)(model(images), torch.tensor([[100, 100]]))[0]
    order = best.labels[:2].argsort()
    assert best.labels[:2][order].tolist() == [0, 2]
    wanted = torch.tensor([[20.0, 25.0, 40.0, 55.0], [55.0, 35.0, 85.0, 85.0]])
    assert (best.boxes_xyxy[:2][order] - wanted).abs().max() < 10
