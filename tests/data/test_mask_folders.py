"""Folders of masks: classes and objects from pixels, in every layout, and one sentence for each thing that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrkit.data import DetectionDataset, NoImagesError, available_splits, open_dataset
from detrkit.data.opening import has_only_masks, kind_of_masks
from detrkit.errors import DataError

WIDTH, HEIGHT = 40, 30


def picture(file: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 9, 9)).save(file)


def mask(file: Path, *rectangles: tuple[int, tuple[int, int, int, int]], bits: int = 8, palette: bool = False) -> None:
    """A file of zeros with rectangles (left, top, right, bottom) of other values."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8 if bits == 8 else np.uint16)
    for value, (left, top, right, bottom) in rectangles:
        values[top:bottom, left:right] = value
    image = Image.fromarray(values)
    if palette:
        image.putpalette([255 - place % 256 for place in range(768)])
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures: two cats and grass in one, nothing in the other."""
    for name in ("a", "b"):
        picture(tmp_path / f"images/train/{name}.jpg")
    mask(
        tmp_path / "masks/train/a.png",
        (2, (0, 20, 40, 30)),
        (1, (2, 3, 10, 9)),
        (1, (20, 3, 25, 9)),
        (255, (39, 29, 40, 30)),
    )
    mask(tmp_path / "instances/train/a.png", (1, (2, 3, 10, 9)), (7, (20, 3, 25, 9)))
    mask(tmp_path / "masks/train/b.png")
    mask(tmp_path / "instances/train/b.png")
    (tmp_path / "classes.txt").write_text("cat\ngrass\n")
    (tmp_path / "stuff.txt").write_text("grass\n")
    return tmp_path


def seen(dataset: DetectionDataset, index: int = 0) -> list[tuple[str, list[float], float]]:
    objects = dataset.objects(index)
    return [
        (dataset.categories[label].name, box, area)
        for label, box, area in zip(objects.labels, objects.boxes_xyxy.tolist(), objects.areas.tolist(), strict=True)
    ]


CATS = [("cat", [2, 3, 10, 9], 48), ("cat", [20, 3, 25, 9], 30)]
GRASS = ("grass", [0, 20, 40, 30], 399)


class TestLayouts:
    def test_all_segments(self, folder: Path) -> None:
        dataset = open_dataset(folder, "train", masks="panoptic")
        assert seen(dataset) == [GRASS, *CATS]
        assert seen(dataset, 1) == []
        assert [(each.name, each.thing, each.id) for each in dataset.categories] == [
            ("cat", True, 1),
            ("grass", False, 2),
        ]
        assert dataset.notes == ()
        result = dataset.panoptic(0)
        assert [(each.category.name, each.area, each.crowd) for each in result.segments] == [
            ("grass", 399, False), ("cat", 48, False), ("cat", 30, False),
        ]  # fmt: skip
        assert (result.ids == 0).sum() == WIDTH * HEIGHT - 399 - 48 - 30
        assert [(result.ids == each.id).sum() for each in result.segments] == [399, 48, 30]

    def test_objects_alone(self, folder: Path) -> None:
        dataset = open_dataset(folder, "train", masks="instances")
        assert seen(dataset) == CATS
        masks = dataset.objects(0).masks.picked(np.arange(HEIGHT), np.arange(WIDTH))
        assert masks.sum((1, 2)).tolist() == [48, 30]
        assert masks[1, 3:9, 20:25].all()
        assert dataset.notes == (
            "1 segment of stuff (grass) was left out, since only objects are read: to keep it, read the masks as panoptic (--masks panoptic, in "
            "Python masks='panoptic').",
        )
        with pytest.raises(DataError, match="opened without panoptic masks: open it with masks='panoptic'"):
            dataset.panoptic(0)

    def test_without_objects_classes_are_stuff(self, folder: Path) -> None:
        for file in (folder / "instances/train").iterdir():
            file.unlink()
        (folder / "instances/train").rmdir()
        (folder / "instances").rmdir()
        dataset = open_dataset(folder, "train", masks="panoptic")
        assert seen(dataset) == [("cat", [2, 3, 25, 9], 78), GRASS]
        assert not any(category.thing for category in dataset.categories)
        with pytest.raises(
            DataError, match=r"no folder 'instances' that tells objects apart: add it, or read .*--masks panoptic"
        ):
            open_dataset(folder, "train", masks="instances")
        assert kind_of_masks(folder) == "panoptic"

    def test_stuff_decides_what_is_read_where_nobody_says_it(self, folder: Path) -> None:
        assert kind_of_masks(folder) == "panoptic"
        (folder / "stuff.txt").write_text("\n")
        assert kind_of_masks(folder) == "instances"
        (folder / "stuff.txt").unlink()
        assert kind_of_masks(folder) == "instances"
        (folder / "annotations").mkdir()
        (folder / "annotations/instances_train.json").write_text("{}")
        (folder / "stuff.txt").write_text("grass\n")
        assert kind_of_masks(folder) == "instances"

    def test_masks_are_all_there_is(self, folder: Path) -> None:
        assert has_only_masks(folder)
        assert not has_only_masks("digits")
        with pytest.raises(
            DataError, match=r"stuff\.txt\. It has masks of classes: read these \(--masks panoptic, in Python"
        ):
            open_dataset(folder, "train")
        (folder / "annotations").mkdir()
        (folder / "annotations/instances_train.json").write_text("{}")
        assert not has_only_masks(folder)

    def test_pascal_vocs_own_folders(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            picture(tmp_path / f"JPEGImages/{name}.jpg")
            mask(tmp_path / f"SegmentationClass/{name}.png", (1, (2, 3, 10, 9)), (255, (2, 9, 10, 10)), palette=True)
            mask(tmp_path / f"SegmentationObject/{name}.png", (1, (2, 3, 10, 9)), (255, (2, 9, 10, 10)), palette=True)
        (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
        (tmp_path / "ImageSets/Segmentation/train.txt").write_text("c\na\n")
        (tmp_path / "ImageSets/Segmentation/val.txt").write_text("b\n")
        (tmp_path / "classes.txt").write_text("background\ncat\n")
        assert available_splits(tmp_path, "instances") == ["train", "val"]
        assert kind_of_masks(tmp_path) == "instances"
        dataset = open_dataset(tmp_path, "train", masks="instances")
        assert [dataset.image_name(index) for index in (0, 1)] == ["c.jpg", "a.jpg"]
        assert seen(dataset) == [("cat", [2, 3, 10, 9], 48)]

    def test_a_folder_for_each_split(self, tmp_path: Path) -> None:
        picture(tmp_path / "valid/images/a.png")
        mask(tmp_path / "valid/masks/a.png", (1, (2, 3, 10, 9)))
        (tmp_path / "classes.txt").write_text("sky")
        assert seen(open_dataset(tmp_path, "val", masks="panoptic")) == [("sky", [2, 3, 10, 9], 48)]

    def test_one_folder_is_the_training_split(self, tmp_path: Path) -> None:
        picture(tmp_path / "images/a.png")
        mask(tmp_path / "masks/a.png", (1, (2, 3, 10, 9)), (65535, (20, 3, 22, 9)), bits=16)
        (tmp_path / "classes.txt").write_text("sky")
        dataset = open_dataset(tmp_path, "train", masks="panoptic")
        assert seen(dataset) == [("sky", [2, 3, 10, 9], 48)]
        with pytest.raises(DataError, match="no split 'val', only 'train'"):
            open_dataset(tmp_path, "val", masks="panoptic")

    def test_numbers_in_file_names_are_ids(self, tmp_path: Path) -> None:
        picture(tmp_path / "images/0042.png")
        mask(tmp_path / "masks/0042.png", (1, (2, 3, 10, 9)))
        (tmp_path / "classes.txt").write_text("sky")
        dataset = open_dataset(tmp_path, "train", masks="panoptic")
        assert dataset.to_coco(own_ids=True)["images"][0]["id"] == 42


class TestNotes:
    def test_a_picture_without_a_mask(self, folder: Path) -> None:
        picture(folder / "images/train/c.jpg")
        dataset = open_dataset(folder, "train", masks="panoptic")
        assert len(dataset) == 2
        assert dataset.notes == ("1 of 3 pictures has no mask and was left out (the first: c.jpg).",)

    def test_a_mask_that_is_no_png_file(self, folder: Path) -> None:
        (folder / "masks/train/b.png").unlink()
        picture(folder / "masks/train/b.jpg")
        expected = (
            f" There is b.jpg in {folder}/masks/train, and masks have to be PNG files (JPEG changes values): export it again as PNG "
            "from the source of the masks."
        )
        assert open_dataset(folder, "train", masks="panoptic").notes == (
            "1 of 2 pictures has no mask and was left out (the first: b.jpg)." + expected,
        )
        (folder / "ImageSets/Segmentation").mkdir(parents=True)
        (folder / "ImageSets/Segmentation/train.txt").write_text("b\n")
        for layer in ("masks", "instances"):
            for file in (folder / layer / "train").iterdir():
                file.rename(folder / layer / file.name)
        (folder / "images/train/b.jpg").rename(folder / "images/b.jpg")
        with pytest.raises(DataError, match=r"1 of 1 mask is missing: b; .* There is b\.jpg in"):
            open_dataset(folder, "train", masks="panoptic")

    def test_endings_in_capitals(self, folder: Path) -> None:
        (folder / "masks/train/a.png").rename(folder / "masks/train/a.PNG")
        (folder / "instances/train/a.png").rename(folder / "instances/train/a.PNG")
        assert seen(open_dataset(folder, "train", masks="panoptic")) == [GRASS, *CATS]

    def test_pixels_of_a_thing_without_an_object(self, folder: Path) -> None:
        mask(folder / "instances/train/a.png", (1, (2, 3, 10, 9)))
        dataset = open_dataset(folder, "train", masks="panoptic")
        assert seen(dataset) == [GRASS, CATS[0]]
        assert dataset.notes == (
            "1 mask has pixels with a class of objects and no object, or the reverse; they count as nothing "
            f"(the first: {folder}/masks/train/a.png).",
        )

    def test_an_object_of_a_thing_and_of_stuff(self, folder: Path) -> None:
        mask(folder / "instances/train/a.png", (1, (2, 3, 10, 9)), (7, (20, 3, 25, 30)))
        dataset = open_dataset(folder, "train", masks="panoptic")
        assert seen(dataset) == [GRASS, *CATS]
        assert (
            "1 mask has objects that also have pixels of stuff, which count as stuff "
            f"(the first: object 7 of {folder}/masks/train/a.png)."
        ) in dataset.notes

    @pytest.mark.parametrize(("bits", "void"), [(8, 255), (16, 65535)])
    def test_void_in_place_of_a_class(self, tmp_path: Path, bits: int, void: int) -> None:
        for name in ("a", "b"):
            picture(tmp_path / f"images/{name}.png")
            mask(tmp_path / f"masks/{name}.png", (void, (2, 3, 10, 9)), bits=bits)
        (tmp_path / "classes.txt").write_text("cat")
        dataset = open_dataset(tmp_path, "train", masks="panoptic")
        assert len(dataset.labels) == 0
        assert dataset.notes == (
            f"No mask has a class: 2 masks have only 0 and {void}, and {void} belongs to nothing; write the number of the class, 1 for the "
            f"first, in place of {void}.",
        )
        mask(tmp_path / "masks/b.png", (1, (2, 3, 10, 9)), bits=bits)
        assert open_dataset(tmp_path, "train", masks="panoptic").notes == ()


class TestRefused:
    def refused(self, folder: Path, masks: str = "panoptic") -> str:
        with pytest.raises(DataError) as caught:
            open_dataset(folder, "train", masks=masks)
        return str(caught.value).replace(str(folder), "…")

    def test_another_size_than_the_picture(self, folder: Path) -> None:
        picture(folder / "images/train/a.jpg", (WIDTH + 1, HEIGHT))
        assert self.refused(folder) == (
            "…/masks/train/a.png has 40 × 30 pixels, but its picture a.jpg has 41 × 30: export the masks again, or use the pictures that were "
            "annotated."
        )

    def test_another_size_than_the_objects(self, folder: Path) -> None:
        Image.new("L", (40, 20)).save(folder / "instances/train/b.png")
        assert self.refused(folder).startswith(
            "…/instances/train/b.png has 40 × 20 pixels, but its picture b.jpg has 40 × 30"
        )

    def test_classes_of_another_size_than_objects_and_picture(self, folder: Path) -> None:
        Image.new("L", (39, 30)).save(folder / "masks/train/b.png")
        assert self.refused(folder) == (
            "…/masks/train/b.png has 39 × 30 pixels, but its picture b.jpg has 40 × 30: export the masks again, or use the pictures that were "
            "annotated."
        )
        Image.new("L", (40, 29)).save(folder / "instances/train/b.png")
        assert self.refused(folder).startswith(
            "…/masks/train/b.png has 39 × 30 pixels, but its picture b.jpg has 40 × 30"
        )
        assert self.refused(folder).endswith(" (2 of this kind, also in …/instances/train/b.png.)")

    def test_a_value_without_a_name(self, folder: Path) -> None:
        mask(folder / "masks/train/b.png", (9, (0, 0, 2, 2)))
        assert self.refused(folder) == (
            "…/masks/train/b.png has 4 pixels of the value 9, for which …/classes.txt has no name: add it, or correct the mask."
        )

    def test_colours(self, folder: Path) -> None:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "masks/train/b.png")
        assert self.refused(folder) == (
            "…/masks/train/b.png is a picture of mode RGB, whose pixels are no single numbers: save the mask in grey with 8 or 16 bits, or with "
            "a palette, so that a value is the number of a class."
        )

    def test_no_classes(self, folder: Path) -> None:
        (folder / "classes.txt").unlink()
        assert self.refused(folder) == (
            "…/classes.txt does not exist: write the names of the classes into it, one per line, in the order of the values 1, 2 and so on."
        )
        (folder / "classes.txt").write_text("background\n")
        assert self.refused(folder).startswith("…/classes.txt names no classes: write each name once")
        (folder / "classes.txt").write_text("cat\ncat\n")
        assert self.refused(folder).startswith("…/classes.txt has a name twice: write each name once")

    def test_stuff_that_is_no_class(self, folder: Path) -> None:
        (folder / "stuff.txt").write_text("gras\n")
        assert self.refused(folder) == "…/stuff.txt lists gras, which classes.txt does not: use the same names."

    def test_a_missing_picture_or_mask(self, folder: Path) -> None:
        (folder / "images/train/b.jpg").unlink()
        assert self.refused(folder) == "…/images/train: 1 of 2 pictures is missing: b; add it, or remove the mask."
        picture(folder / "images/train/b.jpg")
        (folder / "instances/train/b.png").unlink()
        assert self.refused(folder) == "…/instances/train: 1 of 2 masks of objects is missing: b.png; add it."

    def test_an_object_of_two_classes(self, folder: Path) -> None:
        (folder / "stuff.txt").unlink()
        mask(folder / "instances/train/a.png", (3, (0, 0, 40, 30)))
        assert self.refused(folder) == (
            "…/masks/train/a.png has pixels of several classes in object 3: an object has one class, so correct the one mask or the other."
        )

    def test_too_many_objects(self, folder: Path) -> None:
        mask(folder / "instances/train/a.png", (40000, (2, 3, 10, 9)), bits=16)
        assert "has an object with a number above 32,767" in self.refused(folder)

    def test_an_empty_list(self, folder: Path) -> None:
        (folder / "ImageSets/Segmentation").mkdir(parents=True)
        (folder / "ImageSets/Segmentation/train.txt").write_text("\n")
        with pytest.raises(NoImagesError, match="names no pictures: add some"):
            open_dataset(folder, "train", masks="panoptic")

    def test_no_masks_at_all(self, tmp_path: Path) -> None:
        picture(tmp_path / "images/train/a.jpg")
        assert self.refused(tmp_path) == (
            "… has no panoptic segments: looked for annotations/panoptic_<split>.json, masks/<split>/*.png, <split>/masks/*.png and "
            "SegmentationClass/*.png, found images/; without masks, boxes are read."
        )

    def test_no_png_files(self, tmp_path: Path) -> None:
        picture(tmp_path / "images/train/a.jpg")
        picture(tmp_path / "masks/train/a.jpg")
        assert self.refused(tmp_path).endswith(
            "boxes are read. …/masks/train/a.jpg is no PNG file, and masks have to be (JPEG changes values): export them again as PNG from "
            "the source of the masks."
        )

    def test_another_kind_of_masks(self, folder: Path) -> None:
        assert (
            self.refused(folder, "outlines")
            == "There are no masks of the kind 'outlines': choose 'instances' or 'panoptic'."
        )

    def test_the_built_in_set(self) -> None:
        with pytest.raises(DataError, match="'digits' has no masks"):
            open_dataset("digits", "train", masks="instances")
