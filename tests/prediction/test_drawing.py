"""Pictures with boxes: the right colour in the right place, and the original picture unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from PIL import Image, ImageFont

from detrkit.cards import Category
from detrkit.data import open_dataset
from detrkit.data.dataset import ArrayImages, DetectionDataset
from detrkit.prediction.drawing import (
    COLORS,
    _shortened,
    captioned,
    contact_sheet,
    draw,
    labels_of,
    side_by_side,
    truth_at,
    truth_of,
    wrapped,
)

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def detections(
    *boxes_xyxy: tuple[float, ...], class_id: int = 3, name: str = "cat", scores: bool = True
) -> sv.Detections:
    count = len(boxes_xyxy)
    return sv.Detections(
        xyxy=np.array(boxes_xyxy, dtype=np.float64).reshape(-1, 4),
        confidence=np.linspace(0.874, 0.5, count) if scores else None,
        class_id=np.full(count, class_id),
        data={"class_name": np.array([name] * count, dtype=str)},
    )


def test_a_box_has_the_colour_of_its_class_and_the_original_is_unchanged() -> None:
    image = Image.new("RGB", (300, 200), WHITE)
    drawn = draw(image, detections((50, 80, 150, 180)))
    color = COLORS.by_idx(3).as_rgb()
    assert [drawn.getpixel(point) for point in ((50, 130), (150, 130), (100, 180))] == [color] * 3
    assert drawn.getpixel((100, 130)) == drawn.getpixel((250, 130)) == WHITE
    assert image.getcolors() == [(300 * 200, WHITE)]
    other = draw(image, detections((10, 80, 40, 180), class_id=4))
    assert other.getpixel((10, 130)) == COLORS.by_idx(4).as_rgb() != color


def test_the_label_is_written_above_the_box() -> None:
    image = Image.new("RGB", (300, 200), WHITE)
    above = np.asarray(draw(image, detections((50, 80, 150, 180))))[60:78, 50:110]
    colors = {tuple(color) for color in above.reshape(-1, 3).tolist()}
    assert COLORS.by_idx(3).as_rgb() in colors
    assert WHITE in colors
    assert labels_of(detections((0, 0, 1, 1), (0, 0, 1, 1))) == ["cat 0.87", "cat 0.50"]
    assert labels_of(detections((0, 0, 1, 1), scores=False)) == ["cat"]


def test_lines_grow_with_the_picture() -> None:
    def thickness(side: int) -> int:
        row = np.asarray(
            draw(Image.new("RGB", (side, side), WHITE), detections((side // 2, side // 2, side - 20, side - 20)))
        )[side * 3 // 4]
        return int((row[: side * 3 // 4] != 255).any(axis=-1).sum())

    assert 2 <= thickness(300) <= 3
    assert 10 <= thickness(2800) <= 11


def test_lines_are_centred_on_the_edges() -> None:
    row = np.asarray(draw(Image.new("RGB", (1400, 1400), WHITE), detections((700, 200, 1000, 600))))[500]
    colored = np.flatnonzero((row != 255).any(axis=-1))
    assert colored.tolist() == [*range(698, 703), *range(998, 1003)]


def test_boxes_beyond_the_picture_and_without_area_are_drawn() -> None:
    drawn = draw(Image.new("RGB", (300, 200), WHITE), detections((-20, -10, 320, 150), (120, 60, 120, 60)))
    assert drawn.getpixel((290, 150)) == drawn.getpixel((120, 60)) == COLORS.by_idx(3).as_rgb()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "RGB"])
def test_without_detections_the_picture_is_unchanged(mode: str) -> None:
    image = Image.new(mode, (30, 20))
    assert draw(image, detections()).tobytes() == image.convert("RGB").tobytes()


def test_names_in_other_scripts_can_be_drawn() -> None:
    image = Image.new("RGB", (300, 200), WHITE)
    assert (
        draw(image, detections((50, 80, 150, 180), name="Füße")).tobytes()
        != draw(image, detections((50, 80, 150, 180))).tobytes()
    )


def test_truth_has_ids_names_and_crowds() -> None:
    dataset = DetectionDataset(
        name="pets",
        images=ArrayImages(np.zeros((2, 40, 60, 3), dtype=np.uint8)),
        image_ids=np.array([7, 8]),
        sizes=np.array([[40, 60]] * 2),
        categories=(Category(5, "cat", 0), Category(9, "dog", 1)),
        offsets=np.array([0, 2, 2]),
        boxes_xyxy=np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]),
        labels=np.array([1, 0]),
        crowd=np.array([False, True]),
        areas=np.array([4.0, 4.0]),
        annotation_ids=np.array([1, 2]),
    )
    truth = truth_of(dataset, 0)
    assert truth.xyxy.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert truth.class_id is not None
    assert truth.class_id.tolist() == [9, 5]
    assert labels_of(truth) == ["dog", "cat (crowd)"]
    assert len(truth_of(dataset, 1)) == 0


def test_side_by_side_scales_boxes_with_the_picture() -> None:
    image = Image.new("RGB", (100, 50), BLACK)
    both = side_by_side(
        image, detections((20, 10, 80, 40)), detections((50, 10, 90, 40), class_id=4, scores=False), width=400
    )
    left, right = (
        both.crop((0, both.height - 200, 400, both.height)),
        both.crop((both.width - 400, both.height - 200, both.width, both.height)),
    )
    assert both.width == 400 + 6 + 400
    assert left.getpixel((80, 100)) == COLORS.by_idx(3).as_rgb()
    assert right.getpixel((200, 100)) == COLORS.by_idx(4).as_rgb()
    assert left.getpixel((200, 100)) == right.getpixel((80, 100)) == BLACK
    caption = np.asarray(both)[: both.height - 200]
    assert caption.min() < 100
    assert (caption[0] == 255).all()


def test_contact_sheet_puts_pictures_in_rows() -> None:
    pictures = [Image.new("RGB", (20, height), (value, 0, 0)) for height, value in ((10, 10), (20, 20), (5, 30))]
    sheet = contact_sheet(pictures, width=40)
    assert sheet.size == (40 + 4 + 40, 40 + 4 + 10)
    assert [sheet.getpixel(point) for point in ((20, 10), (60, 35), (20, 48))] == [(10, 0, 0), (20, 0, 0), (30, 0, 0)]
    assert sheet.getpixel((20, 30)) == sheet.getpixel((42, 10)) == WHITE
    assert contact_sheet(pictures, width=40, columns=3).size == (40 * 3 + 8, 40)


def test_a_caption_that_is_too_long_loses_its_middle() -> None:
    picture = Image.new("RGB", (200, 50), BLACK)
    short, long = captioned(picture, "photo.jpg"), captioned(picture, "0123456789" * 20 + ".jpg")
    for each in (short, long):
        dark = np.argwhere(np.asarray(each.convert("L"))[:24] < 200)[:, 1]
        assert 2 <= dark.min() < 8  # begins beside the edge
        assert dark.max() <= 200 - 3
    assert np.argwhere(np.asarray(long.convert("L"))[:24] < 200)[:, 1].max() > 180
    font = ImageFont.load_default(12)
    shown = _shortened("0123456789" * 20 + ".jpg", font, 194)
    assert font.getlength(shown) <= 194
    assert shown.startswith("01234567")
    assert shown.endswith("6789.jpg")
    assert "…" in shown
    assert _shortened("photo.jpg", font, 194) == "photo.jpg"


def test_the_truth_has_masks_where_the_data_have_some_also_in_a_picture_of_another_size(shared: Path) -> None:
    dataset = open_dataset(shared / "data/coco", "val", masks="panoptic")
    height, width = dataset.sizes[0].tolist()
    truth = truth_of(dataset, 0)
    assert truth.mask is not None
    assert truth.mask.shape == (len(dataset.objects(0)), height, width)
    areas = {segment.area for segment in dataset.panoptic(0).segments}
    assert set(truth.mask.sum(axis=(1, 2)).tolist()) == areas
    half = truth_at(dataset, 0, (width // 2, height // 2))
    assert half.mask is not None
    assert half.mask.shape[1:] == (height // 2, width // 2)
    np.testing.assert_allclose(half.mask.mean(axis=(1, 2)), truth.mask.mean(axis=(1, 2)), atol=0.01)
    np.testing.assert_allclose(half.xyxy, truth.xyxy / 2, atol=1)
    assert truth_of(open_dataset(shared / "data/coco", "val"), 0).mask is None


def test_a_long_caption_takes_more_lines_where_it_may() -> None:
    picture = Image.new("RGB", (360, 20))
    text = "picture.jpg: 30 objects, 5 found, 2 with a wrong detection near; 9 wrong class, 4 wrong place."
    one, three = captioned(picture, text), captioned(picture, text, lines=3)
    assert one.height == 20 + 2 * 12
    assert three.height > one.height
    font = ImageFont.load_default(12)
    lines = wrapped(text, font, 354, 3)
    assert " ".join(lines) == text
    assert len(lines) == 2
    assert all(font.getlength(line) <= 354 for line in lines)
    assert captioned(picture, "short", lines=3).height == one.height
    (first, second) = wrapped(text * 5, font, 354, 2)
    assert "…" in second
    assert "…" not in first
