"""Figures: what is drawn lies where it was looked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from explaining.small_explained import picture, small_model
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

import detrkit
from detrkit.data import read_digits
from detrkit.explaining import explain, why_missed
from detrkit.explaining.drawing import Photo, combined, draw_map, place_figure, query_figure, show_photo
from detrkit.explaining.missed_drawing import COLORS, answers_figure, object_figure, write_answers
from detrkit.explaining.records import Explanation, Maps
from detrkit.explaining.writing import write_all, write_explanation


def boxes_of(axes: Axes) -> list[tuple[float, ...]]:
    return [
        (*patch.get_xy(), patch.get_xy()[0] + patch.get_width(), patch.get_xy()[1] + patch.get_height())
        for patch in axes.patches
        if isinstance(patch, Rectangle)
    ]


def test_a_peak_is_drawn_at_its_pixel() -> None:
    """Cell (1, 4) of 2 × 13 cells, each 32 pixels wide and 20 high."""
    figure = query_figure(
        explained := explain(small_model("detr-compact"), picture(416, 40), query=0), explained.queries[0]
    )
    axes = figure.axes[0]
    axes.clear()
    show_photo(axes, Photo.of(explained.picture))
    values = np.zeros((2, 13), dtype=np.float32)
    values[1, 4] = 0.3
    draw_map(axes, values, explained.picture.size)
    overlay = axes.images[-1]
    left, right, bottom, top = overlay.get_extent()
    assert (left, right, top, bottom) == (0, 416, 0, 40)
    colored = np.asarray(overlay.get_array())[..., 3]
    row, column = np.unravel_index(colored.argmax(), colored.shape)
    assert (column * 416 / 13, row * 40 / 2) == (128, 20)
    assert np.count_nonzero(colored) == 1


def test_levels_are_added_up_with_their_shares() -> None:
    fine, coarse = np.zeros((1, 4, 6), dtype=np.float32), np.zeros((1, 2, 3), dtype=np.float32)
    fine[0, 3, 5], coarse[0, 1, 2] = 0.6, 0.4
    total = combined(Maps((0, 1), (fine, coarse)), None)
    assert total.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(total[2:, 4:], [[0.1, 0.1], [0.1, 0.7]], rtol=1e-6)


@pytest.mark.parametrize(
    ("variant", "small_pictures"),
    [
        ("detr-compact", 3 * 9),
        ("smca-detr-compact", 2 * 6),
        ("deformable-detr-compact", 2 * 9),
        ("tsp-fcos-compact", 1 * 5),
    ],
)
def test_a_figure_has_a_row_for_each_layer_and_a_column_for_each_head(variant: str, small_pictures: int) -> None:
    explained = explain(small_model(variant), picture(), query=2)
    query = explained.queries[0]
    figure = query_figure(explained, query)
    assert len(figure.axes) == 2 + small_pictures
    assert figure.axes[0].get_title().startswith("query 2: ")
    assert any(np.allclose(box, query.box_xyxy, rtol=1e-5) for box in boxes_of(figure.axes[0]))
    first = figure.axes[2]
    np.testing.assert_allclose(boxes_of(first)[0], query.predictions[0].box_xyxy, rtol=1e-5, atol=1e-4)
    if variant == "deformable-detr-compact":
        head = figure.axes[3 + 4]  # the fifth, after that of all heads
        points = query.looks[0].points
        drawn = np.concatenate([each.get_offsets() for each in head.collections])
        np.testing.assert_allclose(drawn, points.xy[4], rtol=1e-5)


def test_a_place_has_a_row_for_each_token_and_layer() -> None:
    explained = explain(small_model("deformable-detr-compact", encoder_layers=2), picture(), at=(20, 30), heads=[0, 1])
    figure = place_figure(explained)
    assert len(figure.axes) == 1 + 2 * 3 * 3
    with pytest.raises(ValueError, match="query_figure"):
        place_figure(Explanation("detr-compact", (), picture()))


def test_files_of_an_explanation(tmp_path: Path) -> None:
    explained = explain(small_model("smca-detr-compact"), picture(), detection=1, heads=[2])
    numbers, drawn = write_explanation(explained, tmp_path, "dog")
    assert [each.name for each in drawn] == ["dog_detection1.png"]
    with Image.open(drawn[0]) as written:
        assert min(written.size) > 300
    stored = json.loads(write_all(tmp_path, [numbers]).read_text())["pictures"][0]
    query, own = stored["queries"][0], explained.queries[0]
    assert stored["picture"] == {"width": 200, "height": 120}
    assert query["box_xyxy"] == pytest.approx(own.box_xyxy.tolist())
    assert query["predictions"][1]["scores"] == pytest.approx(own.predictions[1].scores.tolist())
    with np.load(tmp_path / stored["arrays"]) as arrays:
        name = query["looks"][1]["seen"]["weights"][0]
        np.testing.assert_array_equal(arrays[name], own.looks[1].maps.weights[0])
        gaussians = own.looks[0].gaussians
        assert gaussians is not None
        np.testing.assert_array_equal(arrays[query["looks"][0]["gaussians"]["weights"][0]], gaussians.weights[0])


def test_files_of_missed_objects(tmp_path: Path) -> None:
    dataset = read_digits("val", images=2, size=96)
    model = small_model("dino-compact", classes=list(dataset.categories))
    answers = why_missed(detrkit.Predictor(model, threshold=1.0), dataset, 0, heads=[0])
    numbers, drawn = write_answers(answers, tmp_path, "zero")
    count = len(answers.objects)
    assert [each.name for each in drawn] == [
        "zero_objects.png",
        *[f"zero_object{number}.png" for number in range(count)],
    ]
    assert [each["verdict"]["reason"] for each in numbers["objects"]] == [
        each.verdict.reason for each in answers.objects
    ]
    photo = answers_figure(answers).axes[0]
    np.testing.assert_allclose(boxes_of(photo)[::2], [each.box_xyxy for each in answers.objects], rtol=1e-5)
    assert photo.patches[1].get_edgecolor()[:3] != photo.patches[0].get_edgecolor()[:3]
    assert set(COLORS) >= {each.verdict.reason for each in answers.objects}
    figure = object_figure(answers, answers.objects[0])
    assert any(np.allclose(box, answers.objects[0].box_xyxy) for box in boxes_of(figure.axes[0]))
