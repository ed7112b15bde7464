"""Small data sets after public bug reports, each with others of its kind: what comes out is right, or is said before a run begins.

Here: boxes in other units and forms.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import BOXES, HEIGHT, WIDTH, Contents, boxes_xywh, coco, write_pictures

from detrkit.data import DetectionDataset, open_dataset, pictures
from detrkit.data.images import ImageFacts
from detrkit.errors import DataError

Read = Callable[..., DetectionDataset]


def as_fractions(box: list[float], size: tuple[int, int] = (WIDTH, HEIGHT), whole: float = 1) -> list[float]:
    return [value / side * whole for value, side in zip(box, size * 2, strict=True)]


def as_corners(box: list[float]) -> list[float]:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def without_areas(contents: Contents) -> Contents:
    for annotation in contents["annotations"]:
        del annotation["area"]
    return contents


class TestUnits:
    def test_the_case(self, shared: Path) -> None:
        for split, count in (("train", 12), ("val", 6)):
            with pytest.raises(DataError) as caught:
                open_dataset(shared / "cases/fractions_one_over", split)
            assert str(caught.value).endswith(
                f"instances_{split}.json: {count} of {count} boxes lie within 0..1, so boxes are fractions of the image; COCO boxes are left, "
                "top, width, height in pixels: multiply them by the image's width and height."
            )

    def test_most_of_the_boxes_decide(self, read: Read) -> None:
        boxes = [as_fractions(box) for box in BOXES]
        boxes[0] = [0.5, 0.5, 40, 30]
        boxes[3][2] = 1.3
        with pytest.raises(
            DataError, match=r"4 of 6 boxes lie within 0\.\.1, so boxes are fractions of the image; COCO"
        ):
            read(coco(boxes))
        dataset = read(coco(BOXES[:4] + boxes[4:]))
        assert dataset.notes == (
            "2 of 6 boxes lie within 0..1, the first pixel of the image (the first: annotation 5); if these are fractions of the image, "
            "multiply them by its width and height.",
        )

    def test_fractions_in_other_forms_are_named(self, read: Read) -> None:
        boxes = [[(x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT] for x, y, w, h in BOXES]
        boxes[0] = [0.8, 0.8, 0.4, 0.4]
        with pytest.raises(
            DataError, match=r"of the image with the box's centre in .*, and subtract half of the width"
        ):
            read(coco(boxes))
        boxes = [as_fractions(as_corners(box)) for box in BOXES]
        with pytest.raises(
            DataError, match=r"with its right and bottom in place of .*, and subtract left and top from"
        ):
            read(coco(boxes))

    @pytest.mark.parametrize("areas", [True, False])
    @pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (640, 480), (50, 40)])
    def test_percentages(self, read: Read, size: tuple[int, int], areas: bool) -> None:
        scale = size[0] / WIDTH, size[1] / HEIGHT
        pixels = [[round(value * side) for value, side in zip(box, scale * 2, strict=True)] for box in BOXES]
        contents = coco([as_fractions(box, size, 100) for box in pixels], size)
        for annotation, box in zip(contents["annotations"], pixels, strict=True):
            annotation["area"] = box[2] * box[3]
        with pytest.raises(
            DataError,
            match=r"so the boxes are percentages of the image; COCO boxes .*: multiply .* and divide by 100\.$",
        ):
            read(contents if areas else without_areas(contents))

    def test_outlines_larger_than_their_boxes_show_percentages(self, read: Read) -> None:
        size = (640, 480)
        boxes = [[1.234, 2.345, 10.4, 20.3], [30.11, 12.7, 7.77, 30.51], [50.5, 60.13, 40.3, 20.7]]
        contents = coco(boxes, size)
        for annotation, box in zip(contents["annotations"], boxes, strict=True):
            annotation["area"] = 0.6 * box[2] * box[3] * size[0] * size[1] / 100**2
        with pytest.raises(
            DataError, match=r": the stated areas of 3 of 3 boxes fit as percentages, so the boxes are perc"
        ):
            read(contents)

    def test_what_may_be_percentages_is_noted(self, read: Read) -> None:
        generator = np.random.default_rng(0)
        starts, sides = generator.uniform(0, 70, (30, 2)), generator.uniform(5, 28, (30, 2))
        boxes = np.concatenate([starts, sides], axis=1).tolist()
        dataset = read(without_areas(coco(boxes, (640, 480))))
        assert dataset.notes == (
            "The 30 boxes lie in the first 100 × 100 pixels of larger images; if they are percentages, multiply them by the image's width and "
            "height and divide by 100.",
        )
        contents = coco(boxes, (640, 480))
        for annotation, box in zip(contents["annotations"], boxes, strict=True):
            annotation["area"] = box[2] * box[3]  # these are pixels
        assert read(contents).notes == ()

    @pytest.mark.parametrize("areas", [True, False])
    def test_corners(self, read: Read, areas: bool) -> None:
        contents = coco([as_corners(box) for box in BOXES])
        with pytest.raises(
            DataError,
            match=r"as left, top, right, bottom, so the boxes are corners; COCO .*: subtract left from right and",
        ):
            read(contents if areas else without_areas(contents))

    def test_areas_show_corners_in_the_upper_left(self, read: Read) -> None:
        contents = coco([as_corners(box) for box in BOXES], (640, 480))
        with pytest.raises(
            DataError, match=r": the stated areas of 6 of 6 boxes fit as left, top, right, bottom, so the"
        ):
            read(contents)

    @pytest.mark.parametrize(
        ("boxes", "size"),
        [
            ([[x, y, 1, 1] for x in (0, 1) for y in (0, 1)] + [[0, 0, 2, 2]], (WIDTH, HEIGHT)),  # single pixels
            ([[3.2, 4.1, 0.5, 0.5], [40, 5, 0.3, 0.2], [1.5, 2.5, 0.9, 0.9]], (WIDTH, HEIGHT)),  # less than pixels
            ([[0, 0, 1, 1], [0, 1, 1, 1]], (2, 2)),  # images of a few pixels
            (BOXES, (640, 480)),  # the upper left corner
            (BOXES, (100, 100)),  # here percentages are pixels
            (
                [[2, 3, 20, 30], [5, 8, 40, 60], [10, 10, 50, 55], [1, 1, 90, 70]],
                (WIDTH, HEIGHT),
            ),  # ordered like corners
            ([[0, 0, WIDTH, HEIGHT]] * 3, (WIDTH, HEIGHT)),  # whole images
            ([[-20, -10, 60, 50], [60, 40, 60, 60], [50, 30, 80, 20]], (WIDTH, HEIGHT)),  # beyond the edges
        ],
    )
    @pytest.mark.parametrize("areas", [True, False])
    def test_correct_boxes_are_read(self, read: Read, boxes: list[Any], size: tuple[int, int], areas: bool) -> None:
        contents = coco(boxes, size)
        for annotation, box in zip(contents["annotations"], boxes, strict=True):
            annotation["area"] = box[2] * box[3]
        dataset = read(contents if areas else without_areas(contents))
        assert sorted(boxes_xywh(dataset)) == pytest.approx(np.array(sorted(boxes, key=list)))

    def test_areas_speak_for_a_few_boxes_beyond_the_edges(self, read: Read) -> None:
        boxes = [[30, 20, 80, 60], [10, 20, 90, 71]]
        contents = coco(boxes)
        for annotation, box in zip(contents["annotations"], boxes, strict=True):
            annotation["area"] = box[2] * box[3]
        assert boxes_xywh(read(contents)) == boxes
        with pytest.raises(
            DataError, match=r": 2 of 2 boxes would leave the image, and nearly all fit as left, top, ri"
        ):
            read(without_areas(contents))

    def test_round_objects_in_small_images_are_read(self, read: Read) -> None:
        contents = coco(BOXES, (100, 79))  # 0.785 of a box is the area of an ellipse, and of percentages here
        for annotation in contents["annotations"]:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3] * np.pi / 4
        assert boxes_xywh(read(contents)) == BOXES

    def test_real_data_are_read(self, shared: Path) -> None:
        for split in ("train", "val"):
            assert open_dataset(shared / "data/coco", split).notes == ()


def write_metadata(folder: Path, box: list[float]) -> None:
    (folder / "train").mkdir()
    write_pictures(folder / "train", ["a.png"], (640, 480))
    line = {"file_name": "a.png", "objects": {"bbox": [box], "categories": ["x"]}}
    (folder / "train/metadata.jsonl").write_text(json.dumps(line))


@pytest.mark.parametrize(
    ("box", "end"),
    [
        (
            [0.1, 0.2, 0.5, 0.5],
            "1 of 1 box lies within 0..1, so boxes are fractions of the image; boxes are left, top, width, height in pixels: multiply them "
            "by the image's width and height.",
        ),
        (
            [300, 200, 620, 470],
            "1 of 1 box would leave the image, and nearly all fit as left, top, right, bottom, so the boxes are corners; boxes are left, "
            "top, width, height in pixels: subtract left from right and top from bottom.",
        ),
    ],
)
def test_coco_is_not_named_to_users_of_other_formats(tmp_path: Path, box: list[float], end: str) -> None:
    write_metadata(tmp_path, box)
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path, "train")
    assert str(caught.value) == f"{tmp_path / 'train/metadata.jsonl'}: {end}"


def test_yolo_boxes_are_fractions_already(tmp_path: Path) -> None:
    """Objects of a pixel, or in the first hundredth of the picture, are no reason to ask for another unit."""
    write_pictures(tmp_path / "images", [f"{number}.png" for number in range(4)], (640, 480))
    (tmp_path / "data.yaml").write_text("names: [a]\ntrain: images\n")
    (tmp_path / "labels").mkdir()
    for number in range(4):
        (tmp_path / f"labels/{number}.txt").write_text("0 .0008 .0008 .0014 .0014\n0 .001 .001 .001 .001\n")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.boxes_xyxy[0].tolist() == pytest.approx([0.064, 0.048, 0.96, 0.72])
    assert dataset.notes == ()


class TestPicturesAreCheckedOnce:
    @pytest.fixture
    def checked(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The names of the pictures that are checked."""
        names: list[str] = []
        look = pictures.inspect_image

        def inspect(picture: Path) -> ImageFacts:
            names.append(picture.name)
            return look(picture)

        monkeypatch.setattr(pictures, "inspect_image", inspect)
        return names

    def test_of_yolo(self, tmp_path: Path, checked: list[str]) -> None:
        write_pictures(tmp_path / "images", ["1.png", "2.png"])
        (tmp_path / "data.yaml").write_text("names: [a]\ntrain: images\n")
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels/1.txt").write_text("0 .5 .5 .2 .2\n")
        assert open_dataset(tmp_path, "train").sizes.tolist() == [[HEIGHT, WIDTH]] * 2
        assert sorted(checked) == ["1.png", "2.png"]

    def test_of_an_image_folder(self, tmp_path: Path, checked: list[str]) -> None:
        write_metadata(tmp_path, [100, 120, 20, 30])
        assert open_dataset(tmp_path, "train").sizes.tolist() == [[480, 640]]
        assert checked == ["a.png"]

    def test_of_coco(self, read: Read, checked: list[str]) -> None:
        read(coco())
        assert sorted(checked) == ["1.png", "2.png", "3.png"]
