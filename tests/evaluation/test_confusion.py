"""The confusion matrix counts every object and every detection that is shown exactly once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import REAL_FILES, crowded_scene, result

from detrkit.evaluation import analyze

BOX, FAR = (100.0, 100.0, 100.0, 100.0), (300.0, 300.0, 50.0, 50.0)
TRUTH = {
    "images": [{"id": 1}, {"id": 2}, {"id": 3}],
    "categories": [{"id": 9, "name": "dog"}, {"id": 5, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 5, "bbox": BOX, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 9, "bbox": FAR, "iscrowd": 0},
        {"id": 3, "image_id": 2, "category_id": 9, "bbox": BOX, "iscrowd": 0},
        {"id": 4, "image_id": 3, "category_id": 9, "bbox": BOX, "iscrowd": 1},
    ],
}


def test_by_hand() -> None:
    results = [
        result(1, 5, BOX, 0.9),  # right
        result(1, 9, BOX, 0.95),  # on the cat, which is found: background
        result(2, 5, BOX, 0.8),  # a dog taken for a cat
        result(3, 9, BOX, 0.9),  # in a crowd: ignored
    ]
    confusion = analyze(TRUTH, results, resamples=1).confusion
    assert (confusion.ids, confusion.names) == ((5, 9), ("cat", "dog"))
    # Rows cat, dog, background; columns cat, dog, missed. Both the threshold and the overall one are 0.9.
    assert confusion.counts == ((1, 0, 0), (0, 0, 2), (0, 1, 0))
    everything = [entry | {"score": 0.9} for entry in results]
    assert analyze(TRUTH, everything, resamples=1).confusion.counts == ((1, 0, 0), (1, 0, 1), (0, 1, 0))


def test_the_right_class_goes_before_a_better_place_and_a_better_score() -> None:
    shifted = (130.0, 100.0, 100.0, 100.0)
    results = [result(2, 5, BOX, 0.9), result(2, 9, shifted, 0.9)]
    assert analyze(TRUTH, results, resamples=1).confusion.counts == ((0, 0, 1), (0, 1, 1), (1, 0, 0))


def test_of_wrong_classes_the_greatest_overlap_goes_first() -> None:
    truth = TRUTH | {
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 9, "bbox": BOX, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 9, "bbox": (120.0, 100.0, 100.0, 100.0), "iscrowd": 0},
            {"id": 3, "image_id": 2, "category_id": 5, "bbox": FAR, "iscrowd": 0},
        ]
    }
    first = result(1, 5, (118.0, 100.0, 100.0, 100.0), 0.9)  # nearer to the second dog
    both = [first, result(1, 5, BOX, 0.9), result(2, 5, FAR, 0.9)]
    assert analyze(truth, both, resamples=1).confusion.counts == ((1, 0, 0), (2, 0, 0), (0, 0, 0))


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_counts_add_up(shared: Path, name: str) -> None:
    analysis = analyze(*(shared / file for file in REAL_FILES[name]), resamples=1)
    counts = np.array(analysis.confusion.counts)
    assert counts[:-1].sum(1).tolist() == [entry.objects for entry in analysis.classes]
    assert counts[:, :-1].sum(0).tolist() == [entry.detections for entry in analysis.classes]
    assert np.diag(counts)[:-1].tolist() == [entry.correct for entry in analysis.classes]
    assert counts[-1, -1] == 0
    errors = analysis.errors
    missed = counts[:-1, -1].sum()
    assert errors.counts["missed"] <= missed <= errors.counts["missed"] + errors.mistaken


@pytest.mark.parametrize("seed", range(8))
def test_counts_of_crowded_scenes_add_up(seed: int) -> None:
    analysis = analyze(*crowded_scene(seed), resamples=1)
    counts = np.array(analysis.confusion.counts)
    assert counts[:-1].sum(1).tolist() == [entry.objects for entry in analysis.classes]
    assert counts[:, :-1].sum(0).tolist() == [entry.detections for entry in analysis.classes]
