"""From files, folders, patterns and lists, as typed by a user, to image files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from detrkit.data.pictures import is_picture, pictures_below
from detrkit.data.text_files import read_lines
from detrkit.data.wording import agreeing, some_of, were
from detrkit.errors import DataError, OutputError
from detrkit.files import expanded
from detrkit.prediction.results import is_drawing

_LIST_SUFFIX = ".txt"


def find_images(paths: str | Path | Iterable[str | Path], *, recursive: bool = False) -> list[Path]:
    """The image files at these paths, without duplicates, in natural order (`photo2.jpg` before `photo10.jpg`).

    Args:
        paths: one or several of these: files; folders; patterns such as `photos/*.jpg` or `photos/**/*.png`; lists, which are text files (`list.txt`, or any file as
            `@list`) with the path of a file on each line, relative to the list's folder or to the current one. Folders and patterns only
            give files with the suffix of an image, and no hidden files. A file that is missing in a list is kept: reading it tells.
        recursive: whether folders give the images in the folders inside them as well.

    Raises:
        DataError: a path does not exist, a pattern has `**` inside a name, a list cannot be read, or a folder, pattern or list gives no images.
    """
    files: dict[str, Path] = {}
    folders: dict[Path, str] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        for file in _images_of(str(path), recursive=recursive):
            files.setdefault(_identity(file, folders), file)
    if not files:
        raise DataError("No images were given: name files, folders, lists or patterns such as 'photos/*.jpg'.")
    return sorted(files.values(), key=natural_order)


def without_results(
    paths: Sequence[Path], output: Path, *, searched: bool, drawn: bool = True
) -> tuple[list[Path], list[str]]:
    """Leaves out images that lie in the folder for the results, such as the drawings of an earlier run.

    Args:
        paths: the images that were found.
        output: the folder for the results.
        searched: whether folders were searched for them, so that nobody may have meant these images.
        drawn: whether copies of the images are drawn into that folder; if not, nothing there is overwritten, and only the drawings that a
            search came upon are left out.

    Returns:
        The other images, and a note about those that were left out.

    Raises:
        OutputError: copies are drawn, and all of the images lie there, or some do and were named.
    """
    place = output.resolve()
    inside = {folder for folder in {path.parent for path in paths} if folder.resolve() == place}
    if drawn:
        kept = [path for path in paths if path.parent not in inside]
    else:
        kept = [path for path in paths if not (searched and path.parent in inside and is_drawing(path))]
    if len(kept) == len(paths) or (not kept and not drawn):
        return list(paths), []
    if not kept or not searched:
        raise OutputError(f"{output} contains the input images, which would be overwritten: choose another --output")
    others = set(kept)
    first = next(path for path in paths if path not in others)
    number = len(paths) - len(kept)
    left_out = some_of(number, len(paths), "image")
    return kept, [
        f"{left_out} {agreeing(number, 'lies', 'lie')} in {output}, the folder for the results, and {were(number)} left out (the first: {first}); "
        "another --output includes them."
    ]


def natural_order(path: Path) -> list[tuple[bool, int, str]]:
    """A sort key that compares runs of digits as numbers."""
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part.casefold()) for part in parts]


def _identity(file: Path, folders: dict[Path, str]) -> str:
    """The path without links; `folders` keeps those that were looked up, as most files share theirs."""
    if file.is_symlink():
        return os.path.realpath(file)
    if file.parent not in folders:
        folders[file.parent] = os.path.realpath(file.parent)
    return os.path.join(folders[file.parent], file.name)  # noqa: PTH118 - many paths, and this is ten times as fast


def _images_of(given: str, *, recursive: bool) -> list[Path]:
    path = expanded(given)
    if path.is_dir():
        return _images_in(path, recursive=recursive)
    if path.is_file():
        return _listed(path) if path.suffix.lower() == _LIST_SUFFIX else [path]
    if given.startswith("@"):
        return _listed(expanded(given[1:]))
    if not any(sign in given for sign in "*?["):
        raise DataError(f"{path} does not exist: check the path; the current folder is {Path.cwd()}.")
    if any("**" in part and part != "**" for part in path.parts):
        raise DataError(
            f"The pattern '{path}' has '**' inside a name, where it has no meaning: write '*' there; '**' stands alone, for any "
            "folders, as in 'photos/**/*.jpg'."
        )
    matches = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    images = [match for match in matches if is_picture(match.name) and match.is_file()]
    if not images:
        raise DataError(f"The pattern '{path}' matches no images: check it; the current folder is {Path.cwd()}.")
    return images


def _images_in(folder: Path, *, recursive: bool) -> list[Path]:
    if recursive:
        images = pictures_below(folder)
        remedy = "name one that does"
    else:
        images = [child for child in folder.iterdir() if is_picture(child.name) and child.is_file()]
        remedy = "name one that does, or add --recursive for the folders inside it"
    if not images:
        raise DataError(f"The folder {folder} contains no images: {remedy}.")
    return images


def _listed(file: Path) -> list[Path]:
    """The files that a list names. Missing ones are kept, as one bad line must not cost the results of the others."""
    if not file.is_file():
        raise DataError(f"The list {file} does not exist: check the path; the current folder is {Path.cwd()}.")
    entries = [expanded(line.strip()) for line in read_lines(file) if line.strip()]
    places = [file.parent / entry for entry in entries]  # an absolute path stays as it is
    found = [
        place if place.is_file() or not entry.is_file() else entry for place, entry in zip(places, entries, strict=True)
    ]
    if not any(path.is_file() for path in found):
        first = f" (the first: {found[0]})" if found else ""
        raise DataError(
            f"The list {file} names no file that exists{first}: write the path of an image on each line, "
            "relative to the list's folder or to the current one."
        )
    return found
