"""What a comparison's folder is for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from detrkit.comparison.plan import Plan
from detrkit.data import DetectionDataset, read_digits
from detrkit.errors import ConfigurationError


def test_changed_annotations_are_another_comparison(tmp_path: Path) -> None:
    dataset: DetectionDataset = read_digits("val", images=3, size=64)
    plan = Plan((), "digits", 1, {}, tmp_path / "out")
    for _ in range(2):
        plan.open(dataset)
    with pytest.raises(ConfigurationError, match="holds another comparison, with other annotations of the same images"):
        plan.open(dataclasses.replace(dataset, boxes_xyxy=dataset.boxes_xyxy + 1))
