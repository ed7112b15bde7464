"""The numbers and words that tell how learning goes."""

from __future__ import annotations

import pytest
import torch

from detrkit.structures import Losses
from detrkit.training.learning import LearningWindow
from detrkit.training.progress import duration


def step(total: float, matched: float, correct: float) -> Losses:
    terms = {
        f"layers.{layer}.{name}": torch.tensor(total + layer) for layer in range(2) for name in ("class", "l1", "giou")
    }
    return Losses(torch.tensor(total), terms, {"matched": torch.tensor(matched), "correct": torch.tensor(correct)})


def test_means_over_the_window_and_of_the_last_layer() -> None:
    window = LearningWindow(2)
    for losses in (step(100.0, 50, 50), step(4.0, 3, 0), step(6.0, 1, 1)):
        window.add(losses)
    learning = window.learning()
    assert (learning.total, learning.class_loss) == (5.0, 6.0)
    assert learning.right_class == 0.25  # 1 of 4 objects, not the mean of 0 and 1
    assert "25% of matched objects get the right class" in learning.in_words()


def test_a_window_without_objects_says_so() -> None:
    window = LearningWindow(None)
    window.add(step(1.0, 0, 0))
    assert window.learning().right_class is None
    assert "no objects seen yet" in window.learning().in_words()
    assert "right_class" not in window.learning().row()


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (600, "10 min"), (12_000, "3 h 20 min"), (187_200, "2 days 4 h")]
)
def test_durations_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words
