"""Panoptic quality: cases worked out by hand, COCO's rules for void and crowds, and real annotations against a count pixel by pixel."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from panoptic_cases import DOG, GRASS, PERSON, SKY, coco_panoptic, perturbed, row, segmentation
from rich.console import Console

from detrkit.errors import DataError
from detrkit.evaluation import PanopticEvaluation, panoptic_quality
from detrkit.panoptic import PanopticSegmentation


def one(truth: PanopticSegmentation, prediction: PanopticSegmentation) -> PanopticEvaluation:
    return panoptic_quality([truth], [prediction])


def test_a_case_worked_out_by_hand() -> None:
    truth = segmentation(row((1, 10), (2, 10), (3, 20)), {1: PERSON, 2: PERSON, 3: SKY})
    # Person 1 is found with 8 of 10 pixels, person 2 is missed, the sky covers 12 pixels too many.
    prediction = segmentation(row((7, 8), (5, 32)), {7: PERSON, 5: SKY})
    result = one(truth, prediction)
    person, sky = result.classes
    assert (person.name, person.matched, person.wrong, person.missed) == ("person", 1, 0, 1)
    assert person.sq == pytest.approx(0.8)
    assert person.rq == pytest.approx(1 / 1.5)
    assert person.pq == pytest.approx(0.8 / 1.5)
    assert (sky.matched, sky.wrong, sky.missed) == (1, 0, 0)
    assert sky.pq == sky.sq == pytest.approx(20 / 32)
    every, things, stuff = result.means
    assert [mean.name for mean in result.means] == ["all", "things", "stuff"]
    assert every.pq == pytest.approx((0.8 / 1.5 + 20 / 32) / 2)
    assert every.sq == pytest.approx((0.8 + 20 / 32) / 2)
    assert every.rq == pytest.approx((1 / 1.5 + 1) / 2)
    assert things.pq == person.pq
    assert stuff.pq == sky.pq
    assert (every.classes, things.classes, stuff.classes) == (2, 1, 1)


def test_an_iou_of_one_half_is_no_match() -> None:
    truth = segmentation(row((1, 6), (0, 6)), {1: DOG})
    half = segmentation(row((1, 3), (0, 9)), {1: DOG})
    more = segmentation(row((1, 4), (0, 8)), {1: DOG})
    assert (one(truth, half).classes[0].missed, one(truth, half).pq) == (1, 0.0)
    assert one(truth, more).pq == pytest.approx(4 / 6)


def test_another_class_is_wrong_and_missed() -> None:
    truth = segmentation(row((1, 10)), {1: DOG})
    result = one(truth, segmentation(row((1, 10)), {1: PERSON}))
    assert [(each.name, each.matched, each.wrong, each.missed) for each in result.classes] == [
        ("person", 0, 1, 0),
        ("dog", 0, 0, 1),
    ]
    assert result.pq == 0.0
    assert result.classes[0].sq == 0.0


def test_void_of_the_truth_does_not_count_in_the_union() -> None:
    truth = segmentation(row((1, 10), (0, 10)), {1: DOG})
    prediction = segmentation(row((1, 20)), {1: DOG})
    assert one(truth, prediction).pq == 1.0


@pytest.mark.parametrize(("in_void", "wrong"), [(10, 1), (11, 0)])
def test_a_segment_with_more_than_half_in_void_is_not_wrong(in_void: int, wrong: int) -> None:
    truth = segmentation(row((1, 40), (0, 20)), {1: GRASS})
    start = 40 - (20 - in_void)
    prediction = segmentation(row((1, start), (2, 20), (0, 60 - start - 20)), {1: GRASS, 2: DOG})
    counts = {entry.name: entry.wrong for entry in one(truth, prediction).classes}
    assert counts.get("dog", 0) == wrong


@pytest.mark.parametrize(("category", "wrong"), [(PERSON, 0), (DOG, 1)])
def test_a_crowd_matches_nothing_and_excuses_its_own_class_alone(category: object, wrong: int) -> None:
    truth = segmentation(row((1, 20), (2, 20)), {1: PERSON, 2: SKY}, crowds=[1])
    prediction = segmentation(row((1, 20), (2, 20)), {1: category, 2: SKY})  # type: ignore[dict-item]
    result = one(truth, prediction)
    assert sum(entry.wrong for entry in result.classes) == wrong
    assert sum(entry.matched for entry in result.classes) == 1
    assert sum(entry.missed for entry in result.classes) == 0
    assert "person" not in [entry.name for entry in result.classes]


def test_void_and_crowd_of_the_class_count_together() -> None:
    truth = segmentation(row((1, 4), (0, 4), (2, 7)), {1: PERSON, 2: SKY}, crowds=[1])
    assert one(truth, segmentation(row((9, 15)), {9: PERSON})).classes[0].name == "sky"  # 8 of 15 pixels


def test_several_crowds_of_a_class_excuse_together() -> None:
    truth = segmentation(row((1, 4), (2, 4), (3, 7)), {1: PERSON, 2: PERSON, 3: SKY}, crowds=[1, 2])
    assert [entry.name for entry in one(truth, segmentation(row((9, 15)), {9: PERSON})).classes] == ["sky"]


def test_numbers_of_ids_do_not_matter() -> None:
    truth = segmentation(row((16_777_215, 10), (3, 10)), {16_777_215: DOG, 3: SKY})
    prediction = segmentation(row((1, 10), (2_000_000_000, 10)), {1: DOG, 2_000_000_000: SKY})
    assert one(truth, prediction).pq == 1.0


def test_images_without_segments() -> None:
    empty = segmentation(np.zeros((2, 3)), {})
    result = one(empty, empty)
    assert (result.images, result.pq, result.classes) == (1, None, ())
    assert "no class" not in result.summary()
    truth = segmentation(row((1, 6)), {1: DOG})
    assert one(truth, segmentation(row((0, 6)), {})).classes[0].missed == 1
    assert one(segmentation(row((0, 6)), {}), truth).classes == ()  # all of it lies in void


@pytest.mark.parametrize("split", ["val", "train"])
def test_ground_truth_against_itself_is_exactly_perfect(shared: Path, split: str) -> None:
    truth = coco_panoptic(shared, split)
    result = panoptic_quality(truth, truth)
    assert result.images == len(truth)
    assert all((mean.pq, mean.sq, mean.rq) == (1.0, 1.0, 1.0) for mean in result.means)
    assert all((entry.pq, entry.wrong, entry.missed) == (1.0, 0, 0) for entry in result.classes)
    crowds = sum(record["iscrowd"] for records in truth.records for record in records)
    segments = sum(map(len, truth.records))
    assert crowds == {"val": 2, "train": 6}[split]
    assert result.means[0].matched == segments - crowds


def test_real_segments_give_the_figures_of_a_pixel_by_pixel_count(shared: Path) -> None:
    truth = list(coco_panoptic(shared, "val"))
    predictions = [perturbed(image, seed) for seed, image in enumerate(truth)]
    result = panoptic_quality(truth, predictions)
    expected: dict[int, list[float]] = defaultdict(lambda: [0.0, 0, 0, 0])
    for image, prediction in zip(truth, predictions, strict=True):
        _count_slowly(image, prediction, expected)
    assert {entry.id for entry in result.classes} == {number for number, counts in expected.items() if any(counts[1:])}
    for entry in result.classes:
        overlap, matched, wrong, missed = expected[entry.id]
        assert (entry.matched, entry.wrong, entry.missed) == (matched, wrong, missed), entry.name
        assert entry.pq == pytest.approx(overlap / (matched + wrong / 2 + missed / 2)), entry.name
    assert result.pq == pytest.approx(np.mean([entry.pq for entry in result.classes]))
    assert 0.3 < result.means[0].pq < 0.9  # type: ignore[operator]  # the case is neither trivial nor hopeless
    assert any(entry.wrong for entry in result.classes)


def _count_slowly(truth: PanopticSegmentation, prediction: PanopticSegmentation, into: dict[int, list[float]]) -> None:
    """COCO's rules with a mask for each segment, one pair after another."""
    void, found, used = truth.ids == 0, set(), set()
    for annotated in truth.segments:
        for predicted in prediction.segments:
            if annotated.crowd or annotated.category.id != predicted.category.id:
                continue
            one_mask, other_mask = truth.ids == annotated.id, prediction.ids == predicted.id
            iou = (one_mask & other_mask).sum() / (one_mask | (other_mask & ~void)).sum()
            if iou > 0.5:
                into[annotated.category.id][0] += iou
                into[annotated.category.id][1] += 1
                found.add(annotated.id)
                used.add(predicted.id)
    for annotated in truth.segments:
        into[annotated.category.id][3] += not annotated.crowd and annotated.id not in found
    for predicted in prediction.segments:
        excused = void.copy()
        for annotated in truth.segments:
            if annotated.crowd and annotated.category.id == predicted.category.id:
                excused |= truth.ids == annotated.id
        mask = prediction.ids == predicted.id
        into[predicted.category.id][2] += predicted.id not in used and bool(excused[mask].mean() <= 0.5)


def test_images_are_taken_one_at_a_time() -> None:
    image = segmentation(row((1, 6)), {1: DOG})
    waiting = 0

    def images(step: int) -> Iterator[PanopticSegmentation]:
        nonlocal waiting
        for _ in range(50):
            waiting += step
            assert abs(waiting) <= 1
            yield image

    assert panoptic_quality(images(1), images(-1)).images == 50


@pytest.mark.parametrize(("truths", "predictions"), [(1, 2), (2, 1)])
def test_both_sides_have_the_same_images(truths: int, predictions: int) -> None:
    image = segmentation(row((1, 6)), {1: DOG})
    with pytest.raises(DataError, match="give both for the same images"):
        panoptic_quality([image] * truths, [image] * predictions)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (segmentation(row((1, 7)), {1: DOG}), "has 7 x 1 pixels and its ground truth 6 x 1"),
        (segmentation(row((1, 3), (2, 3)), {1: DOG}), "has pixels of the segment 2, which is not listed"),
        (segmentation(row((1, 6)), {1: DOG, 2: SKY}), r"lists the segment 2 \(sky\), which has no pixels"),
        (segmentation(row((0, 6)), {0: DOG}), "give each segment an id of its own, from 1 on"),
        (
            replace(segmentation(row((1, 6)), {1: DOG}), segments=segmentation(row((1, 6)), {1: DOG}).segments * 2),
            "give each segment an id of its own",
        ),
    ],
)
def test_maps_and_segments_have_to_agree(prediction: PanopticSegmentation, message: str) -> None:
    with pytest.raises(DataError, match=message):
        one(segmentation(row((1, 6)), {1: DOG}), prediction)


def test_the_ground_truth_says_what_a_thing_is() -> None:
    truth = segmentation(row((1, 6)), {1: SKY})
    prediction = segmentation(row((1, 6)), {1: replace(SKY, thing=True, name="heaven")})
    first = segmentation(row((0, 6)), {})
    result = panoptic_quality([first, truth], [first, prediction])
    assert [(entry.name, entry.thing) for entry in result.classes] == [("sky", False)]


def test_it_shows_itself() -> None:
    truth = segmentation(row((1, 10), (2, 10), (3, 20)), {1: PERSON, 2: PERSON, 3: SKY})
    result = panoptic_quality([truth], [truth], name="parks", notes=["All is well."])
    assert repr(result) == (
        "<PanopticEvaluation parks: PQ 1.000, SQ 1.000, RQ 1.000 (things 1.000, stuff 1.000) on 1 image>"
    )
    console = Console(width=80, record=True)
    console.print(result.table())
    text = console.export_text()
    assert "1 image, 3 segments of 2 classes, 3 predicted segments" in text
    assert "Note: All is well." in text
    (things,) = (line for line in text.splitlines() if line.startswith("things"))
    assert things.split() == ["things", "1", "1.000", "1.000", "1.000", "2", "0", "0"]
    (sky,) = (line for line in text.splitlines() if line.startswith("sky"))
    assert sky.split() == ["sky", "stuff", "1.000", "1.000", "1.000", "1", "0", "0"]
    html = result._repr_html_()
    assert "<strong>parks</strong>" in html
    assert "All is well." in html
    assert PanopticEvaluation.from_json(json.loads(json.dumps(result.to_json()))) == result
