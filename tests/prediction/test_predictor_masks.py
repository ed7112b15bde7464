"""Predictors of models with masks: masks of what is reported, segments of things and stuff, and the files of both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
import torch
from panoptic_cases import CATEGORIES, DOG, PERSON, SKY, segmentation
from PIL import Image
from pycocotools import mask as coco_masks

import detrkit
from detrkit.cards import Category
from detrkit.data import open_dataset
from detrkit.errors import ConfigurationError, OutputError
from detrkit.panoptic import PanopticSegmentation
from detrkit.prediction import Predictor, SlicedPredictor, predict_files, read_panoptic
from detrkit.prediction.replacing import check_replaceable
from detrkit.prediction.result_files import PanopticFiles, Result, result_files

THINGS = [Category(7, "cat", 0), Category(9, "dog", 1)]
STUFF = [*THINGS, Category(120, "sky", 2, thing=False)]


def predictor(classes: list[Category], variant: str = "detr-compact-panoptic", **options: float) -> Predictor:
    torch.manual_seed(0)
    model = detrkit.build(variant, classes=classes, preprocessing=detrkit.Preprocessing(64, 64), queries=6)
    return Predictor(model, **{"threshold": 0.0, **options})  # type: ignore[arg-type]


def picture(width: int = 80, height: int = 50, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_detections_have_masks_of_the_size_of_their_picture() -> None:
    found = predictor(STUFF)([picture(), picture(60, 70)])
    assert [each.mask.shape[1:] for each in found] == [(50, 80), (70, 60)]  # type: ignore[union-attr]
    assert all(each.mask.dtype == bool and len(each.mask) == len(each) == 6 for each in found)  # type: ignore[union-attr]


def test_only_what_is_reported_has_masks() -> None:
    of_all = predictor(STUFF)
    every = of_all(picture())
    threshold = float(np.sort(every.confidence)[-2])  # type: ignore[arg-type]
    best = of_all(picture(), threshold=threshold)
    assert len(best) == 2
    assert (best.mask == every.mask[:2]).all()  # type: ignore[index,union-attr]
    assert of_all(picture(), threshold=1.0).mask.shape == (0, 50, 80)  # type: ignore[union-attr]
    (raw,) = of_all.raw([picture()])
    assert (raw.mask == every.mask).all()


def test_a_model_without_masks_gives_none() -> None:
    plain = predictor(STUFF, "detr-compact")
    assert plain(picture()).mask is None
    assert not plain.has_segments
    with pytest.raises(ConfigurationError, match="has no masks, so it gives no segments"):
        plain.panoptic(picture())


def test_segments_have_names_things_and_stuff() -> None:
    found = predictor(STUFF).panoptic([picture(), picture(60, 70)], threshold=0.0)
    assert isinstance(found, list)
    for image, size in zip(found, ((50, 80), (70, 60)), strict=True):
        assert image.ids.shape == size
        assert {segment.category for segment in image.segments} <= set(STUFF)
        assert [segment.area for segment in image.segments] == [
            int((image.ids == segment.id).sum()) for segment in image.segments
        ]
        assert sum(segment.category.name == "sky" for segment in image.segments) <= 1
    assert isinstance(predictor(STUFF).panoptic(picture()), PanopticSegmentation)
    with pytest.raises(ConfigurationError, match=r"The threshold 1\.5 is not a score"):
        predictor(STUFF).panoptic(picture(), threshold=1.5)


def test_streams_have_segments_where_the_model_knows_stuff() -> None:
    (with_stuff,) = predictor(STUFF).stream([picture()])
    assert with_stuff.segmentation is not None
    assert with_stuff.segmentation.ids.shape == (50, 80)
    assert with_stuff.plot().size == (80, 50)
    (things,) = predictor(THINGS).stream([picture()])
    assert things.segmentation is None
    assert things.detections is not None
    assert things.detections.mask is not None
    assert things.plot().size == (80, 50)


def test_slices_give_boxes_alone() -> None:
    sliced = SlicedPredictor(predictor(STUFF), 64)
    predictions = list(sliced.stream([picture(120, 90), picture(60, 40)]))
    assert all(each.detections is not None and each.detections.mask is None for each in predictions)
    assert all(each.segmentation is None for each in predictions)
    assert len(sliced(picture(120, 90))) > 0


def test_a_run_writes_masks_and_segments(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for number, path in enumerate(paths):
        picture(seed=number).save(path)
    output = tmp_path / "found"
    output.mkdir()
    found = predictor(STUFF)
    outcome = predict_files(found, paths, output, formats=("json", "panoptic", "images", "csv", "yolo"))
    assert outcome.done == 2
    entries = json.loads((output / "detections.json").read_text())
    masks = [coco_masks.decode(entry["segmentation"]).astype(bool) for entry in entries]
    expected = [mask for path in paths for mask in found(path).mask]  # type: ignore[union-attr]
    assert len(masks) == len(expected) == 12
    assert all((one == other).all() for one, other in zip(masks, expected, strict=True))
    file = read_panoptic(output / "panoptic.json")
    assert file.names == ("a.png", "b.png")
    assert [(each.id, each.name, each.thing) for each in file.categories] == [
        (each.id, each.name, each.thing) for each in STUFF
    ]
    for path, segments in zip(paths, file, strict=True):
        own = found.panoptic(path)
        assert isinstance(own, PanopticSegmentation)
        assert (segments.ids == own.ids).all()
        assert [segment.category for segment in segments.segments] == [segment.category for segment in own.segments]
        scores = [[segment.score for segment in each.segments] for each in (segments, own)]
        np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)  # type: ignore[arg-type]  # streams use fewer threads
    assert (output / "a.png").exists()
    check_replaceable(output, ("json", "panoptic", "images"), paths, STUFF)


def test_panoptic_files_are_complete_after_every_image(tmp_path: Path) -> None:
    images = [Path("x/one.jpg"), Path("y/One.png"), Path("z/two.jpg")]
    made = segmentation([[1, 1, 2]], {1: PERSON, 2: SKY}, scores={1: 0.25, 2: 1 / 3})
    files = PanopticFiles(tmp_path / "panoptic.json", images, CATEGORIES)
    files.add(Result(0, picture(3, 1), sv.Detections.empty(), made))
    files.add(Result(2, picture(3, 1), sv.Detections.empty()))  # from a model without segments
    (image,) = read_panoptic(tmp_path / "panoptic.json")
    assert image.segments == made.segments
    files.add(Result(1, picture(3, 1), sv.Detections.empty(), made))
    files.finish()
    file = read_panoptic(tmp_path / "panoptic.json")
    assert file.names == ("one.png", "One_2.png")
    assert file.image_ids == (1, 2)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert [entry["image"] for entry in content["annotations"]] == ["x/one.jpg", "y/One.png"]
    assert content["images"] == [
        {"id": 1, "file_name": "x/one.jpg", "height": 1, "width": 3},
        {"id": 2, "file_name": "y/One.png", "height": 1, "width": 3},
    ]
    for name in ("x/one.jpg", "y/One.png"):
        (tmp_path / name).parent.mkdir()
        picture(3, 1).save(tmp_path / name)
    opened = open_dataset(tmp_path / "panoptic.json", "val", masks="panoptic")
    assert [(opened.panoptic(0).ids == made.ids).all(), len(opened), opened.notes] == [True, 2, ()]


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "panoptic.json").write_text('{"images": []}')
    with pytest.raises(OutputError, match=r"panoptic.json was not written by detrkit"):
        check_replaceable(tmp_path, ["panoptic"], [], CATEGORIES)
    (tmp_path / "panoptic.json").unlink()
    (tmp_path / "panoptic").mkdir()
    check_replaceable(tmp_path, ["panoptic"], [], CATEGORIES)
    picture().save(tmp_path / "panoptic" / "mine.png")
    with pytest.raises(OutputError, match=r"contains what detrkit did not write, such as .*mine.png"):
        check_replaceable(tmp_path, ["panoptic"], [], CATEGORIES)
    with result_files(tmp_path, ["panoptic"], [Path("1.png")], CATEGORIES) as (file,):
        file.add(Result(0, picture(1, 1), sv.Detections.empty(), segmentation([[1]], {1: DOG})))
    check_replaceable(tmp_path, ["panoptic"], [], CATEGORIES)
