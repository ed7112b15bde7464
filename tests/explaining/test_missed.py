"""Why objects are missed: every reason where it is known, and a whole model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from explaining.small_explained import COMPACT, picture, small_model
from torchvision.ops import box_iou

import detrkit
from detrkit.data import read_digits
from detrkit.errors import DataError
from detrkit.explaining import why_missed
from detrkit.explaining.explaining import explained_query
from detrkit.explaining.missed import Reports, Verdict, judged
from detrkit.explaining.recording import record
from detrkit.explaining.records import Floats

LIMITS = np.array([0.5, 0.5], dtype=np.float32)


def judge(
    queries: list[tuple[tuple[float, ...], tuple[float, float]]],
    objects: list[tuple[tuple[float, ...], int]],
    *,
    reported: list[tuple[int, int]] | None = None,
) -> list[Verdict]:
    """Verdicts of two classes; by default each query reports the classes with a score from 0.5 on."""
    boxes = np.array([box for box, _ in queries], dtype=np.float32)
    scores = np.array([each for _, each in queries], dtype=np.float32)
    if reported is None:
        pairs = [(query, label) for query in range(len(queries)) for label in (0, 1) if scores[query, label] >= 0.5]
        reported = sorted(pairs, key=lambda pair: -scores[pair])
    rows, labels = (np.array([pair[part] for pair in reported], dtype=np.int64) for part in (0, 1))
    reports = Reports(rows, labels, boxes[rows])
    wanted = np.array([box for box, _ in objects], dtype=np.float32)
    labels = np.array([label for _, label in objects])
    return judged(overlaps(boxes, wanted), scores, reports, wanted, labels, LIMITS)


def overlaps(first_xyxy: Floats, second_xyxy: Floats) -> Floats:
    """(N, M) IoUs of all pairs."""
    pair = (torch.from_numpy(np.asarray(each, dtype=np.float32)) for each in (first_xyxy, second_xyxy))
    return box_iou(*pair).numpy()


HERE, BESIDE, FAR = (10, 10, 30, 30), (14, 10, 34, 30), (60, 60, 90, 90)


def test_found_by_the_best_query() -> None:
    assert judge([(FAR, (0.9, 0)), (HERE, (0.7, 0)), (BESIDE, (0.6, 0))], [(HERE, 0)]) == [Verdict("found", 1, label=0)]


def test_low_score() -> None:
    assert judge([(FAR, (0.9, 0)), (BESIDE, (0.3, 0.2)), (HERE, (0.1, 0.2))], [(HERE, 0)]) == [Verdict("low score", 1)]


def test_wrong_class() -> None:
    assert judge([(FAR, (0.9, 0)), (HERE, (0.2, 0.8))], [(HERE, 0)]) == [Verdict("wrong class", 1, label=1)]


def test_poor_box() -> None:
    poor = (20, 20, 50, 50)  # an IoU of 100 / 1200: too far
    near = (18, 10, 48, 30)  # 12 · 20 / (400 + 600 - 240) = 0.32
    assert judge([(near, (0.8, 0)), (poor, (0.1, 0))], [(HERE, 0)]) == [Verdict("poor box", 0, label=0)]


def test_another_object() -> None:
    """One query for two objects: it finds the one that it overlaps more."""
    found, missed = judge([(HERE, (0.9, 0))], [(HERE, 0), (BESIDE, 0)])
    assert found == Verdict("found", 0, label=0)
    assert missed == Verdict("other object", 0, other=0, label=0)


def test_duplicate() -> None:
    """The query that is nearest to the second object has the first one, which a better query found."""
    second = (22, 10, 42, 30)  # an IoU of 0.25 with the first, and of 0.43 with the query
    found, missed = judge([(HERE, (0.9, 0)), (BESIDE, (0.8, 0))], [(HERE, 0), (second, 0)])
    assert found == Verdict("found", 0, label=0)
    assert missed == Verdict("duplicate", 1, other=0, label=0)
    # If it is the better one, it finds the first object itself.
    found, missed = judge([(HERE, (0.7, 0)), (BESIDE, (0.8, 0))], [(HERE, 0), (second, 0)])
    assert found == Verdict("found", 1, label=0)
    assert missed == Verdict("duplicate", 0, other=0, label=0)


def test_a_query_that_found_another_object_is_the_nearest_only_if_no_other_is_as_near() -> None:
    objects = [(HERE, 0), ((16, 10, 36, 30), 0)]
    assert judge([(HERE, (0.9, 0)), (BESIDE, (0.1, 0))], objects)[1] == Verdict("low score", 1)
    assert judge([(HERE, (0.9, 0)), (FAR, (0.1, 0))], objects)[1] == Verdict("other object", 0, other=0, label=0)


def test_suppressed() -> None:
    verdicts = judge([(HERE, (0.9, 0)), (BESIDE, (0.8, 0))], [(HERE, 0), ((16, 10, 36, 30), 0)], reported=[(0, 0)])
    assert verdicts[1] == Verdict("suppressed", 1, label=0)


def test_background() -> None:
    assert judge([(FAR, (0.9, 0)), (FAR, (0.1, 0))], [(HERE, 0)])[0].reason == "background"
    far, near = (60, 60, 90, 90), (18, 10, 48, 30)
    assert judge([(far, (0.9, 0)), (near, (0.2, 0))], [(HERE, 0)]) == [Verdict("background", 1)]


def test_unknown_class() -> None:
    assert judge([(HERE, (0.9, 0))], [(HERE, -1)]) == [Verdict("unknown class")]


@pytest.mark.parametrize("variant", COMPACT)
def test_a_whole_model(variant: str) -> None:
    dataset = read_digits("val", images=3, size=96)
    model = small_model(variant, classes=list(dataset.categories))
    answers = why_missed(detrkit.Predictor(model, threshold=0.0), dataset, 1)
    objects = dataset.objects(1)
    assert len(answers.objects) == len(objects)
    for answer, box, label in zip(answers.objects, objects.boxes_xyxy, objects.labels, strict=True):
        assert answer.category == dataset.categories[label].name
        np.testing.assert_allclose(answer.box_xyxy, box, rtol=1e-6)
        assert answer.explained is not None
        assert answer.explained.query == answer.verdict.query
        assert answer.explained.label == label
        predictions = answer.explained.predictions
        np.testing.assert_allclose(answer.scores, [each.scores[label] for each in predictions], rtol=1e-6)
        boxes = np.stack([each.box_xyxy for each in predictions])
        np.testing.assert_allclose(answer.ious, overlaps(boxes, box[None])[:, 0], atol=1e-6)
        assert f"IoU {answer.ious[-1]:.2f})" in answer.sentence
        assert answer.sentence.startswith(f"{answer.category}: ")
    assert why_missed(model, dataset, "image_000001").image == "image_000001"


def test_the_box_is_that_of_the_class_in_question() -> None:
    """TSP-RCNN has a box for each class: the one that its detection of that class has."""
    predictor = detrkit.Predictor(small_model("tsp-rcnn-compact"), threshold=0.0)
    seen = record(predictor, predictor.prepare(picture()))
    assert not np.allclose(seen.boxes_xyxy(0), seen.boxes_xyxy(1), atol=1)
    places = {category.index: place for place, category in enumerate(seen.categories)}
    found = seen.detections
    for query, index, box in zip(found.queries, found.labels, found.boxes_xyxy, strict=True):
        label = places[int(index)]
        np.testing.assert_allclose(seen.boxes_xyxy(label)[0, int(query)], box, atol=1e-3)
        explained = explained_query(seen, int(query), label=label)
        np.testing.assert_allclose(explained.predictions[0].box_xyxy, box, atol=1e-3)
    assert set(found.labels.tolist()) == {0, 1}


def test_the_sentences_of_a_model_that_finds_nothing() -> None:
    dataset = read_digits("val", images=2, size=96)
    model = small_model("dino-compact", classes=list(dataset.categories))
    answers = why_missed(detrkit.Predictor(model, threshold=1.0), dataset, 0)
    assert {answer.verdict.reason for answer in answers.objects} <= {"low score", "background"}
    assert repr(answers) == f"<Answers of a dino-compact to image_000000: 0 of {len(answers.objects)} found>"


def test_a_model_that_lacks_most_classes_still_answers_for_the_others() -> None:
    dataset = read_digits("val", images=3, size=96)
    known, *_ = (dataset.categories[int(label)] for label in dataset.objects(1).labels)
    answers = why_missed(small_model("detr-compact", classes=["cat", known.name]), dataset, 1)
    unknown = [answer.verdict.reason == "unknown class" for answer in answers.objects]
    assert unknown == [answer.category != known.name for answer in answers.objects]
    assert not all(unknown)
    unnamed = [dataclasses.replace(each, name=f"class {each.id}") for each in dataset.categories]
    model = small_model("detr-compact", classes=unnamed)
    with pytest.raises(DataError, match="or match classes by their ids"):
        why_missed(model, dataset, 1)
    answers = why_missed(model, dataset, 1, match_by="id")
    assert "unknown class" not in {answer.verdict.reason for answer in answers.objects}


def test_an_image_that_is_not_there() -> None:
    dataset = read_digits("val", images=2, size=96)
    model = small_model("dino-compact", classes=list(dataset.categories))
    with pytest.raises(DataError, match=r"has no image 'x\.jpg': its names are such as image_00000"):
        why_missed(model, dataset, "x.jpg")
    with pytest.raises(DataError, match="has the images 0 to 1, and not 2"):
        why_missed(model, dataset, 2)
