"""Image files of every kind become the right RGB pixels, and bad ones are refused with a helpful message."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from detrkit.data.images import check_image, inspect_image, read_image, to_pil
from detrkit.errors import DataError

RED, GREEN, BLUE, WHITE, BLACK, GREY = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
    (102, 102, 102),
)
COLOURS = np.array([[RED, GREEN, BLUE], [WHITE, BLACK, GREY]], dtype=np.uint8)  # height 2, width 3


def photograph(height: int = 60, width: int = 80) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def cut(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_survive_every_mode(tmp_path: Path, mode: str) -> None:
    Image.fromarray(COLOURS).convert(mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), COLOURS)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 7], [200, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    values = np.asarray(read_image(tmp_path / "a.png"))
    assert values[:, :, 1].tolist() == [[0, 7], [200, 255]]
    assert (values == values[:, :, :1]).all()


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 100, 65535, 300]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 100, 255, 1]


def test_32_bit_values_within_16_bits_are_scaled_and_others_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535]], dtype=np.int32)).save(tmp_path / "fits.tif")
    assert np.asarray(read_image(tmp_path / "fits.tif"))[0, :, 0].tolist() == [0, 255]
    Image.fromarray(np.array([[0, 65536]], dtype=np.int32)).save(tmp_path / "large.tif")
    with pytest.raises(DataError, match=r"large\.tif has values beyond 16 bits: save it with 8 or 16 bits"):
        read_image(tmp_path / "large.tif")
    Image.fromarray(np.array([[0, 0.5]], dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif has floating-point values"):
        read_image(tmp_path / "float.tif")


def test_depths_that_cannot_be_read_are_found_by_the_check(tmp_path: Path) -> None:
    float_values = np.array([[0, 0.5]], dtype=np.float32)
    for name, values, fault in (
        ("large", np.array([[0, 65536]], dtype=np.int32), "values beyond 16 bits"),
        ("negative", np.array([[-1, 7]], dtype=np.int32), "values beyond 16 bits"),
        ("float", float_values, "floating-point values"),
    ):
        file = tmp_path / f"{name}.tif"
        Image.fromarray(values).save(file)
        for look in (check_image, inspect_image, read_image):
            with pytest.raises(DataError) as caught:
                look(file)
            assert str(caught.value) == f"{file} has {fault}: save it with 8 or 16 bits per channel."
    Image.fromarray(np.array([[0, 65535]], dtype=np.int32)).save(tmp_path / "fits.tif")
    assert inspect_image(tmp_path / "fits.tif").mode == "I"
    with pytest.raises(DataError, match=r"The given PIL image has floating-point values"):
        to_pil(Image.fromarray(float_values))


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(np.asarray(read_image(tmp_path / "a.jpg"), dtype=int) - (200, 40, 90)).max() <= 4


def test_palette_with_transparency_keeps_the_colour_below(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOURS).convert("P")
    palette.info["transparency"] = bytes([0] * 256)
    palette.save(tmp_path / "a.png")
    with warnings.catch_warnings(action="error"):
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), COLOURS)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, COLOURS),
        (2, COLOURS[:, ::-1]),
        (3, COLOURS[::-1, ::-1]),
        (4, COLOURS[::-1]),
        (5, COLOURS.transpose(1, 0, 2)),
        (6, np.rot90(COLOURS, -1)),
        (7, COLOURS[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(COLOURS)),
        (99, COLOURS),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation_is_applied(tmp_path: Path, value: int, expected: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(path, exif=orientation(value))
    np.testing.assert_array_equal(np.asarray(read_image(path)), expected)
    assert check_image(path) == expected.shape[:2]


def test_stored_pixels_can_be_read_without_orientation(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=orientation(6))
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png", apply_orientation=False)), COLOURS)
    facts = inspect_image(tmp_path / "a.png")
    assert (facts.stored_size, facts.shown_size) == ((2, 3), (3, 2))


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "gif", "tif"])
def test_the_check_and_the_picture_agree_on_the_size(tmp_path: Path, suffix: str) -> None:
    photograph().save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert check_image(tmp_path / f"a.{suffix}") == (image.height, image.width) == (60, 80)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_check_of_a_whole_file_decodes_nothing(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph().save(tmp_path / f"a.{suffix}")

    def refuse(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    assert check_image(tmp_path / f"a.{suffix}") == (60, 80)


def test_png_orientation_after_the_pixels_is_applied(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(COLOURS).save(content, "PNG")
    exif = b"eXIf" + orientation(6).tobytes().removeprefix(b"Exif\x00\x00")
    chunk = struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif))
    whole, end = content.getvalue()[:-12], content.getvalue()[-12:]  # the end chunk takes 12 bytes
    (tmp_path / "a.png").write_bytes(whole + chunk + end)
    image = read_image(tmp_path / "a.png")
    assert check_image(tmp_path / "a.png") == (image.height, image.width) == (3, 2)


def test_a_jpeg_with_many_bytes_after_its_end_is_decoded_and_accepted(tmp_path: Path) -> None:
    photograph().save(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(bytes(5000))
    assert check_image(tmp_path / "a.jpg") == (60, 80)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif"])
@pytest.mark.parametrize("open_file", [read_image, check_image])
def test_a_file_cut_off_is_refused(tmp_path: Path, suffix: str, open_file: object) -> None:
    photograph().save(tmp_path / f"cut.{suffix}")
    with pytest.raises(DataError, match=rf"cut\.{suffix} .*: .*(copy it again|save it as JPEG or PNG).*or remove it\."):
        open_file(cut(tmp_path / f"cut.{suffix}"))  # type: ignore[operator]


def test_a_png_without_pixels_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    photograph().save(content, "PNG")
    start, end = content.getvalue()[:33], content.getvalue()[-12:]  # the signature and the header take 33 bytes
    (tmp_path / "hollow.png").write_bytes(start + end)
    with pytest.raises(DataError, match=r"hollow\.png is damaged or cut off"):
        check_image(tmp_path / "hollow.png")


@pytest.mark.parametrize("open_file", [read_image, check_image])
def test_a_file_that_is_not_an_image_is_named_with_a_remedy(tmp_path: Path, open_file: object) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    for name, sentence in {
        "text.jpg": r"text\.jpg is not a readable image file, whatever its name says: save it as JPEG or PNG",
        "empty.jpg": r"empty\.jpg is not a readable image file",
        "folder.jpg": r"folder\.jpg cannot be opened \(Is a directory\): make it a readable file",
        "missing.jpg": r"missing\.jpg does not exist: correct its name or put the file there",
    }.items():
        with pytest.raises(DataError, match=sentence):
            open_file(tmp_path / name)  # type: ignore[operator]


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    sentence = r"a\.png is too large: a picture may have at most 2,000 pixels \(such as 44 × 44\); cut it into smaller pictures\.$"
    with pytest.raises(DataError, match=sentence):
        read_image(tmp_path / "a.png")


def test_real_photographs(shared: Path) -> None:
    grey = [path for path in sorted((shared / "data/coco/train").glob("*.jpg")) if Image.open(path).mode == "L"]
    assert len(grey) == 1
    assert read_image(grey[0]).mode == "RGB"
    assert check_image(shared / "data/coco/val/000000000139.jpg") == (426, 640)


def test_every_form_of_a_picture_gives_the_same_pixels(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    tensor = torch.from_numpy(COLOURS).permute(2, 0, 1)
    for form in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(COLOURS).convert("RGBA"),
        COLOURS,
        tensor,
    ):
        np.testing.assert_array_equal(np.asarray(to_pil(form)), COLOURS)
    grey = np.asarray(to_pil(np.array([[3, 250]], dtype=np.uint8)))
    assert grey.tolist() == [[[3, 3, 3], [250, 250, 250]]]


def test_a_given_pil_image_is_used_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=orientation(6))
    np.testing.assert_array_equal(np.asarray(to_pil(Image.open(tmp_path / "a.png"))), COLOURS)
    photograph().save(tmp_path / "cut.jpg")
    with pytest.raises(DataError, match=r"The given PIL image is damaged or cut off"):
        to_pil(Image.open(cut(tmp_path / "cut.jpg")))


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        (
            np.zeros((4, 5, 3), dtype=np.int64),
            r"An array \(4, 5, 3\) of int64 is not an image: give .* uint8 in 0\.\.255",
        ),
        (np.zeros((2, 4, 5), dtype=np.uint8), r"An array \(2, 4, 5\) of uint8 is not an image: give \(height, width\)"),
        (np.zeros((0, 5, 3), dtype=np.uint8), r"An array \(0, 5, 3\)"),
        (torch.zeros(1, 3, 4, 5), r"A tensor \(1, 3, 4, 5\) of torch\.float32 is not an image"),
        (
            np.full((4, 5, 3), 127.5),
            r"An array \(4, 5, 3\) of float64 has values from 127\.5 to 127\.5, and floats must be in 0\.\.1: divide by the",
        ),
        (torch.full((3, 4, 5), -0.5), r"A tensor \(3, 4, 5\) of torch\.float32 has values from -0\.5 to -0\.5"),
        (np.full((4, 5), np.nan), r"has values from nan to nan"),
        ([[1, 2]], r"A list is not an image: give a file name, a PIL image, a numpy array or a torch tensor"),
    ],
)
def test_wrong_arrays_are_refused(form: object, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        to_pil(form)  # type: ignore[arg-type]
