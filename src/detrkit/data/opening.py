"""Opens data sets: folders, annotation files and the built-in set.

Known layouts (`val` and `valid` mean the same everywhere):

- COCO: `annotations/instances_<split>.json`, also with the official `2017` or `2014` after the split; the pictures in `<split>/`,
  `<split>2017/`, `images/<split>/`, `images/` or the folder itself, whichever holds the first picture.
- Roboflow's COCO export: `<split>/_annotations.coco.json` with the pictures beside it.
- Pascal VOC: `ImageSets/Main/<split>.txt`, `Annotations/` and `JPEGImages/`. If there are COCO annotations as well, those are used.
- An annotation file itself, with the pictures beside it or placed as above.
- `digits`: the built-in set.
"""

from __future__ import annotations

from pathlib import Path

from detrkit.data.coco import build_dataset, load_annotations
from detrkit.data.dataset import DetectionDataset
from detrkit.data.digits import DIGIT_SPLITS, read_digits
from detrkit.data.voc import SPLIT_LISTS, read_voc, split_files
from detrkit.errors import DataError, closest

BUILT_IN = "digits"
_PREFIX, _ROBOFLOW_FILE = "instances_", "_annotations.coco.json"
_YEARS = ("2017", "2014")
_USUAL_ORDER = ("train", "val", "test")
_ENTRIES_SHOWN = 8


def open_dataset(data: str | Path, split: str) -> DetectionDataset:
    """Opens one split of a data set.

    Args:
        data: a folder in a known layout, a COCO `.json` file, or `digits` for the built-in set.
        split: `train`, `val`, `test` or whatever the data set calls it. If the name or folder of an annotation file says which split it
            is, only that split can be opened. Any other annotation file is used for every split.

    Raises:
        DataError: there is no readable data set at this path, the split does not exist, or the data set has an error.
    """
    if str(data) == BUILT_IN:
        return read_digits(split)
    path = _existing(data)
    if path.is_file():
        file_split = _split_of_file(path)
        if file_split is not None and file_split not in _spellings(split):
            raise DataError(
                f"{path} is the split '{file_split}', not '{split}': ask for '{file_split}', or give the folder above it."
            )
        annotation_file, name = path, path.stem if file_split is None else f"{_root(path).name} {file_split}"
    else:
        files = _split_files(path)
        spelling = next((spelling for spelling in _spellings(split) if spelling in files), None)
        if spelling is None:
            raise DataError(f"{path} has no split '{split}': {closest(split, available_splits(path))}")
        annotation_file, name = files[spelling], f"{path.resolve().name} {split}"
        if annotation_file.suffix == ".txt":
            return read_voc(path, spelling, name=name)
    contents = load_annotations(annotation_file)
    return build_dataset(contents, annotation_file, _image_folder(annotation_file, contents["images"]), name)


def available_splits(data: str | Path) -> list[str]:
    """The splits that `open_dataset` can open, `train`, `val` and `test` first; empty for an annotation file that does not say which split it is.

    Raises:
        DataError: there is no readable data set at this path.
    """
    if str(data) == BUILT_IN:
        return list(DIGIT_SPLITS)
    path = _existing(data)
    if path.is_file():
        file_split = _split_of_file(path)
        return [] if file_split is None else [plain_split(file_split)]
    names = {plain_split(name) for name in _split_files(path)}
    return [name for name in _USUAL_ORDER if name in names] + sorted(names.difference(_USUAL_ORDER))


def _existing(data: str | Path) -> Path:
    path = Path(data).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".json"):
        return path
    state = "is not a .json file" if path.is_file() else "does not exist"
    raise DataError(
        f"{path} {state}: give a data set's folder, a COCO annotation file (.json), or '{BUILT_IN}' for the built-in set."
    )


def plain_split(split: str) -> str:
    """A split's name without its year, and `val` instead of `valid`."""
    for year in _YEARS:
        split = split.removesuffix(year) or split
    return "val" if split == "valid" else split


def _spellings(split: str) -> list[str]:
    """The names that folders and annotation files may use for a split, most literal first; a name with a year means that year only."""
    if split.endswith(_YEARS):
        return [split]
    names = ["val", "valid"] if plain_split(split) == "val" else [split]
    return list(dict.fromkeys([split, *names, *(name + year for year in _YEARS for name in names)]))


def _split_files(folder: Path) -> dict[str, Path]:
    """A folder's COCO annotation files, or else its VOC lists, keyed by the split as the file or its folder names it."""
    files = {file.stem.removeprefix(_PREFIX): file for file in sorted(folder.glob(f"annotations/{_PREFIX}*.json"))}
    for file in sorted(folder.glob(f"*/{_ROBOFLOW_FILE}")):
        files.setdefault(file.parent.name, file)
    files = files or split_files(folder)
    if files:
        return files
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    shown = ", ".join(entries[:_ENTRIES_SHOWN]) + (", …" if len(entries) > _ENTRIES_SHOWN else "")
    raise DataError(
        f"{folder} contains no readable data set: looked for annotations/{_PREFIX}<split>.json, "
        f"<split>/{_ROBOFLOW_FILE} and {SPLIT_LISTS}/<split>.txt, found {shown or 'nothing at all'}."
    )


def _split_of_file(annotation_file: Path) -> str | None:
    """The split that the name or folder of an annotation file says, or None."""
    if annotation_file.name == _ROBOFLOW_FILE:
        return annotation_file.resolve().parent.name
    if annotation_file.name.startswith(_PREFIX):
        return annotation_file.stem.removeprefix(_PREFIX)
    return None


def _root(annotation_file: Path) -> Path:
    """The folder of the data set that an annotation file belongs to."""
    folder = annotation_file.resolve().parent
    inside = folder.name == "annotations" or annotation_file.name == _ROBOFLOW_FILE
    return folder.parent if inside else folder


def _image_folder(annotation_file: Path, images: list[dict[str, object]]) -> Path:
    """The first folder that contains the first picture, of all folders that may hold the pictures."""
    if not images:  # build_dataset reports the error
        return annotation_file.parent
    root, beside = _root(annotation_file), annotation_file.parent
    split = _split_of_file(annotation_file) or annotation_file.stem
    names = dict.fromkeys([split, *_spellings(plain_split(split))])
    candidates = [root / name for name in names] + [root / "images" / name for name in names] + [root / "images", root]
    if annotation_file.name == _ROBOFLOW_FILE:
        candidates = [beside]
    elif beside != root:
        candidates.append(beside)
    first = str(images[0].get("file_name"))
    for folder in candidates:
        if (folder / first).is_file():
            return folder
    searched = ", ".join(str(folder) for folder in candidates if folder.is_dir())
    raise DataError(
        f"The picture {first} of {annotation_file} is in none of {searched}: put the pictures into one of them."
    )
