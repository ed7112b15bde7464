"""Small data sets after public bug reports, each with others of its kind: 16-bit pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coco_files import HEIGHT, WIDTH, coco
from PIL import Image

from detrkit.data import DetectionDataset, open_dataset, read_image
from detrkit.data.images import grey_range

Read = Callable[..., DetectionDataset]


class TestSixteenBits:
    def test_the_case(self, shared: Path) -> None:
        file = shared / "cases/sixteen_bit_narrow_range/t.json"
        dataset = open_dataset(file, "train")
        assert dataset.notes == (
            "2 of 2 16-bit pictures that were looked at use a small part of their range (the first: t0.png has values from 51266 to 52181, "
            "which leaves 5 of 256 grey levels); open the data with stretch_16bit=True (--stretch-16bit of train, evaluate and predict) to stretch it.",
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
