"""What a YOLO data set says about itself: the YAML file with its splits and class names, Darknet's `obj.data`, or folders and `classes.txt`.

`train`, `val` and `test`, by any of their names, are splits. Any other key is one if its value is a place with pictures, or a text file
that lists some, so that sets with splits of their own (`minival`, CVAT's `default`) are read, too.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from detrkit.data.findings import Faults
from detrkit.data.pictures import has_pictures, is_picture
from detrkit.data.places import DARKNET_SUFFIX, YAML_SUFFIXES
from detrkit.data.split_names import plain_split
from detrkit.data.text_files import read_lines, read_text
from detrkit.data.wording import first_few, some_of
from detrkit.data.yaml_files import parse_yaml
from detrkit.data.yolo_darknet import darknet_file, parse_darknet, read_class_file, with_names
from detrkit.data.yolo_places import Places
from detrkit.errors import DataError

_USUAL_NAMES = ("data", "dataset")
_SPLITS = ("train", "val", "test")
_OTHER_KEYS = (
    "path",
    "names",
    "nc",
    "kpt_shape",
    "flip_idx",
    "channels",
    "colors",
    "download",
    "yaml_file",
    "roboflow",
)
_CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "data/obj.names")


@dataclass(frozen=True)
class YoloDescription:
    """A YOLO data set before any picture is looked for.

    Attributes:
        source: the YAML file, or the folder if there is none.
        root: what the YAML's `path` says, or None.
        splits: for each split, as the file names it, the folders or text files that list its pictures, as the file writes them.
        names: the classes by their numbers; None if nothing says them.
        key_points: how many numbers follow the box in each line of a set with key points, otherwise 0.
        notes: what was assumed.
    """

    source: Path
    root: str | None
    splits: dict[str, tuple[str, ...]]
    names: dict[int, str] | None
    key_points: int = 0
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder that the description lies in."""
        return self.source if self.source.is_dir() else self.source.parent

    @property
    def places(self) -> Places:
        """Finds what `splits` says."""
        return Places(self.folder, self.root)


def describe_folder(folder: Path) -> YoloDescription | None:
    """The description of a folder's YOLO data set: its YAML file, or Darknet's, or else `images` and `labels`; None if it has neither.

    Raises:
        DataError: the file cannot be used, or several describe the folder in different ways.
    """
    return _from_yaml_in(folder) or _from_darknet_in(folder) or _from_folders(folder)


def describe_file(file: Path) -> YoloDescription:
    """The description in a YAML file or in Darknet's `obj.data`. One that names classes only has the splits of the folders beside it.

    Raises:
        DataError: the file cannot be read, or does not describe a YOLO data set.
    """
    if file.suffix.lower() == DARKNET_SUFFIX:
        darknet = parse_darknet(file)
        if darknet is None:
            raise DataError(
                f"{file} does not describe a YOLO data set: it needs 'names = …' and at least one of 'train', 'valid' and 'test'."
            )
        return _from_content(with_names(darknet, file), file)
    content = _parsed(file)
    if _describes_splits(content, file) or _describes_pictures(content, file):
        return _from_content(content, file)
    described = _from_folders(file.parent, file) if _has_names(content) else None
    if described is None:
        raise DataError(f"{file} does not describe a YOLO data set: {_what_is_missing(content, file)}.")
    return described


def what_is_missing(folder: Path) -> str:
    """What the YAML file of a folder lacks that is no data set yet, for messages; empty where no file looks like one."""
    for file in _yaml_files(folder):
        content = _parsed_if_yolo(file) if file.stem.lower() in _USUAL_NAMES else None
        if isinstance(content, dict) and (_has_names(content) or _split_keys(content, file)):
            return f"{file.name} does not describe one: {_what_is_missing(content, file)}"
    return ""


def described_so_far(file: Path) -> tuple[dict[str, Any], dict[int, str]]:
    """The splits, as they are written, and the classes in a YAML file to which another split is added.

    Raises:
        DataError: the file cannot be read.
    """
    content = _parsed(file)
    if not isinstance(content, dict):
        raise DataError(f"{file} does not describe a YOLO data set: move it away, or choose another folder.")
    splits = {key: value for key, value in content.items() if key not in _OTHER_KEYS and _written_places(value)}
    return splits, _class_names(content, file)[0]


def check_split_name(split: str) -> None:
    """Refuses names of splits that mean something else in a YAML file.

    Raises:
        DataError: it is one of them.
    """
    if split in _OTHER_KEYS:
        raise DataError(f"YOLO's YAML file has another use for the key '{split}': give the split another name.")


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in YAML_SUFFIXES and file.is_file())


def _from_yaml_in(folder: Path) -> YoloDescription | None:
    contents = {file: _parsed_if_yolo(file) for file in _yaml_files(folder)}
    fitting = {file: content for file, content in contents.items() if _describes_splits(content, file)}
    fitting = fitting or {file: content for file, content in contents.items() if _describes_pictures(content, file)}
    if not fitting:
        return None
    usual = [file for name in _USUAL_NAMES for file in fitting if file.stem.lower() == name]
    file = usual[0] if usual else next(iter(fitting))
    others = [other.name for other in fitting if fitting[other] != fitting[file]]
    if others and not usual:
        raise DataError(
            f"{folder} has several YAML files that describe a data set: {file.name} and {' and '.join(others)}; give the one you "
            "mean instead of the folder."
        )
    described = _from_content(fitting[file], file)
    if not others:
        return described
    note = f"{file.name} was read; {' and '.join(others)} beside it would describe the data set differently."
    return replace(described, notes=(note, *described.notes))


def _parsed_if_yolo(file: Path) -> Any:
    """The content of a YAML file; None if it cannot be parsed and does not look like a data set: other tools have YAML files, too."""
    try:
        return _parsed(file)
    except DataError:
        if file.stem.lower() in _USUAL_NAMES or re.search(rb"(?m)^\s*(names|nc)\s*:", file.read_bytes()):
            raise
        return None


def _parsed(file: Path) -> Any:
    """A YAML file with all scalars as text: the class names `no`, `on` and `1e3` stay what they are."""
    try:
        return parse_yaml(read_text(file), file)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        # Patterns such as */images are aliases without quotes.
        quotes = "put places that begin with * into quotes" if "alias" in problem else "correct it or export it again"
        raise DataError(f"{file} cannot be parsed as YAML ({problem}): {quotes}.") from None


def _has_names(content: Any) -> bool:
    return isinstance(content, dict) and ("names" in content or "nc" in content)


def _describes_splits(content: Any, file: Path) -> bool:
    return _has_names(content) and bool(_split_keys(content, file))


def _describes_pictures(content: Any, file: Path) -> bool:
    """Whether a file says where the pictures of usual splits are, though not how the classes are called."""
    if not isinstance(content, dict) or _has_names(content):
        return False
    keys = [key for key in _split_keys(content, file) if plain_split(key) in _SPLITS]
    return any(map(_has_pictures, (place for key in keys for place in _found(content[key], _places_of(content, file)))))


def _what_is_missing(content: Any, file: Path) -> str:
    """What keeps a file from describing a data set, as the end of a message."""
    needed = "it needs 'names' and at least one of 'train', 'val' and 'test'"
    if not isinstance(content, dict):
        return needed
    keys = _split_keys(content, file)
    if _has_names(content):
        return f"{needed}, with the folder of its pictures; it has none of these splits" if not keys else needed
    return f"{needed}; it has no 'names', and no pictures at {first_few(keys)}" if keys else needed


def _places_of(content: dict[str, Any], file: Path) -> Places:
    root = content.get("path")
    return Places(file.parent, None if not isinstance(root, str) or _is_empty(root) else root)


def _split_keys(content: dict[str, Any], file: Path) -> list[str]:
    """The keys that stand for splits; those without a value are templates that nobody filled in."""
    usual = [key for key in content if plain_split(key) in _SPLITS and not _is_empty(content[key])]
    places = _places_of(content, file)
    named = [place for key in usual for place in _found(content[key], places)]
    # What contains the folder of a split is no split itself: `root: .`, `images: images`.
    above = {file.parent.absolute(), *file.parent.absolute().parents}
    above |= {parent for place in named for parent in place.absolute().parents}
    kept = []
    for key, value in content.items():
        found = _found(value, places) if key not in (*usual, *_OTHER_KEYS) else []
        if key in usual or (found and all(_has_pictures(each) and each.absolute() not in above for each in found)):
            kept.append(key)
    return kept


def _written_places(value: Any) -> list[str]:
    """The texts that may be places; empty if the value is anything else."""
    places = value if isinstance(value, list) else [value]
    return places if all(isinstance(place, str) and place.strip() for place in places) else []


def _found(value: Any, places: Places) -> list[Path]:
    """The places that a value names, all of which exist; otherwise empty."""
    found = [places.every(place.strip()) for place in _written_places(value)]
    return [place for each in found for place in each] if all(found) else []


def _has_pictures(place: Path) -> bool:
    """Whether it is a picture, a folder with pictures, or a text file whose first line is the name of one."""
    if place.is_dir():
        return has_pictures(place)
    if is_picture(place.name):
        return True
    try:
        lines = (line.strip().strip("\"'") for line in read_lines(place))
    except DataError:
        return False
    return is_picture(Path(next(filter(None, lines), "").replace("\\", "/")).name)


def _is_empty(value: Any) -> bool:
    return value in ("", "~", "null", "Null", "NULL", [], {})


def _from_content(content: dict[str, Any], file: Path) -> YoloDescription:
    root = content.get("path")
    if root is not None and not isinstance(root, str):
        raise DataError(f"{file}: 'path' is {root!r}; give one folder.")
    splits = {key: _places(content[key], key, file) for key in _split_keys(content, file)}
    names: dict[int, str] | None
    names, notes = _class_names(content, file) if _has_names(content) else _names_beside(file, list(splits))
    return YoloDescription(
        source=file,
        root=None if _is_empty(root) else root,
        splits=splits,
        names=names,
        key_points=_key_points(content, file),
        notes=tuple(notes),
    )


def _names_beside(file: Path, splits: list[str]) -> tuple[dict[int, str] | None, list[str]]:
    """The classes of a YAML file that has no `names`, from a text file beside it, and a note."""
    class_file = _class_file(file.parent, splits)
    if class_file is not None:
        return read_class_file(class_file), [f"{file.name} has no 'names', so they were read from {class_file.name}."]
    return None, [f"{file.name} has no 'names', so its classes are called by their numbers: list them under 'names'."]


def _places(value: Any, key: str, file: Path) -> tuple[str, ...]:
    places = _written_places(value)
    if not places:
        raise DataError(f"{file}: '{key}' is {value!r}; give a folder, a text file, or a list of them.")
    return tuple(place.strip() for place in places)


def _class_names(content: dict[str, Any], file: Path) -> tuple[dict[int, str], list[str]]:
    count = _whole_number(content["nc"]) if not _is_empty(content.get("nc", "")) else None
    if "nc" in content and not _is_empty(content["nc"]) and (count is None or count < 1):
        raise DataError(f"{file}: nc is {content['nc']!r}; give the number of classes.")
    given = content.get("names", "")
    if _is_empty(given):
        if count is None:
            raise DataError(f"{file} has no class names: list them under 'names'.")
        note = f"{file.name} gives no names but the number of classes, so they are called '0' to '{count - 1}'."
        return {number: str(number) for number in range(count)}, [note]
    names = _listed_names(given, file) if isinstance(given, list) else _mapped_names(given, file)
    if count is not None and count not in (len(names), max(names) + 1):
        first = first_few(list(names.values()))
        raise DataError(f"{file}: nc is {count}, but names has {len(names)} ({first}): make the two agree.")
    return names, []


def _listed_names(given: list[Any], file: Path) -> dict[int, str]:
    wrong = [name for name in given if not isinstance(name, str)]
    if wrong:
        more = f" ({some_of(len(wrong), len(given), 'entry', 'entries')} are no texts.)" if len(wrong) > 1 else ""
        raise DataError(f"{file}: names has the entry {wrong[0]!r}; give a list of texts.{more}")
    return dict(enumerate(given))


def _mapped_names(given: Any, file: Path) -> dict[int, str]:
    if not isinstance(given, dict):
        raise DataError(f"{file}: names is {given!r}; give a list of texts.")
    names: dict[int, str] = {}
    faults = Faults()
    for key, name in given.items():
        number = _whole_number(key)
        if number is None or number < 0:
            faults.add("key", f"{file}:", f"names has the key {key!r}; give whole numbers from 0, each with its name.")
        elif not isinstance(name, str):
            faults.add("name", f"{file}:", f"names has {name!r} for class {number}; give a text.")
        elif number in names:
            faults.add("twice", f"{file}:", f"names has class {number} twice; remove one of the two.")
        else:
            names[number] = name
    faults.check()
    return dict(sorted(names.items()))


def _key_points(content: dict[str, Any], file: Path) -> int:
    """The numbers for key points in each line, by `kpt_shape`: so many points of two or three numbers."""
    shape = content.get("kpt_shape", "")
    if _is_empty(shape):
        return 0
    numbers = [_whole_number(number) for number in shape] if isinstance(shape, list) else []
    if len(numbers) != 2 or numbers[0] is None or numbers[0] < 1 or numbers[1] not in (2, 3):
        raise DataError(f"{file}: kpt_shape is {shape!r}; give the number of key points, and 2 or 3, such as [17, 3].")
    return numbers[0] * numbers[1]


def _whole_number(text: Any) -> int | None:
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def _from_darknet_in(folder: Path) -> YoloDescription | None:
    file = darknet_file(folder)
    content = None if file is None else parse_darknet(file)
    if (
        file is None
        or content is None
        or not any(_found(content[key], Places(file.parent)) for key in _split_keys(content, file))
    ):
        return None
    return _from_content(with_names(content, file), file)


def _from_folders(folder: Path, names_file: Path | None = None) -> YoloDescription | None:
    """A data set whose splits no file names, though a YAML file may name the classes.

    `images/<split>` and `labels/<split>`, `<split>/images` and `<split>/labels`, or `images` and `labels`.
    """
    images, labels = subfolder(folder, "images"), subfolder(folder, "labels")
    pairs = [(each.name, each, labels / each.name) for each in _folders_in(images)]
    for part in _folders_in(folder):
        pairs += [
            (part.name, each, subfolder(part, "labels")) for each in _folders_in(part) if each.name.lower() == "images"
        ]
    found = {split: each for split, each, beside in reversed(pairs) if _has_labels(beside)}
    if not found and images.is_dir() and _has_labels(labels):
        found = {"train": images}
    if not found:
        return None
    splits: dict[str, tuple[str, ...]] = {split: (str(each.absolute()),) for split, each in sorted(found.items())}
    return _with_names_of_folder(YoloDescription(folder, None, splits, None), names_file)


def _with_names_of_folder(described: YoloDescription, names_file: Path | None) -> YoloDescription:
    """The classes from a YAML file without splits, or from a text file; otherwise a note that there are none."""
    folder = described.folder
    usual = [file for file in _yaml_files(folder) if file.stem.lower() in _USUAL_NAMES]
    contents = {file: _parsed(file) for file in ([names_file] if names_file else usual)}
    for file, content in contents.items():
        if _has_names(content):
            names, notes = _class_names(content, file)
            note = f"{file.name} names no splits, so they are those of the folders."
            return replace(
                described, source=file, names=names, key_points=_key_points(content, file), notes=(note, *notes)
            )
    class_file = _class_file(folder, list(described.splits))
    if class_file is not None:
        return replace(described, names=read_class_file(class_file))
    where = f"{folder} has neither a YAML file nor classes.txt"
    if contents:
        where = f"{next(iter(contents))} has no 'names', and there is no classes.txt"
    return replace(described, notes=(f"{where}, so its classes are called by their numbers.",))


def _folders_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def subfolder(folder: Path, name: str) -> Path:
    """A folder's subfolder of this name in lower case, however it is written; it need not exist."""
    return next((each for each in _folders_in(folder) if each.name.lower() == name), folder / name)


def _has_labels(folder: Path) -> bool:
    """Whether a folder holds text files; `labels` may also hold the pictures of masks."""
    return folder.is_dir() and any(file.name != "classes.txt" for file in folder.rglob("*.[tT][xX][tT]"))


def _class_file(folder: Path, splits: list[str]) -> Path | None:
    """The text file that lists the classes of a data set, or None."""
    inside = [f"{part}/classes.txt" for split in splits for part in (f"labels/{split}", f"{split}/labels", split)]
    files = (folder / name for name in (*_CLASS_FILES, *inside))
    return next(filter(Path.is_file, files), None)
