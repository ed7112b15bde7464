"""Panoptic files keep every value, have the form of COCO's, and are refused with a sentence where they cannot be right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panoptic_cases import CATEGORIES, DOG, GRASS, PERSON, SKY, coco_panoptic, segmentation
from PIL import Image

from detrkit.errors import DataError, OutputError
from detrkit.panoptic import PanopticSegmentation, colors_of_ids, ids_of_colors
from detrkit.prediction.panoptic_files import PanopticFile, boxes_of, read_panoptic, write_panoptic

MADE = segmentation(
    [[1, 1, 0, 300], [1, 70_000, 0, 300], [16_777_215, 70_000, 70_000, 0]],
    {1: PERSON, 300: PERSON, 70_000: SKY, 16_777_215: GRASS},
    crowds=[300],
    scores={1: 0.1 + 0.2, 70_000: 1 / 3},
)


def written(folder: Path, *images: PanopticSegmentation) -> Path:
    named = ((number, f"picture {number}.jpg", image) for number, image in enumerate(images, start=7))
    return write_panoptic(folder / "found.json", named, CATEGORIES)


def same(one: PanopticSegmentation, other: PanopticSegmentation) -> bool:
    return bool((one.ids == other.ids).all()) and one.ids.dtype == other.ids.dtype and one.segments == other.segments


def test_made_segments_read_back_to_the_same_values(tmp_path: Path) -> None:
    empty = segmentation(np.zeros((2, 5)), {})
    file = read_panoptic(written(tmp_path, MADE, empty))
    assert repr(file) == f"<PanopticFile {tmp_path / 'found.json'}: 2 images, 4 classes>"
    assert (file.image_ids, file.names) == ((7, 8), ("picture 7.png", "picture 8.png"))
    assert file.categories == CATEGORIES
    assert all(same(*pair) for pair in zip(file, (MADE, empty), strict=True))


@pytest.mark.parametrize("split", ["val", "train"])
def test_cocos_segments_read_back_to_the_same_values(shared: Path, tmp_path: Path, split: str) -> None:
    truth = coco_panoptic(shared, split)
    chosen = list(range(len(truth)))[:13]
    images = [truth[index] for index in chosen]
    path = write_panoptic(
        tmp_path / "again.json",
        ((truth.image_ids[index], truth.names[index], truth[index]) for index in chosen),
        truth.categories,
    )
    again = read_panoptic(path)
    assert again.categories == truth.categories
    assert again.image_ids == truth.image_ids[: len(chosen)]
    assert again.names == truth.names[: len(chosen)]
    assert all(same(*pair) for pair in zip(again, images, strict=True))
    keys = ("id", "category_id", "area", "bbox", "iscrowd")
    for own, theirs in zip(again.records, truth.records, strict=False):
        ordered = sorted(theirs, key=lambda record: record["id"])
        assert [[record[key] for key in keys] for record in own] == [
            [record[key] for key in keys] for record in ordered
        ]


def test_the_files_have_the_form_of_cocos(tmp_path: Path) -> None:
    content = json.loads(written(tmp_path, MADE).read_text())
    assert content["images"] == [{"id": 7, "file_name": "picture 7.jpg", "height": 3, "width": 4}]
    assert content["categories"][2] == {"id": 119, "name": "sky", "isthing": 0}
    (entry,) = content["annotations"]
    assert (entry["image_id"], entry["file_name"]) == (7, "picture 7.png")
    assert entry["segments_info"][0] == {
        "id": 1, "category_id": 1, "isthing": 1, "area": 3, "bbox": [0, 0, 2, 2], "iscrowd": 0, "score": 0.1 + 0.2,
    }  # fmt: skip
    assert entry["segments_info"][1] == {
        "id": 300, "category_id": 1, "isthing": 1, "area": 2, "bbox": [3, 0, 1, 2], "iscrowd": 1,
    }  # fmt: skip
    with Image.open(tmp_path / "found" / "picture 7.png") as picture:
        assert picture.mode == "RGB"
        assert picture.getpixel((1, 1)) == (70_000 % 256, 70_000 // 256 % 256, 1)
        assert picture.getpixel((0, 2)) == (255, 255, 255)


def test_colors_and_ids() -> None:
    ids = np.array([[0, 1, 255, 256, 65_535, 65_536, 16_777_215]], dtype=np.int32)
    assert (ids_of_colors(colors_of_ids(ids)) == ids).all()
    assert colors_of_ids(ids)[0, 5].tolist() == [0, 0, 1]


def test_boxes_do_not_depend_on_where_segments_lie() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        ids = generator.integers(0, 6, size=(7, 5))
        there = [number for number in np.unique(ids).tolist() if number]
        made = segmentation(ids, dict.fromkeys([*there, 99], DOG))
        expected = [
            [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            for rows, columns in (np.nonzero(ids == number) for number in there)
        ]
        assert boxes_of(made).tolist() == [*expected, [0, 0, 0, 0]]


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    images = [(1, "a/dog.jpg", MADE), (2, "b/Dog.png", MADE)]
    with pytest.raises(OutputError, match=r"Two images would be written to .*found/Dog.png: give them different names"):
        write_panoptic(tmp_path / "found.json", images, CATEGORIES)


def test_ids_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    large = segmentation([[2**24]], {2**24: DOG})
    with pytest.raises(OutputError, match="room for ids up to 16777215"):
        written(tmp_path, large)


def test_segments_that_are_numbered_from_zero_are_numbered_from_one(tmp_path: Path) -> None:
    path = written(tmp_path, segmentation([[1, 1, 2]], {1: PERSON, 2: SKY}))
    content = json.loads(path.read_text())
    for record in content["annotations"][0]["segments_info"]:
        record["id"] -= 1
    path.write_text(json.dumps(content))
    Image.fromarray(colors_of_ids(np.array([[0, 0, 1]]))).save(path.with_suffix("") / "picture 7.png")
    (image,) = read_panoptic(path)
    assert image.ids.tolist() == [[1, 1, 2]]
    assert [(segment.id, segment.category, segment.area) for segment in image.segments] == [(1, PERSON, 2), (2, SKY, 1)]


def test_a_result_file_without_categories_takes_those_of_the_ground_truth(tmp_path: Path) -> None:
    path = written(tmp_path, MADE)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"annotations": content["annotations"]}))
    with pytest.raises(DataError, match="lists no categories: add them"):
        read_panoptic(path)
    assert same(read_panoptic(path, categories=CATEGORIES)[0], MADE)


def _change(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["segments_info"][0][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change("category_id", 5), "the segment 1 has the category_id 5, and there is no such category"),
        (_change("category_id", None), "the segment 1 has the category_id None"),
        (_change("id", 2), "the ids 2 have no pixels in it: leave them out"),
        (_change("id", "one"), "has no id of a segment"),
        (_change("id", 300), "two segments have one id"),
        (_change("iscrowd", 3), "has the iscrowd 3: write 0, or 1 for a crowd"),
        (_change("score", "high"), "has the score 'high', which is not a number"),
        (
            lambda content: content["annotations"][0]["segments_info"].pop(),
            "the ids 16777215 are in it and not in the list",
        ),
        (
            lambda content: content["annotations"].append(content["annotations"][0]),
            "more than one entry for the image 7",
        ),
        (lambda content: content["annotations"][0].pop("file_name"), "has no image_id and file_name"),
        (lambda content: content["annotations"][0].pop("segments_info"), "is not a panoptic file"),
        (lambda content: content["categories"].append({"id": 1, "name": "x"}), "two categories with one id"),
        (lambda content: content["categories"][0].pop("name"), "entry 0 of 'categories' has no id and name"),
    ],
)
def test_wrong_files_are_refused_with_a_sentence(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = written(tmp_path, MADE)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as problem:
        list(read_panoptic(path))
    assert str(path) in str(problem.value)


def test_wrong_pictures_are_refused_with_a_sentence(tmp_path: Path) -> None:
    file = read_panoptic(written(tmp_path, MADE))
    picture = file.folder / "picture 7.png"
    Image.new("L", (4, 3)).save(picture)
    with pytest.raises(DataError, match="pixels of the kind L, and ids are stored as RGB colours"):
        file[0]
    picture.write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"picture 7.png cannot be read"):
        file[0]
    picture.unlink()
    with pytest.raises(DataError, match=r"picture 7.png is missing"):
        file[0]
    file.folder.rmdir()
    with pytest.raises(DataError, match="put their folder there"):
        read_panoptic(file.source)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    with pytest.raises(DataError, match="cannot be read"):
        read_panoptic(path)
    path.write_text('{"annotations": [')
    with pytest.raises(DataError, match="is not complete JSON"):
        read_panoptic(path)


def test_a_failed_write_leaves_the_earlier_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, MADE)
    before = {each: each.read_bytes() for each in (path, tmp_path / "found" / "picture 7.png")}

    def full_disk(self: Image.Image, place: Path, **options: object) -> None:
        place.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        written(tmp_path, segmentation([[1]], {1: DOG}))
    assert {each: each.read_bytes() for each in before} == before
    assert [each.name for each in path.with_suffix("").iterdir()] == ["picture 7.png"]


def test_only_the_pictures_that_are_asked_for_are_read(tmp_path: Path) -> None:
    file = read_panoptic(written(tmp_path, MADE, MADE))
    (file.folder / "picture 8.png").unlink()
    assert isinstance(file, PanopticFile)
    assert same(file[0], MADE)
