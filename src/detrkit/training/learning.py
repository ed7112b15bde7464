"""How learning goes, in plain words: sums over a window of steps, so that one odd batch says nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from detrkit.structures import Losses


@dataclass(frozen=True)
class Learning:
    """Means over a window of steps; losses are of the last decoder layer but for the total.

    Attributes:
        total: weighted sum over all layers, what is made small.
        class_loss: how unsure the classes are.
        distance: L1 distance of matched boxes, in shares of the image, summed over the four coordinates.
        overlap: 1 - generalised IoU of matched boxes: 0 is perfect, about 1 is beside it.
        right_class: share of matched objects whose class is the most probable one; None before any object was seen.
    """

    total: float
    class_loss: float
    distance: float
    overlap: float
    right_class: float | None

    def in_words(self) -> str:
        """One line for people."""
        if self.right_class is None:
            recognised = "no objects seen yet"
        else:
            recognised = f"{self.right_class:.0%} of matched objects get the right class"
        return (
            f"loss {self.total:.2f} (class {self.class_loss:.2f}, box distance {self.distance:.3f}, "
            f"box overlap {self.overlap:.2f}), {recognised}"
        )

    def row(self) -> dict[str, float]:
        """The same as columns of a log."""
        row = {
            "loss": self.total,
            "class_loss": self.class_loss,
            "distance_loss": self.distance,
            "overlap_loss": self.overlap,
        }
        return row if self.right_class is None else {**row, "right_class": self.right_class}


class LearningWindow:
    """Keeps the last steps' losses as they are, on their device, and adds them up only when asked.

    Args:
        size: steps; None keeps all.
    """

    def __init__(self, size: int | None) -> None:
        self._steps: deque[Tensor] = deque(maxlen=size)

    def add(self, losses: Losses) -> None:
        """Takes in one step."""
        last = max(int(name.split(".")[1]) for name in losses.terms if name.startswith("layers."))
        terms = [losses.terms[f"layers.{last}.{name}"] for name in ("class", "l1", "giou")]
        counts = [losses.statistics[name].to(losses.total.device) for name in ("matched", "correct")]
        self._steps.append(torch.stack([value.detach().float() for value in (losses.total, *terms, *counts)]))

    def clear(self) -> None:
        """Forgets everything."""
        self._steps.clear()

    def __len__(self) -> int:
        return len(self._steps)

    def learning(self) -> Learning:
        """Means over the steps that were kept; at least one must have been."""
        table = torch.stack(list(self._steps)).cpu()
        total, class_loss, distance, overlap = table[:, :4].mean(0).tolist()
        matched, correct = table[:, 4:].sum(0).tolist()
        return Learning(total, class_loss, distance, overlap, correct / matched if matched else None)
