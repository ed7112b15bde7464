"""Losses on the masks of matched queries (DETR, section 4.4), at the size of the padded batch but never for many masks at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.layers.precision import at_least_float32
from detrkit.losses.criterion import SetCriterion
from detrkit.losses.matched import Matched
from detrkit.measures import DICE_LOSS, MASK_LOSS
from detrkit.structures import Losses, Output, Shown, Target

# Pixels of masks whose losses are computed at once; more would take memory and no less time.
_PIXELS_AT_ONCE = 2**20


class MaskCriterion(nn.Module):
    """A paper's loss, and two more terms of its last layer: the focal and the Dice loss of the matched queries' masks.

    It belongs to one model, whose mask head it calls: a copy of the model needs a criterion of its own. In DistributedDataParallel leave
    `find_unused_parameters` off, since the head runs after the forward pass.

    Args:
        boxes: the paper's loss, whose matches it takes.
        mask_logits: computes (P, h, w) logits from an output's mask inputs, (P,) images and (P,) queries.
        term_weights: weights of `mask` and `dice`.
    """

    def __init__(
        self,
        boxes: SetCriterion,
        *,
        mask_logits: Callable[[Any, Tensor, Tensor], Tensor],
        term_weights: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.boxes, self.mask_logits = boxes, mask_logits
        last = boxes.layers - 1
        self.names = {term: f"layers.{last}.{term}" for term in term_weights}
        self.weights = {**boxes.weights, **{self.names[term]: weight for term, weight in term_weights.items()}}

    @property
    def matcher(self) -> Any:
        """The paper's matcher."""
        return self.boxes.matcher

    def forward(self, output: Output, targets: Sequence[Target]) -> Losses:
        """The loss of a batch.

        Args:
            output: of a detector with masks.
            targets: the objects of each image, with masks.

        Raises:
            NonFiniteError: a prediction or a target is NaN or infinite.
            ValueError: as for `SetCriterion`; or objects without masks.
            ConfigurationError: the output comes from another model than this criterion was made for.
        """
        inputs = getattr(output, "mask_inputs", None)
        if inputs is None:
            raise ConfigurationError(
                "the output has no mask inputs but the criterion was made for a model with masks: use the criterion made for this model"
            )
        _check_masks(targets)
        pairs = self.boxes.matched(output, targets)
        losses, matched = self.boxes.losses(pairs), pairs[0][1]  # the decoder's layers come first
        images, queries, objects = (
            part[-1] for part in (matched.matches.images, matched.matches.queries, matched.matches.batch_objects)
        )
        logits = self.mask_logits(inputs, images, queries)
        values = mask_losses(logits, _wanted(targets), objects.tolist(), size=inputs.image_size)
        if not values.isfinite().all():
            image = next(
                (int(row) for row, mask in zip(images, logits, strict=True) if not mask.isfinite().all()), None
            )
            raise NonFiniteError(
                f"image {image} of the batch: the loss is not finite, because its masks are not; lower the learning rate.",
                image,
            )
        return self._added(losses, matched, dict(zip(("mask", "dice"), values, strict=True)))

    def _added(self, losses: Losses, matched: Matched, sums: Mapping[str, Tensor]) -> Losses:
        """The losses with those of masks, given their sums over masks."""
        terms = {self.names[term]: value / matched.divisor for term, value in sums.items()}
        total = losses.total + torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        count = float(matched.matches.queries.shape[1])
        shown = {
            MASK_LOSS.name: Shown(sums["mask"].detach(), count),
            DICE_LOSS.name: Shown(sums["dice"].detach(), count),
        }
        return Losses(total, {**losses.terms, **terms}, {**losses.shown, **shown})


def mask_losses(logits: Tensor, wanted: Sequence[Tensor], objects: Sequence[int], *, size: tuple[int, int]) -> Tensor:
    """Focal and Dice loss of masks, summed over the masks.

    Logits are enlarged to the size of the padded batch (bilinear) and compared with the objects' masks, which are False in the padding. The
    focal loss (alpha 0.25, gamma 2) is a mean over pixels; the Dice loss is 1 - (2 Σ p t + 1) / (Σ p + Σ t + 1).

    Args:
        logits: (P, h, w).
        wanted: the masks of all objects, each (H, W) bool at the size of its own image.
        objects: for each of the P masks the index of its object in `wanted`.
        size: height and width of the padded batch.

    Returns:
        (2,) the sum of the focal losses and that of the Dice losses.
    """
    logits = at_least_float32(logits)
    return _MaskLosses.apply(logits, [wanted[index] for index in objects], size)  # type: ignore[no-any-return]


class _MaskLosses(torch.autograd.Function):
    """Computes gradients together with the losses, a few masks at a time: nothing of the batch's size is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, wanted: list[Tensor], size: tuple[int, int]) -> Tensor:
        sums = logits.new_zeros(2)
        gradients = logits.new_zeros((2, *logits.shape)) if ctx.needs_input_grad[0] else None
        step = max(1, _PIXELS_AT_ONCE // (size[0] * size[1]))
        for start in range(0, len(logits), step):
            rows = slice(start, start + step)
            large = F.interpolate(logits[rows, None], size, mode="bilinear")[:, 0]  # (p, H, W)
            target = _padded(wanted[rows], size, like=large)
            for term, losses in enumerate((_focal, _dice)):
                value, slope = losses(large, target)
                sums[term] += value
                if gradients is not None:
                    gradients[term, rows] = torch.ops.aten.upsample_bilinear2d_backward(
                        slope[:, None], size, [len(slope), 1, *logits.shape[1:]], False
                    )[:, 0]
        if gradients is not None:
            ctx.save_for_backward(gradients)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return torch.einsum("t,tphw->phw", gradients[0], slopes), None, None


def _focal(logits: Tensor, target: Tensor, *, alpha: float = 0.25) -> tuple[Tensor, Tensor]:
    """The sum over masks of the means over pixels, and its derivative by the logits: (p, H, W) logits and targets 0 or 1."""
    sign = 1 - 2 * target
    wrong = logits * sign  # the logit of the wrong answer
    probability, surprise = wrong.sigmoid(), F.softplus(wrong)
    weight = (1 - alpha + (2 * alpha - 1) * target) / logits[0].numel()
    weight = weight * probability**2
    slope = weight * (2 * (1 - probability) * surprise + probability) * sign
    return (weight * surprise).sum(), slope


def _dice(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over masks of 1 - Dice, and its derivative by the logits."""
    probability = logits.sigmoid()
    both = 2 * (probability * target).sum((1, 2), keepdim=True) + 1
    either = probability.sum((1, 2), keepdim=True) + target.sum((1, 2), keepdim=True) + 1
    slope = (both / either**2 - 2 * target / either) * probability * (1 - probability)
    return (1 - both / either).sum(), slope


def _padded(masks: Sequence[Tensor], size: tuple[int, int], *, like: Tensor) -> Tensor:
    """(p, H, W) zeros and ones of the type of `like`, from masks (h, w) of several sizes."""
    result = like.new_zeros((len(masks), *size))
    for place, mask in zip(result, masks, strict=True):
        place[: mask.shape[0], : mask.shape[1]] = mask
    return result


def _check_masks(targets: Sequence[Target]) -> None:
    """Refuses objects without masks.

    Raises:
        ValueError: a target has no masks, or another number of masks than of objects.
    """
    for image, target in enumerate(targets):
        if len(target.labels) and target.masks is None:
            raise ValueError(f"target {image} has no masks: a model with masks learns from data with masks only")
        if target.masks is not None and len(target.masks) != len(target.labels):
            raise ValueError(f"target {image} has {len(target.masks)} masks for {len(target.labels)} objects")


def _wanted(targets: Sequence[Target]) -> list[Tensor]:
    """The masks of all objects, image after image."""
    return [mask for target in targets if target.masks is not None for mask in target.masks]
