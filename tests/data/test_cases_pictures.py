"""Small data sets after public bug reports, each with others of its kind: what comes out is right, or is said before a run begins.

Here: pictures, their names and their splits.
"""

from __future__ import annotations

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
from coco_files import HEIGHT, WIDTH, Contents, coco, write_pictures
from PIL import Image

from detrkit.data import (
    DetectionDataset,
    NoImagesError,
    available_splits,
    open_dataset,
    picture_files,
)
from detrkit.errors import DataError

Read = Callable[..., DetectionDataset]


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
            "4 of 4 images have the size of the stored pixels in the annotation file, but boxes of the picture as shown, so the EXIF "
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
            "3 of 3 images are annotated on the stored pixels, so the EXIF orientation is not applied (the first: 1.png).",
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
            "2 of 3 images are a pixel larger or smaller than the annotation file says; the picture's own size counts (the first: 1.png is "
            "96 × 72, annotated as 97 × 72).",
        )
        for image in contents["images"]:
            image |= {"width": HEIGHT, "height": WIDTH}
        contents["images"][2]["width"] = "wide"
        with pytest.raises(
            DataError,
            match=r": the sizes of 3 of 3 images differ from their files \(width and height are exchanged in 2 of them\): '1\.png' is "
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
            folder = (shared / "cases/first_picture_missing" / split).resolve()
            assert str(caught.value).endswith(
                f"instances_{split}.json: 1 of {count} pictures is missing: gone.jpg; the others were found in {folder}: "
                "put it there too, or remove its entry."
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

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("up/what?.png", "what?.png"),
            ("up/what?.png", "deep/WHAT?.png"),
            ("up?/what?.png", "what?.png"),
            ("up/wh?t/a.png", "a.png"),
            ("up/wh?t/a.png", "wh?t/a.png"),
            ("up\\a?b=c.png", "a?b=c.png"),
            ("s3://host/x/a#0.png", "a#0.png"),
            ("s3://host/cam#1/a.png", "cam#1/a.png"),
            ("https://host/x/a%230.png", "a#0.png"),
            ("https://host/x/a%3F.png", "a?.png"),
            ("https://host/x/what?.png", "what?.png"),
            ("https://host/x/a.png#top", "a.png"),
            ("https://host/x/a.png?v=1#top", "a.png"),
            ("https://host/x/a#0.png?v=b/2.png", "a#0.png"),
            ("https://[host/a.png", "a.png"),
            ("up/a#0.png", "a#0.png"),
            ("/data/local-files/?d=up/a?.png", "a?.png"),
        ],
    )
    def test_question_marks_and_hashes(self, tmp_path: Path, name: str, file: str) -> None:
        dataset = self.opened(tmp_path, ["1.png", "2.png", name], ["val/1.png", "val/2.png", f"val/{file}"])
        assert dataset.image(2).getpixel((0, 0)) == (3, 0, 0)
        assert dataset.image_name(2) == name
        assert dataset.notes[0].startswith("1 of 3 pictures is ")
        assert f"(the first: {name!r} is {file})" in dataset.notes[0]

    @pytest.mark.parametrize(
        "name", ["https://host/x/a.png?token=y/3.png", "x/a.png?token=y/3.png", "https://host", "?"]
    )
    def test_a_query_names_no_other_picture(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(DataError) as caught:
            self.opened(tmp_path, ["1.png", "2.png", name], ["val/1.png", "val/2.png", "val/3.png"])
        assert f": 1 of 3 pictures is missing: {name}; the others" in str(caught.value)

    def test_many_files_of_one_bare_name_are_not_compared_with_every_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With 1600 folders that would take minutes."""
        count, looks = 200, 0
        for number in range(count):
            (tmp_path / f"images/c{number}").mkdir(parents=True)
            (tmp_path / f"images/c{number}/0001.jpg").touch()
        key = picture_files._key

        def counted(name: str) -> str:
            nonlocal looks
            looks += 1
            return key(name)

        monkeypatch.setattr(picture_files, "_key", counted)
        names = [f"/mnt/old/c{number}/0001.jpg" for number in range(count)]
        files, notes = picture_files.find_pictures(names, picture_files.PictureFolders(tmp_path), "truth.json")
        assert files is not None
        assert files.tolist() == [f"images/c{number}/0001.jpg" for number in range(count)]
        assert notes == [
            "200 of 200 pictures are not in the folder that the name gives, and were found by the bare name (the first: "
            "'/mnt/old/c0/0001.jpg' is images/c0/0001.jpg)."
        ]
        assert looks <= 8 * count

    def test_many_files_that_fit_every_name(self, tmp_path: Path) -> None:
        for number in range(10):
            (tmp_path / f"c{number}").mkdir()
            (tmp_path / f"c{number}/0001.jpg").touch()
        folders = picture_files.PictureFolders(tmp_path)
        with pytest.raises(DataError) as caught:
            picture_files.find_pictures([f"x{number}/0001.jpg" for number in range(5)], folders, "truth.json")
        assert str(caught.value) == (
            "truth.json: 5 of 5 pictures fit several files: 'x0/0001.jpg' may be c0/0001.jpg or c1/0001.jpg or c2/0001.jpg, 'x1/0001.jpg' may "
            "be c0/0001.jpg or c1/0001.jpg or c2/0001.jpg, 'x2/0001.jpg' may be c0/0001.jpg or c1/0001.jpg or c2/0001.jpg and 2 more; write "
            "the right ones into the annotation file."
        )

    def test_files_of_other_names_leave_one_namesake(self, tmp_path: Path) -> None:
        """The folder that fits best holds a file that another entry names, so the other one is meant."""
        names = ["cam1/a.png", "old/cam1/a.png", "b.png"]
        dataset = self.opened(tmp_path, names, ["val/cam1/a.png", "val/cam2/a.png", "val/b.png"])
        assert dataset.image(1).getpixel((0, 0)) == (2, 0, 0)

    def test_folders_tell_namesakes_apart(self, tmp_path: Path) -> None:
        names = ["/home/me/cam1/a.png", "/home/me/cam2/a.png", "/home/me/cam2/b.png"]
        dataset = self.opened(tmp_path, names, ["val/cam1/a.png", "val/cam2/a.png", "val/cam2/b.png"])
        assert [dataset.image(index).getpixel((0, 0)) for index in range(3)] == [(1, 0, 0), (2, 0, 0), (3, 0, 0)]
        assert dataset.notes == (
            "3 of 3 pictures are not in the folder that the name gives, and were found by the bare name (the first: "
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
            "1 of 3 pictures is spelled otherwise in the annotation file, in case, ending, accents or signs (the first: "
            f"{name!r} is {file}).",
        )

    def test_several_files_that_fit_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError,
            match=r": 1 of 3 pictures fits several files: 'A\.jpg' may be a\.jpeg or a\.jpg; write the right ones into the ann",
        ):
            self.opened(tmp_path, ["1.png", "2.png", "A.jpg"], ["val/1.png", "val/2.png", "val/a.jpg", "val/a.jpeg"])

    def test_a_picture_stands_for_one_name_only(self, tmp_path: Path) -> None:
        """Neither a picture that another entry names, nor one that two missing names would fall back to."""
        pictures = ["val/cam1/a.png", "val/b.png"]
        with pytest.raises(DataError, match=r": 1 of 3 pictures is missing: cam3/a\.png; the others"):
            self.opened(tmp_path, ["cam1/a.png", "cam3/a.png", "b.png"], pictures)
        with pytest.raises(DataError, match=r": 2 of 3 pictures are missing: x/a\.png, y/a\.png; the others"):
            self.opened(tmp_path, ["x/a.png", "y/a.png", "b.png"], pictures)

    def test_pictures_of_other_splits_do_not_stand_in(self, tmp_path: Path) -> None:
        pictures = ["val/1.png", "val/2.png", "train/3.png", "images/train/3.png"]
        with pytest.raises(
            DataError, match=r": 1 of 3 pictures is missing: 3\.png; the others were found in .*val: put"
        ):
            self.opened(tmp_path, ["1.png", "2.png", "3.png"], pictures)

    def test_pictures_in_two_folders(self, tmp_path: Path) -> None:
        dataset = self.opened(tmp_path, ["1.png", "2.png", "3.png"], ["val/1.png", "val/2.png", "images/3.png"])
        assert dataset.image(2).getpixel((0, 0)) == (3, 0, 0)
        assert dataset.notes[0].startswith("1 of 3 pictures is not in the folder that the name gives")

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


class TestSplits:
    def test_the_case(self, shared: Path) -> None:
        folder = shared / "cases/cvat_default"
        assert available_splits(folder) == ["default"]
        assert len(open_dataset(folder, "default")) == 3
        with pytest.raises(
            DataError,
            match=r"has no split 'train', only 'default': ask for that one \(in training --train-split default or",
        ):
            open_dataset(folder, "train")
        with pytest.raises(
            DataError,
            match=r"has no split 'val', only 'default': .* or --val-split default, elsewhere --split default\)\.$",
        ):
            open_dataset(folder, "val")
        with pytest.raises(
            DataError, match=r"is the split 'default', not 'train': ask for that one \(in training --train-split def"
        ):
            open_dataset(folder / "annotations/instances_default.json", "train")

    def test_an_empty_split_is_told_from_a_broken_one(self, tmp_path: Path) -> None:
        (tmp_path / "valid").mkdir()
        empty = coco() | {"images": [], "annotations": []}
        (tmp_path / "valid/_annotations.coco.json").write_text(json.dumps(empty))
        with pytest.raises(NoImagesError, match=r"valid/_annotations\.coco\.json lists no images: add some, or choose"):
            open_dataset(tmp_path, "val")


def test_cases_can_be_opened_from_elsewhere(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths work like absolute ones."""
    shutil.copytree(shared / "cases/labelstudio_windows", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert open_dataset("data/result.json", "train").image(1).size == (96, 72)
