"""Kinds of image files beyond the common ones: the right pixels of each, whole or refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrkit.data.images import check_image, read_image
from detrkit.errors import DataError

COLOUR = (200, 40, 90)


def plain(colour: tuple[int, int, int] = COLOUR) -> Image.Image:
    return Image.new("RGB", (16, 12), colour)


def assert_colour(path: Path, expected: tuple[int, int, int], tolerance: int = 0) -> None:
    values = np.asarray(read_image(path), dtype=int)
    assert values.shape == (12, 16, 3)
    assert check_image(path) == (12, 16)
    assert np.abs(values - expected).max() <= tolerance


def write_png(path: Path, kind: int, depth: int, rows: bytes, size: tuple[int, int] = (16, 12)) -> None:
    """A PNG file in kinds that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("gif", {}, 0),
        ("png", {}, 0),
        ("png", {"default_image": True}, 0),  # the first picture is not part of the animation
        ("webp", {"lossless": True}, 0),
        ("tif", {}, 0),
        ("mpo", {"quality": 95}, 3),
    ],
)
def test_the_first_picture_of_several_counts(
    tmp_path: Path, suffix: str, options: dict[str, object], tolerance: int
) -> None:
    path = tmp_path / f"several.{suffix}"
    plain().save(path, save_all=True, append_images=[plain((0, 0, 255))], **options)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 2
    assert_colour(path, COLOUR, tolerance)


def test_a_progressive_jpeg_is_read_and_missed_when_cut_off(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, size=(12, 16, 3), dtype=np.uint8)
    Image.fromarray(values).resize((160, 120)).save(tmp_path / "a.jpg", progressive=True, quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.info["progressive"] == 1
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.jpg")), expected)
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    for look in (read_image, check_image):
        with pytest.raises(
            DataError, match=r"cut\.jpg is damaged or cut off .*: copy it again from its source, or remove it\."
        ):
            look(tmp_path / "cut.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_ink_becomes_the_same_light_whether_stored_inverted_or_not(tmp_path: Path, suffix: str) -> None:
    """JPEG files of CMYK pictures store Adobe's inverted values, TIFF files store amounts of ink."""
    path = tmp_path / f"ink.{suffix}"
    Image.new("CMYK", (16, 12), (10, 200, 30, 40)).save(path, **({"quality": 100} if suffix == "jpg" else {}))
    light = tuple(round((255 - ink) * (255 - 40) / 255) for ink in (10, 200, 30))
    assert light == (207, 46, 190)
    assert_colour(path, light, tolerance=1)


def test_grey_with_transparency_and_single_bits(tmp_path: Path) -> None:
    Image.new("LA", (16, 12), (77, 10)).save(tmp_path / "la.png")
    assert_colour(tmp_path / "la.png", (77, 77, 77))
    Image.new("L", (16, 12), 5).save(tmp_path / "see_through.png", transparency=5)
    assert_colour(tmp_path / "see_through.png", (5, 5, 5))
    Image.new("1", (16, 12), 1).save(tmp_path / "bit.png")
    assert_colour(tmp_path / "bit.png", (255, 255, 255))
    plain((255, 0, 0)).convert("P").save(tmp_path / "palette.png", transparency=0)
    assert_colour(tmp_path / "palette.png", (255, 0, 0))


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (2, (0x1234, 0x8000, 0xFFFE), (0x12, 0x80, 0xFF)),
        (6, (0x1234, 0x8000, 0xFFFE, 0x1000), (0x12, 0x80, 0xFF)),
        (4, (0x8080, 0x1000), (0x80, 0x80, 0x80)),
    ],
)
def test_of_16_bits_in_colour_the_upper_8_stay(
    tmp_path: Path, kind: int, values: tuple[int, ...], expected: tuple[int, int, int]
) -> None:
    row = b"\0" + struct.pack(f">{len(values)}H", *values) * 16
    write_png(tmp_path / "deep.png", kind, 16, row * 12)
    assert_colour(tmp_path / "deep.png", expected)


@pytest.mark.parametrize("look", [read_image, check_image])
def test_a_huge_picture_is_refused_with_the_limit(tmp_path: Path, look: object) -> None:
    write_png(tmp_path / "huge.png", 0, 8, b"\0", size=(13_378, 13_378))
    with pytest.raises(DataError) as caught:
        look(tmp_path / "huge.png")  # type: ignore[operator]
    assert str(caught.value) == (
        f"{tmp_path / 'huge.png'} is too large: a picture may have at most 178,956,970 pixels (such as 13,377 × 13,377); cut it into smaller pictures."
    )
