"""What queries are for, counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from detectors import CATEGORIES, BrightDetector
from explaining.small_explained import small_model

import detrkit
from detrkit.data import DetectionDataset, read_digits
from detrkit.data.dataset import ArrayImages
from detrkit.errors import DataError
from detrkit.explaining import QueryUses, query_uses
from detrkit.explaining.slots_drawing import KINDS, kind_of, uses_figure


def three_pictures() -> DetectionDataset:
    """White at the upper left, at the lower right, and nowhere."""
    pixels = np.zeros((3, 64, 128, 3), dtype=np.uint8)
    pixels[0, :32, :32] = 255
    pixels[1, 48:, 96:] = 255
    none = np.zeros(0)
    return DetectionDataset(
        name="white", images=ArrayImages(pixels), image_ids=np.arange(3), sizes=np.array([[64, 128]] * 3), categories=CATEGORIES,
        offsets=np.zeros(4, dtype=np.int64), boxes_xyxy=np.zeros((0, 4)), labels=none.astype(np.int64), crowd=none.astype(bool), areas=none,
        annotation_ids=none.astype(np.int64),
    )  # fmt: skip


def test_a_query_is_counted_where_it_reports_something() -> None:
    uses = query_uses(BrightDetector(threshold=0.1), three_pictures())
    assert uses.counts.tolist() == [2]
    assert uses.classes.tolist() == [[0, 2]]  # cars
    np.testing.assert_allclose(
        uses.boxes_cxcywh[:2, 0], [(0.125, 0.25, 0.25, 0.5), (0.875, 0.875, 0.25, 0.25)], atol=1e-6
    )
    assert uses.found[:, 0].tolist() == [True, True, False]
    assert (uses.used_share, uses.evenness, uses.ranks) == (1.0, 1.0, False)
    of_query = uses.to_json()["queries"][0]
    assert of_query["found_in_images"] == 2
    assert of_query["classes"] == {"car": 2}
    assert query_uses(BrightDetector(threshold=0.1), three_pictures(), images=[2]).counts.tolist() == [0]


def uses_of(found: list[list[bool]]) -> QueryUses:
    table = np.array(found)
    boxes = np.full((*table.shape, 4), 0.5, dtype=np.float32)
    return QueryUses(
        "detr-r50", "photos", CATEGORIES, boxes, table, np.zeros((table.shape[1], 2), np.int64), ranks=False
    )


def test_evenness() -> None:
    assert uses_of([[True, True, False, False]]).evenness == pytest.approx(0.5)  # log 2 / log 4
    assert uses_of([[True] * 4]).evenness == pytest.approx(1.0)
    assert uses_of([[True, False], [True, False]]).evenness == 0.0
    assert uses_of([[False, False]]).evenness is None
    assert uses_of([[True, True, False, False]]).used_share == 0.5
    sentence = "2 of 4 queries found something in 1 images of photos; evenness 0.50 (1: all find equally much)"
    assert uses_of([[True, True, False, False]]).sentence() == sentence


def test_an_image_with_fewer_queries_has_none_in_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = read_digits("val", images=3, size=64)
    model = small_model("tsp-rcnn-compact", classes=list(dataset.categories))
    counts = iter((5, 3, 4))

    choose: Any = model.choose

    def fewer(*arguments: Any) -> list[Any]:
        count = next(counts)
        return [each[:count] for each in choose(*arguments)]

    monkeypatch.setattr(model, "choose", fewer)
    uses = query_uses(detrkit.Predictor(model, threshold=0.0), dataset)
    assert uses.boxes_cxcywh.shape == (3, 5, 4)
    there = np.isfinite(uses.boxes_cxcywh).all(-1)
    assert there.sum(1).tolist() == [5, 3, 4]
    assert not np.isfinite(uses.boxes_cxcywh[~there]).any()
    assert not uses.found[~there].any()


def test_two_stage_models_have_ranks_and_others_have_not() -> None:
    dataset = read_digits("val", images=2, size=64)
    for variant, ranks in (("dino-compact", True), ("tsp-rcnn-compact", True), ("detr-compact", False)):
        model = small_model(variant, classes=list(dataset.categories))
        uses = query_uses(detrkit.Predictor(model, threshold=0.0), dataset)
        assert uses.ranks is ranks
        assert uses.boxes_cxcywh.shape == (2, uses.found.shape[1], 4)
        assert uses.found.any()


def test_kinds_of_boxes() -> None:
    boxes = np.array([(0.5, 0.5, 0.1, 0.3), (0.5, 0.5, 0.4, 0.2), (0.5, 0.5, 0.2, 0.4)], dtype=np.float32)
    assert [KINDS[kind][0] for kind in kind_of(boxes)] == ["small box", "wide box", "tall box"]


def test_the_figure_has_every_query_and_its_boxes() -> None:
    uses = uses_of([[True, True, False, False, False]])
    squares, bars = uses_figure(uses).axes
    assert [text.get_text().split()[0] for text in squares.texts] == ["0", "1", "2", "3", "4"]
    drawn = {collection.get_label(): collection.get_offsets() for collection in squares.collections[1:]}
    # Boxes of half the image in width and height are wide; the second query's square begins 1.12 to the right.
    np.testing.assert_allclose(drawn["wide box"], [(0.5, 0.5), (1.62, 0.5)])
    assert [bar.get_height() for bar in bars.patches] == [1, 1, 0, 0, 0]


def test_no_images() -> None:
    with pytest.raises(DataError, match="white has no images to look at"):
        query_uses(BrightDetector(), three_pictures(), images=[])
