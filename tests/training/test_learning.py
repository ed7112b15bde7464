"""The numbers and words that show how training is going."""

from __future__ import annotations

import json

import torch

from detrkit.structures import Losses, Shown
from detrkit.training.learning import LearningWindow


def step(total: float, matched: float, correct: float) -> Losses:
    shown = {
        "class loss": Shown(torch.tensor(total + 1), 1),
        "distance loss": Shown(torch.tensor(0.25 * matched), matched),
        "matched class accuracy": Shown(torch.tensor(int(correct)), torch.tensor(matched), percentage=True),
    }
    return Losses(torch.tensor(total, requires_grad=True), {}, shown)


def test_means_over_the_window() -> None:
    window = LearningWindow(2)
    for losses in (step(100.0, 50, 50), step(4.0, 3, 0), step(6.0, 1, 1)):
        window.add(losses)
    learning = window.learning()
    assert learning.total == 5.0
    # 1 of 4 objects has the right class, which is not the mean of 0 and 1.
    assert learning.means == {"class loss": 6.0, "distance loss": 0.25, "matched class accuracy": 0.25}
    assert learning.in_words() == "loss 5.00, class loss 6.00, distance loss 0.250, matched class accuracy 25%"
    assert learning.row() == {"loss": 5.0, "class_loss": 6.0, "distance_loss": 0.25, "matched_class_accuracy": 0.25}
    window.clear()
    assert len(window) == 0


def test_a_window_without_objects_says_so() -> None:
    window = LearningWindow(None)
    window.add(step(1.0, 0, 0))
    learning = window.learning()
    assert learning.means["matched class accuracy"] is None
    assert learning.in_words() == "loss 1.00, class loss 2.00, no objects seen yet"
    assert learning.row() == {"loss": 1.0, "class_loss": 2.0}


def test_names_are_the_criterions() -> None:
    window = LearningWindow(None)
    for total, shown in ((1.0, {}), (2.0, {"centerness": Shown(torch.tensor(3.0), 2)})):
        window.add(Losses(torch.tensor(total), {"rpn.objectness": torch.tensor(total)}, shown))
    learning = window.learning()
    assert learning.in_words() == "loss 1.50, centerness 1.50"
    assert learning.row() == {"loss": 1.5, "centerness": 1.5}


def test_means_go_on_exactly_where_they_were_interrupted() -> None:
    """Also after several interruptions: float sums depend on their order."""
    steps = [step(0.1 * number + 1e-3, number % 4, number % 3) for number in range(1, 30)]
    whole, parts = LearningWindow(None), LearningWindow(None)
    for number, losses in enumerate(steps):
        whole.add(losses)
        if number in (3, 4, 17):
            state = json.loads(json.dumps(parts.state()))
            parts = LearningWindow(None)
            parts.restore(state)
        parts.add(losses)
    assert len(parts) == len(whole) == 29
    assert parts.learning() == whole.learning()
