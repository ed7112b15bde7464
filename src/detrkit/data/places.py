"""Where data sets are, found out without reading anything, so that a wrong path is told at once."""

from __future__ import annotations

from pathlib import Path

from detrkit.errors import DataError
from detrkit.files import expanded

BUILT_IN = "digits"
# Files that describe a YOLO data set.
YAML_SUFFIXES, DARKNET_SUFFIX = (".yaml", ".yml"), ".data"


def find_data(data: str | Path) -> Path | None:
    """The path of a data set; None for the built-in one.

    Raises:
        DataError: there is nothing at this path, or a file that describes no data set.
    """
    return None if str(data) == BUILT_IN else existing(data)


def existing(data: str | Path) -> Path:
    """The path of a data set that is not built in.

    Raises:
        DataError: see `find_data`.
    """
    path = expanded(data)
    if path.is_dir() or (path.is_file() and path.suffix.lower() in (".json", *YAML_SUFFIXES, DARKNET_SUFFIX)):
        return path
    state = "is neither a .json, a .yaml nor a .data file" if path.is_file() else "does not exist"
    raise DataError(
        f"{path} {state}: give a data set's folder, a COCO annotation file (.json), the .yaml or .data file of a YOLO data set, or '{BUILT_IN}' for "
        "the built-in set."
    )
