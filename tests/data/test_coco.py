"""COCO files: real ones are read to the last number, broken ones are refused with a message that names the entry and the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.data import DetectionDataset, read_coco
from detrkit.errors import DataError

Contents = dict[str, list[dict[str, Any]]]


@pytest.fixture
def contents() -> Contents:
    """Two pictures; categories 0, 5 and 90, not sorted; one crowd; one box that extends beyond the edge by less than a pixel."""
    return {
        "images": [
            {"id": 12, "file_name": "a.png", "height": 30, "width": 40},
            {"id": 3, "file_name": "b.png", "height": 20, "width": 20},
        ],
        "annotations": [
            {"id": 100, "image_id": 3, "category_id": 90, "bbox": [1, 2, 3.5, 4], "area": 9, "iscrowd": 0},
            {"id": 101, "image_id": 12, "category_id": 0, "bbox": [0, 0, 40.5, 30], "iscrowd": 0},
            {"id": 102, "image_id": 3, "category_id": 5, "bbox": [5, 5, 10, 10], "area": 80, "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "z"}, {"id": 0, "name": "x"}, {"id": 5, "name": "y"}],
    }


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Contents], DetectionDataset]:
    """Writes contents beside two pictures and reads them."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "b.png")

    def write_and_read(contents: Contents) -> DetectionDataset:
        (tmp_path / "truth.json").write_text(json.dumps(contents))
        return read_coco(tmp_path / "truth.json", tmp_path)

    return write_and_read


Read = Callable[[Contents], DetectionDataset]


def test_ids_order_and_numbers(contents: Contents, read: Read) -> None:
    dataset = read(contents)
    assert dataset.name == "truth"
    assert dataset.image_ids.tolist() == [12, 3]
    assert dataset.sizes.tolist() == [[30, 40], [20, 20]]
    assert [(category.id, category.name, category.index) for category in dataset.categories] == [
        (0, "x", 0),
        (5, "y", 1),
        (90, "z", 2),
    ]
    assert dataset.offsets.tolist() == [0, 1, 3]
    assert dataset.boxes_xyxy.tolist() == [[0, 0, 40.5, 30], [1, 2, 4.5, 6], [5, 5, 15, 15]]
    assert dataset.labels.tolist() == [0, 2, 1]
    assert dataset.crowd.tolist() == [False, False, True]
    assert dataset.areas.tolist() == [40.5 * 30, 9, 80]
    assert dataset.annotation_ids.tolist() == [101, 100, 102]
    assert dataset.notes == ()
    assert (dataset.image(0).height, dataset.image(0).width) == (30, 40)


def test_real_coco(shared: Path) -> None:
    folder = shared / "data/coco"
    train = read_coco(folder / "annotations/instances_train.json", folder / "train")
    val = read_coco(folder / "annotations/instances_val.json", folder / "val", name="coco val")
    assert (len(train), len(train.labels), int(train.crowd.sum())) == (84, 667, 6)
    assert (len(val), len(val.labels), int(val.crowd.sum()), val.name) == (120, 1100, 16, "coco val")
    empty = np.flatnonzero(np.diff(train.offsets) == 0)
    assert train.image_ids[empty].tolist() == [250, 508, 262284]
    assert len(np.unique(train.labels)) == 68
    assert len(np.unique(val.labels)) == 75
    # The README counts small, medium and large objects by area.
    limits = np.searchsorted([32**2, 96**2], val.areas[~val.crowd], side="right")
    assert np.bincount(limits).tolist() == [482, 359, 243]
    assert [category.id for category in val.categories][:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert (val.categories[79].id, val.categories[79].name, val.categories[79].index) == (90, "toothbrush", 79)
    assert train.notes == val.notes == ()


def test_objects_of_an_image_keep_the_order_of_the_file(contents: Contents, read: Read) -> None:
    contents["annotations"] = [
        {"id": number, "image_id": (12, 3, 3)[number % 3], "category_id": 5, "bbox": [1, 1, 2, 2]}
        for number in range(600)
    ]
    dataset = read(contents)
    first, second = dataset.annotation_ids[:200].tolist(), dataset.annotation_ids[200:].tolist()
    assert first == list(range(0, 600, 3))
    assert second == [number for number in range(600) if number % 3]


def test_real_roboflow_placeholder_gets_no_class(shared: Path) -> None:
    folder = shared / "data/roboflow_sample/valid"
    dataset = read_coco(folder / "_annotations.coco.json", folder)
    assert len(dataset.labels) == 49
    assert [(category.id, category.name) for category in dataset.categories][:2] == [(1, "bishop"), (2, "black-bishop")]
    assert len(dataset.categories) == 13  # 'bishop' has no objects, but is not a parent either
    assert dataset.notes == (
        "Category 0 'pieces' has no objects and is only the parent of others, so it is not a class.",
    )


def test_a_parent_with_objects_and_its_own_parent_keep_their_class(contents: Contents, read: Read) -> None:
    contents["categories"] = [
        {"id": 0, "name": "x", "supercategory": "none"},
        {"id": 5, "name": "y", "supercategory": "x"},
        {"id": 90, "name": "z", "supercategory": "x"},
        {"id": 91, "name": "person", "supercategory": "person"},
    ]
    assert [category.name for category in read(contents).categories] == ["x", "y", "z", "person"]


def test_a_placeholder_may_share_the_name_of_its_child(contents: Contents, read: Read) -> None:
    contents["categories"] = [
        {"id": -1, "name": "x", "supercategory": "none"},
        {"id": 0, "name": "x", "supercategory": "x"},
        {"id": 5, "name": "y", "supercategory": "x"},
        {"id": 90, "name": "z", "supercategory": "x"},
    ]
    assert [category.id for category in read(contents).categories] == [0, 5, 90]


def test_boxes_without_area_are_dropped_and_noted(contents: Contents, read: Read) -> None:
    contents["annotations"][0]["bbox"] = [1, 2, 0, 4]
    contents["annotations"][2]["bbox"] = [9, 2, 3, -4]
    dataset = read(contents)
    assert dataset.annotation_ids.tolist() == [101]
    assert dataset.offsets.tolist() == [0, 1, 1]
    assert dataset.notes == ("2 of 3 boxes have no area and were left out (the first: annotation 100 of b.png).",)
    assert len(dataset.categories) == 3


def test_boxes_beyond_the_edge_are_kept_and_noted(contents: Contents, read: Read) -> None:
    contents["annotations"][2]["bbox"] = [-3, 5, 10, 40]
    dataset = read(contents)
    assert dataset.boxes_xyxy[2].tolist() == [-3, 5, 7, 45]
    assert dataset.notes == (
        "1 of 3 boxes extends beyond the image (the first: annotation 102 of b.png); training clips it.",
    )


@pytest.mark.parametrize("area", [None, 0, float("nan"), "12"])
def test_a_missing_or_invalid_area_is_computed(contents: Contents, read: Read, area: object) -> None:
    contents["annotations"][0]["area"] = area
    assert read(contents).areas[1] == 3.5 * 4


def test_a_file_without_annotations_is_a_data_set_of_empty_images(contents: Contents, read: Read) -> None:
    contents["annotations"] = []
    dataset = read(contents)
    assert dataset.offsets.tolist() == [0, 0, 0]
    assert dataset.boxes_xyxy.shape == (0, 4)


def save_turned(path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    picture = Image.new("RGB", (40, 30))
    picture.putpixel((0, 0), (255, 0, 0))
    picture.save(path, exif=exif)


def test_orientation_is_applied_where_the_annotations_respect_it(
    tmp_path: Path, contents: Contents, read: Read
) -> None:
    save_turned(tmp_path / "a.png", 6)
    contents["images"][0] |= {"height": 40, "width": 30}
    dataset = read(contents)
    assert dataset.sizes[0].tolist() == [40, 30]
    assert dataset.image(0).size == (30, 40)
    assert dataset.image(0).getpixel((29, 0)) == (255, 0, 0)


def test_orientation_is_not_applied_where_the_annotations_ignore_it(
    tmp_path: Path, contents: Contents, read: Read
) -> None:
    save_turned(tmp_path / "a.png", 6)
    dataset = read(contents)
    assert dataset.sizes[0].tolist() == [30, 40]
    for source, position in ((dataset, 0), (dataset.subset([1, 0]), 1)):
        assert source.image(position).size == (40, 30)
        assert source.image(position).getpixel((0, 0)) == (255, 0, 0)
    assert dataset.notes == (
        "1 of 2 images is annotated on the stored pixels, so the EXIF orientation is not applied (the first: a.png).",
    )


def test_a_half_turn_is_applied_although_the_sizes_agree(tmp_path: Path, contents: Contents, read: Read) -> None:
    save_turned(tmp_path / "a.png", 3)
    assert read(contents).image(0).getpixel((39, 29)) == (255, 0, 0)


def test_a_missing_size_comes_from_the_file(contents: Contents, read: Read) -> None:
    del contents["images"][0]["height"], contents["images"][0]["width"]
    assert read(contents).sizes[0].tolist() == [30, 40]


def change(*path: Any) -> Callable[[Contents], None]:
    """Sets one value: list, position, key, value."""
    name, position, key, value = path

    def apply(contents: Contents) -> None:
        contents[name][position][key] = value

    return apply


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda c: c.pop("images"), r"not a COCO annotation file, it has no list of images: export the data as COCO"),
        (lambda c: c.update(categories={}), r"it has no list of categories: export"),
        (lambda c: c.update(images=[]), r"lists no images: add some, or choose another file"),
        (lambda c: c["annotations"].append("x"), r"entry 3 of 'annotations' is 'x', not an object"),
        (
            change("images", 0, "id", None),
            r": 1 of 2 images has no usable id: 'a\.png' \(None\); give each a whole number or a text\.",
        ),
        (
            change("images", 1, "id", 12),
            r": 1 image id occurs more than once: 12 \('a\.png', 'b\.png'\); give every image its own\.",
        ),
        (
            change("images", 0, "file_name", None),
            r": 1 of 2 images has no 'file_name': image 12 \(None\); give each one\.",
        ),
        (
            change("images", 0, "width", 45),
            r": the size of 1 of 2 images differs from its file: 'a\.png' is annotated as 45 × 30 pixels, but the file has 40 × 30; use the",
        ),
        (
            change("categories", 1, "id", 5),
            r": 1 category id occurs more than once: 5 \('x', 'y'\); give every category",
        ),
        (change("categories", 1, "id", 0.5), r": 1 of 3 categories has no usable id: 'x' \(0\.5\); give each a whole"),
        (
            change("categories", 1, "id", True),
            r": 1 of 3 categories has no usable id: 'x' \(True\); give each a whole",
        ),
        (change("categories", 1, "name", "y"), r"categories 0 and 5 are both named 'y'; rename one"),
        (
            change("categories", 1, "name", ["x"]),
            r": 1 of 3 categories has a name that is no text: category 0 \(\['x'\]\); give each a text\.",
        ),
        (
            change("annotations", 0, "image_id", 4),
            r": 1 of 3 annotations belongs to an image that the file does not list: annotation 100 \(4\); add the images or",
        ),
        (
            change("annotations", 0, "category_id", 7),
            r": 1 of 3 annotations has a category that the file does not list: annotation 100 \(7\); add the categories",
        ),
        (
            change("annotations", 0, "category_id", "z"),
            r": 1 of 3 annotations has a category that the file does not list: annotation 100 \('z'\); add",
        ),
        (
            change("annotations", 0, "bbox", [1, 2, 3]),
            r": 1 of 3 annotations has neither a box nor an outline that one follows from: annotation 100 \(\[1, 2, 3\]\); "
            r"give each a 'bbox' of four finite numbers: left, top, width, height in pixels\.",
        ),
        (change("annotations", 0, "bbox", None), r"neither a box nor an outline .*: annotation 100 \(None\); give"),
        (change("annotations", 0, "bbox", [1, 2, "3", 4]), r": annotation 100 \(\[1, 2, '3', 4\]\); give each"),
        (change("annotations", 0, "bbox", [1, True, 3, 4]), r": annotation 100 \(\[1, True, 3, 4\]\); give each"),
        (change("annotations", 0, "bbox", [1, 10**400, 3, 4]), r": annotation 100 \(\[1, 1000*….*\); give each"),
        (change("annotations", 0, "bbox", [1, float("nan"), 3, 4]), r": annotation 100 \(\[1, nan, 3, 4\]\); give"),
        (change("annotations", 0, "bbox", [1, 2, float("inf"), 4]), r": annotation 100 \(\[1, 2, inf, 4\]\); give"),
    ],
)
def test_errors_in_the_file_are_named(
    contents: Contents, read: Read, spoil: Callable[[Contents], None], sentence: str
) -> None:
    spoil(contents)
    with pytest.raises(DataError, match=sentence) as caught:
        read(contents)
    assert "truth.json" in str(caught.value)


def test_boxes_as_fractions_of_the_image_are_refused(contents: Contents, read: Read) -> None:
    for annotation in contents["annotations"]:
        annotation["bbox"] = [0.1, 0.2, 0.5, 0.5]
    with pytest.raises(
        DataError, match=r"3 of 3 boxes lie within 0\.\.1, .* multiply them by the image's width and height"
    ):
        read(contents)


def test_half_a_file_is_refused(tmp_path: Path, contents: Contents) -> None:
    text = json.dumps(contents)
    (tmp_path / "half.json").write_text(text[: len(text) // 2])
    with pytest.raises(
        DataError, match=r"half\.json is not complete JSON \(.*column.*\): copy or export the file again"
    ):
        read_coco(tmp_path / "half.json", tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(
        DataError, match=r"results\.json is not a COCO annotation file, it has no list of images or annotations or cat"
    ):
        read_coco(tmp_path / "results.json", tmp_path)
    with pytest.raises(
        DataError, match=r"missing\.json cannot be read \(No such file or directory\): correct its name"
    ):
        read_coco(tmp_path / "missing.json", tmp_path)


def test_bad_images_are_found_before_anything_else_starts(tmp_path: Path, contents: Contents, read: Read) -> None:
    (tmp_path / "b.png").unlink()
    with pytest.raises(
        DataError,
        match=r": 1 of 2 pictures is missing: b\.png; the others were found in .*: put it there too, or remove its entry",
    ):
        read(contents)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("a text")
    with pytest.raises(DataError, match=r"a\.png is not a readable image file.*\(2 of the 2 images cannot be used\.\)"):
        read(contents)


def test_a_truncated_jpeg_is_found(tmp_path: Path, contents: Contents, read: Read) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    contents["images"][0]["file_name"] = "a.jpg"
    with pytest.raises(
        DataError, match=r"a\.jpg is damaged or cut off \(.*truncated.*\): copy it again from its source"
    ):
        read(contents)
