"""Where the pictures and labels of a YOLO data set lie.

- `data.yaml` (or any YAML file with `names` and a split): `path`, `train`, `val` and `test` are taken as they are written, relative to the
  YAML file or to the current folder. What does not exist, because it was written on another computer or as Roboflow writes it
  (`../train/images` for `train/images`), is looked for beside the YAML file, with a note.
- Without YAML: `images/<split>` and `labels/<split>`, `<split>/images` and `<split>/labels`, or `images` and `labels`, which is `train`.
- The labels of a picture: `labels` in place of the last `images` in its path, else beside the picture, else in `labels` beside or inside
  the picture's folder; the first of these folders that has a label for one of the pictures.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from detrkit.data.findings import Changes
from detrkit.data.pictures import PICTURE_SUFFIXES, has_pictures, is_picture, pictures_below
from detrkit.data.text_files import read_lines
from detrkit.data.yolo_description import YoloDescription, describe_file, describe_folder, subfolder
from detrkit.errors import DataError

LOOKED_FOR = ("data.yaml", "images/<split>/ with labels/<split>/")
_PLACES_SHOWN = 4
_LABEL_SUFFIX = ".txt"
_NOT_LABELS = ("classes", "labels", "notes", "train", "val", "valid", "test")  # and whatever begins with "readme"


@dataclass(frozen=True)
class YoloSplit:
    """One split of a described data set."""

    description: YoloDescription
    key: str


@dataclass(frozen=True)
class PairedPictures:
    """The pictures of a split with their label files.

    Attributes:
        pictures: sorted.
        labels: the label file of each picture, None for those without one.
        notes: what was assumed, in plain sentences.
    """

    pictures: tuple[Path, ...]
    labels: tuple[Path | None, ...]
    notes: tuple[str, ...]


def find_splits(folder: Path) -> dict[str, YoloSplit]:
    """A folder's splits, keyed as its YAML file or its folders name them; empty if it is not a YOLO data set.

    Where other splits have pictures, one whose folder is empty does not count: Roboflow's exports name `valid` and `test` in any case.
    """
    return _splits_of(describe_folder(folder))


def find_splits_in_file(file: Path) -> dict[str, YoloSplit]:
    """The splits that a YAML file describes."""
    return _splits_of(describe_file(file))


def _splits_of(description: YoloDescription | None) -> dict[str, YoloSplit]:
    if description is None:
        return {}
    empty = _empty_splits(description)
    kept = [key for key in description.splits if key not in empty] or description.splits
    return {key: YoloSplit(description, key) for key in kept}


def explain_missing_split(splits: dict[str, YoloSplit]) -> str:
    """Why a split that the YAML file names is not among these, as the end of a message; empty if it names no other."""
    description = next(iter(splits.values())).description
    empty = [f"{', '.join(places)} for '{key}'" for key, places in _empty_splits(description).items()]
    if not empty:
        return ""
    return f"{description.source} gives {' and '.join(empty)}, where no pictures are: put pictures there"


def _empty_splits(description: YoloDescription) -> dict[str, list[str]]:
    """The splits whose folders exist and hold no pictures, with these folders."""
    empty = {}
    for key, written in description.splits.items():
        places = [_find_place(description, place) for place in written]
        if all(place is not None and place.is_dir() and not has_pictures(place) for place in places):
            empty[key] = [str(place) for place in places]
    return empty


def pair_pictures(split: YoloSplit) -> PairedPictures:
    """Finds the pictures of a split and their labels.

    Raises:
        DataError: there are no pictures, a listed one is nowhere, or none has labels.
    """
    pictures, notes = _find_pictures(split)
    folders: dict[Path, list[Path]] = {}
    for picture in pictures:
        folders.setdefault(picture.parent, []).append(picture)
    labels: dict[Path, Path] = {}
    changes = Changes()
    unused: dict[Path, set[str]] = {}
    for folder, inside in folders.items():
        _match(folder, inside, labels, unused, changes)
    if not labels:
        searched = _shown([place for folder in folders for place in _label_folders(folder)])
        raise DataError(
            f"No picture of '{split.key}' in {split.description.source} has a label file: looked for "
            f"{pictures[0].stem}{_LABEL_SUFFIX} and the others in {searched}; put the labels into one of them."
        )
    for picture in pictures:
        if picture not in labels:
            changes.add("without label", picture.name)
    for place, names in unused.items():
        for name in sorted(names):
            changes.add("without picture", str(place / name))
    notes += changes.notes(
        {
            "other spelling": "{count} label files differ from their pictures in case or accents (the first: {first}).",
            "without label": "{count} of "
            + str(len(pictures))
            + " pictures have no label file and count as pictures without objects (the first: {first}).",
            "without picture": "{count} label files have no picture and were left out (the first: {first}).",
        }
    )
    return PairedPictures(tuple(pictures), tuple(labels.get(picture) for picture in pictures), tuple(notes))


def _match(
    folder: Path, pictures: list[Path], labels: dict[Path, Path], unused: dict[Path, set[str]], changes: Changes
) -> None:
    """Adds the labels of the pictures in one folder, from the first place that has one, and remembers those that are nobody's."""
    for place in filter(Path.is_dir, _label_folders(folder)):
        files = _label_files(place)
        similar = {_plain(stem): name for stem, name in files.items()}
        matched = {}
        for picture in pictures:
            name = files.get(picture.stem) or similar.get(_plain(picture.stem))
            if name is not None:
                matched[picture] = name
        if not matched:
            continue
        for picture, name in matched.items():
            labels[picture] = place / name
            if name not in (files.get(picture.stem), None):
                changes.add("other spelling", name)
        if place == folder.parent / "labels" and folder.name.lower() != "images":
            return  # it may hold the labels of all splits
        taken = {_plain(file.stem) for file in folder.iterdir() if is_picture(file.name)}
        orphans = {name for stem, name in files.items() if _plain(stem) not in taken and not _is_other_text(stem)}
        # Several folders of pictures may share one of labels: a label is nobody's if none of them has its picture.
        unused[place] = unused[place] & orphans if place in unused else orphans
        return


def _label_folders(folder: Path) -> list[Path]:
    """Where the labels of the pictures in this folder may lie, the usual place first."""
    parts = folder.parts
    last = next((index for index in reversed(range(len(parts))) if parts[index].lower() == "images"), None)
    usual = [] if last is None else [subfolder(Path(*parts[:last]), "labels").joinpath(*parts[last + 1 :])]
    beside = subfolder(folder.parent, "labels")
    return list(dict.fromkeys([*usual, folder, subfolder(folder, "labels"), beside / folder.name, beside]))


def _label_files(folder: Path) -> dict[str, str]:
    """The text files in a folder by their stems."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == _LABEL_SUFFIX)
    return {file.stem: file.name for file in files if not file.name.startswith(".")}


def _plain(stem: str) -> str:
    """A name without what differs between systems: case, and accents that are one character or two."""
    return unicodedata.normalize("NFC", stem).casefold()


def _is_other_text(stem: str) -> bool:
    return stem.lower() in _NOT_LABELS or stem.lower().startswith("readme")


def _find_pictures(split: YoloSplit) -> tuple[list[Path], list[str]]:
    """The pictures of a split, sorted and each once, with notes about places that are not where the YAML file says."""
    description, notes = split.description, list(split.description.notes)
    found: list[Path] = []
    for written in description.splits[split.key]:
        place, is_literal = _existing_place(description, split.key, written)
        if not is_literal:
            notes.append(
                f"{description.source.name}: '{split.key}' is {_where(description, written)}, which does not exist here; {place} was read."
            )
        if place.is_dir():
            found += pictures_below(place)
        else:
            listed, more = _listed_pictures(place, description)
            found, notes = found + listed, notes + more
    if not found:
        suffixes = ", ".join(sorted(PICTURE_SUFFIXES)[:3])
        raise DataError(
            f"{description.source}: '{split.key}' is {', '.join(description.splits[split.key])}, where no pictures are: put "
            f"pictures ({suffixes}, …) there, or correct the folder."
        )
    return sorted(set(found)), notes


def _where(description: YoloDescription, written: str) -> str:
    return f"'{written}'" + (f" below '{description.root}'" if description.root else "")


def _existing_place(description: YoloDescription, key: str, written: str) -> tuple[Path, bool]:
    """The folder or text file that a split names, and whether it is where the YAML file says.

    Raises:
        DataError: it exists nowhere.
    """
    literal = _literal_places(description, written)
    place = _find_place(description, written)
    if place is not None:
        return place, place in literal
    others = _other_places(description, written)
    raise DataError(
        f"{description.source}: '{key}' is {_where(description, written)}, but there is neither a folder nor a text file at "
        f"{_shown([*literal, *others])}: correct it, put the pictures there, or remove '{key}'."
    )


def _find_place(description: YoloDescription, written: str) -> Path | None:
    """The first place that exists: where the YAML file says, otherwise beside it."""
    for place in (*_literal_places(description, written), *_other_places(description, written)):
        if place.is_dir() or (place.is_file() and place.suffix.lower() not in PICTURE_SUFFIXES):
            return place
    return None


def _literal_places(description: YoloDescription, written: str) -> list[Path]:
    return [_joined(root, written) for root in _roots(description)]


def _roots(description: YoloDescription) -> list[Path]:
    """The folders that places may be relative to, as the YAML file says."""
    if description.root is None:
        return [description.folder, Path.cwd()]
    return [_joined(root, description.root) for root in (description.folder, Path.cwd())]


def _other_places(description: YoloDescription, written: str) -> Iterator[Path]:
    """Where a place may be on this computer, although the YAML file says otherwise: beside that file."""
    folder = description.folder
    roots = [folder]
    if description.root is not None:
        moved = [_joined(folder, tail) for tail in _tails(description.root)]
        roots = [_joined(folder.parent, description.root), *moved, folder]
    plain = _without_steps_up(written)
    for root in roots:
        yield _joined(root, plain)
    for tail in _tails(written):
        if tail.lower() != "images":  # it would be the pictures of all splits
            yield _joined(folder, tail)


def _tails(written: str) -> list[str]:
    """The ends of a path, the longest first: of `/home/me/set/train` `home/me/set/train`, `me/set/train`, `set/train`, `train`."""
    parts = PurePosixPath(_without_steps_up(written).lstrip("/")).parts
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _without_steps_up(written: str) -> str:
    path = written.replace("\\", "/")
    while path.startswith(("../", "./")):
        path = path.partition("/")[2]
    return path


def _joined(root: Path, written: str) -> Path:
    path = Path(written.replace("\\", "/"))
    # Pictures get their names below a common folder, so `..` must not remain.
    return Path(os.path.normpath(root / (path.expanduser() if written.startswith("~") else path)))


def _listed_pictures(file: Path, description: YoloDescription) -> tuple[list[Path], list[str]]:
    """The pictures that a text file lists, one in each line."""
    lines = [line.strip().strip("\"'") for line in read_lines(file)]
    bases = list(dict.fromkeys([file.parent, *_roots(description)]))
    found: dict[Path, None] = {}
    changes, missing = Changes(), []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        literal = next((path for base in bases if (path := _joined(base, line)).is_file()), None)
        elsewhere = (path for base in (file.parent, description.folder) for path in _moved(base, line))
        picture = literal or next((path for path in elsewhere if path.is_file()), None)
        if picture is None:
            missing.append((number, line))
            continue
        if literal is None:
            changes.add("elsewhere", line)
        if picture in found:
            changes.add("twice", f"{picture.name}, line {number}")
        found[picture] = None
    if missing:
        number, line = missing[0]
        count = f" ({len(missing)} of the listed pictures are missing.)" if len(missing) > 1 else ""
        raise DataError(
            f"{file}, line {number} lists {line}, which exists below none of {_shown(bases)}: correct the list, or put the picture "
            f"there.{count}"
        )
    sentences = {
        "elsewhere": "{count} pictures in "
        + file.name
        + " are not where it says and were found beside it (the first: {first}).",
        "twice": "{count} pictures are more than once in " + file.name + " and were read once (the first: {first}).",
    }
    return list(found), changes.notes(sentences)


def _moved(base: Path, line: str) -> Iterator[Path]:
    for tail in _tails(line):
        yield _joined(base, tail)


def _shown(places: Sequence[Path]) -> str:
    texts = list(dict.fromkeys(str(place) for place in places))
    return ", ".join(texts[:_PLACES_SHOWN]) + (" or other places" if len(texts) > _PLACES_SHOWN else "")
