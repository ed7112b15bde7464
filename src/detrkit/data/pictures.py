"""Folders of pictures: which files are pictures, where they lie, and what each is like."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detrkit.data.images import ImageFacts, inspect_image
from detrkit.errors import DataError

# Compared in lower case.
PICTURE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".avif",
     ".mpo", ".ppm", ".pgm", ".pbm", ".pnm", ".tga")
)  # fmt: skip
_THREADS = 8


def is_picture(name: str) -> bool:
    """Whether a file of this name is a picture; hidden files are not: macOS and editors leave some beside the pictures."""
    return Path(name).suffix.lower() in PICTURE_SUFFIXES and not name.startswith(".")


def pictures_below(folder: Path) -> list[Path]:
    """All pictures in a folder and in the folders inside it, sorted; links are followed, each folder once."""
    return sorted(_walk(folder))


def has_pictures(folder: Path) -> bool:
    """Whether there is a picture in a folder or in the folders inside it."""
    return next(_walk(folder), None) is not None


def _walk(folder: Path) -> Iterator[Path]:
    visited: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a link leads back
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in files if is_picture(name))


def inspect_pictures(pictures: Sequence[Path]) -> list[ImageFacts]:
    """Checks every picture, several at a time, and says what each is like.

    Raises:
        DataError: a picture cannot be used; the message names the first and counts them.
    """

    def inspect(picture: Path) -> ImageFacts | DataError:
        try:
            return inspect_image(picture)
        except DataError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        outcomes = list(pool.map(inspect, pictures))
    errors = [outcome for outcome in outcomes if isinstance(outcome, DataError)]
    if errors:
        more = f" ({len(errors)} of the {len(pictures)} images cannot be used.)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more}")
    return [outcome for outcome in outcomes if isinstance(outcome, ImageFacts)]


def common_folder(pictures: Sequence[Path]) -> Path:
    """The innermost folder that contains all of these pictures."""
    folders = {picture.parent for picture in pictures}
    return folders.pop() if len(folders) == 1 else Path(os.path.commonpath(folders))
