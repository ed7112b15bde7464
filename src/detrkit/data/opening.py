"""Opens data sets: folders, annotation files and the built-in set.

A folder is in the first of these formats whose files it has: COCO (also as Roboflow exports it), Pascal VOC. Each format's module says
which files these are. `val` and `valid` mean the same everywhere. An annotation file is opened by itself, and `digits` is the built-in set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.data import coco_layout, voc
from detrkit.data.coco_frames import Orientation
from detrkit.data.dataset import DetectionDataset
from detrkit.data.digits import DIGIT_SPLITS, read_digits
from detrkit.data.split_names import in_usual_order, plain_split, spellings
from detrkit.errors import DataError, closest

BUILT_IN = "digits"
_ENTRIES_SHOWN = 8


@dataclass(frozen=True)
class Format:
    """How one format lies in a folder.

    Attributes:
        looked_for: the files by which it is recognised, for messages.
        find_splits: from a folder to the file that describes each split, keyed by the split as the folder names it; empty where the
            folder is not in this format.
        read_split: from such a file and a name for messages to the data set.
        takes_options: whether `read_split` takes `orientation` and `stretch_16bit`.
    """

    looked_for: tuple[str, ...]
    find_splits: Callable[[Path], dict[str, Path]]
    read_split: Callable[..., DetectionDataset]
    takes_options: bool = False


FORMATS = (
    Format(coco_layout.LOOKED_FOR, coco_layout.find_splits, coco_layout.read_split, takes_options=True),
    Format(voc.LOOKED_FOR, voc.find_splits, voc.read_split),
)


def open_dataset(
    data: str | Path, split: str, *, orientation: Orientation = "auto", stretch_16bit: bool = False
) -> DetectionDataset:
    """Opens one split of a data set.

    Args:
        data: a folder in a known format, a COCO `.json` file, or `digits` for the built-in set.
        split: `train`, `val`, `test` or whatever the data set calls it. If the name or folder of an annotation file says which split it
            is, only that split can be opened. Any other annotation file is used for every split.
        orientation: for COCO data: whether pictures with an EXIF orientation were annotated as "stored" or as "shown"; "auto" finds out.
        stretch_16bit: for COCO data: whether 16-bit grey pictures are stretched to the whole range, see `read_image`.

    Raises:
        DataError: there is no readable data set at this path, the split does not exist, or the data set has an error.
    """
    given: dict[str, Any] = {"orientation": orientation, "stretch_16bit": stretch_16bit}
    if str(data) == BUILT_IN:
        return read_digits(split)
    path = _existing(data)
    if path.is_file():
        return _open_file(path, split, given)
    form, files = _format_of(path)
    spelling = next((spelling for spelling in spellings(split) if spelling in files), None)
    if spelling is None:
        raise DataError(f"{path} has no split '{split}'{_which_split(split, available_splits(path))}")
    if not form.takes_options and (orientation != "auto" or stretch_16bit):
        raise DataError(
            f"{path} is no COCO data set: orientation and stretch_16bit apply only to such, leave them out."
        )
    return form.read_split(files[spelling], f"{path.resolve().name} {split}", **(given if form.takes_options else {}))


def _which_split(split: str, available: list[str]) -> str:
    """The end of a message about a split that does not exist."""
    if len(available) > 1:
        return f": {closest(split, available)}"
    option = "--train-split" if plain_split(split) == "train" else "--split"
    return f", only '{available[0]}': ask for '{available[0]}' ({option} {available[0]})."


def available_splits(data: str | Path) -> list[str]:
    """The splits that `open_dataset` can open, `train`, `val` and `test` first; empty for an annotation file that does not say which split it is.

    Raises:
        DataError: there is no readable data set at this path.
    """
    if str(data) == BUILT_IN:
        return list(DIGIT_SPLITS)
    path = _existing(data)
    if path.is_file():
        file_split = coco_layout.split_of_file(path)
        return [] if file_split is None else [plain_split(file_split)]
    return in_usual_order({plain_split(name) for name in _format_of(path)[1]})


def _existing(data: str | Path) -> Path:
    path = Path(data).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".json"):
        return path
    state = "is not a .json file" if path.is_file() else "does not exist"
    raise DataError(
        f"{path} {state}: give a data set's folder, a COCO annotation file (.json), or '{BUILT_IN}' for the built-in set."
    )


def _open_file(path: Path, split: str, given: dict[str, Any]) -> DetectionDataset:
    file_split = coco_layout.split_of_file(path)
    if file_split is None:
        return coco_layout.read_split(path, path.stem, **given)
    if file_split not in spellings(split):
        option = "--train-split" if plain_split(split) == "train" else "--split"
        raise DataError(
            f"{path} is the split '{file_split}', not '{split}': ask for '{file_split}' ({option} {file_split}), or give the folder above it."
        )
    return coco_layout.read_split(path, f"{coco_layout.root_of_file(path).name} {file_split}", **given)


def _format_of(folder: Path) -> tuple[Format, dict[str, Path]]:
    """The format that a folder is in, and its splits."""
    for form in FORMATS:
        files = form.find_splits(folder)
        if files:
            return form, files
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    shown = ", ".join(entries[:_ENTRIES_SHOWN]) + (", …" if len(entries) > _ENTRIES_SHOWN else "")
    looked_for = [name for form in FORMATS for name in form.looked_for]
    raise DataError(
        f"{folder} contains no readable data set: looked for {', '.join(looked_for[:-1])} and {looked_for[-1]}, "
        f"found {shown or 'nothing at all'}."
    )
