"""Small data sets after public bug reports, each with others of its kind: what comes out is right, or is said before a run begins."""

from __future__ import annotations

import copy
import json
import shutil
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as reference_masks

from detrkit.data import DetectionDataset, NoImagesError, available_splits, open_dataset, read_coco, read_image
from detrkit.data.coco_values import box_of_outline
from detrkit.data.images import grey_range
from detrkit.errors import DataError
from detrkit.evaluation import evaluate_detections

Contents = dict[str, Any]
WIDTH, HEIGHT = 96, 72
BOXES = [[15, 31, 18, 16], [26, 6, 28, 29], [46, 53, 15, 16], [27, 38, 19, 23], [60, 40, 21, 18], [60, 16, 32, 16]]


def coco(boxes: list[list[float]] | None = None, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Contents:
    """Three images with two objects each, whose areas are stated."""
    boxes = BOXES if boxes is None else boxes
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]} for number in (1, 2, 3)
        ],
        "annotations": [
            {
                "id": number + 1,
                "image_id": number // 2 % 3 + 1,
                "category_id": number % 2 + 1,
                "bbox": box,
                "area": BOXES[number % 6][2] * BOXES[number % 6][3],
                "iscrowd": 0,
            }
            for number, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "square"}, {"id": 2, "name": "bar"}],
    }


def write_pictures(
    folder: Path, names: list[str], size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1
) -> None:
    for red, name in enumerate(names, start=1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if orientation != 1:
            exif[0x0112] = orientation
        Image.new("RGB", size, (red, 0, 0)).save(folder / name, exif=exif)


Read = Callable[..., DetectionDataset]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Writes contents, and three pictures of the size they state unless there are some, and reads them."""

    def write_and_read(contents: Contents, **options: Any) -> DetectionDataset:
        if not list(tmp_path.rglob("*.png")):
            first = contents["images"][0]
            write_pictures(tmp_path, ["1.png", "2.png", "3.png"], (first["width"], first["height"]))
        (tmp_path / "truth.json").write_text(json.dumps(contents))
        return read_coco(tmp_path / "truth.json", tmp_path, **options)

    return write_and_read


def boxes_xywh(dataset: DetectionDataset) -> list[list[float]]:
    return [entry["bbox"] for entry in dataset.to_coco()["annotations"]]


class TestCrowdFlags:
    def test_the_case(self, shared: Path) -> None:
        for split, count in (("train", 12), ("val", 6)):
            dataset = open_dataset(shared / "cases/iscrowd_string", split)
            assert dataset.crowd.tolist() == [False] * count
            assert dataset.notes == ()

    @pytest.mark.parametrize(
        ("value", "crowd"),
        [
            (0, False),
            (1, True),
            (False, False),
            (True, True),
            (0.0, False),
            (1.0, True),
            ("0", False),
            ("1", True),
            ("false", False),
            ("False", False),
            ("TRUE", True),
            (" true ", True),
            (None, False),
        ],
    )
    def test_values_that_mean_a_flag(self, read: Read, value: object, crowd: bool) -> None:
        contents = coco()
        contents["annotations"][1]["iscrowd"] = value
        assert read(contents).crowd.tolist() == [False, crowd, False, False, False, False]

    @pytest.mark.parametrize("value", [[0], [], 2, -1, 0.5, "maybe", "", {"a": 1}])
    def test_anything_else_is_refused_with_a_count(self, read: Read, value: object) -> None:
        contents = coco()
        for annotation in contents["annotations"][1:]:
            annotation["iscrowd"] = value
        with pytest.raises(DataError) as caught:
            read(contents)
        shown = f"annotation 2 ({value!r}), annotation 3 ({value!r}), annotation 4 ({value!r}) and 2 more"
        assert str(caught.value).endswith(
            f"truth.json: 5 of 6 annotations have an 'iscrowd' that is neither 0 nor 1: {shown}; "
            "write 0 for a single object and 1 for a crowd region."
        )


class TestIds:
    def test_the_case(self, shared: Path) -> None:
        dataset = open_dataset(shared / "cases/image_id_string", "train")
        assert dataset.image_ids.tolist() == [1, 2, 3, 4, 5, 6]
        assert np.diff(dataset.offsets).tolist() == [2] * 6
        assert dataset.file_image_ids is None
        assert dataset.notes == ()

    @pytest.mark.parametrize("ids", [["7", "3", "0"], [7.0, 3.0, 0.0], ["7", 3.0, 0], [" 7", "3.0", "-0"]])
    def test_integral_texts_and_floats_are_integers(self, read: Read, ids: list[Any]) -> None:
        contents = coco()
        for number, image in enumerate(contents["images"]):
            image["id"] = ids[number]
        for number, annotation in enumerate(contents["annotations"]):
            annotation["image_id"] = (7, "7", 3, "3.0", 0.0, "0")[number]
            annotation["category_id"] = (1, "2", 1.0, 2, "1", "2")[number]
        contents["categories"][0]["id"] = "1"
        dataset = read(contents)
        assert dataset.image_ids.tolist() == [7, 3, 0]
        assert np.diff(dataset.offsets).tolist() == [2, 2, 2]
        assert dataset.labels.tolist() == [0, 1, 0, 1, 0, 1]
        assert (dataset.file_image_ids, dataset.file_category_ids) == (None, None)

    def test_other_texts_are_numbered_and_results_give_them_back(self, read: Read, tmp_path: Path) -> None:
        contents = coco()
        own = ["b/2", "a", 5]
        for number, image in enumerate(contents["images"]):
            image["id"] = own[number]
        for annotation in contents["annotations"]:
            annotation["image_id"] = own[annotation["image_id"] - 1]
            annotation["category_id"] = ("sq", "bar")[annotation["category_id"] - 1]
        contents["categories"] = [{"id": "sq", "name": "square"}, {"id": "bar", "name": "bar"}]
        dataset = read(contents)
        assert dataset.image_ids.tolist() == [1, 2, 3]
        assert np.diff(dataset.offsets).tolist() == [2, 2, 2]
        assert [(category.id, category.name) for category in dataset.categories] == [(1, "square"), (2, "bar")]
        assert dataset.labels.tolist() == [0, 1, 0, 1, 0, 1]
        assert {entry["image_id"] for entry in dataset.to_coco()["annotations"]} == {1, 2, 3}
        assert dataset.subset([2, 0]).file_image_ids.tolist() == [5, "b/2"]  # type: ignore[union-attr]

        perfect = [entry | {"score": 1.0} for entry in dataset.to_coco()["annotations"]]
        entries = dataset.with_file_ids(perfect)
        assert [entry["image_id"] for entry in entries] == ["b/2", "b/2", "a", "a", 5, 5]
        assert [entry["category_id"] for entry in entries] == ["sq", "bar"] * 3
        (tmp_path / "results.json").write_text(json.dumps(entries))
        evaluation = evaluate_detections(tmp_path / "truth.json", tmp_path / "results.json")
        assert evaluation.figures["AP"] == pytest.approx(1.0)
        assert evaluate_detections(dataset.to_coco(), perfect).figures == evaluation.figures
        with pytest.raises(
            DataError, match=r"has image_id 'c', but .* has no such image \(its ids are such as 'b/2', 3"
        ):
            evaluate_detections(tmp_path / "truth.json", [entries[0] | {"image_id": "c"}])

    def test_without_texts_results_stay_as_they_are(self, read: Read) -> None:
        entry = {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}
        assert read(coco()).with_file_ids([entry]) == [entry]

    def test_texts_of_one_number_are_different_ids(self, read: Read) -> None:
        contents = coco()
        for number, image in enumerate(contents["images"]):
            image["id"] = ("7", "07", "007")[number]
        for annotation in contents["annotations"]:
            annotation["image_id"] = ("7", "07", "007")[annotation["image_id"] - 1]
        dataset = read(contents)
        assert dataset.file_image_ids is not None
        assert dataset.file_image_ids.tolist() == ["7", "07", "007"]
        assert np.diff(dataset.offsets).tolist() == [2, 2, 2]

    def test_numbers_beyond_64_bits_are_numbered(self, read: Read) -> None:
        contents = coco()
        contents["images"][0]["id"] = contents["annotations"][0]["image_id"] = 2**70
        contents["annotations"][1]["image_id"] = 2**70
        assert read(contents).image_ids.tolist() == [1, 2, 3]

    @pytest.mark.parametrize("identifiers", [[None] * 6, list("abcdef"), [1, 1, 2, 2, 3, 3], [1.5, 2, 3, 4, 5, 6]])
    def test_annotation_ids_are_not_needed(self, read: Read, identifiers: list[Any]) -> None:
        contents = coco()
        for annotation, identifier in zip(contents["annotations"], identifiers, strict=True):
            annotation["id"] = identifier
        assert read(contents).annotation_ids.tolist() == [1, 2, 3, 4, 5, 6]
        contents["annotations"][3]["bbox"] = [27, 38, 0, 23]
        assert read(contents).notes == (
            "1 of 6 boxes have no area and were left out (the first: annotation number 4 of the list of 2.png).",
        )

    def test_unusable_ids_and_twins_are_counted(self, read: Read) -> None:
        contents = coco()
        for image in contents["images"]:
            image["id"] = [1]
        with pytest.raises(
            DataError, match=r": 3 of 3 images have no usable id: '1\.png' \(\[1\]\), '2\.png' .*; give"
        ):
            read(contents)
        for image in contents["images"]:
            image["id"] = "x"
        with pytest.raises(
            DataError, match=r": 1 image id occurs more than once: x \('1\.png', '2\.png', '3\.png'\); giv"
        ):
            read(contents)


class TestCategories:
    def test_the_case(self, shared: Path) -> None:
        dataset = open_dataset(shared / "cases/via_export", "train")
        assert [(category.id, category.name) for category in dataset.categories] == [(1, "object")]
        assert boxes_xywh(dataset)[:2] == [[15, 31, 18, 16], [26, 6, 28, 29]]
        assert dataset.labels.tolist() == [0] * 12
        assert dataset.notes == ("None of the 12 annotations has a category, so one class named 'object' is assumed.",)

    @pytest.mark.parametrize("absent", [None, "", ...])
    def test_annotations_without_one_are_left_out_while_others_have_one(self, read: Read, absent: object) -> None:
        contents = coco()
        for annotation in contents["annotations"][1:3]:
            annotation["category_id"] = absent
            if absent is ...:
                del annotation["category_id"]
        contents["annotations"][1]["bbox"] = None  # what is left out need not be right
        dataset = read(contents)
        assert dataset.annotation_ids.tolist() == [1, 4, 5, 6]
        assert dataset.notes == (
            "2 of 6 annotations have no category and were left out (the first: annotation number 2 of the list).",
        )

    def test_a_single_listed_category_is_meant(self, read: Read) -> None:
        contents = coco()
        contents["categories"] = [{"id": 4, "name": "square"}]
        for annotation in contents["annotations"]:
            del annotation["category_id"]
        dataset = read(contents)
        assert [(category.id, category.name) for category in dataset.categories] == [(4, "square")]
        assert dataset.labels.tolist() == [0] * 6
        assert dataset.notes == (
            "None of the 6 annotations has a category; all are taken for 'square', the only one that the file lists.",
        )

    def test_of_several_listed_categories_none_is_chosen(self, read: Read) -> None:
        contents = coco()
        for annotation in contents["annotations"]:
            del annotation["category_id"]
        dataset = read(contents)
        assert [category.name for category in dataset.categories] == ["object"]
        assert dataset.notes == (
            "None of the 6 annotations has a category, so one class named 'object' is assumed, "
            "in place of the 2 that the file lists.",
        )

    def test_a_file_without_annotations_keeps_its_categories(self, read: Read) -> None:
        contents = coco([])
        assert [category.name for category in read(contents).categories] == ["square", "bar"]
        del contents["categories"]
        dataset = read(contents)
        assert [category.name for category in dataset.categories] == ["object"]
        assert dataset.notes == ("The file lists no categories, so one class named 'object' is assumed.",)

    def test_categories_that_are_given_but_not_listed_are_refused(self, read: Read) -> None:
        contents = coco() | {"categories": []}
        with pytest.raises(
            DataError, match=r": 6 of 6 annotations have a category that the file does not list: annotation"
        ):
            read(contents)


class TestOutlines:
    POLYGON = ((10, 10, 30, 10, 30, 30, 10, 30),)

    def test_the_case(self, shared: Path) -> None:
        dataset = open_dataset(shared / "cases/bbox_empty_polygon_there", "train")
        assert boxes_xywh(dataset)[:2] == [[10, 10, 20, 20], [26, 6, 28, 29]]
        assert len(dataset.labels) == 12
        assert dataset.notes == (
            "1 of 12 annotations have an outline but no usable box, so their boxes follow from their outlines "
            "(the first: annotation 1).",
        )

    @pytest.mark.parametrize("bbox", [None, [], [1, 2], [1, 2, 3, 4, 5], [0, 0, 0, 0], [1, None, 3, 4], "1 2 3 4", ...])
    def test_every_unusable_box(self, read: Read, bbox: object) -> None:
        contents = coco()
        annotation = contents["annotations"][0]
        annotation |= {"bbox": bbox, "segmentation": [list(self.POLYGON[0]), [40, 5.5, 41, 6, 40, 7]], "area": 0}
        if bbox is ...:
            del annotation["bbox"]
        dataset = read(contents)
        assert boxes_xywh(dataset)[0] == [10, 5.5, 31, 24.5]
        assert dataset.areas[0] == 31 * 24.5

    def test_masks(self) -> None:
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
        mask[20:45, 30:42] = 1
        mask[50, 35] = 1
        compressed = reference_masks.encode(mask)
        expected = tuple(reference_masks.toBbox(compressed).tolist())
        assert expected == (30, 20, 12, 31)
        runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F"), [2]]))).tolist()
        counts = np.diff([0, *runs]).tolist()
        assert box_of_outline({"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()}) == expected
        assert box_of_outline({"size": [HEIGHT, WIDTH], "counts": counts}) == expected

    @pytest.mark.parametrize(
        "segmentation",
        [
            None,
            [],
            [[]],
            [1, 2, 3, 4],
            [[1, 2, 3, 4]],
            [[1, 2, 3, 4, 5]],
            [["a", 2, 3, 4, 5, 6]],
            [[1, 2, 1, 4, 1, 6]],
            "polygon",
            {"size": [5, 5]},
            {"size": [5], "counts": [1, 2]},
            {"size": [5, 5], "counts": [25]},
            {"size": [5, 5], "counts": "no mask"},
            {"size": [5, 5], "counts": [-1, 30]},
        ],
    )
    def test_outlines_from_which_no_box_follows(self, read: Read, segmentation: object) -> None:
        assert box_of_outline(segmentation) is None
        contents = coco()
        for annotation in contents["annotations"][:2]:
            annotation |= {"bbox": [], "segmentation": segmentation}
        with pytest.raises(DataError) as caught:
            read(contents)
        assert str(caught.value).endswith(
            "2 of 6 annotations have neither a box nor an outline that one follows from: annotation 1 ([]), annotation 2 ([]); "
            "give each a 'bbox' of four finite numbers: left, top, width, height in pixels."
        )

    def test_an_outline_does_not_matter_beside_a_box(self, read: Read) -> None:
        contents = coco()
        for annotation in contents["annotations"]:
            annotation["segmentation"] = [1, 2, 3, 4]
        dataset = read(contents)
        assert boxes_xywh(dataset) == BOXES
        assert dataset.notes == ()


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
                f"instances_{split}.json: {count} of {count} boxes lie within 0..1, so they are fractions of the image; COCO boxes are left, "
                "top, width, height in pixels: multiply them by the image's width and height."
            )

    def test_most_of_the_boxes_decide(self, read: Read) -> None:
        boxes = [as_fractions(box) for box in BOXES]
        boxes[0] = [0.5, 0.5, 40, 30]
        boxes[3][2] = 1.3
        with pytest.raises(
            DataError, match=r"4 of 6 boxes lie within 0\.\.1, so they are fractions of the image; COCO"
        ):
            read(coco(boxes))
        dataset = read(coco(BOXES[:4] + boxes[4:]))
        assert dataset.notes == (
            "2 of 6 boxes lie within 0..1, the first pixel of their image (the first: annotation 5); if they are fractions of the image, "
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
            DataError, match=r": 2 of 2 boxes would leave their image, and nearly all fit as left, top, ri"
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


class TestOrientation:
    """Pictures are stored with 96 × 72 pixels; a quarter turn shows 72 × 96."""

    LOW = ([10, 74, 24, 18], [24, 1, 32, 23])  # fits only the picture as shown
    WIDE = ([70, 4, 24, 18], [24, 1, 32, 23])  # fits only the stored one
    EITHER = ([10, 20, 24, 18], [24, 1, 32, 23])

    @staticmethod
    def contents(*boxes: Any, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Contents:
        return coco([box for pair in boxes for box in pair], size)

    @staticmethod
    def turned(folder: Path, *orientations: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
        for number, orientation in enumerate(orientations, start=1):
            write_pictures(folder, [f"{number}.png"], size, orientation)

    def test_the_case(self, shared: Path) -> None:
        dataset = open_dataset(shared / "cases/labelstudio_exif/result.json", "train")
        assert dataset.sizes.tolist() == [[96, 72]] * 4
        assert dataset.image(0).size == (72, 96)
        assert dataset.notes == (
            "4 of 4 images have the size of their stored pixels in the annotation file, but boxes of the picture as shown, so their EXIF "
            "orientation is applied (the first: images/00000000-IMG_0.jpg).",
        )
        # The objects are where the boxes are: each box has another colour inside than around it.
        for index in range(4):
            pixels = np.asarray(dataset.image(index)).astype(int)
            for left, top, right, bottom in dataset.objects(index).boxes_xyxy.astype(int):
                inside = pixels[top + 3 : bottom - 3, left + 3 : right - 3].reshape(-1, 3)
                assert inside.std(axis=0).max() < 20

    def test_boxes_decide_for_pictures_that_cannot_tell(self, tmp_path: Path, read: Read) -> None:
        self.turned(tmp_path, 6, 8, 3)
        dataset = read(self.contents(self.LOW, self.EITHER, self.EITHER))
        assert dataset.sizes.tolist() == [[96, 72], [96, 72], [72, 96]]
        assert dataset.images.as_stored.tolist() == [False, False, False]  # type: ignore[union-attr]
        dataset = read(self.contents(self.WIDE, self.EITHER, self.EITHER))
        assert dataset.sizes.tolist() == [[72, 96]] * 3
        assert dataset.images.as_stored.tolist() == [True, True, True]  # type: ignore[union-attr]
        assert dataset.notes == (
            "3 of 3 images are annotated on their stored pixels, so their EXIF orientation is not applied (the first: 1.png).",
        )

    def test_squares_follow_pictures_whose_size_tells(self, tmp_path: Path, read: Read) -> None:
        self.turned(tmp_path, 6)
        write_pictures(tmp_path, ["2.png", "3.png"], (96, 96), 8)
        contents = self.contents(self.EITHER, self.EITHER, self.EITHER, size=(96, 96))
        contents["images"][0] |= {"width": 72, "height": 96}
        dataset = read(contents)
        assert dataset.images.as_stored.tolist() == [False, False, False]  # type: ignore[union-attr]
        assert dataset.notes == ()

    def test_where_nothing_decides_it_is_a_guess(self, tmp_path: Path, read: Read) -> None:
        self.turned(tmp_path, 6, 6, 1)
        contents = self.contents(self.EITHER, self.EITHER, self.WIDE)
        dataset = read(contents)
        assert dataset.images.as_stored.tolist() == [True, True, False]  # type: ignore[union-attr]
        assert dataset.notes == (
            "2 of 3 images have an EXIF orientation, and neither sizes nor boxes tell whether they were annotated with it; it is a guess that "
            'they were annotated as stored (the first: 1.png); if boxes lie beside their objects, open the data with orientation="shown" (--orientation shown).',
        )
        shown = read(contents, orientation="shown")
        assert shown.sizes.tolist() == [[96, 72], [96, 72], [72, 96]]
        assert shown.notes == ()
        assert read(contents, orientation="stored").sizes.tolist() == [[72, 96]] * 3
        assert open_dataset(tmp_path / "truth.json", "train", orientation="shown").sizes[0].tolist() == [96, 72]
        with pytest.raises(DataError, match=r"There is no orientation 'up': choose 'auto', 'stored' or 'shown'\."):
            read(contents, orientation="up")

    def test_half_turns_alone_are_taken_as_shown(self, tmp_path: Path, read: Read) -> None:
        self.turned(tmp_path, 3, 2, 4)
        dataset = read(self.contents(self.EITHER, self.EITHER, self.EITHER))
        assert dataset.images.as_stored.tolist() == [False] * 3  # type: ignore[union-attr]
        assert "it is a guess that they were annotated as shown (the first: 1.png)" in dataset.notes[0]
        assert dataset.notes[0].endswith('open the data with orientation="stored" (--orientation stored).')
        assert read(self.contents(self.EITHER, self.EITHER, self.EITHER), orientation="stored").images.as_stored.all()  # type: ignore[union-attr]

    def test_boxes_decide_where_no_size_is_stated(self, tmp_path: Path, read: Read) -> None:
        self.turned(tmp_path, 6, 6, 6)
        contents = self.contents(self.WIDE, self.EITHER, self.WIDE)
        for image in contents["images"]:
            image |= {"width": 0, "height": None}
        assert read(contents).sizes.tolist() == [[72, 96]] * 3

    def test_careless_boxes_still_tell(self, tmp_path: Path, read: Read) -> None:
        """Boxes three pixels beyond the shown frame, and twenty beyond the stored one."""
        self.turned(tmp_path, 6, 6, 6)
        careless = ([10, 74, 24, 25], [24, 1, 32, 23])
        dataset = read(self.contents(careless, careless, careless))
        assert dataset.images.as_stored.tolist() == [False] * 3  # type: ignore[union-attr]

    def test_each_picture_follows_its_own_boxes(self, tmp_path: Path, read: Read) -> None:
        self.turned(tmp_path, 6, 6, 6)
        dataset = read(self.contents(self.LOW, self.WIDE, self.LOW))
        assert dataset.images.as_stored.tolist() == [False, True, False]  # type: ignore[union-attr]
        assert len(dataset.notes) == 2

    def test_sizes_a_pixel_off_are_noted_and_others_counted(self, tmp_path: Path, read: Read) -> None:
        write_pictures(tmp_path, ["1.png", "2.png", "3.png"])
        contents = coco()
        contents["images"][0]["width"] = "97"
        contents["images"][1]["height"] = 71
        assert read(contents).notes == (
            "2 of 3 images are a pixel larger or smaller than the annotation file says, and their own size counts (the first: 1.png is "
            "96 × 72, annotated as 97 × 72).",
        )
        for image in contents["images"]:
            image |= {"width": HEIGHT, "height": WIDTH}
        contents["images"][2]["width"] = "wide"
        with pytest.raises(
            DataError,
            match=r": the sizes of 3 of 3 images differ from their files \(width and height are exchanged in 2 of 3 of them\): '1\.png' is "
            r"annotated as 72 × 96 pixels, but the file has 96 × 72, .*'3\.png' is annotated as \? × 96 pixels",
        ):
            read(contents)


class TestNames:
    def test_the_case_of_backslashes(self, shared: Path) -> None:
        dataset = open_dataset(shared / "cases/labelstudio_windows/result.json", "train")
        assert dataset.image(0).size == (96, 72)
        assert dataset.image_name(0) == "images\\00000000-a.jpg"
        assert dataset.subset([2]).image(0).tobytes() == dataset.image(2).tobytes()
        assert len(dataset.labels) == 6
        assert dataset.notes == (
            "3 of 3 pictures are named with \\ between folders, which was read as / (the first: 'images\\\\00000000-a.jpg' is "
            "images/00000000-a.jpg).",
        )

    def test_the_case_of_a_missing_first_picture(self, shared: Path) -> None:
        for split, count in (("train", 7), ("val", 4)):
            with pytest.raises(DataError) as caught:
                open_dataset(shared / "cases/first_picture_missing", split)
            folder = shared / "cases/first_picture_missing" / split
            assert str(caught.value).endswith(
                f"instances_{split}.json: 1 of {count} pictures are missing: gone.jpg; the others were found in {folder}: "
                "put the missing ones there too, or remove their entries."
            )

    @staticmethod
    def opened(folder: Path, names: list[str], pictures: list[str]) -> DetectionDataset:
        contents = coco()
        for image, name in zip(contents["images"], names, strict=True):
            image["file_name"] = name
        write_pictures(folder, pictures)
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations/instances_val.json").write_text(json.dumps(contents))
        return open_dataset(folder, "val")

    @pytest.mark.parametrize(
        "pattern",
        [
            "C:\\Users\\me\\data\\{}",
            "/home/me/data/val/{}",
            "/data/upload/1/{}",
            "/data/local-files/?d=val/{}",
            "https://host.example/store/{}?token=a/b.png",
            "s3://bucket/val/{}",
            "file:///home/me/{}",
            "images/{}",
            "..\\images\\{}",
        ],
    )
    @pytest.mark.parametrize("folder", ["val", "images/val", "images", "val/deep", "."])
    def test_bare_names_are_found(self, tmp_path: Path, pattern: str, folder: str) -> None:
        names = ["a b.png", "b.png", "c.png"]
        written = [pattern.format(name.replace(" ", "%20") if "://" in pattern else name) for name in names]
        dataset = self.opened(tmp_path, written, [f"{folder}/{name}" for name in names])
        assert [dataset.image(index).getpixel((0, 0)) for index in range(3)] == [(1, 0, 0), (2, 0, 0), (3, 0, 0)]
        assert [dataset.image_name(index) for index in range(3)] == written
        if dataset.notes:
            assert dataset.notes[0].startswith("3 of 3 pictures are ")

    def test_folders_tell_namesakes_apart(self, tmp_path: Path) -> None:
        names = ["/home/me/cam1/a.png", "/home/me/cam2/a.png", "/home/me/cam2/b.png"]
        dataset = self.opened(tmp_path, names, ["val/cam1/a.png", "val/cam2/a.png", "val/cam2/b.png"])
        assert [dataset.image(index).getpixel((0, 0)) for index in range(3)] == [(1, 0, 0), (2, 0, 0), (3, 0, 0)]
        assert dataset.notes == (
            "3 of 3 pictures are not in the folders that their names give, and were found by their bare names (the first: "
            "'/home/me/cam1/a.png' is cam1/a.png).",
        )

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("A.PNG", "a.png"),
            ("a.png", "A.png"),
            ("x/A.png", "a.PNG"),
            ("a.jpeg", "a.jpg"),
            ("a.jpg", "a.JPEG"),
            (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")),
            (unicodedata.normalize("NFD", "é.png"), unicodedata.normalize("NFC", "é.png")),
            (" a.png", "a.png"),
            ("a%20b.png", "a b.png"),
        ],
    )
    def test_other_spellings_are_found(self, tmp_path: Path, name: str, file: str) -> None:
        dataset = self.opened(tmp_path, ["1.png", "2.png", name], ["val/1.png", "val/2.png", f"val/{file}"])
        assert dataset.image(2).size == (WIDTH, HEIGHT)
        assert dataset.notes == (
            "1 of 3 pictures are spelled otherwise in the annotation file, in case, ending, accents or signs (the first: "
            f"{name!r} is {file}).",
        )

    def test_several_files_that_fit_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError,
            match=r": 1 of 3 pictures fit several files: 'A\.jpg' may be a\.jpeg or a\.jpg; write the right ones into the ann",
        ):
            self.opened(tmp_path, ["1.png", "2.png", "A.jpg"], ["val/1.png", "val/2.png", "val/a.jpg", "val/a.jpeg"])

    def test_a_picture_stands_for_one_name_only(self, tmp_path: Path) -> None:
        """Neither a picture that another entry names, nor one that two missing names would fall back to."""
        pictures = ["val/cam1/a.png", "val/b.png"]
        with pytest.raises(DataError, match=r": 1 of 3 pictures are missing: cam3/a\.png; the others"):
            self.opened(tmp_path, ["cam1/a.png", "cam3/a.png", "b.png"], pictures)
        with pytest.raises(DataError, match=r": 2 of 3 pictures are missing: x/a\.png, y/a\.png; the others"):
            self.opened(tmp_path, ["x/a.png", "y/a.png", "b.png"], pictures)

    def test_pictures_of_other_splits_do_not_stand_in(self, tmp_path: Path) -> None:
        pictures = ["val/1.png", "val/2.png", "train/3.png", "images/train/3.png"]
        with pytest.raises(
            DataError, match=r": 1 of 3 pictures are missing: 3\.png; the others were found in .*val: put"
        ):
            self.opened(tmp_path, ["1.png", "2.png", "3.png"], pictures)

    def test_pictures_in_two_folders(self, tmp_path: Path) -> None:
        dataset = self.opened(tmp_path, ["1.png", "2.png", "3.png"], ["val/1.png", "val/2.png", "images/3.png"])
        assert dataset.image(2).getpixel((0, 0)) == (3, 0, 0)
        assert dataset.notes[0].startswith("1 of 3 pictures are not in the folders that their names give")

    def test_most_of_the_pictures_choose_the_folder(self, tmp_path: Path) -> None:
        dataset = self.opened(
            tmp_path, ["1.png", "2.png", "3.png"], ["val/1.png", "images/1.png", "images/2.png", "images/3.png"]
        )
        assert dataset.image(0).getpixel((0, 0)) == (2, 0, 0)
        assert dataset.notes == ()

    def test_many_missing_pictures_are_counted(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            self.opened(tmp_path, ["1.png", "2.png", "3.png"], ["val/other.png"])
        searched = ", ".join(str(folder) for folder in (tmp_path / "val", tmp_path, tmp_path / "annotations"))
        assert str(caught.value).endswith(
            f"instances_val.json: none of its 3 pictures is in {searched}: put them into one of these folders (missing: 1.png, 2.png, 3.png)."
        )

    def test_a_backslash_in_a_real_name_is_kept(self, tmp_path: Path) -> None:
        dataset = self.opened(tmp_path, ["a\\b.png", "2.png", "3.png"], ["val/a\\b.png", "val/2.png", "val/3.png"])
        assert dataset.image(0).getpixel((0, 0)) == (1, 0, 0)
        assert dataset.notes == ()


class TestDamagedPng:
    def test_the_case(self, shared: Path) -> None:
        folder = shared / "cases/png_damaged_pixels"
        assert len(open_dataset(folder, "train")) == 6
        with pytest.raises(
            DataError,
            match=r"val_1\.png is damaged \(a checksum in it does not fit\): copy it again from its source, or",
        ):
            open_dataset(folder, "val")

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
    def test_a_flipped_bit_anywhere_in_the_pixels(self, tmp_path: Path, read: Read, share: float) -> None:
        write_pictures(tmp_path, ["1.png", "2.png"])
        noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "3.png")
        content = bytearray((tmp_path / "3.png").read_bytes())
        content[int(share * len(content))] ^= 4
        (tmp_path / "3.png").write_bytes(content)
        with pytest.raises(DataError, match=r"3\.png is damaged \(a checksum"):
            read(coco())

    def test_several_pixel_chunks_are_checked(self, tmp_path: Path, read: Read) -> None:
        write_pictures(tmp_path, ["1.png", "2.png", "3.png"])
        content = (tmp_path / "3.png").read_bytes()
        start = content.index(b"IDAT") - 4
        (length,) = struct.unpack(">I", content[start : start + 4])
        pixels = content[start + 8 : start + 8 + length]

        def chunk(part: bytes, checksum: int = 0) -> bytes:
            correct = zlib.crc32(b"IDAT" + part)
            return struct.pack(">I", len(part)) + b"IDAT" + part + struct.pack(">I", correct ^ checksum)

        rest = content[start + 12 + length :]
        (tmp_path / "3.png").write_bytes(content[:start] + chunk(pixels[:20]) + chunk(pixels[20:]) + rest)
        assert len(read(coco())) == 3
        (tmp_path / "3.png").write_bytes(content[:start] + chunk(pixels[:20]) + chunk(pixels[20:], 1) + rest)
        with pytest.raises(DataError, match=r"3\.png is damaged"):
            read(coco())


class TestSixteenBits:
    def test_the_case(self, shared: Path) -> None:
        file = shared / "cases/sixteen_bit_narrow_range/t.json"
        dataset = open_dataset(file, "train")
        assert dataset.notes == (
            "2 of 2 16-bit pictures that were looked at use a small part of their range (the first: t0.png has values from 51266 to 52181, "
            "which leaves 5 of 256 grey levels); open the data with stretch_16bit=True (--stretch-16bit) to stretch it.",
        )
        assert len(np.unique(np.asarray(dataset.image(0)))) == 5
        stretched = open_dataset(file, "train", stretch_16bit=True)
        values = np.asarray(stretched.subset([1, 0]).image(1))
        assert (values.min(), values.max()) == (0, 255)
        assert len(np.unique(values)) == 195
        assert stretched.notes == ()

    @pytest.mark.parametrize(("highest", "noted"), [(1023, True), (4095, True), (16383, True), (40000, False)])
    def test_fewer_bits_in_16_bit_files(self, tmp_path: Path, read: Read, highest: int, noted: bool) -> None:
        for name in ("1.png", "2.png", "3.png"):
            values = np.linspace(0, highest, WIDTH * HEIGHT).round().reshape(HEIGHT, WIDTH).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / name)
        assert bool(read(coco()).notes) == noted
        assert grey_range(tmp_path / "1.png") == (0, highest)

    def test_an_empty_picture_is_not_noted(self, tmp_path: Path, read: Read) -> None:
        for number in (1, 2, 3):
            Image.fromarray(np.full((HEIGHT, WIDTH), 300, dtype=np.uint16)).save(tmp_path / f"{number}.png")
        assert read(coco()).notes == ()
        assert np.asarray(read(coco(), stretch_16bit=True).image(0)).max() == 1

    def test_stretching_changes_only_16_bits(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[1000, 2000, 3000]], dtype=np.uint16)).save(tmp_path / "deep.png")
        assert np.asarray(read_image(tmp_path / "deep.png", stretch_16bit=True))[0, :, 0].tolist() == [0, 128, 255]
        Image.fromarray(np.array([[10, 20, 30]], dtype=np.uint8)).save(tmp_path / "flat.png")
        assert np.asarray(read_image(tmp_path / "flat.png", stretch_16bit=True))[0, :, 0].tolist() == [10, 20, 30]

    def test_without_stretching_every_value_is_scaled_as_before(self, tmp_path: Path) -> None:
        values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        Image.fromarray(values).save(tmp_path / "all.png")
        read = np.asarray(read_image(tmp_path / "all.png"))[:, :, 0]
        np.testing.assert_array_equal(read, (values.astype(np.int64) + 128) // 257)


class TestSplits:
    def test_the_case(self, shared: Path) -> None:
        folder = shared / "cases/cvat_default"
        assert available_splits(folder) == ["default"]
        assert len(open_dataset(folder, "default")) == 3
        with pytest.raises(
            DataError, match=r"has no split 'train', only 'default': ask for 'default' \(--train-split default\)\.$"
        ):
            open_dataset(folder, "train")
        with pytest.raises(
            DataError, match=r"has no split 'val', only 'default': ask for 'default' \(--split default\)\.$"
        ):
            open_dataset(folder, "val")
        with pytest.raises(
            DataError, match=r"is the split 'default', not 'train': ask for 'default' \(--train-split def"
        ):
            open_dataset(folder / "annotations/instances_default.json", "train")

    def test_an_empty_split_is_told_from_a_broken_one(self, tmp_path: Path) -> None:
        (tmp_path / "valid").mkdir()
        empty = coco() | {"images": [], "annotations": []}
        (tmp_path / "valid/_annotations.coco.json").write_text(json.dumps(empty))
        with pytest.raises(NoImagesError, match=r"valid/_annotations\.coco\.json lists no images: add some, or choose"):
            open_dataset(tmp_path, "val")


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_every_unicode_file_is_read(self, tmp_path: Path, encoding: str) -> None:
        contents = coco()
        contents["categories"][0]["name"] = "猫"
        write_pictures(tmp_path, ["1.png", "2.png", "3.png"])
        (tmp_path / "truth.json").write_bytes(json.dumps(contents, ensure_ascii=False).encode(encoding))
        dataset = read_coco(tmp_path / "truth.json", tmp_path)
        assert [category.name for category in dataset.categories] == ["猫", "bar"]
        assert boxes_xywh(dataset) == BOXES

    def test_other_encodings_are_named(self, tmp_path: Path) -> None:
        contents = json.dumps(coco() | {"info": "größe"}, ensure_ascii=False)
        (tmp_path / "truth.json").write_bytes(contents.encode("cp1252"))
        with pytest.raises(DataError, match=r"truth\.json is not text in UTF-8, UTF-16 or UTF-32: save it as UTF-8\.$"):
            read_coco(tmp_path / "truth.json", tmp_path)


class TestOneReader:
    @pytest.mark.parametrize("area", [0, -1, "288", None, float("nan"), [], 1e400])
    def test_areas_give_the_same_figures(self, read: Read, tmp_path: Path, area: object) -> None:
        contents = coco()
        for annotation in contents["annotations"]:
            annotation["area"] = area
        self.same_figures(read(contents), tmp_path / "truth.json")

    def test_everything_else_gives_the_same_figures_too(self, read: Read, tmp_path: Path) -> None:
        contents = coco([*BOXES, [5, 5, 0, 9]])
        contents["annotations"][0]["iscrowd"] = "True"
        contents["annotations"][1] |= {"bbox": [], "segmentation": [list(TestOutlines.POLYGON[0])]}
        del contents["annotations"][2]["category_id"]
        dataset = read(contents)
        self.same_figures(dataset, tmp_path / "truth.json")
        evaluation = evaluate_detections(tmp_path / "truth.json", [])
        assert (evaluation.objects, evaluation.crowds) == (4, 1)
        assert evaluation.notes == dataset.notes
        assert len(evaluation.notes) == 3

    @staticmethod
    def same_figures(dataset: DetectionDataset, file: Path) -> None:
        results = [
            {"image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": entry["bbox"], "score": score}
            for score, entry in zip(np.linspace(0.9, 0.3, 7), dataset.to_coco()["annotations"], strict=False)
        ]
        results += [copy.deepcopy(results[0]) | {"bbox": [1.0, 1.0, 40.0, 40.0], "score": 0.95}]
        of_file, of_data = evaluate_detections(file, results), evaluate_detections(dataset.to_coco(), results)
        assert of_file.figures == of_data.figures
        assert of_file.figures["AP_small"] is not None
        assert (of_file.objects, of_file.crowds) == (of_data.objects, of_data.crowds)


def test_cases_can_be_opened_from_elsewhere(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths work like absolute ones."""
    shutil.copytree(shared / "cases/labelstudio_windows", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert open_dataset("data/result.json", "train").image(1).size == (96, 72)
