"""Where COCO's annotation files and pictures lie.

- The official layout: `annotations/instances_<split>.json`, also with `2017` or `2014` after the split; the pictures in `<split>/`,
  `<split>2017/`, `images/<split>/`, `images/` or the folder itself, whichever holds the first picture.
- Roboflow's export: `<split>/_annotations.coco.json` with the pictures beside it.
- Any other annotation file, with the pictures beside it or placed as above.
"""

from __future__ import annotations

from pathlib import Path

from detrkit.data.coco import build_dataset, load_annotations
from detrkit.data.dataset import DetectionDataset
from detrkit.data.split_names import plain_split, spellings
from detrkit.errors import DataError

_PREFIX, _ROBOFLOW_FILE = "instances_", "_annotations.coco.json"
LOOKED_FOR = (f"annotations/{_PREFIX}<split>.json", f"<split>/{_ROBOFLOW_FILE}")


def find_splits(folder: Path) -> dict[str, Path]:
    """A folder's annotation files, keyed by the split as the file or its folder names it; empty if it has none."""
    files = {file.stem.removeprefix(_PREFIX): file for file in sorted(folder.glob(f"annotations/{_PREFIX}*.json"))}
    for file in sorted(folder.glob(f"*/{_ROBOFLOW_FILE}")):
        files.setdefault(file.parent.name, file)
    return files


def read_split(annotation_file: Path, name: str) -> DetectionDataset:
    """The data set of an annotation file, whose pictures are searched for.

    Args:
        annotation_file: one of `find_splits`, or any other.
        name: of the data set, for messages.

    Raises:
        DataError: see `read_coco`; or the pictures are nowhere.
    """
    contents = load_annotations(annotation_file)
    return build_dataset(contents, annotation_file, _image_folder(annotation_file, contents["images"]), name)


def split_of_file(annotation_file: Path) -> str | None:
    """The split that the name or folder of an annotation file says, or None."""
    if annotation_file.name == _ROBOFLOW_FILE:
        return annotation_file.resolve().parent.name
    if annotation_file.name.startswith(_PREFIX):
        return annotation_file.stem.removeprefix(_PREFIX)
    return None


def root_of_file(annotation_file: Path) -> Path:
    """The folder of the data set that an annotation file belongs to."""
    folder = annotation_file.resolve().parent
    inside = folder.name == "annotations" or annotation_file.name == _ROBOFLOW_FILE
    return folder.parent if inside else folder


def _image_folder(annotation_file: Path, images: list[dict[str, object]]) -> Path:
    """The first folder that contains the first picture, of all folders that may hold the pictures."""
    if not images:  # build_dataset reports the error
        return annotation_file.parent
    root, beside = root_of_file(annotation_file), annotation_file.parent
    split = split_of_file(annotation_file) or annotation_file.stem
    names = dict.fromkeys([split, *spellings(plain_split(split))])
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
