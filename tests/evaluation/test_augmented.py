"""The sheet of pictures before and after augmentation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from inspected_data import CAT, DOG, GOOD, only, opened, write_split
from PIL import Image

from detrkit.data import ArrayImages
from detrkit.data.masks import ArrayMasks
from detrkit.errors import ConfigurationError
from detrkit.evaluation import inspect_data
from detrkit.evaluation.augmented import before_and_after, draw_steps, various_images


def test_which_images_are_shown(tmp_path: Path) -> None:
    tiny, huge = [(CAT, [20, 20, 3, 3])], [(DOG, [0, 0, 150, 110])]
    many = [(CAT, [12 * number, 10, 10, 40]) for number in range(9)]
    dataset = opened(write_split(tmp_path, "train", [[], GOOD[0], tiny, many, huge, []])).dataset
    assert various_images(dataset, 8, seed=0) == [3, 2, 4, 1]  # none without objects
    assert various_images(dataset, 2, seed=0) == [3, 2]
    empty = dataset.subset([0, 5])
    assert various_images(empty, 8, seed=0) == [0]


def test_the_sheet(tmp_path: Path) -> None:
    dataset = opened(write_split(tmp_path, "train", GOOD)).dataset
    sheet = before_and_after(dataset, "detr-compact", count=3)
    cell, gap = (480, 400 + 2 * (480 // 36)), 8
    assert sheet.size == (4 * cell[0] + 3 * gap, 2 * cell[1] + gap)
    again = before_and_after(dataset, "detr-compact", count=3)
    assert np.array_equal(np.asarray(sheet), np.asarray(again))
    other = before_and_after(dataset, "detr-compact", count=3, seed=1)
    assert not np.array_equal(np.asarray(sheet), np.asarray(other))


def test_boxes_lie_where_the_objects_are(tmp_path: Path) -> None:
    """A white square on black has its box around it in both halves."""
    folder = write_split(tmp_path, "train", [[(CAT, [40, 30, 60, 50])]])
    picture = Image.new("RGB", (160, 120))
    picture.paste((255, 255, 255), (40, 30, 100, 80))
    picture.save(folder / "train/train_0.jpg", quality=100)
    for seed in range(4):
        sheet = np.asarray(before_and_after(opened(folder).dataset, "detr-compact", seed=seed), dtype=int)
        for half in (sheet[30:, :480], sheet[30:, 488:]):
            white = (half.min(axis=2) > 220) & (half.max(axis=2) - half.min(axis=2) < 20)
            line = (half.max(axis=2) - half.min(axis=2)) > 90  # the only colour is that of the box
            rows, columns = np.flatnonzero(line.any(axis=1)), np.flatnonzero(line.sum(axis=0) > 60)
            square = half[:, columns[0] : columns[-1] + 1]
            middle = (rows[0] + rows[-1]) // 2
            assert white[middle, columns[0] + 8 : columns[-1] - 8].all()  # inside it is the square
            assert square[rows[-1] - 8, square.shape[1] // 2].min() > 200
            outside = [column for column in (columns[0] - 8, columns[-1] + 8) if 0 <= column < half.shape[1]]
            assert all(half[middle, column].max() < 60 or white[:, column].all() for column in outside)


def test_a_variant_that_does_not_exist(tmp_path: Path) -> None:
    write_split(tmp_path, "train", GOOD)
    with pytest.raises(ConfigurationError, match="detr-r5"):
        inspect_data(tmp_path, variant="detr-r5")
    with pytest.raises(ConfigurationError, match="queries must be at least 1, not 0"):
        inspect_data(tmp_path, queries=0)


def test_a_sheet_that_cannot_be_made(tmp_path: Path) -> None:
    write_split(tmp_path, "val", [])
    write_split(tmp_path, "test", [])
    one = only(tmp_path, "sheet-left-out", picture=tmp_path / "a.png")
    assert one.message == f"There is no picture to show, so {tmp_path}/a.png was not written."
    write_split(tmp_path, "train", GOOD)
    for number in range(10):
        file = tmp_path / f"train/train_{number}.jpg"
        content = file.read_bytes()
        middle = len(content) // 2
        file.write_bytes(content[:middle] + b"\xff\xc4\x00\x10" + content[middle + 4 :])
    one = only(tmp_path, "sheet-left-out", picture=tmp_path / "a.png", quick=True)
    assert "is damaged or cut off (broken data stream" in one.message
    assert not (tmp_path / "a.png").exists()
    write_split(tmp_path, "val", GOOD)  # the others are shown instead
    assert inspect_data(tmp_path, picture=tmp_path / "a.png").exit_code == 1
    assert Image.open(tmp_path / "a.png").size == (1944, 1728)


def test_the_steps_of_a_policy(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "data", "train", GOOD)
    dataset = opened(folder).dataset
    files = draw_steps(dataset, tmp_path, "light-detr-compact", policy="strong", count=2)
    assert [file.name for file in files] == ["01_train_0.png", "02_train_4.png"]
    cell, gap = (480, 400 + 2 * (480 // 36)), 8
    width, height = Image.open(files[0]).size
    assert width == 3 * cell[0] + 2 * gap
    assert height in [rows * cell[1] + (rows - 1) * gap for rows in (1, 2, 3)]
    again = draw_steps(dataset, tmp_path, "light-detr-compact", policy="strong", count=1)[0]
    assert again.read_bytes() == files[0].read_bytes()
    plain = draw_steps(dataset, tmp_path, "light-detr-compact", policy="none", count=1)[0]
    assert Image.open(plain).size == (3 * cell[0] + 2 * gap, cell[1])  # as annotated, resized, what the model gets


def test_masks_lie_on_their_objects_in_every_step(tmp_path: Path) -> None:
    """A white square on black with a mask is tinted in the colour of its class, and nothing else is."""
    levels = np.zeros((120, 160, 3), np.uint8)
    levels[30:80, 40:100] = 255
    whole = dataclasses.replace(
        opened(write_split(tmp_path, "train", [[(CAT, [40, 30, 60, 50])]])).dataset,
        images=ArrayImages(levels[None]),
        masks=OneMask(levels[..., 0] > 0),
    )
    sheet = np.asarray(Image.open(draw_steps(whole, tmp_path, "detr-compact", policy="detr", count=1)[0]), dtype=int)
    gap, (width, height) = 8, (480, 400)
    for left in range(0, sheet.shape[1], width + gap):
        cell = sheet[26 : 26 + height, left : left + width]
        tinted = (cell.max(axis=2) - cell.min(axis=2) > 60) & (cell.max(axis=2) > 180)
        pure_white = (cell.min(axis=2) > 250)[100:300, 150:330]
        assert tinted.sum() > 5000
        assert pure_white.mean() < 0.1


class OneMask:
    """The mask of the only object of every image."""

    def __init__(self, mask: np.ndarray) -> None:
        self.mask = mask

    def of_image(self, index: int, rows: slice, size: tuple[int, int]) -> ArrayMasks:
        return ArrayMasks(self.mask[None])

    def subset(self, images: np.ndarray, rows: np.ndarray) -> OneMask:
        return self


def test_the_sheet_shows_masks_where_the_data_have_some(tmp_path: Path) -> None:
    """A mask that fills the upper half of a black picture colours that half, in the picture and as training gets it."""
    folder = write_split(tmp_path, "train", [[(CAT, [0, 0, 160, 120])]])
    Image.new("RGB", (160, 120)).save(folder / "train/train_0.jpg")
    dataset = opened(folder).dataset
    mask = np.zeros((120, 160), dtype=bool)
    mask[:60] = True
    for masks, colored in ((OneMask(mask), True), (None, False)):
        sheet = np.asarray(before_and_after(dataclasses.replace(dataset, masks=masks), "detr-compact"), dtype=int)
        for half in (sheet[:, :480], sheet[:, 488:]):
            inner = half[60:, 200:280].mean(axis=1)
            assert (inner[100:140].max() > 40) == colored
            assert inner[260:300].max() < 40
