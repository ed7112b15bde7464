"""From files, folders and patterns, as typed by a user, to image files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from detrkit.errors import DataError
from detrkit.files import expanded

# Files with these suffixes are taken from folders and patterns; a file that is named directly may have any suffix.
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """The image files at these paths, without duplicates, in natural order (`photo2.jpg` before `photo10.jpg`).

    Args:
        paths: files; folders, of which the direct children are taken; patterns such as `photos/*.jpg` or `photos/**/*.png`.
            Folders and patterns only give files with the suffix of an image, and no hidden files.

    Raises:
        DataError: a path does not exist, or a folder or pattern gives no images.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        for file in _images_of(expanded(path)):
            files.setdefault(file.resolve(), file)
    if not files:
        raise DataError("No images were given: name files, folders or patterns such as 'photos/*.jpg'.")
    return sorted(files.values(), key=natural_order)


def natural_order(path: Path) -> list[tuple[bool, int, str]]:
    """A sort key that compares runs of digits as numbers."""
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part.casefold()) for part in parts]


def _images_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        images = [child for child in path.iterdir() if _looks_like_image(child)]
        if not images:
            raise DataError(
                f"The folder {path} contains no images: name one that does, or a pattern such as '{path}/**/*.jpg'."
            )
        return images
    if not any(sign in str(path) for sign in "*?["):
        raise DataError(f"{path} does not exist: check the path; the current folder is {Path.cwd()}.")
    matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    images = [match for match in matches if _looks_like_image(match)]
    if not images:
        raise DataError(f"The pattern '{path}' matches no images: check it; the current folder is {Path.cwd()}.")
    return images


def _looks_like_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
