"""The losses of masks against formulas written out, and their gradients against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.losses import masks
from detrkit.losses.masks import mask_losses

SIZE = (24, 36)


def wanted() -> list[Tensor]:
    """Masks of three objects in images of two sizes."""
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(size, generator=generator) > 0.6 for size in ((24, 30), (24, 30), (20, 36))]


def written_out(logits: Tensor, objects: list[int]) -> Tensor:
    large = F.interpolate(logits[:, None], SIZE, mode="bilinear", align_corners=False)[:, 0].flatten(1)
    target = torch.stack(
        [
            F.pad(
                wanted()[index].double(), (0, SIZE[1] - wanted()[index].shape[1], 0, SIZE[0] - wanted()[index].shape[0])
            )
            for index in objects
        ]
    ).flatten(1)
    probability = large.sigmoid()
    right = probability * target + (1 - probability) * (1 - target)
    alpha = 0.25 * target + 0.75 * (1 - target)
    focal = alpha * (1 - right) ** 2 * F.binary_cross_entropy_with_logits(large, target, reduction="none")
    dice = 1 - (2 * (probability * target).sum(1) + 1) / (probability.sum(1) + target.sum(1) + 1)
    return torch.stack([focal.mean(1).sum(), dice.sum()])


@pytest.mark.parametrize("pixels_at_once", [1, 2 * SIZE[0] * SIZE[1], 2**20])
def test_values_and_gradients(pixels_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "_PIXELS_AT_ONCE", pixels_at_once)
    objects = [2, 0, 1]
    logits = torch.randn(3, 6, 9, dtype=torch.float64, requires_grad=True)
    found, expected = mask_losses(logits, wanted(), objects, size=SIZE), written_out(logits, objects)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0)):
        scale = torch.tensor(weights, dtype=torch.float64)
        (own,) = torch.autograd.grad((found * scale).sum(), logits, retain_graph=True)
        (theirs,) = torch.autograd.grad((expected * scale).sum(), logits, retain_graph=True)
        torch.testing.assert_close(own, theirs, rtol=1e-9, atol=1e-12)


def test_no_masks_have_no_loss() -> None:
    logits = torch.zeros(0, 6, 9, requires_grad=True)
    losses = mask_losses(logits, [], [], size=SIZE)
    losses.sum().backward()
    assert losses.tolist() == [0, 0]
    assert logits.grad is not None


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(1, 6, 9).bfloat16()
    found = mask_losses(logits, wanted(), [0], size=SIZE)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, mask_losses(logits.float(), wanted(), [0], size=SIZE))


def test_second_derivatives_are_refused() -> None:
    logits = torch.randn(1, 6, 9, requires_grad=True)
    (slope,) = torch.autograd.grad(mask_losses(logits, wanted(), [0], size=SIZE).sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        slope.sum().backward()
