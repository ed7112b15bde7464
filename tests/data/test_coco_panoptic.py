"""COCO's panoptic format: every segment an object, boxes and areas of the pixels, and one sentence for each thing that does not fit."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detrkit.data import available_splits, coco_panoptic, open_dataset
from detrkit.data.id_maps import segments_of
from detrkit.errors import DataError

Change = Callable[[dict[str, Any]], Any]
RED, GREEN = 7, 3 * 256 + 5
JSON, PNG = "annotations/panoptic_val.json", "panoptic_val/1.png"


def write(folder: Path, change: Change = lambda contents: None) -> Path:
    """One photo of 40 × 30 pixels with a cat before grass."""
    (folder / "annotations").mkdir()
    (folder / "panoptic_val").mkdir()
    (folder / "val").mkdir()
    Image.new("RGB", (40, 30)).save(folder / "val/1.jpg")
    colours = np.zeros((30, 40, 3), np.uint8)
    colours[20:] = (5, 3, 0)
    colours[3:9, 2:10] = (7, 0, 0)
    Image.fromarray(colours).save(folder / PNG)
    contents = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}],
        "annotations": [
            {
                "image_id": 1,
                "file_name": "1.png",
                "segments_info": [
                    {"id": RED, "category_id": 17, "iscrowd": 0, "bbox": [2, 3, 8, 6], "area": 48},
                    {"id": GREEN, "category_id": 193, "iscrowd": 0, "bbox": [0, 20, 40, 10], "area": 400},
                ],
            }
        ],
        "categories": [
            {"id": 17, "name": "cat", "isthing": 1, "supercategory": "animal"},
            {"id": 193, "name": "grass", "isthing": 0, "supercategory": "plant"},
        ],
    }
    change(contents)
    (folder / JSON).write_text(json.dumps(contents))
    return folder


class TestRealFiles:
    @pytest.fixture(scope="class")
    def contents(self, shared: Path) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((shared / "data/coco/annotations/panoptic_train.json").read_text())
        return loaded

    def test_every_segment_is_an_object(self, shared: Path, contents: dict[str, Any]) -> None:
        dataset = open_dataset(shared / "data/coco", "train", masks="panoptic")
        assert (len(dataset), len(dataset.labels), int(dataset.crowd.sum())) == (83, 976, 6)
        assert dataset.notes == ()
        assert Counter(category.thing for category in dataset.categories) == {True: 80, False: 53}
        by_image = {entry["image_id"]: entry["segments_info"] for entry in contents["annotations"]}
        for index in range(len(dataset)):
            objects, segments = dataset.objects(index), by_image[int(dataset.image_ids[index])]
            assert [dataset.categories[label].id for label in objects.labels] == [
                each["category_id"] for each in segments
            ]
            assert objects.areas.tolist() == [each["area"] for each in segments]
            assert objects.crowd.tolist() == [each["iscrowd"] == 1 for each in segments]
            boxes = objects.boxes_xyxy
            assert np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).tolist() == [
                each["bbox"] for each in segments
            ]

    def test_masks_and_segments_are_the_pixels(self, shared: Path) -> None:
        dataset = open_dataset(shared / "data/coco", "val", masks="panoptic")
        for index in range(len(dataset)):
            objects, segmentation = dataset.objects(index), dataset.panoptic(index)
            file = shared / "data/coco/panoptic_val" / Path(dataset.image_name(index)).with_suffix(".png")
            red, green, blue = np.moveaxis(np.asarray(Image.open(file)).astype(np.int64), -1, 0)
            assert np.array_equal(segmentation.ids, red + 256 * green + 65536 * blue)
            assert segmentation.ids.dtype == np.int32
            masks = objects.masks.picked(*(np.arange(side) for side in segmentation.ids.shape))
            assert masks.sum((1, 2)).tolist() == objects.areas.tolist()
            assert masks.sum(0).max() == 1  # nothing belongs to two
            areas = {each.id: each.area for each in segmentation.segments}
            assert sorted(areas.values()) == sorted(objects.areas.tolist())
            assert sum(each.crowd for each in segmentation.segments) == objects.crowd.sum()

    def test_an_annotation_file_by_itself(self, shared: Path) -> None:
        dataset = open_dataset(shared / "data/coco" / JSON, "val", masks="panoptic")
        assert (dataset.name, len(dataset)) == ("coco val", 13)
        assert available_splits(shared / "data/coco" / JSON, "panoptic") == ["val"]

    def test_instances_are_another_format(self, shared: Path) -> None:
        with pytest.raises(
            DataError, match=r"instances_val.json is not in COCO's panoptic format, none of its annotations lists"
        ):
            open_dataset(shared / "data/coco/annotations/instances_val.json", "val", masks="panoptic")


class TestLayouts:
    def test_as_written(self, tmp_path: Path) -> None:
        dataset = open_dataset(write(tmp_path), "val", masks="panoptic")
        assert dataset.boxes_xyxy.tolist() == [[2, 3, 10, 9], [0, 20, 40, 30]]
        assert [(each.name, each.thing) for each in dataset.categories] == [("cat", True), ("grass", False)]
        assert [(each.id, each.area) for each in dataset.panoptic(0).segments] == [(RED, 48), (GREEN, 400)]
        assert available_splits(tmp_path, "panoptic") == ["val"]

    def test_cocos_own_names(self, tmp_path: Path) -> None:
        """As the archives unpack: PNG files beside the JSON file, and years."""
        write(tmp_path)
        (tmp_path / JSON).rename(tmp_path / "annotations/panoptic_val2017.json")
        (tmp_path / "panoptic_val").rename(tmp_path / "annotations/panoptic_val2017")
        (tmp_path / "val").rename(tmp_path / "val2017")
        for split in ("val", "val2017"):
            assert len(open_dataset(tmp_path, split, masks="panoptic").labels) == 2

    def test_a_subset_reads_its_own_maps(self, shared: Path) -> None:
        dataset = open_dataset(shared / "data/coco", "val", masks="panoptic")
        part = dataset.subset([7, 3])
        assert np.array_equal(part.panoptic(1).ids, dataset.panoptic(3).ids)
        assert part.panoptic(0).segments == dataset.panoptic(7).segments

    def test_without_boxes_and_areas_they_come_from_the_pixels(self, tmp_path: Path) -> None:
        def change(contents: dict[str, Any]) -> None:
            for segment in contents["annotations"][0]["segments_info"]:
                del segment["bbox"], segment["area"]

        dataset = open_dataset(write(tmp_path, change), "val", masks="panoptic")
        assert dataset.boxes_xyxy.tolist() == [[2, 3, 10, 9], [0, 20, 40, 30]]
        assert dataset.areas.tolist() == [48, 400]
        assert dataset.notes == ()

    def test_other_boxes_and_areas_give_way_to_the_pixels(self, tmp_path: Path) -> None:
        def change(contents: dict[str, Any]) -> None:
            contents["annotations"][0]["segments_info"][0] |= {"bbox": [2, 3, 7, 5], "area": 40}  # inclusive ends

        dataset = open_dataset(write(tmp_path, change), "val", masks="panoptic")
        assert dataset.boxes_xyxy[0].tolist() == [2, 3, 10, 9]
        assert dataset.areas[0] == 48
        assert [str(note).replace(str(tmp_path), "…") for note in dataset.notes] == [
            "1 box of segments is not that of the pixels, which was taken instead (the first: segment 7 of …/panoptic_val/1.png: bbox "
            "[2, 3, 7, 5], pixels [2, 3, 8, 6]).",
            "1 area of segments is not that of the pixels, which was taken instead (the first: segment 7 of …/panoptic_val/1.png: area 40, "
            "pixels 48).",
        ]

    def test_one_wrong_box_in_a_large_set_makes_all_files_count(
        self, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(coco_panoptic, "_CHECKED", 2)  # the first and the last
        contents = json.loads((shared / "data/coco" / JSON).read_text())
        for entry in (contents["annotations"][4], contents["annotations"][-1]):
            entry["segments_info"][0]["area"] += 1
        for name in ("val", "panoptic_val"):
            (tmp_path / name).symlink_to(shared / "data/coco" / name)
        (tmp_path / "annotations").mkdir()
        (tmp_path / JSON).write_text(json.dumps(contents))
        dataset = open_dataset(tmp_path, "val", masks="panoptic")
        assert dataset.notes[0].startswith("2 areas of segments are not those of the pixels, which were taken instead")


class TestRefused:
    def refused(self, folder: Path, change: Change = lambda contents: None, image: Image.Image | None = None) -> str:
        write(folder, change)
        if image is not None:
            image.save(folder / PNG)
        with pytest.raises(DataError) as caught:
            open_dataset(folder, "val", masks="panoptic")
        return str(caught.value).replace(str(folder), "…")

    def test_another_size_than_the_photo(self, tmp_path: Path) -> None:
        """The size that the JSON file states is the photo's, or is missing, or is the mask's."""
        message = self.refused(tmp_path, image=Image.new("RGB", (20, 15), (7, 0, 0)))
        assert message == (
            "…/panoptic_val/1.png has 20 × 15 pixels, but its picture 1.jpg has 40 × 30: export the masks again, or use the pictures that "
            "were annotated."
        )

    @pytest.mark.parametrize("stated", [{}, {"width": 40, "height": 31}])
    def test_another_size_than_the_photo_which_the_file_does_not_state(
        self, tmp_path: Path, stated: dict[str, int]
    ) -> None:
        def change(contents: dict[str, Any]) -> None:
            contents["images"] = [{"id": 1, "file_name": "1.jpg", **stated}]
            del contents["annotations"][0]["segments_info"][1]

        image = Image.new("RGB", (40, 31), (7, 0, 0))
        message = self.refused(tmp_path, change, image)
        assert message.startswith(
            "…/panoptic_val/1.png has 40 × 31 pixels, but its picture 1.jpg has 40 × 30: export the masks again"
        )

    def test_a_palette(self, tmp_path: Path) -> None:
        assert self.refused(tmp_path, image=Image.new("P", (40, 30))) == (
            "…/panoptic_val/1.png is a palette picture, whose pixels are places in a list of colours, not RGB: COCO's panoptic format writes an "
            "id as a colour (red + 256 green + 65,536 blue); save it as RGB with the original colours, or export it again."
        )

    @pytest.mark.parametrize("mode", ["L", "I;16", "1"])
    def test_grey(self, tmp_path: Path, mode: str) -> None:
        assert f"is a picture of mode {mode}, not RGB" in self.refused(tmp_path, image=Image.new(mode, (40, 30)))

    def test_an_id_that_only_the_png_file_has(self, tmp_path: Path) -> None:
        def change(contents: dict[str, Any]) -> None:
            del contents["annotations"][0]["segments_info"][1]

        assert self.refused(tmp_path, change) == (
            "…/panoptic_val/1.png has 400 pixels of the id 773, which …/annotations/panoptic_val.json does not list: add the segment, or paint "
            "these pixels black if they belong to nothing."
        )

    def test_an_id_that_only_the_json_file_has(self, tmp_path: Path) -> None:
        def change(contents: dict[str, Any]) -> None:
            contents["annotations"][0]["segments_info"].append(
                {"id": 9, "category_id": 17, "bbox": [0, 0, 2, 2], "area": 4}
            )

        assert self.refused(tmp_path, change) == (
            "…/panoptic_val/1.png has no pixel of segment 9, which …/annotations/panoptic_val.json lists: remove the segment, or draw it."
        )

    @pytest.mark.parametrize("identifier", [0, -1, 256**3, "x", None, 1.5])
    def test_an_id_that_no_colour_can_say(self, tmp_path: Path, identifier: object) -> None:
        def change(contents: dict[str, Any]) -> None:
            contents["annotations"][0]["segments_info"][0]["id"] = identifier

        assert self.refused(tmp_path, change) == (
            f"…/annotations/panoptic_val.json: 1.jpg has a segment with the id {identifier!r}, and colours can say 1 to 16,777,215: give it "
            "another."
        )

    def test_an_id_twice(self, tmp_path: Path) -> None:
        def change(contents: dict[str, Any]) -> None:
            contents["annotations"][0]["segments_info"][0]["id"] = GREEN

        assert "1.jpg has two segments with the id 773: give each its own colour and id." in self.refused(
            tmp_path, change
        )

    def test_an_image_without_an_entry(self, tmp_path: Path) -> None:
        def change(contents: dict[str, Any]) -> None:
            contents["images"].append({"id": 2, "file_name": "2.jpg", "width": 40, "height": 30})

        assert self.refused(tmp_path, change) == (
            "…/annotations/panoptic_val.json: 1 of 2 images has no entry in 'annotations': 2.jpg; add one with its PNG file, or remove the image."
        )

    def test_two_entries_of_an_image(self, tmp_path: Path) -> None:
        def change(contents: dict[str, Any]) -> None:
            contents["annotations"] *= 2

        assert "entry 1 of 'annotations' is the second of image 1: keep one." in self.refused(tmp_path, change)

    def test_an_entry_without_an_image(self, tmp_path: Path) -> None:
        def change(contents: dict[str, Any]) -> None:
            contents["annotations"][0]["image_id"] = 5

        assert "entry 0 of 'annotations' belongs to image 5, which the file does not list" in self.refused(
            tmp_path, change
        )

    def test_a_category_that_is_not_listed(self, tmp_path: Path) -> None:
        def change(contents: dict[str, Any]) -> None:
            contents["annotations"][0]["segments_info"][0]["category_id"] = 5

        assert "has a category that the file does not list" in self.refused(tmp_path, change)

    def test_no_png_file(self, tmp_path: Path) -> None:
        write(tmp_path)
        shutil.rmtree(tmp_path / "panoptic_val")
        with pytest.raises(
            DataError, match=r"its only picture is not in .*: put it into one of these folders \(missing: 1.png\)"
        ):
            open_dataset(tmp_path, "val", masks="panoptic")

    def test_a_damaged_png_file(self, tmp_path: Path) -> None:
        write(tmp_path)
        content = (tmp_path / PNG).read_bytes()
        (tmp_path / PNG).write_bytes(content[: len(content) // 2])
        with pytest.raises(DataError, match=r"panoptic_val/1.png is damaged or cut off"):
            open_dataset(tmp_path, "val", masks="panoptic")


@pytest.mark.parametrize("seed", range(10))
def test_areas_and_boxes_of_segments(seed: int) -> None:
    """Against counting pixel by pixel."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, 5, (int(random.integers(1, 9)), int(random.integers(1, 9)))).astype(np.int32) * 1000
    found, seen = segments_of(ids)
    assert found.tolist() == sorted(set(ids.ravel().tolist()) - {0})
    for identifier, area, box in zip(found, seen.areas, seen.boxes_xyxy.tolist(), strict=True):
        rows, columns = np.nonzero(ids == identifier)
        assert area == len(rows)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    _, of_one = segments_of(ids, np.array([1000, 77], np.int32))
    assert of_one.areas.tolist() == [(ids == 1000).sum(), 0]
    assert of_one.others == {value: (ids == value).sum() for value in (2000, 3000, 4000) if (ids == value).any()}


def test_categories_that_do_not_say_what_they_are(tmp_path: Path) -> None:
    def forget(contents: dict[str, Any]) -> None:
        del contents["categories"][1]["isthing"]

    dataset = open_dataset(write(tmp_path, forget), "val", masks="panoptic")
    assert [category.thing for category in dataset.categories] == [True, True]
    assert dataset.notes == (
        "1 of 2 categories does not say 'isthing' and counts as a thing (grass): write \"isthing\": 0 for stuff such as sky, 1 for objects.",
    )
