"""Labels of boxes: none covers another, also in dense pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detrkit.data import open_dataset
from detrkit.prediction.drawing import labels_of, truth_of
from detrkit.prediction.labels import Labels, draw_labels, place_labels

FRAME = (400, 300)


def rectangles(labels: Labels) -> NDArray[np.int64]:
    return np.array([place for place in labels.places if place is not None], dtype=np.int64).reshape(-1, 4)


def area_covered_twice(places: NDArray[np.int64], frame: tuple[int, int]) -> int:
    """Pixels below more than one of the rectangles."""
    layers = np.zeros((frame[1], frame[0]), dtype=np.int64)
    for left, top, right, bottom in places.tolist():
        layers[top:bottom, left:right] += 1
    return int((layers > 1).sum())


def test_a_label_lies_above_the_left_corner_of_its_box_and_has_the_usual_size() -> None:
    labels = place_labels(np.array([[50.0, 100, 200, 200], [220, 150, 390, 280]]), ["cat 0.87", "dog"], FRAME, size=15)
    assert labels.size == 15
    height = 15 + 2 * 3
    assert [place[:2] for place in labels.places if place] == [(50, 100 - height), (220, 150 - height)]
    assert [place[3] for place in labels.places if place] == [100, 150]


@pytest.mark.parametrize(
    "box", [(0, 0, 50, 50), (380, 280, 400, 300), (-20, -30, 420, 330), (390, 0, 400, 5), (900, 10, 950, 20)]
)
def test_labels_stay_inside_the_picture(box: tuple[float, ...]) -> None:
    ((left, top, right, bottom),) = rectangles(place_labels(np.array([box]), ["traffic light 0.98"], FRAME, size=15))
    assert 0 <= left < right <= FRAME[0]
    assert 0 <= top < bottom <= FRAME[1]


def test_boxes_in_one_place_have_labels_beside_each_other() -> None:
    labels = place_labels(np.array([[150.0, 100, 250, 200]] * 6), ["cell 0.50"] * 6, FRAME, size=15)
    assert len(rectangles(labels)) == 6
    assert area_covered_twice(rectangles(labels), FRAME) == 0


def test_a_label_avoids_small_boxes() -> None:
    """Above the second box there is the first, which its label would hide."""
    boxes = np.array([[100.0, 82, 140, 98], [100, 100, 180, 190]])
    labels = place_labels(boxes, ["bee", "flower"], FRAME, size=12)
    left, top, right, bottom = rectangles(labels)[1]
    assert right <= 100 or left >= 140 or top >= 98 or bottom <= 82


def test_letters_are_smaller_where_there_is_less_room() -> None:
    rows, columns = np.mgrid[40:280:24, 10:380:60].reshape(2, -1)
    boxes = np.stack([columns, rows, columns + 50, rows + 10], axis=1).astype(float)
    dense = place_labels(boxes, ["cell 0.50"] * len(boxes), FRAME, size=20)
    assert place_labels(boxes[:2], ["cell 0.50"] * 2, FRAME, size=20).size == 20
    assert 10 <= dense.size < 20
    assert area_covered_twice(rectangles(dense), FRAME) == 0


def test_what_has_no_room_is_left_out_of_frequent_names_first() -> None:
    texts = [f"bottle {number / 100:.2f}" for number in range(99)] + ["glass 0.31"]
    labels = place_labels(np.tile([[150.0, 100, 250, 200]], (100, 1)), texts, FRAME, size=15)
    assert labels.places[0] is not None  # the surest bottle
    assert labels.places[99] is not None
    assert 5 < labels.places.count(None) < 95
    assert labels.size == 10
    assert area_covered_twice(rectangles(labels), FRAME) == 0


def test_pictures_smaller_than_a_label() -> None:
    labels = place_labels(np.array([[1.0, 1, 5, 5]]), ["person 0.99"], (8, 8), size=10)
    assert labels.places[0] is not None
    assert labels.places[0][:2] == (0, 0)


def test_no_boxes_no_labels() -> None:
    assert place_labels(np.empty((0, 4)), [], FRAME, size=15).places == ()


def test_labels_have_their_colours_and_leave_the_rest_of_the_picture() -> None:
    scene = Image.new("RGB", (200, 100), "white")
    draw_labels(scene, np.array([[20.0, 50, 120, 90]]), ["cat"], ["#1971C2"], ink=(255, 255, 0), size=12)
    left, top, right, bottom = rectangles(place_labels(np.array([[20.0, 50, 120, 90]]), ["cat"], (200, 100), size=12))[
        0
    ]
    label = scene.crop((left, top, right, bottom))
    colors = {color for _, color in label.getcolors() or ()}
    assert {(0x19, 0x71, 0xC2), (255, 255, 0)} <= colors
    assert (255, 255, 255) not in colors
    scene.paste("white", (left, top, right, bottom))
    assert scene.getcolors() == [(200 * 100, (255, 255, 255))]


@pytest.mark.parametrize(("data", "split"), [("bccd", "train"), ("coco", "val")])
def test_the_densest_real_pictures_can_be_read(shared: Path, data: str, split: str) -> None:
    dataset = open_dataset(shared / "data" / data, split)
    for index in np.argsort(-np.diff(dataset.offsets))[:5].tolist():
        truth = truth_of(dataset, index)
        height, width = dataset.sizes[index].tolist()
        labels = place_labels(truth.xyxy, labels_of(truth), (width, height), size=13)
        assert len(truth) >= 20
        assert area_covered_twice(rectangles(labels), (width, height)) == 0
        assert labels.places.count(None) <= len(truth) // 10
