"""One name for any data: a folder, an annotation file or the built-in set, found and opened.

Layouts that are known, `val` and `valid` meaning the same everywhere:

- COCO: `annotations/instances_<split>.json`, also with the official `2017` or `2014` behind the split; the pictures in `<split>/`,
  `<split>2017/`, `images/<split>/`, `images/` or the folder itself, whichever holds the first picture.
- Roboflow's COCO export: `<split>/_annotations.coco.json` with the pictures beside it.
- Pascal VOC: `ImageSets/Main/<split>.txt`, `Annotations/` and `JPEGImages/`. Where there are COCO annotations as well, those are taken.
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
        split: `train`, `val`, `test` or whatever the data set calls it. Of an annotation file whose name or place tells its split
            no other split can be had; any other annotation file is taken as it is, whatever the split.

    Raises:
        DataError: nothing that can be read lies there, the split does not exist, or the data set has an error.
    """
    if str(data) == BUILT_IN:
        return read_digits(split)
    path = _existing(data)
    if path.is_file():
        told = _told_split(path)
        if told is not None and told not in _spellings(split):
            raise DataError(
                f"{path} is the split '{told}', not '{split}': ask for '{told}', or give the folder above it."
            )
        annotation_file, name = path, path.stem if told is None else f"{_root(path).name} {told}"
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
    """The splits that `open_dataset` can open, `train`, `val` and `test` first; none for an annotation file that tells none.

    Raises:
        DataError: nothing that can be read lies there.
    """
    if str(data) == BUILT_IN:
        return list(DIGIT_SPLITS)
    path = _existing(data)
    if path.is_file():
        told = _told_split(path)
        return [] if told is None else [plain_split(told)]
    names = {plain_split(name) for name in _split_files(path)}
    return [name for name in _USUAL_ORDER if name in names] + sorted(names.difference(_USUAL_ORDER))


def _existing(data: str | Path) -> Path:
    path = Path(data).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".json"):
        return path
    state = "is no .json file" if path.is_file() else "does not exist"
    raise DataError(
        f"{path} {state}: give a data set's folder, a COCO annotation file (.json), or '{BUILT_IN}' for the built-in set."
    )


def plain_split(split: str) -> str:
    """A split's name without year; `valid` is `val`."""
    for year in _YEARS:
        split = split.removesuffix(year) or split
    return "val" if split == "valid" else split


def _spellings(split: str) -> list[str]:
    """How folders and annotation files may name a split, most literal first; a name with a year means that year only."""
    if split.endswith(_YEARS):
        return [split]
    names = ["val", "valid"] if plain_split(split) == "val" else [split]
    return list(dict.fromkeys([split, *names, *(name + year for year in _YEARS for name in names)]))


def _split_files(folder: Path) -> dict[str, Path]:
    """The COCO annotation files, or else the VOC lists, of a folder by the name that each gives to its split."""
    files = {file.stem.removeprefix(_PREFIX): file for file in sorted(folder.glob(f"annotations/{_PREFIX}*.json"))}
    for file in sorted(folder.glob(f"*/{_ROBOFLOW_FILE}")):
        files.setdefault(file.parent.name, file)
    files = files or split_files(folder)
    if files:
        return files
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    shown = ", ".join(entries[:_ENTRIES_SHOWN]) + (", …" if len(entries) > _ENTRIES_SHOWN else "")
    raise DataError(
        f"{folder} holds no data set that can be read: looked for annotations/{_PREFIX}<split>.json, "
        f"<split>/{_ROBOFLOW_FILE} and {SPLIT_LISTS}/<split>.txt, found {shown or 'nothing at all'}."
    )


def _told_split(annotation_file: Path) -> str | None:
    """The split that an annotation file's name or place tells, or None."""
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
    """The first folder, of those where the pictures may lie, that holds the first picture."""
    if not images:  # building the data set says what is wrong
        return annotation_file.parent
    root, beside = _root(annotation_file), annotation_file.parent
    own = _told_split(annotation_file) or annotation_file.stem
    names = dict.fromkeys([own, *_spellings(plain_split(own))])
    candidates = [root / name for name in names] + [root / "images" / name for name in names] + [root / "images", root]
    if annotation_file.name == _ROBOFLOW_FILE:
        candidates = [beside]
    elif beside != root:
        candidates.append(beside)
    first = str(images[0].get("file_name"))
    for folder in candidates:
        if (folder / first).is_file():
            return folder
    looked = ", ".join(str(folder) for folder in candidates if folder.is_dir())
    raise DataError(
        f"The picture {first} of {annotation_file} lies in none of {looked}: put the pictures into one of them."
    )
