"""Darknet's description of a data set: `obj.data` with lines such as `train = data/train.txt` and `names = data/obj.names`.

Its lists name pictures, whose labels lie beside them or in `labels` for `images`; CVAT exports this layout, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detrkit.data.places import DARKNET_SUFFIX
from detrkit.data.split_names import plain_split
from detrkit.data.text_files import read_lines
from detrkit.data.yolo_places import Places
from detrkit.errors import DataError

_USUAL_NAME = "obj.data"
_SPLITS = ("train", "val", "test")


def darknet_file(folder: Path) -> Path | None:
    """The Darknet description in a folder, or in `data` inside it; None without any.

    Raises:
        DataError: there are several, and none is called `obj.data`.
    """
    for place in filter(Path.is_dir, (folder, folder / "data")):
        files = sorted(file for file in place.iterdir() if file.suffix.lower() == DARKNET_SUFFIX and file.is_file())
        found = [file for file in files if parse_darknet(file) is not None]
        usual = [file for file in found if file.name.lower() == _USUAL_NAME]
        if len(found) > 1 and not usual:
            names = " and ".join(file.name for file in found)
            raise DataError(
                f"{place} has several files that describe a data set: {names}; give the one you mean instead of the folder."
            )
        if found:
            return (usual or found)[0]
    return None


def parse_darknet(file: Path) -> dict[str, Any] | None:
    """What a file says, with the keys of YOLO's YAML files; `names` is still the name of a file. None if it describes no data set.

    Other programs have files with this ending, too.
    """
    try:
        lines = [line.partition("#")[0] for line in read_lines(file)]
    except DataError:
        return None
    parts = [line.partition("=") for line in lines if line.strip()]
    values = {key.strip().lower(): value.strip() for key, sign, value in parts if sign and value.strip()}
    content: dict[str, Any] = {key: value for key, value in values.items() if plain_split(key) in _SPLITS}
    if not content or not ("names" in values or "classes" in values):
        return None
    return content | {key: values[old] for key, old in (("names", "names"), ("nc", "classes")) if old in values}


def with_names(content: dict[str, Any], file: Path) -> dict[str, Any]:
    """The same with the list of names that the file of names has.

    Raises:
        DataError: that file is missing, has an empty line, or has another number of names than the description says.
    """
    if "names" not in content:
        return content
    places = Places(file.parent)
    listed = places.find(content["names"])
    if listed is None or listed.is_dir():
        raise DataError(
            f"{file}: 'names' is {content['names']}, which does not exist: put the file with the class names there, one in each line."
        )
    names = list(read_class_file(listed).values())
    if content.get("nc", str(len(names))) != str(len(names)):
        raise DataError(
            f"{file}: 'classes' is {content['nc']}, but {listed.name} has {len(names)} names: make the two agree."
        )
    return {**content, "names": names}


def read_class_file(file: Path) -> dict[int, str]:
    """The class names that a text file lists, one in each line, by their numbers from 0.

    Raises:
        DataError: it has an empty line, or no names.
    """
    names = [line.strip() for line in read_lines(file)]
    while names and not names[-1]:
        names.pop()
    if names and all(names):
        return dict(enumerate(names))
    empty = [str(number) for number, name in enumerate(names, start=1) if not name]
    where = f" (line {empty[0]}{f', and {len(empty) - 1} more' if len(empty) > 1 else ''})" if empty else ""
    raise DataError(f"{file} has an empty line or no names: write one class name in each line{where}.")
