"""Where the pictures and labels of a YOLO data set lie.

- `data.yaml` (or any YAML file with `names` and a split): `path`, `train`, `val` and `test` are taken as they are written, relative to the
  YAML file or to the current folder. What does not exist, because it was written on another computer or as Roboflow writes it
  (`../train/images` for `train/images`), is looked for beside the YAML file, with a note.
- A place may be a pattern such as `images/*.jpg` or `parts/*/images`, which stands for all pictures, folders and text files that fit.
- Darknet's `obj.data`: see `yolo_darknet`.
- Without these: `images/<split>` and `labels/<split>`, `<split>/images` and `<split>/labels`, or `images` and `labels`, which is `train`.
- The labels of a picture: `labels` in place of the last `images` in its path, else beside the picture, else in `labels` beside or inside
  the picture's folder; the first of these folders that has a label for one of the pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

from detrkit.data.dataset import NoImagesError
from detrkit.data.file_names import folded
from detrkit.data.findings import Changes
from detrkit.data.pictures import PICTURE_SUFFIXES, has_pictures, is_picture, pictures_below
from detrkit.data.text_files import read_lines
from detrkit.data.wording import agreeing, are, counted, first_few, have, some_of, were
from detrkit.data.yolo_description import YoloDescription, describe_file, describe_folder, subfolder
from detrkit.data.yolo_places import joined, tails
from detrkit.errors import DataError

LOOKED_FOR = ("data.yaml", "obj.data", "images/<split>/ with labels/<split>/")
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

    Where other splits have pictures, one whose folder is empty or missing does not count: Roboflow's exports name `valid` and `test` in any
    case.
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


def splits_without_pictures(splits: dict[str, YoloSplit]) -> dict[str, str]:
    """The splits that the YAML file names but that are not among these, because no pictures are there, each with a sentence about it."""
    sentences = {}
    for key in _empty_splits(next(iter(splits.values())).description):
        if key not in splits:
            try:
                _find_pictures(YoloSplit(next(iter(splits.values())).description, key))
            except DataError as error:
                sentences[key] = str(error)
    return sentences


def _empty_splits(description: YoloDescription) -> list[str]:
    """The splits whose places do not exist or hold no pictures."""
    return [key for key in description.splits if _is_empty(description, key)]


def _is_empty(description: YoloDescription, key: str) -> bool:
    places = [place for written in description.splits[key] for place in description.places.every(written)]
    return all(map(_holds_nothing, places))


def _holds_nothing(place: Path) -> bool:
    """Whether a folder has no pictures, or a text file no lines."""
    if place.is_dir():
        return not has_pictures(place)
    return not is_picture(place.name) and not any(map(str.strip, _lines_if_text(place)))


def _lines_if_text(file: Path) -> list[str]:
    try:
        return read_lines(file)
    except DataError as error:  # what is wrong is said when the split is read
        return [str(error)]


def pair_pictures(split: YoloSplit) -> PairedPictures:
    """Finds the pictures of a split and their labels.

    Raises:
        NoImagesError: there are no pictures, or the places of the split do not exist.
        DataError: a place or a listed picture is nowhere, or no picture has labels.
    """
    pictures, notes = _find_pictures(split)
    folders: dict[Path, list[Path]] = {}
    for picture in pictures:
        folders.setdefault(picture.parent, []).append(picture)
    labels: dict[Path, Path] = {}
    changes = Changes()
    unused: dict[Path, set[str]] = {}
    places = _LabelFolders()
    for folder, inside in folders.items():
        _match(folder, inside, places, labels, unused, changes)
    if not labels:
        searched = _shown([place for folder in folders for place in places.of(folder)])
        raise DataError(
            f"No picture of '{split.key}' in {split.description.source} has a label file: looked for "
            f"{pictures[0].stem}{_LABEL_SUFFIX} and the others in {searched}; put the labels into one of them."
        )
    for picture in pictures:
        if picture not in labels:
            changes.add("no label file", picture.name)
    for place, names in unused.items():
        for name in sorted(names):
            changes.add("no picture", str(place / name))
    notes += changes.notes(
        {
            "other spelling": lambda number, first: (
                f"{counted(number, 'label file')} {agreeing(number, 'differs from its picture', 'differ from their pictures')} in case or "
                f"accents (the first: {first})."
            ),
            "no label file": lambda number, first: (
                f"{some_of(number, len(pictures), 'picture')} {have(number)} no label file and "
                f"{agreeing(number, 'counts as a picture', 'count as pictures')} without objects (the first: {first})."
            ),
            "no picture": lambda number, first: (
                f"{counted(number, 'label file')} {have(number)} no picture and {were(number)} left out (the first: {first})."
            ),
        }
    )
    return PairedPictures(tuple(pictures), tuple(labels.get(picture) for picture in pictures), tuple(notes))


class _LabelFolders:
    """The folders that may hold the labels of pictures, and what is in them; each folder is looked into once."""

    def __init__(self) -> None:
        self._labels_in: dict[Path, Path] = {}
        self._files: dict[Path, dict[str, str]] = {}
        self._similar: dict[Path, dict[str, str]] = {}

    def of(self, folder: Path) -> list[Path]:
        """Where the labels of the pictures in this folder may lie, the usual place first."""
        parts = folder.parts
        last = next((index for index in reversed(range(len(parts))) if parts[index].lower() == "images"), None)
        usual = [] if last is None else [self._labels(Path(*parts[:last])).joinpath(*parts[last + 1 :])]
        beside = self._labels(folder.parent)
        return list(dict.fromkeys([*usual, folder, self._labels(folder), beside / folder.name, beside]))

    def files(self, place: Path) -> dict[str, str]:
        """The text files in a folder by their stems."""
        if place not in self._files:
            files = sorted(file for file in place.iterdir() if file.suffix.lower() == _LABEL_SUFFIX)
            self._files[place] = {file.stem: file.name for file in files if not file.name.startswith(".")}
            self._similar[place] = {folded(stem): name for stem, name in self._files[place].items()}
        return self._files[place]

    def label(self, place: Path, stem: str) -> str | None:
        """The text file with this stem, which may differ in case and accents; None if there is none."""
        return self.files(place).get(stem) or self._similar[place].get(folded(stem))

    def _labels(self, folder: Path) -> Path:
        if folder not in self._labels_in:
            self._labels_in[folder] = subfolder(folder, "labels")
        return self._labels_in[folder]


def _match(
    folder: Path,
    pictures: list[Path],
    places: _LabelFolders,
    labels: dict[Path, Path],
    unused: dict[Path, set[str]],
    changes: Changes,
) -> None:
    """Adds the labels of the pictures in one folder, from the first place that has one, and remembers those that are nobody's."""
    for place in filter(Path.is_dir, places.of(folder)):
        found = {picture: places.label(place, picture.stem) for picture in pictures}
        matched = {picture: name for picture, name in found.items() if name is not None}
        if not matched:
            continue
        files = places.files(place)
        for picture, name in matched.items():
            labels[picture] = place / name
            if name not in (files.get(picture.stem), None):
                changes.add("other spelling", name)
        if place == folder.parent / "labels" and folder.name.lower() != "images":
            return  # it may hold the labels of all splits
        taken = {folded(file.stem) for file in folder.iterdir() if is_picture(file.name)}
        orphans = {name for stem, name in files.items() if folded(stem) not in taken and not _is_other_text(stem)}
        # Several folders of pictures may share one of labels: a label is nobody's if none of them has its picture.
        unused[place] = unused[place] & orphans if place in unused else orphans
        return


def _is_other_text(stem: str) -> bool:
    return stem.lower() in _NOT_LABELS or stem.lower().startswith("readme")


def _find_pictures(split: YoloSplit) -> tuple[list[Path], list[str]]:
    """The pictures of a split, sorted and each once, with notes about places that are not where the YAML file says."""
    description, notes = split.description, list(split.description.notes)
    found: list[Path] = []
    for written in description.splits[split.key]:
        places, is_literal = _existing_places(description, split.key, written)
        if not is_literal:
            notes.append(
                f"{description.source.name}: '{split.key}' is {_where(description, written)}, which does not exist here; "
                f"{_shown(places)} {were(len(places))} read."
            )
        for place in places:
            if place.is_dir():
                found += pictures_below(place)
            elif is_picture(place.name):
                found.append(place)
            else:
                listed, more = _listed_pictures(place, description)
                found, notes = found + listed, notes + more
    if not found:
        suffixes = ", ".join(sorted(PICTURE_SUFFIXES)[:3])
        raise NoImagesError(
            f"{description.source}: '{split.key}' is {', '.join(description.splits[split.key])}, where no pictures are: put "
            f"pictures ({suffixes}, …) there, or correct the folder."
        )
    return sorted(set(found)), notes


def _where(description: YoloDescription, written: str) -> str:
    return f"'{written}'" + (f" below '{description.root}'" if description.root else "")


def _existing_places(description: YoloDescription, key: str, written: str) -> tuple[list[Path], bool]:
    """The folder or text file that a split names, or all that its pattern stands for, and whether they are where the YAML file says.

    Raises:
        NoImagesError: nothing exists, and the split has no other place with pictures.
        DataError: nothing exists.
    """
    places = description.places
    literal = places.literal(written)
    found = places.every(written)
    if found:
        return found, found[0] in literal or found == places.matching(written)
    kind = NoImagesError if _is_empty(description, key) else DataError
    if has_magic(written):
        raise kind(
            f"{description.source}: '{key}' is {_where(description, written)}, but no picture, folder or text file fits "
            f"{_shown(literal)}: correct it, put the pictures there, or remove '{key}'."
        )
    raise kind(
        f"{description.source}: '{key}' is {_where(description, written)}, but there is neither a folder nor a text file at "
        f"{_shown([*literal, *places.others(written)])}: correct it, put the pictures there, or remove '{key}'."
    )


def _listed_pictures(file: Path, description: YoloDescription) -> tuple[list[Path], list[str]]:
    """The pictures that a text file lists, one in each line."""
    lines = [line.strip().strip("\"'") for line in read_lines(file)]
    bases = list(dict.fromkeys([file.parent, *description.places.roots()]))
    found: dict[Path, None] = {}
    changes, missing = Changes(), []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        literal = next((path for base in bases if (path := joined(base, line)).is_file()), None)
        elsewhere = (path for base in (file.parent, description.folder) for path in _moved(base, line))
        picture = literal or next((path for path in elsewhere if path.is_file()), None)
        if picture is None:
            missing.append((number, line))
            continue
        if literal is None:
            changes.add("elsewhere", line)
        if picture in found:
            changes.add("listed twice", f"{picture.name}, line {number}", picture.name)
        found[picture] = None
    if missing:
        number, line = missing[0]
        count = f" ({len(missing)} of the listed pictures are missing.)" if len(missing) > 1 else ""
        raise DataError(
            f"{file}, line {number} lists {line}, which exists below none of {_shown(bases)}: correct the list, or put the picture "
            f"there.{count}"
        )
    notes = changes.notes(
        {
            "elsewhere": lambda number, first: (
                f"{counted(number, 'picture')} in {file.name} {are(number)} not where it says and {were(number)} found beside it "
                f"(the first: {first})."
            ),
            "listed twice": lambda number, first: (
                f"{counted(number, 'line')} of {file.name} {agreeing(number, 'lists a picture', 'list pictures')} again, which "
                f"{were(number)} read once (the first: {first})."
            ),
        }
    )
    return list(found), notes


def _moved(base: Path, line: str) -> Iterator[Path]:
    for tail in tails(line):
        yield joined(base, tail)


def _shown(places: Sequence[Path]) -> str:
    return first_few(list(dict.fromkeys(map(str, places))))
