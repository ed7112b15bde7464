"""Slices find what is small in large pictures, and an object that several slices show counts once."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv
import torch
from detectors import BrightDetector
from PIL import Image

import detrkit
from detrkit.errors import ConfigurationError, DataError
from detrkit.prediction import Predictor, SlicedPredictor


def black_with(*boxes_xyxy: tuple[int, int, int, int], size: tuple[int, int] = (300, 200)) -> Image.Image:
    picture = Image.new("RGB", size)
    for box in boxes_xyxy:
        picture.paste((255, 255, 255), box)
    return picture


def sliced(size: int = 100, **options: Any) -> SlicedPredictor:
    """Slices go through the model in their own size, so that boxes are exact."""
    return SlicedPredictor(Predictor(BrightDetector(side=100), **options.pop("predictor", {})), size, **options)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_every_slice_is_looked_at(batch_size: int) -> None:
    boxes = [(10, 20, 30, 50), (120, 10, 160, 80), (240, 150, 290, 190)]
    found = sliced(overlap=0, predictor={"batch_size": batch_size})(black_with(*boxes))
    assert found.data["class_name"].tolist() == ["car"] * 3
    assert found.class_id is not None
    assert found.class_id.tolist() == [3] * 3
    assert found.confidence is not None
    assert (found.confidence.dtype, found.xyxy.dtype) == (np.float32, np.float32)
    # Best first: the score grows with the size.
    np.testing.assert_allclose(found.xyxy, [boxes[1], boxes[2], boxes[0]], atol=1e-3)
    np.testing.assert_allclose(found.confidence, [0.2 + 0.7 * area / 10_000 for area in (2800, 2000, 600)], atol=1e-5)


@pytest.mark.parametrize("merge", ["nms", "nmm"])
def test_an_object_that_two_slices_show_counts_once(merge: Any) -> None:
    picture = black_with((80, 40, 110, 70), size=(180, 100))  # slices from 0 and from 80: one ends within the object
    found = sliced(overlap=20, merge=merge)(picture)
    np.testing.assert_allclose(found.xyxy, [(80, 40, 110, 70)], atol=1e-3)


@pytest.mark.parametrize(("merge", "right"), [("nms", 100), ("nmm", 110)])
def test_only_merging_restores_an_object_whose_part_has_the_higher_score(
    merge: Any, right: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = sliced(overlap=20, merge=merge)

    def smaller_is_better(bright: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores, box = BrightDetector._look(predictor.predictor.model, bright)
        return torch.tensor([0.01, 1 - scores[1], scores[1] - 0.01]), box

    monkeypatch.setattr(predictor.predictor.model, "_look", smaller_is_better)
    found = predictor(black_with((80, 40, 110, 70), size=(180, 100)))
    np.testing.assert_allclose(found.xyxy, [(80, 40, right, 70)], atol=1e-3)


def test_a_picture_that_fits_in_a_slice_is_taken_whole() -> None:
    model = BrightDetector(side=64)
    predictor = Predictor(model)
    picture = black_with((10, 10, 40, 40), size=(100, 100))
    found = SlicedPredictor(predictor, 100)(picture)
    assert [tuple(batch.pixels.shape) for batch in model.seen] == [(1, 3, 64, 64)]
    np.testing.assert_array_equal(found.xyxy, predictor(picture).xyxy)
    model.seen.clear()
    SlicedPredictor(predictor, 99)(picture)
    assert sum(len(batch.pixels) for batch in model.seen) == 4


def test_streams_and_lists_mix_large_and_small_pictures(tmp_path: Path) -> None:
    large, small = black_with((120, 10, 160, 80)), black_with((10, 10, 40, 40), size=(100, 100))
    (tmp_path / "note.png").write_text("hello")
    predictor = sliced(overlap=0, predictor={"batch_size": 2})
    found = list(predictor.stream([large, small, tmp_path / "note.png", large, small], skip_unreadable=True))
    assert [each.detections is not None for each in found] == [True, True, False, True, True]
    expected = [[120, 10, 160, 80], [10, 10, 40, 40]]
    for each, box in zip([found[0], found[1], found[3], found[4]], expected * 2, strict=True):
        assert each.detections is not None
        np.testing.assert_allclose(each.detections.xyxy, [box], atol=1e-3)
    assert [len(each) for each in predictor([large, small])] == [1, 1]
    with pytest.raises(DataError, match=r"note\.png is not a readable image file"):
        predictor(tmp_path / "note.png")


def test_nothing_found_has_classes_and_the_best_score_all_the_same() -> None:
    predictor = sliced(predictor={"threshold": 0.9})
    [found] = predictor.stream([black_with((10, 20, 30, 50))])
    assert found.detections is not None
    assert len(found.detections) == 0
    assert found.detections.data["class_name"].tolist() == []
    assert found.detections.class_id is not None
    assert found.best_score == pytest.approx(0.2 + 0.7 * 0.06)


def test_boxes_beyond_a_slice_end_at_its_edge_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = sliced(overlap=0)
    beyond = torch.tensor([0.02, 0.8, 0.18]), torch.tensor([0.5, 0.5, 1.2, 1.2])
    monkeypatch.setattr(predictor.predictor.model, "_look", lambda bright: beyond)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = predictor(black_with(size=(200, 100)))
    np.testing.assert_allclose(np.sort(found.xyxy, axis=0), [[0, 0, 100, 100], [100, 0, 200, 100]], atol=1e-3)


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (0, {}, "A slice of 0 pixels is too small: choose 1 or more"),
        (100, {"overlap": 100}, r"The overlap 100 does not fit slices of 100 pixels: choose a share from 0 to below 1, or less than 100"),
        (100, {"overlap": -0.1}, "The overlap -0.1 does not fit"),
        (100, {"overlap": float("nan")}, "The overlap nan does not fit"),
        (100, {"overlap": float("inf")}, "The overlap inf does not fit"),
        (100, {"merge": "wbf"}, "Detections cannot be merged by 'wbf': choose 'nms' or 'nmm'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(size: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        sliced(size, **options)


def test_the_overlap_is_a_share_or_pixels() -> None:
    assert [sliced(200, overlap=overlap).overlap_pixels for overlap in (0, 0.25, 0.999, 1, 30)] == [0, 50, 199, 1, 30]


def test_a_mosaic_of_real_photos_gives_what_each_photo_gives(shared: Path) -> None:
    torch.manual_seed(0)
    model = detrkit.build("light-detr-compact", classes=["a", "b"], preprocessing=detrkit.Preprocessing(96, 96))
    photos = sorted((shared / "data" / "coco" / "val").glob("*.jpg"))[:6]
    tiles = [Image.open(path).convert("RGB").resize((320, 320)) for path in photos]
    mosaic = Image.new("RGB", (3 * 320, 2 * 320))
    for place, tile in enumerate(tiles):
        mosaic.paste(tile, (place % 3 * 320, place // 3 * 320))
    scores = np.concatenate([np.asarray(each.confidence) for each in Predictor(model).raw(list(tiles))])
    predictor = Predictor(model, threshold=float(np.sort(scores)[-60]))
    expected = []
    for place, tile in enumerate(tiles):
        found = predictor(tile)
        found = dataclasses.replace(found, xyxy=np.clip(found.xyxy, 0, 320))
        found = found.with_nms(0.5, overlap_metric=sv.OverlapMetric.IOS)
        shift = np.array([place % 3 * 320, place // 3 * 320] * 2)
        expected += [(*box, label) for box, label in zip(found.xyxy + shift, found.class_id, strict=True)]
    found = SlicedPredictor(predictor, 320, overlap=0)(mosaic)
    actual = [(*box, label) for box, label in zip(found.xyxy, found.class_id, strict=True)]
    assert len(expected) > 10
    np.testing.assert_allclose(sorted(actual), sorted(expected), atol=0.05)
