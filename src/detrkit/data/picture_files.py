"""Finds the picture files that an annotation file names, whatever machine and tool wrote the names.

A name that leads to a file is taken as it is. Otherwise backslashes are read as `/`, folders that are not there (absolute paths of other machines,
addresses, prefixes such as `/data/upload/`) are left out until a file fits, and names may differ in case, in `.jpg` / `.jpeg` and in how
accents are encoded. `?` and `#` are read as parts of a name before they are read as those of an address. A file is only taken if it is the only one that fits and no other name means it.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import numpy as np

from detrkit.data.findings import Note
from detrkit.data.wording import agreeing, are, first_few, some_of, were
from detrkit.errors import DataError

_SAMPLE = 200  # names that choose a folder
_FILES_SHOWN = 3  # of those that a name may mean
_HOST = re.compile(r"\A[a-z][a-z0-9+.-]*://[^/]*", re.IGNORECASE)
_SAME_ENDINGS = {".jpeg": ".jpg", ".jpe": ".jpg", ".tiff": ".tif"}


@dataclass(frozen=True)
class PictureFolders:
    """Where pictures are looked for.

    Attributes:
        start: the folder that names start from.
        others: folders that may hold pictures which are not there.
        skipped: names, in lower case, of sub-folders that hold pictures of other splits; they are not searched.
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
        [[parts[-1] for parts in _readings(name)] for name in sample],
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
    """The files of all folders, by what names have in common that may mean them; each folder is listed when it is needed."""

    def __init__(self, folders: PictureFolders, taken: set[str]) -> None:
        self._start = folders.start
        self._searched = folders.searched()
        self._skipped = folders.skipped
        self._taken = taken
        self._indices: dict[Path, dict[tuple[str, ...], list[str]]] = {}

    def candidates(self, name: str) -> list[str]:
        """The first few files that a name may mean: of the first folder that has any, those that share most of the name's folders."""
        for parts in _readings(name):
            keys = tuple(map(_key, parts))
            for folder in self._searched:
                index = self._index(folder)
                if keys[-1:] not in index:
                    continue
                best = next(ending for ending in _endings(keys) if ending in index)
                return [self._path(folder / file) for file in index[best]]
        return []

    def _path(self, file: Path) -> str:
        return file.relative_to(self._start).as_posix() if file.is_relative_to(self._start) else str(file.resolve())

    def _index(self, folder: Path) -> dict[tuple[str, ...], list[str]]:
        """The first few files of a folder that no name leads to, by every ending of their relative paths: many may have the same bare name."""
        if folder not in self._indices:
            index: dict[tuple[str, ...], list[str]] = defaultdict(list)
            for inside, names in _files(folder, self._skipped):
                keys = tuple(map(_key, inside))
                for name in names:
                    file = os.path.join(*inside, name)  # noqa: PTH118 - a path object for each of many files is slow
                    if os.path.normpath(folder / file) in self._taken:
                        continue
                    for ending in _endings((*keys, _key(name))):
                        if len(index[ending]) < _FILES_SHOWN:
                            index[ending].append(file)
            self._indices[folder] = dict(index)
        return self._indices[folder]


def _endings(parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The last parts of a path, from all of them to the last one alone."""
    return (parts[start:] for start in range(len(parts)))


def _files(folder: Path, skipped: frozenset[str]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """A folder and its sub-folders: the parts of the relative path of each, and the names of its files."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name.lower() not in skipped and not name.startswith("."))
        yield Path(place).relative_to(folder).parts, sorted(files)


def _with_slashes(name: str) -> str:
    return name.replace("\\", "/")


def _readings(name: str) -> list[list[str]]:
    """What a name may mean, the likeliest first: folders and the file, without the host, query and fragment of an address."""
    text = _with_slashes(name.strip())
    path = _HOST.sub("/", text)
    before, mark, query = path.partition("?")
    forms = [] if "/" in query else [path]
    if (mark or path != text) and not before.endswith("/"):
        forms.append(unquote(before))
        forms.append(unquote(before.partition("#")[0]))
    if before.endswith("/"):  # the file is named in the query
        forms.append(unquote(query.rpartition("=")[2]))
    elif mark and path == text and not PurePosixPath(before).suffix:  # a folder with a question mark in its name
        forms.append(path)
    readings = [[part for part in form.split("/") if part not in ("", ".")] for form in dict.fromkeys(forms)]
    return [parts for parts in readings if parts]


def _key(name: str) -> str:
    """What names have in common that mean the same file."""
    plain = PurePosixPath(unicodedata.normalize("NFC", unquote(name)).casefold().strip())
    return plain.stem.strip() + _SAME_ENDINGS.get(plain.suffix, plain.suffix)


def _drop_shared(found: dict[int, str], names: Sequence[str]) -> None:
    """Forgets files that different names would lead to: at most one of them can be meant."""
    meanings = Counter(file for _, file in {(names[place], file) for place, file in found.items()})
    for place in [place for place, file in found.items() if meanings[file] > 1]:
        del found[place]


def _refuse_several(several: dict[int, list[str]], names: Sequence[str], source: str) -> None:
    if several:
        shown = [f"{names[place]!r} may be {' or '.join(files)}" for place, files in several.items()]
        raise DataError(
            f"{source}: {some_of(len(several), len(names), 'picture')} {agreeing(len(several), 'fits', 'fit')} several files: {first_few(shown)}; "
            "write the right ones into the annotation file."
        )


def _refuse_missing(missing: Sequence[int], names: Sequence[str], folders: PictureFolders, source: str) -> None:
    if not missing:
        return
    shown = first_few([names[place] for place in missing])
    if len(missing) == len(names):
        searched = ", ".join(str(folder) for folder in folders.searched()) or str(folders.start)
        raise DataError(
            f"{source}: {agreeing(len(names), 'its only picture is not', f'none of its {len(names)} pictures is')} in {searched}: put "
            f"{agreeing(len(names), 'it', 'them')} into one of these folders (missing: {shown})."
        )
    raise DataError(
        f"{source}: {some_of(len(missing), len(names), 'picture')} {are(len(missing))} missing: {shown}; the others were found in {folders.start}: "
        + agreeing(
            len(missing),
            "put it there too, or remove its entry.",
            "put the missing ones there too, or remove their entries.",
        )
    )


def _notes(found: dict[int, str], names: Sequence[str]) -> list[str]:
    backslashes, elsewhere, respelled = [], [], []
    for place, file in found.items():
        name, bare = names[place], Path(file).name
        if Path(_with_slashes(name)) == Path(file):
            backslashes.append(place)
        elif name == bare or any(len(parts) > 1 and parts[-1] == bare for parts in _readings(name)):
            elsewhere.append(place)
        else:
            respelled.append(place)

    def note(kind: str, places: Sequence[int], problem: str) -> list[str]:
        if not places:
            return []
        some = f"{some_of(len(places), len(names), 'picture')} {are(len(places))}"
        text = f"{some} {problem} (the first: {names[places[0]]!r} is {found[places[0]]})."
        return [Note(text, kind, count=len(places), files=[names[place] for place in places])]

    return [
        *note("backslashes", backslashes, "named with \\ between folders, which was read as /"),
        *note(
            "elsewhere",
            elsewhere,
            f"not in the folder that the name gives, and {were(len(elsewhere))} found by the bare name",
        ),
        *note("respelled", respelled, "spelled otherwise in the annotation file, in case, ending, accents or signs"),
    ]
