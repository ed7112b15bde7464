"""Finds the XML file of a line in a list, and the picture of an XML file, however people and tools spell their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrkit.data.file_names import folded
from detrkit.data.findings import Note
from detrkit.data.voc_layout import (
    ANNOTATION_SUFFIXES,
    PICTURE_SUFFIXES,
    annotation_folder,
    is_deep,
    lines_of,
    picture_folders,
    rating,
    serves_all_splits,
    visible_files,
)
from detrkit.data.wording import agreeing, are, first_few, some_of, were
from detrkit.errors import DataError

_ENDINGS = ANNOTATION_SUFFIXES + PICTURE_SUFFIXES
_PICTURE_AND_ANNOTATION = re.compile(r"(?P<picture>.*\S)\s+(?P<annotation>\S.*\.xml)", re.IGNORECASE)


class FileIndex:
    """The files of one kind in a folder, by their names.

    A name stands for the file of that name, whatever its ending. If there is none, the name is tried without its first folders (of
    `JPEGImages/day/a.jpg`, `day/a` and `a`), then in another case or with accents composed in another way, and at last as the name of a file
    in any folder, if there is only one.

    Args:
        folder: contains the files.
        suffixes: their endings; of several files with one name, those with the first ending come first.
        deep: whether files in the folders below count, too.
    """

    def __init__(self, folder: Path, suffixes: tuple[str, ...], *, deep: bool) -> None:
        self.folder = folder
        files = list(visible_files(folder, suffixes, deep=deep))
        files.sort(key=lambda file: suffixes.index(file.suffix.lower()))
        self.names = {file: file.relative_to(folder).as_posix() for file in files}
        self._exact: dict[str, list[Path]] = defaultdict(list)
        self._folded: dict[str, list[Path]] = defaultdict(list)
        self._bare: dict[str, list[Path]] = defaultdict(list)
        for file, name in self.names.items():
            for spelling in (name, without_ending(name)):
                self._exact[spelling].append(file)
                self._folded[folded(spelling)].append(file)
            self._bare[folded(without_ending(file.name))].append(file)

    def key(self, file: Path) -> str:
        """The name of one of the files without its ending."""
        return without_ending(self.names[file])

    def exactly(self, name: str) -> list[Path]:
        """The files with this name, which may lack its ending."""
        return self._exact.get(name, [])

    def find(self, name: str) -> list[Path]:
        """The files that a name stands for: none, or those that differ only in their ending."""
        tails = [spelling for tail in _tails(name) for spelling in (tail, without_ending(tail))]
        for tail in tails:
            if tail in self._exact:
                return self._exact[tail]
        for tail in map(folded, tails):
            if tail in self._folded:
                return self._folded[tail]
        anywhere = self._bare.get(folded(tails[-1]), [])
        return anywhere if len({self.key(file) for file in anywhere}) == 1 else []


@dataclass(frozen=True)
class ListedImage:
    """One image of a split: its name, which is that of its XML file without the ending, and that file, if there is one."""

    name: str
    annotation: Path | None


@dataclass(frozen=True)
class Pictures:
    """The pictures of a split's XML files.

    Attributes:
        folder: contains them, perhaps in folders below.
        of_annotations: the picture of each XML file.
        without_annotation: pictures beside them that have no XML file, as far as they are this split's.
        notes: on names that do not agree.
    """

    folder: Path
    of_annotations: dict[Path, Path]
    without_annotation: tuple[Path, ...]
    notes: tuple[str, ...]


def listed_images(source: Path, *, needed: bool) -> tuple[list[ListedImage], list[str]]:
    """The images that have XML files or are listed, in the list's order or sorted by name, and notes.

    Args:
        source: a list or a folder of XML files.
        needed: whether each image of a list must have its XML file. Published test splits often come without them.

    Raises:
        DataError: a list cannot be read, has an image twice, or an XML file that is needed is missing.
    """
    folder = annotation_folder(source)
    index = FileIndex(folder, ANNOTATION_SUFFIXES, deep=is_deep(folder))
    if source.is_dir():
        return [ListedImage(index.key(file), file) for file in sorted(index.names)], []
    lines = lines_of(source)
    rated = bool(lines) and all(rating(line) for line in lines)
    images = [_listed_image(line, index, rated=rated) for line in lines]
    _check_list(source, images, folder, needed=needed)
    columns_were_cut = rated and any(not index.exactly(line) for line in lines)
    note = (
        f"{source} has a second column of 1, 0 or -1, as VOC's lists for a single class have; it was left out, and "
        f"{agreeing(len(lines), 'the only image belongs', f'all {len(lines)} images belong')} to the split."
    )
    return images, [note] if columns_were_cut else []


def find_pictures(source: Path, file_names: Mapping[Path, str]) -> Pictures:
    """The picture of each XML file: the one named like it, otherwise the one that its `filename` gives.

    Args:
        source: the list or the folder of XML files that they come from, which says where to look.
        file_names: what each XML file gives as `filename`, empty for nothing.

    Raises:
        DataError: XML files have no pictures, or share one.
    """
    annotations = annotation_folder(source)
    keys = {file: without_ending(file.relative_to(annotations).as_posix()) for file in file_names}
    index = _best_index(annotations, keys.values())
    claims = {file: _candidates(index, keys[file], file_names[file]) for file in file_names}
    chosen = _settle(claims, index, keys)
    missing = [file for file in file_names if file not in chosen]
    if missing:
        raise DataError(
            f"{missing[0]} has no picture of its own in {index.folder}: put one there that is named like it, or remove the XML file"
            f"{_of_all(missing, len(file_names), 'XML files have none')}"
        )
    used = {picture for pictures in claims.values() for picture in pictures}
    shared = serves_all_splits(index.folder, annotations)
    folders = set() if shared else {picture.parent for picture in chosen.values()}
    unused = tuple(picture for picture in index.names if picture not in used and picture.parent in folders)
    return Pictures(index.folder, chosen, tuple(sorted(unused)), tuple(_name_notes(claims, chosen, keys)))


def without_ending(name: str) -> str:
    """A name without the ending of a picture or an XML file; other dots belong to the name."""
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] or name


def _listed_image(line: str, index: FileIndex, *, rated: bool) -> ListedImage:
    """The image that a line means: all of it is the name, or the first of two columns, or the second one names the XML file."""
    readings = [line]
    columns = _PICTURE_AND_ANNOTATION.fullmatch(line)
    if columns and columns["picture"].lower().endswith(PICTURE_SUFFIXES):
        readings += [columns["annotation"], columns["picture"]]
    if rated:
        readings += [line.rsplit(maxsplit=1)[0]]
    readings = [reading.replace("\\", "/") for reading in readings]
    for reading in readings:
        files = index.find(reading)
        if files:
            return ListedImage(index.key(files[0]), files[0])
    return ListedImage(without_ending(readings[-1]), None)


def _check_list(source: Path, images: Sequence[ListedImage], folder: Path, *, needed: bool) -> None:
    names = [image.name for image in images]
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        more = (
            "" if len(twice) == 1 else f" ({len(twice)} of its {len(names)} lines repeat others: {first_few(twice)}.)"
        )
        raise DataError(f"{source} lists {twice[0]} twice: remove one of the two lines.{more}")
    missing = [image.name for image in images if image.annotation is None]
    if needed and missing:
        more = _of_all(missing, len(names), "images have no XML file")
        raise DataError(
            f"{source} lists {missing[0]!r}, but {folder} has no XML file of that name: add the file, or correct the list{more}"
        )


def _of_all(items: Sequence[object], count: int, what: str) -> str:
    """The end of a sentence: the full stop, and how many others there are."""
    names = [item.name if isinstance(item, Path) else str(item) for item in items]
    return "." if len(items) == 1 else f". ({len(items)} of {count} {what}: {first_few(names)}.)"


def _best_index(annotations: Path, keys: Iterable[str]) -> FileIndex:
    """The pictures of the folder in which most of these names are found."""
    wanted = list(keys)
    indexes = [FileIndex(folder, PICTURE_SUFFIXES, deep=deep) for folder, deep in picture_folders(annotations)]
    # Where no name agrees, the first folder with pictures is the one that is meant.
    return max(indexes, key=lambda index: (sum(bool(index.find(key)) for key in wanted), bool(index.names)))


def _candidates(index: FileIndex, key: str, file_name: str) -> list[Path]:
    """The pictures that may belong to an XML file, the likeliest one first."""
    file_name = file_name.strip().replace("\\", "/")
    found = index.find(key) or (index.find(file_name) if file_name else [])
    bare = file_name.rpartition("/")[2]
    return sorted(found, key=lambda file: file.name != bare)  # of several that are named like the XML, the one it names


def _settle(claims: Mapping[Path, list[Path]], index: FileIndex, keys: Mapping[Path, str]) -> dict[Path, Path]:
    """One picture for each XML file. A picture that several claim belongs to the one that is named exactly like it, or to none."""
    claimants: dict[Path, list[Path]] = defaultdict(list)
    for file, pictures in claims.items():
        if pictures:
            claimants[pictures[0]].append(file)
    chosen = {}
    for picture, files in claimants.items():
        owners = files if len(files) == 1 else [file for file in files if keys[file] == index.key(picture)]
        if len(owners) == 1:
            chosen[owners[0]] = picture
    return {file: chosen[file] for file in claims if file in chosen}


def _name_notes(claims: Mapping[Path, list[Path]], chosen: Mapping[Path, Path], keys: Mapping[Path, str]) -> list[str]:
    bare = {file: key.rpartition("/")[2] for file, key in keys.items()}
    renamed = [
        file for file, picture in chosen.items() if bare[file] not in (picture.name, without_ending(picture.name))
    ]
    several = [file for file, pictures in claims.items() if len(pictures) > 1]
    notes: list[str] = []
    if renamed:
        count = len(renamed)
        note = (
            f"{some_of(count, len(chosen), 'picture')} {are(count)} not named exactly like the XML file and {were(count)} found by its filename or "
            f"in another case (the first: {chosen[renamed[0]].name} of {renamed[0].name})."
        )
        notes.append(Note(note, "found by filename", count=count, files=[chosen[file].name for file in renamed]))
    if several:
        first = several[0]
        names = ", ".join(sorted(picture.name for picture in claims[first]))
        note = (
            f"{some_of(len(several), len(chosen), 'XML file')} {agreeing(len(several), 'fits', 'fit')} several pictures, of which the one named "
            f"in the file or else the first was taken (the first: {chosen[first].name} for {first.name}, among {names})."
        )
        notes.append(Note(note, "several pictures", count=len(several), files=[file.name for file in several]))
    return notes


def _tails(name: str) -> list[str]:
    """A name with all of its folders, without the first one, and so on down to the bare name."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]
