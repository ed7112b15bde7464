"""Class losses against torch's and torchvision's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from losses.records import labelled
from torch import Tensor

from detrkit.losses.classification import cross_entropy_with_no_object, focal_loss

LAYERS, IMAGES, QUERIES, CLASSES = 3, 2, 5, 4


def scores_and_labels(outputs: int) -> tuple[Tensor, Tensor]:
    """Random scores in float64 and labels, of which 6 in every layer are no-object (the number of classes)."""
    logits = torch.randn(LAYERS, IMAGES, QUERIES, outputs, dtype=torch.float64).mul(3).requires_grad_()
    labels = torch.cat([torch.randint(0, CLASSES, (LAYERS, 4)), torch.full((LAYERS, 6), CLASSES)], dim=1)
    labels = torch.stack([layer[torch.randperm(10)] for layer in labels])
    return logits, labels.reshape(LAYERS, IMAGES, QUERIES)


def cross_entropy(logits: Tensor, labels: Tensor, weight: float, counted: Tensor | None = None) -> Tensor:
    matched = labelled(logits, labels, no_object=logits.shape[-1] - 1, counted=counted)
    return cross_entropy_with_no_object(matched, no_object_weight=weight)


def focal(
    logits: Tensor, labels: Tensor, divisor: float | Tensor, counted: Tensor | None = None, **numbers: float
) -> Tensor:
    return focal_loss(labelled(logits, labels, divisor, no_object=CLASSES, counted=counted), **numbers)


@pytest.mark.parametrize("weight", [0.1, 0.5, 1.0])
def test_cross_entropy_equals_torch_layer_by_layer(weight: float) -> None:
    logits, labels = scores_and_labels(CLASSES + 1)
    class_weights = torch.ones(CLASSES + 1)  # float32 first, as the authors keep it
    class_weights[-1] = weight
    found = cross_entropy(logits, labels, weight)
    wanted = torch.stack(
        [
            F.cross_entropy(layer_logits.flatten(0, 1), layer_labels.flatten(), class_weights.double())
            for layer_logits, layer_labels in zip(logits, labels, strict=True)
        ]
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    direction = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    gradients = [torch.autograd.grad((losses * direction).sum(), logits) for losses in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_queries_without_object_weigh_less() -> None:
    logits = torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]])
    labels = torch.tensor([[[0, 1]]])
    nll = (torch.logsumexp(logits[0, 0], -1) - torch.tensor([2.0, 0.0])).tolist()
    wanted = (1.0 * nll[0] + 0.1 * nll[1]) / 1.1
    assert cross_entropy(logits, labels, 0.1).item() == pytest.approx(wanted, rel=1e-6)


def test_a_batch_of_nothing_but_no_object_is_a_plain_mean() -> None:
    logits, _ = scores_and_labels(CLASSES + 1)
    labels = torch.full((LAYERS, IMAGES, QUERIES), CLASSES)
    wanted = -logits.log_softmax(-1)[..., -1].mean((1, 2))
    torch.testing.assert_close(cross_entropy(logits, labels, 0.1), wanted)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.5)])
def test_focal_loss_equals_torchvision_layer_by_layer(alpha: float, gamma: float) -> None:
    logits, labels = scores_and_labels(CLASSES)
    found = focal(logits, labels, 7.0, alpha=alpha, gamma=gamma)
    wanted_classes = torch.eye(CLASSES + 1, dtype=torch.float64)[labels][..., :CLASSES]
    wanted = torch.stack(
        [
            torchvision.ops.sigmoid_focal_loss(layer, one_hot, alpha, gamma, reduction="sum") / 7.0
            for layer, one_hot in zip(logits, wanted_classes, strict=True)
        ]
    )
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(losses.sum(), logits) for losses in (found, wanted)]
    torch.testing.assert_close(*gradients)


def textbook_focal_loss(logits: Tensor, labels: Tensor, divisor: float, alpha: float, gamma: float) -> Tensor:
    """Lin et al., equation 5, decision by decision."""
    totals = []
    for layer_logits, layer_labels in zip(logits, labels, strict=True):
        total = logits.new_zeros(())
        for scores, label in zip(layer_logits.flatten(0, 1), layer_labels.flatten().tolist(), strict=True):
            for entry, score in enumerate(scores):
                probability = 1 / (1 + torch.exp(-score))
                right, weight = (probability, alpha) if entry == label else (1 - probability, 1 - alpha)
                total = total - weight * (1 - right) ** gamma * torch.log(right)
        totals.append(total / divisor)
    return torch.stack(totals)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.9, 3.0)])
def test_focal_loss_and_its_gradient_are_those_of_the_textbook(alpha: float, gamma: float) -> None:
    logits, labels = scores_and_labels(CLASSES)
    assert 0 < (labels < CLASSES).sum() < labels.numel()
    found = focal(logits, labels, 7.0, alpha=alpha, gamma=gamma)
    wanted = textbook_focal_loss(logits, labels, 7.0, alpha, gamma)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    direction = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    gradients = [torch.autograd.grad((losses * direction).sum(), logits)[0] for losses in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_focal_loss_of_sure_scores_is_finite(label: int) -> None:
    logits = torch.tensor([[[[200.0, -200.0]]]], requires_grad=True)
    loss = focal_loss(labelled(logits, torch.tensor([[[label]]]), no_object=2))
    # Right for 0; for 1 both decisions are wrong by 200, for no object the first one is.
    assert loss.item() == pytest.approx({0: 0.0, 1: (0.75 + 0.25) * 200, 2: 0.75 * 200}[label])
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.isfinite().all()


def test_focal_loss_without_any_object_is_all_background() -> None:
    logits, _ = scores_and_labels(CLASSES)
    found = focal(logits, torch.full((LAYERS, IMAGES, QUERIES), CLASSES), 1.0)
    probabilities = logits.sigmoid()
    wanted = (-0.75 * probabilities**2 * (1 - probabilities).log()).sum((1, 2, 3))
    torch.testing.assert_close(found, wanted)


def test_focal_loss_of_one_query_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 0.0]]]])
    # Both decisions are at one half: object 0.25 · 0.25 · ln 2, the other class 0.75 · 0.25 · ln 2.
    found = focal(logits, torch.tensor([[[1]]]), torch.tensor(2.0))
    assert found.item() == pytest.approx((0.25 + 0.75) * 0.25 * 0.693147 / 2, rel=1e-5)
    nothing = focal(logits, torch.tensor([[[CLASSES]]]), 1.0)
    assert nothing.item() == pytest.approx(2 * 0.75 * 0.25 * 0.693147, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_scores_are_float32(dtype: torch.dtype) -> None:
    logits, labels = scores_and_labels(CLASSES + 1)
    halved = logits.detach().to(dtype)
    found = cross_entropy(halved, labels, 0.1)
    assert found.dtype == torch.float32
    exact = cross_entropy(halved.double(), labels, 0.1)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
    found = focal(halved, labels, 3.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), focal(halved.double(), labels, 3.0), rtol=1e-5, atol=1e-6)


def test_rows_that_do_not_count_give_no_loss_and_no_gradient() -> None:
    counted = torch.tensor([[True, True, False, True, False], [False, False, False, False, True]])
    logits, labels = scores_and_labels(CLASSES)
    labels = labels.masked_fill(~counted, CLASSES)[:1]
    found = focal(logits[:1], labels, 2.0, counted)
    kept_logits, kept_labels = logits[:1, counted][:, None], labels[:, counted][:, None]
    torch.testing.assert_close(found, focal(kept_logits, kept_labels, 2.0))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert not gradient[0, ~counted].any()
    assert gradient[0, counted].all()

    logits, labels = scores_and_labels(CLASSES + 1)
    labels = labels.masked_fill(~counted, CLASSES)[:1]
    kept_logits, kept_labels = logits[:1, counted][:, None], labels[:, counted][:, None]
    torch.testing.assert_close(
        cross_entropy(logits[:1], labels, 0.1, counted), cross_entropy(kept_logits, kept_labels, 0.1)
    )
