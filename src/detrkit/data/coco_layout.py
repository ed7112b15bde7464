"""Where COCO's annotation files and pictures lie.

- The official layout: `annotations/instances_<split>.json`, also with `2017` or `2014` after the split; the pictures in `<split>/`,
  `<split>2017/`, `images/<split>/`, `images/` or the folder itself, whichever holds most of the pictures.
- Roboflow's export: `<split>/_annotations.coco.json` with the pictures beside it.
- Any other annotation file, with the pictures beside it or placed as above.
"""

from __future__ import annotations

from pathlib import Path

from detrkit.data.coco import build_dataset, load_annotations
from detrkit.data.coco_frames import Orientation
from detrkit.data.dataset import DetectionDataset
from detrkit.data.picture_files import PictureFolders, choose_folder
from detrkit.data.split_names import plain_split, spellings

_USUAL_SPLITS = ("train", "val", "test")
_PREFIX, _ROBOFLOW_FILE = "instances_", "_annotations.coco.json"
LOOKED_FOR = (f"annotations/{_PREFIX}<split>.json", f"<split>/{_ROBOFLOW_FILE}")


def find_splits(folder: Path) -> dict[str, Path]:
    """A folder's annotation files, keyed by the split as the file or its folder names it; empty if it has none."""
    files = {file.stem.removeprefix(_PREFIX): file for file in sorted(folder.glob(f"annotations/{_PREFIX}*.json"))}
    for file in sorted(folder.glob(f"*/{_ROBOFLOW_FILE}")):
        files.setdefault(file.parent.name, file)
    return files


def read_split(
    annotation_file: Path, name: str, *, orientation: Orientation = "auto", stretch_16bit: bool = False
) -> DetectionDataset:
    """The data set of an annotation file, whose pictures are searched for.

    Args:
        annotation_file: one of `find_splits`, or any other.
        name: of the data set, for messages.
        orientation: as for `read_coco`.
        stretch_16bit: as for `read_coco`.

    Raises:
        DataError: see `read_coco`; or the pictures are nowhere.
    """
    contents = load_annotations(annotation_file)
    names = [str(record.get("file_name")) for record in contents["images"]]
    candidates = _picture_folders(annotation_file)
    folder = choose_folder(names, candidates) if names else annotation_file.parent
    folders = PictureFolders(folder, tuple(candidates), _other_splits(annotation_file))
    return build_dataset(
        contents, annotation_file, folder, name, folders=folders, orientation=orientation, stretch_16bit=stretch_16bit
    )


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


def _picture_folders(annotation_file: Path) -> list[Path]:
    """All folders that may hold the pictures of an annotation file, the likeliest first."""
    root, beside = root_of_file(annotation_file), annotation_file.parent
    if annotation_file.name == _ROBOFLOW_FILE:
        return [beside]
    split = split_of_file(annotation_file) or annotation_file.stem
    names = dict.fromkeys([split, *spellings(plain_split(split))])
    candidates = [root / name for name in names] + [root / "images" / name for name in names] + [root / "images", root]
    return candidates if beside == root else [*candidates, beside]


def _other_splits(annotation_file: Path) -> frozenset[str]:
    """Names of folders that hold the pictures of other splits than this file's: a namesake of a missing picture there is another picture."""
    split = split_of_file(annotation_file)
    if split is None:
        return frozenset()
    others = {*_USUAL_SPLITS, *map(plain_split, find_splits(root_of_file(annotation_file)))} - {plain_split(split)}
    return frozenset(name for other in others for name in spellings(other))
