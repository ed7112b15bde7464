"""From what somebody typed (files, folders, patterns) to image files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from detrkit.errors import DataError

# What is taken from folders and patterns; a file that is named itself may end in anything.
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """The image files that are meant, each once, in natural order (`photo2.jpg` before `photo10.jpg`).

    Args:
        paths: files; folders, whose direct children are taken; patterns such as `photos/*.jpg` or `photos/**/*.png`.
            From folders and patterns only files with the ending of an image are taken, and no hidden ones.

    Raises:
        DataError: where a path does not exist, or a folder or pattern holds no image.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        for file in _images_of(Path(path).expanduser()):
            found.setdefault(file.resolve(), file)
    if not found:
        raise DataError("No image was given: name files, folders or patterns such as 'photos/*.jpg'.")
    return sorted(found.values(), key=natural_order)


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
                f"The folder {path} holds no image: name one that does, or a pattern such as '{path}/**/*.jpg'."
            )
        return images
    if not any(sign in str(path) for sign in "*?["):
        raise DataError(f"{path} does not exist: check its name, seen from {Path.cwd()}.")
    matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    images = [match for match in matches if _looks_like_image(match)]
    if not images:
        raise DataError(f"The pattern '{path}' matches no image: check it, seen from {Path.cwd()}.")
    return images


def _looks_like_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
