"""Where COCO's annotation files and pictures lie.

- The official layout: `annotations/instances_<split>.json`, also with `2017` or `2014` after the split; the pictures in `<split>/`,
  `<split>2017/`, `images/<split>/`, `images/` or the folder itself, whichever holds most of the pictures.
- Roboflow's export: `<split>/_annotations.coco.json` with the pictures beside it.
- Files named after splits, such as `train.json` or `val_annotations.coco.json`, in the data set's folder, in `annotations/` or `labels/`, or
  a file of any name in `<split>/`.
- One annotation file of any other name in one of these folders, such as `result.json` with `images/` (Label Studio): its split is `train`,
  or called as the data set's folder if that is the name of a split. Other formats are looked for before this one.
- Any other annotation file that is given by itself, with the pictures beside it or placed as above.

Folders may be written in any case. `coco_files` says which JSON files are taken for annotations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from detrkit.data.coco import build_dataset, load_annotations
from detrkit.data.coco_files import annotation_files, split_in_name
from detrkit.data.coco_frames import Orientation
from detrkit.data.dataset import DetectionDataset
from detrkit.data.images import inspect_image
from detrkit.data.picture_files import PictureFolders, choose_folder, find_pictures
from detrkit.data.split_names import ASSUMED_SPLIT, plain_split, spellings, split_named
from detrkit.data.wording import first_few
from detrkit.errors import DataError

_USUAL_SPLITS = ("train", "val", "test")
_PREFIX, _ROBOFLOW_FILE = "instances_", "_annotations.coco.json"
ANNOTATIONS = ("annotations", "annotation", "labels")
_PICTURES = ("images", "image", "imgs", "img", "data", "jpegimages", "pictures", "photos")
LOOKED_FOR = (f"annotations/{_PREFIX}<split>.json", f"<split>/{_ROBOFLOW_FILE}", "<split>.json")


def find_splits(folder: Path) -> dict[str, Path]:
    """A folder's annotation files, keyed by the split as the file or its folder names it; empty if it has none that say their split.

    Raises:
        DataError: two files are the same split, and not one of them is called like it and nothing else.
    """
    files: dict[str, list[Path]] = {}
    for split, file in _named(folder):
        files.setdefault(split, []).append(file)
    return {split: _only(split, found) for split, found in files.items()}


def find_unnamed(folder: Path) -> dict[str, Path]:
    """The only annotation file of a folder where none says which split it is; empty without any.

    Raises:
        DataError: there are several.
    """
    files = _unnamed(folder)
    if len(files) > 1:
        names = first_few([file.relative_to(folder).as_posix() for file in files])
        raise DataError(
            f"{folder} has {len(files)} COCO annotation files and none says which split it is: {names}; give one of them by itself "
            f"(--data {files[0]}), or name them after splits, such as train.json and val.json."
        )
    return {_split_of_folder(folder) or ASSUMED_SPLIT: file for file in files}


def explain_missing_split(splits: dict[str, Path]) -> str:
    """Why a split is missing where `find_unnamed` found the only file, as the end of a message; empty where the folder names its split."""
    (split, file), *_ = splits.items()
    if _split_of_folder(_root(file, in_split_folder=False)) is not None:
        return ""
    return (
        f"nothing says which split {file.name} is, so all its pictures are the split '{split}'; name annotation files after splits, such as "
        "train.json and val.json."
    )


def read_unnamed(
    annotation_file: Path,
    name: str,
    *,
    orientation: Orientation = "auto",
    stretch_16bit: bool = False,
    masks: bool = False,
) -> DetectionDataset:
    """As `read_split`, for the file of `find_unnamed`, with a note that its split is assumed."""
    dataset = read_split(annotation_file, name, orientation=orientation, stretch_16bit=stretch_16bit, masks=masks)
    if not explain_missing_split({ASSUMED_SPLIT: annotation_file}):
        return dataset
    note = f"Nothing says which split {annotation_file.name} is, so all its pictures are '{ASSUMED_SPLIT}'."
    return dataclasses.replace(dataset, notes=(note, *dataset.notes))


def read_split(
    annotation_file: Path,
    name: str,
    *,
    orientation: Orientation = "auto",
    stretch_16bit: bool = False,
    masks: bool = False,
) -> DetectionDataset:
    """The data set of an annotation file, whose pictures are searched for.

    Args:
        annotation_file: one of `find_splits`, or any other.
        name: of the data set, for messages.
        orientation: as for `read_coco`.
        stretch_16bit: as for `read_coco`.
        masks: as for `read_coco`.

    Raises:
        DataError: see `read_coco`; or the pictures are nowhere.
    """
    contents = load_annotations(annotation_file)
    names = [str(record.get("file_name")) for record in contents["images"]]
    candidates = picture_folders(annotation_file)
    folder = choose_folder(names, candidates) if names else annotation_file.parent
    folders = PictureFolders(folder, tuple(candidates), other_splits(annotation_file))
    return build_dataset(
        contents,
        annotation_file,
        folder,
        name,
        folders=folders,
        orientation=orientation,
        stretch_16bit=stretch_16bit,
        masks=masks,
    )


def picture_is_turned(annotation_file: Path, name: str) -> bool | None:
    """Whether the picture of a file name is shown with its width and height exchanged; None if it cannot be found or opened."""
    candidates = picture_folders(annotation_file)
    folder = choose_folder([name], candidates)
    try:
        files, _ = find_pictures([name], PictureFolders(folder, tuple(candidates), other_splits(annotation_file)), name)
        facts = inspect_image(folder / (name if files is None else str(files[0])))
    except DataError:
        return None
    return facts.shown_size != facts.stored_size


def split_of_file(annotation_file: Path) -> str | None:
    """The split that the name or folder of an annotation file says, or None."""
    if annotation_file.name != _ROBOFLOW_FILE:
        return _split_of_name(annotation_file)
    return _split_of_folder(annotation_file.parent)


def root_of_file(annotation_file: Path) -> Path:
    """The folder of the data set that an annotation file belongs to."""
    return _root(annotation_file, in_split_folder=annotation_file.name == _ROBOFLOW_FILE)


def _root(annotation_file: Path, *, in_split_folder: bool) -> Path:
    folder = annotation_file.resolve().parent
    inside = folder.name.lower() in ANNOTATIONS or (in_split_folder and split_of_file(annotation_file) is not None)
    return folder.parent if inside else folder


def _split_of_name(file: Path) -> str | None:
    if not file.name.startswith(_PREFIX):
        return split_in_name(file.stem)
    split = file.stem.removeprefix(_PREFIX)
    return split_named(split) or split


def _split_of_folder(folder: Path) -> str | None:
    return split_named(folder.resolve().name)


def _plain(folder: Path) -> str:
    """The name of a split's folder, as it is usually written."""
    return split_named(folder.name) or folder.name


def _only(split: str, files: list[Path]) -> Path:
    chosen = files if len(files) == 1 else [file for file in files if split_named(file.stem)]
    if len(chosen) != 1:
        raise DataError(
            f"{' and '.join(str(file) for file in files[:3])} are all the split '{split}': remove all but one, or give the right one by itself "
            f"(--data {files[0]})."
        )
    return chosen[0]


def _named(folder: Path) -> list[tuple[str, Path]]:
    """The annotation files that say which split they are; those of the official layout and of Roboflow's need no look into them."""
    official = [
        (_split_of_name(file) or "", file)
        for place in children(folder, ANNOTATIONS[:1])
        for file in sorted(place.glob(f"{_PREFIX}*.json"))
    ]
    taken = {split for split, _ in official}
    exports = [(_plain(file.parent), file) for file in sorted(folder.glob(f"*/{_ROBOFLOW_FILE}"))]
    found = [*official, *((split, file) for split, file in exports if split not in taken)]
    return found or list(_named_otherwise(folder))


def _named_otherwise(folder: Path) -> Iterator[tuple[str, Path]]:
    for place in (folder, *children(folder, ANNOTATIONS)):
        for file in annotation_files(place):
            split = _split_of_name(file)
            if split is not None:
                yield split, file
    for place in sorted(child for child in folder.iterdir() if child.is_dir() and _split_of_folder(child)):
        for inside in (place, *children(place, ANNOTATIONS)):
            for file in annotation_files(inside):
                yield _plain(place), file


def _unnamed(folder: Path) -> list[Path]:
    places = (folder, *children(folder, ANNOTATIONS))
    return [file for place in places for file in annotation_files(place) if _split_of_name(file) is None]


def children(folder: Path, names: Iterable[str]) -> list[Path]:
    """The folders directly inside another that have one of these names in lower case, in the order of the names."""
    order = {name.lower(): place for place, name in reversed(list(enumerate(names)))}
    try:
        found = [child for child in folder.iterdir() if child.name.lower() in order and child.is_dir()]
    except OSError:
        return []
    return sorted(found, key=lambda child: (order[child.name.lower()], child.name))


def picture_folders(annotation_file: Path) -> list[Path]:
    """All folders that may hold the pictures of an annotation file, the likeliest first."""
    root, beside = root_of_file(annotation_file), annotation_file.parent
    if annotation_file.name == _ROBOFLOW_FILE:
        return [beside, *children(beside, _PICTURES)]
    split = split_of_file(annotation_file) or annotation_file.stem
    names = list(dict.fromkeys([split, *spellings(plain_split(split))]))
    pictures = children(root, _PICTURES)
    of_split = [*children(root, names), *(inner for place in pictures for inner in children(place, names))]
    candidates = [*of_split, *pictures, root]
    return candidates if beside == root else [*candidates, beside, *children(beside, _PICTURES)]


def other_splits(annotation_file: Path) -> frozenset[str]:
    """Names of folders that hold the pictures of other splits than this file's: a namesake of a missing picture there is another picture."""
    split = split_of_file(annotation_file)
    if split is None:
        return frozenset()
    named = [plain_split(each) for each, _ in _named(root_of_file(annotation_file))]
    others = {*_USUAL_SPLITS, *named} - {plain_split(split)}
    return frozenset(name.lower() for other in others for name in spellings(other))
