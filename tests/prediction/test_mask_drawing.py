"""Masks and segments in the right colours, with names where they can be read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from panoptic_cases import DOG, GRASS, PERSON, SKY, coco_panoptic, segmentation
from PIL import Image

from detrkit.errors import DataError
from detrkit.prediction import draw, draw_panoptic, side_by_side
from detrkit.prediction.drawing import COLORS
from detrkit.prediction.mask_drawing import _free_box, _Name, class_color, segment_colors

WHITE = (255, 255, 255)


def masked(*squares: tuple[int, int, int]) -> sv.Detections:
    """Detections in a picture of 300 x 200 pixels, from left, top and side."""
    masks = np.zeros((len(squares), 200, 300), dtype=bool)
    for mask, (left, top, side) in zip(masks, squares, strict=True):
        mask[top : top + side, left : left + side] = True
    return sv.Detections(
        xyxy=np.array([(left, top, left + side, top + side) for left, top, side in squares], dtype=np.float64),
        mask=masks,
        confidence=np.linspace(0.9, 0.5, len(squares)),
        class_id=np.arange(3, 3 + len(squares)),
        data={"class_name": np.array(["cat"] * len(squares), dtype=str)},
    )


def blended(color: tuple[int, ...], opacity: float) -> tuple[int, ...]:
    return tuple(round(255 + opacity * (part - 255)) for part in color)


def test_a_mask_is_filled_softly_and_outlined_inside() -> None:
    image = Image.new("RGB", (300, 200), WHITE)
    drawn = draw(image, masked((50, 80, 100)))
    color = COLORS.by_idx(3).as_rgb()
    assert drawn.getpixel((100, 130)) == blended(color, 0.42)
    assert drawn.getpixel((149, 130)) == drawn.getpixel((148, 130)) == blended(color, 0.95)
    assert drawn.getpixel((150, 130)) == WHITE
    at_the_edge = draw(image, masked((200, 100, 100)))
    color = COLORS.by_idx(3).as_rgb()
    assert at_the_edge.getpixel((299, 150)) == at_the_edge.getpixel((250, 199)) == blended(color, 0.42)
    assert image.getcolors() == [(300 * 200, WHITE)]
    assert drawn.getpixel((160, 130)) == WHITE


def test_outlines_follow_the_mask_and_not_its_box() -> None:
    detections = masked((50, 60, 100))
    assert detections.mask is not None
    rows, columns = np.mgrid[:200, :300]
    detections.mask[0] = (rows - 110) ** 2 + (columns - 100) ** 2 <= 50**2
    drawn = draw(Image.new("RGB", (300, 200), WHITE), detections)
    color = COLORS.by_idx(3).as_rgb()
    assert drawn.getpixel((100, 159)) == blended(color, 0.95)
    assert drawn.getpixel((100, 140)) == blended(color, 0.42)
    assert drawn.getpixel((148, 158)) == WHITE  # a corner of the box


def test_better_masks_lie_above_others() -> None:
    detections = masked((50, 80, 100), (100, 80, 100))
    drawn = draw(Image.new("RGB", (300, 200), WHITE), detections)
    below, above = (COLORS.by_idx(number).as_rgb() for number in (4, 3))
    first = np.array(blended(below, 0.42), dtype=np.float64)
    expected = first + 0.42 * (np.array(above) - first)
    np.testing.assert_allclose(drawn.getpixel((125, 130)), expected, atol=1)  # type: ignore[arg-type]


def test_an_empty_mask_and_no_masks_at_all() -> None:
    image = Image.new("RGB", (300, 200), WHITE)
    empty = masked((50, 80, 0))
    assert draw(image, empty).size == image.size
    nothing = draw(image, empty[:0])
    assert nothing.getcolors() == [(300 * 200, WHITE)]


def test_masks_are_resized_with_their_picture() -> None:
    sheet = side_by_side(Image.new("RGB", (300, 200), WHITE), masked((50, 80, 100)), masked((50, 80, 100)), width=600)
    assert sheet.width > 1200
    caption = (sheet.height - 400) // 1
    assert sheet.getpixel((200, caption + 260)) == blended(COLORS.by_idx(3).as_rgb(), 0.42)


def test_things_are_strong_with_outlines_and_stuff_is_pale() -> None:
    ids = np.zeros((200, 300))
    ids[:100], ids[100:, :150], ids[150:, 250:] = 1, 2, 3
    made = segmentation(ids, {1: SKY, 2: DOG, 3: DOG})
    image = Image.new("RGB", (300, 200), WHITE)
    drawn = draw_panoptic(image, made)
    assert drawn.getpixel((20, 20)) == blended(class_color(SKY), 0.5)
    assert drawn.getpixel((20, 180)) == blended(class_color(DOG), 0.55)
    assert drawn.getpixel((200, 120)) == WHITE  # void
    outline = tuple(round(255 * 0.6 + 0.4 * part) for part in class_color(DOG))
    np.testing.assert_allclose(drawn.getpixel((149, 180)), outline, atol=1)  # type: ignore[arg-type]
    assert drawn.getpixel((150, 99)) == blended(class_color(SKY), 0.5)  # no outline
    assert image.getcolors() == [(300 * 200, WHITE)]


def test_segments_of_a_class_have_shades_of_one_hue() -> None:
    ids = np.repeat(np.arange(1, 7), 10)[None]
    made = segmentation(ids, dict.fromkeys(range(1, 7), PERSON))
    colors = segment_colors(made.segments)
    assert len(set(colors)) == 6
    assert colors[0] == class_color(PERSON)
    hues = [Image.new("RGB", (1, 1), color).convert("HSV").getpixel((0, 0))[0] for color in colors]  # type: ignore[index]
    assert np.ptp(hues) <= 0.1 * 255
    stuff = Image.new("RGB", (1, 1), class_color(GRASS)).convert("HSV").getpixel((0, 0))
    thing = (
        Image.new("RGB", (1, 1), class_color(dataclasses.replace(GRASS, thing=True))).convert("HSV").getpixel((0, 0))
    )
    assert abs(stuff[0] - thing[0]) <= 1  # type: ignore[index]
    assert stuff[1] < 0.6 * thing[1]  # type: ignore[index]


def test_a_name_lies_on_the_largest_part() -> None:
    ids = np.zeros((200, 300))
    ids[20:60, 10:60] = 1
    ids[60:190, 120:290] = 1
    drawn = np.asarray(draw_panoptic(Image.new("RGB", (300, 200), WHITE), segmentation(ids, {1: SKY})))
    dark = (drawn < 60).all(axis=-1)  # the rim of the letters
    rows, columns = np.nonzero(dark)
    assert len(rows) > 20
    assert columns.min() > 120
    assert 60 < rows.min() < rows.max() < 190


def test_a_picture_of_another_size_is_refused() -> None:
    image = Image.new("RGB", (200, 300), WHITE)
    with pytest.raises(
        DataError, match="The picture has 200 × 300 pixels, and the segmentation 300 × 200: give the picture"
    ):
        draw_panoptic(image, segmentation(np.ones((200, 300)), {1: SKY}))
    with pytest.raises(DataError, match="The picture has 200 × 300 pixels, and the masks 300 × 200: give the picture"):
        draw(image, masked((50, 80, 100)))


def test_names_avoid_each_other_or_are_left_out() -> None:
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(12):
        box = _free_box(_Name("book", (150.0, 100.0), True, True, [0, 0, 0]), 40, 15, (300, 200), taken)
        if box is not None:
            taken.append(box)
    assert 5 <= len(taken) < 12
    areas = np.zeros((200, 300), dtype=int)
    for left, top, right, bottom in taken:
        areas[round(top) : round(bottom), round(left) : round(right)] += 1
    assert (areas > 1).mean() < 0.01
    large = _free_box(_Name("sky", (150.0, 100.0), False, False, [0, 0, 0]), 40, 15, (300, 200), [(0, 0, 300, 200)])
    assert large is not None


def test_real_segments(shared: Path) -> None:
    file = coco_panoptic(shared, "val")
    image = Image.open(shared / "data/coco/val" / file.names[0].replace(".png", ".jpg"))
    drawn = draw_panoptic(image, file[0])
    assert drawn.size == image.size
    changed = (np.asarray(drawn) != np.asarray(image.convert("RGB"))).any(axis=-1)
    assert changed[file[0].ids > 0].mean() > 0.95
    assert changed[file[0].ids == 0].mean() < 0.5  # names alone
