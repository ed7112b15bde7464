"""Image files: read as RGB whatever their mode, checked before a long run, and refused with a helpful message.

First the EXIF orientation is applied, then the picture becomes RGB with 8 bits per channel. Transparency is dropped (the colour below it
stays), 16-bit grey is scaled from 0..65535 to 0..255, or stretched from the darkest to the brightest value of the picture; of 16 bits in
colour the upper 8 stay. Of animations and of files with several pictures the first one counts. Pictures of more than 178,956,970 pixels
(13,377 × 13,377) are refused, which is Pillow's limit.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from detrkit.data.arrays import picture_of_array
from detrkit.errors import DataError
from detrkit.files import expanded

if TYPE_CHECKING:
    import torch

# What Pillow's decoders raise on damaged files.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
_JPEG_END, _PNG_START, _TAIL_BYTES = b"\xff\xd9", b"\x89PNG\r\n\x1a\n", 1024
_HIGHEST_16_BITS = 65535
_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


@dataclass(frozen=True)
class ImageFacts:
    """What the header of an image file says.

    Attributes:
        stored_size: height and width of the pixels as stored in the file.
        shown_size: height and width after the EXIF orientation is applied.
        orientation: the EXIF orientation that is still to be applied, 1 for none.
        mode: Pillow's name for the kind of pixels, such as "RGB".
    """

    stored_size: tuple[int, int]
    shown_size: tuple[int, int]
    orientation: int = 1
    mode: str = "RGB"

    @property
    def has_16_bits(self) -> bool:
        """Whether the picture is grey with more than 8 bits."""
        return _has_16_bits(self.mode)


def read_image(path: str | Path, *, apply_orientation: bool = True, stretch_16bit: bool = False) -> Image.Image:
    """The picture in a file, as RGB with 8 bits per channel.

    Args:
        path: any format that Pillow reads; grey, palette, transparent, CMYK and 16-bit files are converted.
        apply_orientation: whether to turn the picture as its EXIF orientation says; False is for annotations made on the stored pixels.
        stretch_16bit: whether the values of 16-bit grey are stretched so that the picture's darkest value becomes 0 and its brightest 255, for
            cameras that use a small part of the range. Other pictures stay as they are.

    Raises:
        DataError: the file is missing, damaged, cut off, not an image, or has more than 178,956,970 pixels.
    """
    path = expanded(path)
    with readable(str(path)), Image.open(path) as image:
        image.load()
        if apply_orientation:
            ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image, str(path), stretch_16bit=stretch_16bit)


def read_small_grey(path: str | Path, side: int | None, *, stretch_16bit: bool = False) -> Image.Image:
    """A grey version of a picture, turned as its EXIF orientation says, at least `side` pixels wide and high where the picture is.

    The file is decoded to its end, so damage shows. JPEG files are reduced while they are decoded, which takes a fraction of the time.

    Args:
        path: as for `read_image`.
        side: pixels that are enough; None reduces nothing.
        stretch_16bit: as for `read_image`.

    Raises:
        DataError: the file is missing, damaged, cut off or not an image.
    """
    with readable(str(path)), Image.open(path) as image:
        reduced = image.draft("L", (side, side)) if side and image.mode in ("L", "RGB") else None
        image.load()
        grey = image if image.mode == "L" else _to_rgb(image, str(path), stretch_16bit=stretch_16bit).convert("L")
        if reduced is not None:  # its last row and column may stand for fewer pixels than the others
            grey = grey.resize(grey.size, Image.Resampling.BILINEAR, box=reduced[1])
        return ImageOps.exif_transpose(grey)


def grey_range(path: str | Path) -> tuple[int, int]:
    """The lowest and highest value of a grey picture of any depth.

    Raises:
        DataError: the file is missing, damaged, cut off or not an image.
    """
    with readable(str(path)), Image.open(path) as image:
        values = np.asarray(image)
        return int(values.min()), int(values.max())


def check_image(path: str | Path) -> tuple[int, int]:
    """Checks that an image file is complete and can be read as RGB; returns the picture's height and width after EXIF orientation.

    Of JPEG files, only the header and the end are read: damage in between changes pixels, and neither a quick look nor decoding can tell for
    sure. Of PNG files, the checksums of all parts are compared. Other formats are decoded.

    Raises:
        DataError: the file is missing, damaged, cut off, not an image, or has values that do not fit 16 bits.
    """
    return inspect_image(path).shown_size


def inspect_image(path: str | Path) -> ImageFacts:
    """The same check as `check_image`, but returns both the stored and the shown size.

    Raises:
        DataError: see `check_image`.
    """
    path = expanded(path)
    with readable(str(path)), Image.open(path) as image:
        if not _surely_complete(path, image.format):
            image.load()
        _refuse_other_depths(image, str(path))
        width, height = image.size
        orientation = _orientation(image)
    shown_size = (width, height) if orientation in _QUARTER_TURNS else (height, width)
    return ImageFacts((height, width), shown_size, orientation, image.mode)


def to_pil(image: str | Path | Image.Image | np.ndarray | torch.Tensor, *, stretch_16bit: bool = False) -> Image.Image:
    """Any picture as an RGB PIL image.

    Args:
        image: a file name; a PIL image (used as it is, without applying EXIF orientation, so that boxes fit the picture that was given);
            an array or tensor as `picture_of_array` takes it.
        stretch_16bit: as for `read_image`, for files and PIL images.

    Raises:
        DataError: the file cannot be read, or the array has another shape or type, or values beyond its range.
    """
    if isinstance(image, str | Path):
        return read_image(image, stretch_16bit=stretch_16bit)
    if isinstance(image, Image.Image):
        with readable("The given PIL image"):
            image.load()
            return _to_rgb(image, "The given PIL image", stretch_16bit=stretch_16bit)
    import torch  # not above: data sets are inspected and converted without it

    if isinstance(image, torch.Tensor | np.ndarray):
        return picture_of_array(image)
    raise DataError(
        f"A {type(image).__name__} is not an image: give a file name, a PIL image, a numpy array or a torch tensor."
    )


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turns every error that an image file causes inside the block into a DataError."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{name} does not exist: correct its name or put the file there.") from None
    except (IsADirectoryError, PermissionError) as error:
        raise DataError(f"{name} cannot be opened ({error.strerror}): make it a readable file.") from None
    except UnidentifiedImageError:
        raise DataError(
            f"{name} is not a readable image file, whatever its name says: save it as JPEG or PNG, or remove it."
        ) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow warns from this number on, and refuses from twice as many
        raise DataError(
            f"{name} is too large: a picture may have at most {limit:,} pixels (such as {int(limit**0.5):,} × {int(limit**0.5):,}); "
            "cut it into smaller pictures."
        ) from None
    except _DECODING_ERRORS as error:
        raise DataError(
            f"{name} is damaged or cut off ({error}): copy it again from its source, or remove it."
        ) from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation that is still to be applied, 1 for none."""
    # Pillow applies the orientation of TIFF files itself. The method of PNG images would decode the picture to look for metadata after the
    # pixels; files with such metadata have been decoded already.
    value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def _surely_complete(path: Path, file_format: str | None) -> bool:
    """Whether the end of a file proves that nothing is missing; False means that only decoding can tell.

    Raises:
        DataError: the checksum of a part of a PNG file does not fit its bytes.
    """
    with path.open("rb") as file:
        if file_format in ("JPEG", "MPO"):
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return _JPEG_END in file.read()
        if file_format != "PNG" or file.read(len(_PNG_START)) != _PNG_START:
            return False
        pixels_begun = False
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if kind == b"IEND":
                return pixels_begun
            if pixels_begun and kind != b"IDAT":  # it may hold an orientation that only decoding reveals
                return False
            pixels_begun = pixels_begun or kind == b"IDAT"
            content, checksum = file.read(length), file.read(4)
            if len(content) < length or len(checksum) < 4:
                return False
            if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
                raise DataError(
                    f"{path} is damaged (a checksum in it does not fit): copy it again from its source, or remove it."
                )
    return False


def _has_16_bits(mode: str) -> bool:
    return mode == "I" or mode.startswith("I;16")


def _refuse_other_depths(image: Image.Image, name: str) -> None:
    """Refuses floating-point values, and whole numbers beyond 16 bits; only pictures that may have such numbers are decoded."""
    if image.mode == "F":
        raise DataError(f"{name} has floating-point values: save it with 8 or 16 bits per channel.")
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > _HIGHEST_16_BITS:
            raise DataError(f"{name} has values beyond 16 bits: save it with 8 or 16 bits per channel.")


def _to_rgb(image: Image.Image, name: str, *, stretch_16bit: bool = False) -> Image.Image:
    """Converts any mode to RGB; 16-bit values are scaled, where Pillow would clip them at 255."""
    if image.mode == "RGB":
        return image
    _refuse_other_depths(image, name)
    if _has_16_bits(image.mode):
        values = np.asarray(image).astype(np.int64)
        lowest, highest = int(values.min()), int(values.max())
        if not stretch_16bit or lowest == highest:
            lowest, highest = 0, _HIGHEST_16_BITS
        levels = ((values - lowest) * 255 + (highest - lowest) // 2) // (highest - lowest)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "La", "RGBa", "PA"):
        image = image.convert("RGBA")  # palettes with transparency cannot be converted to RGB directly
    return image.convert("RGB")
