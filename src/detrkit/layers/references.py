"""The references of a decoder that refines boxes from layer to layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detrkit.layers.heads import inverse_sigmoid


class ReferenceTrail:
    """Where each layer looks, and what its boxes are relative to (Deformable DETR, appendix A.4; DINO, section 3.5).

    The box head's output is added to the logits of the current reference; the sum's sigmoid is the new reference. The next layer looks at it
    without gradient, unless `detached` is False. What the next layer's *boxes* are relative to depends on the paper: the same (Deformable
    DETR), or the new reference with its gradient ("look forward twice", DINO), so that a layer also learns from the next layer's boxes.

    Args:
        start: (B, Q, 2) points or (B, Q, 4) boxes cxcywh in [0, 1], where the first layer looks; float32 or better.
        epsilon: of the inverse sigmoid; it differs between papers.
        look_forward_twice: whether boxes are relative to references with their gradient.
        detached: whether layers look at references without gradient. If not, boxes are relative to references with gradient, too.
    """

    def __init__(
        self, start: Tensor, *, epsilon: float, look_forward_twice: bool = False, detached: bool = True
    ) -> None:
        self.epsilon, self.detached = epsilon, detached
        self.look_forward_twice = look_forward_twice or not detached
        self._references: list[Tensor] = []
        self._base_logits: list[Tensor] = []
        self._add(start, start)

    @property
    def current(self) -> Tensor:
        """(B, Q, 2 or 4), where the next layer looks."""
        return self._references[-1]

    def stay(self) -> None:
        """The next layer starts from the same references."""
        self._references.append(self._references[-1])
        self._base_logits.append(self._base_logits[-1])

    def move(self, box_logits: Callable[[], Tensor]) -> None:
        """The next layer starts from the boxes of this one.

        Args:
            box_logits: returns (B, Q, 4), the box head's output; computed without gradient unless boxes look forward twice.
        """
        with torch.set_grad_enabled(self.look_forward_twice and torch.is_grad_enabled()):
            moved = (box_logits() + self._logits(self.current)).sigmoid()  # (B, Q, 4)
        self._add(moved.detach() if self.detached else moved, moved)

    def base_logits(self) -> Tensor:
        """(L, B, Q, 4), what each layer's box logits are added to."""
        return torch.stack(self._base_logits)

    def references(self) -> tuple[Tensor, ...]:
        """Where each layer looked, first to last."""
        return tuple(self._references)

    def _add(self, reference: Tensor, base: Tensor) -> None:
        self._references.append(reference)
        self._base_logits.append(self._logits(base))

    def _logits(self, boxes: Tensor) -> Tensor:
        """(B, Q, 4); a point has zeros for width and height."""
        logits = inverse_sigmoid(boxes, epsilon=self.epsilon)
        return torch.nn.functional.pad(logits, (0, 4 - logits.shape[-1]))
