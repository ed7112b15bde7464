"""Finds the picture files that an annotation file names, whatever machine and tool wrote the names.

A name that leads to a file is taken as it is. Otherwise backslashes are read as `/`, folders that are not there (absolute paths of other machines,
addresses, prefixes such as `/data/upload/`) are left out until a file fits, and names may differ in case, in `.jpg` / `.jpeg` and in how
accents are encoded. A file is only taken if it is the only one that fits and no other name means it.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import numpy as np

from detrkit.data.wording import counted_of, first_few
from detrkit.errors import DataError

_SAMPLE = 200  # names that choose a folder
_SAME_ENDINGS = {".jpeg": ".jpg", ".jpe": ".jpg", ".tiff": ".tif"}


@dataclass(frozen=True)
class PictureFolders:
    """Where pictures are looked for.

    Attributes:
        start: the folder that names start from.
        others: folders that may hold pictures which are not there.
        skipped: names of sub-folders that hold pictures of other splits; they are not searched.
    """

    start: Path
    others: tuple[Path, ...] = ()
    skipped: frozenset[str] = frozenset()

    def searched(self) -> list[Path]:
        """All existing folders, in the order in which they are searched."""
        return [folder for folder in dict.fromkeys([self.start, *self.others]) if folder.is_dir()]


def choose_folder(names: Sequence[str], candidates: Sequence[Path]) -> Path:
    """The candidate that holds most of the pictures, the first of equals; names without their folders count if nothing else is found."""
    picked = np.unique(np.linspace(0, len(names) - 1, min(len(names), _SAMPLE)).round().astype(int))
    sample = [names[place] for place in picked.tolist()]
    existing = [folder for folder in candidates if folder.is_dir()]
    for forms in (
        [[name, _with_slashes(name)] for name in sample],
        [[parts[-1]] if (parts := _parts(name)) else [] for name in sample],
    ):
        counts = [sum(any(_is_file(folder / form) for form in each) for each in forms) for folder in existing]
        if max(counts, default=0) > 0:
            return existing[counts.index(max(counts))]
    return existing[0] if existing else candidates[0]


def find_pictures(names: Sequence[str], folders: PictureFolders, source: str) -> tuple[np.ndarray | None, list[str]]:
    """The file of each name.

    Args:
        names: as the annotation file gives them.
        folders: where they are looked for.
        source: the annotation file, for messages.

    Returns:
        (I,) strings, paths relative to the folder that names start from, or absolute ones of files elsewhere; None if all names lead to
        files as they are. And notes about names that were read in another way.

    Raises:
        DataError: pictures are missing, or a name fits several files.
    """
    absent = [place for place, name in enumerate(names) if not _is_file(folders.start / name)]
    if not absent:
        return None, []
    search = _Search(folders, taken={os.path.normpath(folders.start / name) for name in set(names)})
    found: dict[int, str] = {}
    several: dict[int, list[str]] = {}
    for place in absent:
        candidates = search.candidates(names[place])
        if len(candidates) == 1:
            found[place] = candidates[0]
        elif candidates:
            several[place] = candidates
    _drop_shared(found, names)
    _refuse_several(several, names, source)
    _refuse_missing([place for place in absent if place not in found], names, folders, source)
    files = [found.get(place, name) for place, name in enumerate(names)]
    return np.array(files), _notes(found, names)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # names that the file system cannot have
        return False


class _Search:
    """The files of all folders, by the last part of their names; each folder is listed when it is needed."""

    def __init__(self, folders: PictureFolders, taken: set[str]) -> None:
        self._folders = folders
        self._taken = taken
        self._indices: dict[Path, dict[str, list[tuple[str, ...]]]] = {}

    def candidates(self, name: str) -> list[str]:
        """The files that a name may mean: those of the first folder that has any, of which those that share most of the name's folders."""
        parts = _parts(name)
        if not parts:
            return []
        for folder in self._folders.searched():
            files = [
                file
                for file in self._index(folder).get(_key(parts[-1]), [])
                if os.path.normpath(folder.joinpath(*file)) not in self._taken
            ]
            if files:
                shared = [_shared(parts, file) for file in files]
                best = [file for file, count in zip(files, shared, strict=True) if count == max(shared)]
                return [self._path(folder.joinpath(*file)) for file in best]
        return []

    def _path(self, file: Path) -> str:
        start = self._folders.start
        return file.relative_to(start).as_posix() if file.is_relative_to(start) else str(file.resolve())

    def _index(self, folder: Path) -> dict[str, list[tuple[str, ...]]]:
        if folder not in self._indices:
            index: dict[str, list[tuple[str, ...]]] = defaultdict(list)
            for file in _files(folder, self._folders.skipped):
                index[_key(file[-1])].append(file)
            self._indices[folder] = index
        return self._indices[folder]


def _files(folder: Path, skipped: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """The files of a folder and its sub-folders, each as the parts of its relative path."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skipped and not name.startswith("."))
        inside = Path(place).relative_to(folder).parts
        for name in sorted(files):
            yield (*inside, name)


def _with_slashes(name: str) -> str:
    return name.replace("\\", "/")


def _parts(name: str) -> list[str]:
    """The folders and the file of a name; addresses lose their host and, unless the file is named there, their query."""
    text = _with_slashes(name.strip())
    if "://" in text or "?" in text:
        address = urlsplit(text)
        names_file = bool(address.path) and not address.path.endswith("/")
        text = unquote(address.path if names_file else address.query.rpartition("=")[2])
    return [part for part in text.split("/") if part not in ("", ".")]


def _key(name: str) -> str:
    """What names have in common that mean the same file."""
    plain = PurePosixPath(unicodedata.normalize("NFC", unquote(name)).casefold().strip())
    return plain.stem.strip() + _SAME_ENDINGS.get(plain.suffix, plain.suffix)


def _shared(parts: Sequence[str], file: Sequence[str]) -> int:
    """How well a file fits a name: the number of folders that agree, counted from the file, and whether the spelling agrees."""
    count = 0
    for one, other in zip(reversed(parts[:-1]), reversed(file[:-1]), strict=False):
        if _key(one) != _key(other):
            break
        count += 1
    return count


def _drop_shared(found: dict[int, str], names: Sequence[str]) -> None:
    """Forgets files that different names would lead to: at most one of them can be meant."""
    meanings = Counter(file for _, file in {(names[place], file) for place, file in found.items()})
    for place in [place for place, file in found.items() if meanings[file] > 1]:
        del found[place]


def _refuse_several(several: dict[int, list[str]], names: Sequence[str], source: str) -> None:
    if several:
        shown = [f"{names[place]!r} may be {' or '.join(files[:3])}" for place, files in several.items()]
        raise DataError(
            f"{source}: {counted_of(len(several), len(names), 'pictures')} fit several files: {first_few(shown)}; "
            "write the right ones into the annotation file."
        )


def _refuse_missing(missing: Sequence[int], names: Sequence[str], folders: PictureFolders, source: str) -> None:
    if not missing:
        return
    shown = first_few([names[place] for place in missing])
    if len(missing) == len(names):
        searched = ", ".join(str(folder) for folder in folders.searched()) or str(folders.start)
        raise DataError(
            f"{source}: none of its {len(names)} pictures is in {searched}: put them into one of these folders (missing: {shown})."
        )
    raise DataError(
        f"{source}: {counted_of(len(missing), len(names), 'pictures')} are missing: {shown}; the others were found in {folders.start}: "
        "put the missing ones there too, or remove their entries."
    )


def _notes(found: dict[int, str], names: Sequence[str]) -> list[str]:
    backslashes, elsewhere, respelled = [], [], []
    for place, file in found.items():
        name, bare, parts = names[place], Path(file).name, _parts(names[place])
        if Path(_with_slashes(name)) == Path(file):
            backslashes.append(place)
        elif name == bare or (len(parts) > 1 and parts[-1] == bare):
            elsewhere.append(place)
        else:
            respelled.append(place)

    def note(places: Iterable[int], problem: str) -> list[str]:
        listed = list(places)
        if not listed:
            return []
        first = f"the first: {names[listed[0]]!r} is {found[listed[0]]}"
        return [f"{counted_of(len(listed), len(names), 'pictures')} {problem} ({first})."]

    return [
        *note(backslashes, "are named with \\ between folders, which was read as /"),
        *note(elsewhere, "are not in the folders that their names give, and were found by their bare names"),
        *note(respelled, "are spelled otherwise in the annotation file, in case, ending, accents or signs"),
    ]
