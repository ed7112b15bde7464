"""Opens data sets: folders, annotation files and the built-in set.

A folder is in the first of these formats whose files it has: COCO (also as Roboflow exports it), YOLO, Pascal VOC, Hugging Face's image
folder. Each format's module says which files these are. `val`, `valid` and `validation` mean the same everywhere. An annotation file in
COCO's format and the YAML file (or Darknet's `obj.data`) of a YOLO data set are opened by themselves, and `digits` is the built-in set.

Masks are read only if they are asked for: from COCO's outlines, COCO's panoptic format or folders of masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from detrkit.data import coco_layout, coco_panoptic, image_folder, mask_folders, mask_layout, voc, yolo, yolo_layout
from detrkit.data.coco_frames import Orientation
from detrkit.data.dataset import DetectionDataset, NoImagesError
from detrkit.data.digits import DIGIT_SPLITS, read_digits
from detrkit.data.places import BUILT_IN, existing
from detrkit.data.split_names import in_usual_order, plain_split, plain_where_unique, spellings
from detrkit.data.yolo_description import what_is_missing
from detrkit.errors import DataError, closest

Masks = Literal["instances", "panoptic"]
_ENTRIES_SHOWN = 8


@dataclass(frozen=True)
class Format:
    """How one format lies in a folder.

    Attributes:
        looked_for: the files by which it is recognised, for messages.
        find_splits: from a folder to what describes each split (a file, or what else the format's module needs), keyed by the split as the
            folder names it; empty where the folder is not in this format.
        read_split: from such a description and a name for messages to the data set.
        explain_missing: from the splits to why another one is missing, as the end of a message; empty where there is nothing to explain.
        without_pictures: from the splits to others that the data set names, but that have no pictures, each with a sentence about it.
        options: which of `orientation` and `stretch_16bit` its `read_split` takes.
    """

    looked_for: tuple[str, ...]
    find_splits: Callable[[Path], dict[str, Any]]
    read_split: Callable[..., DetectionDataset]
    explain_missing: Callable[[dict[str, Any]], str] = lambda splits: ""  # noqa: ARG005 - others use them
    without_pictures: Callable[[dict[str, Any]], dict[str, str]] = lambda splits: {}  # noqa: ARG005 - others use them
    options: tuple[str, ...] = ("orientation", "stretch_16bit")


_YOLO = Format(
    yolo_layout.LOOKED_FOR,
    yolo_layout.find_splits,
    yolo.read_split,
    without_pictures=yolo_layout.splits_without_pictures,
    options=("stretch_16bit",),
)
FORMATS = (
    Format(coco_layout.LOOKED_FOR, coco_layout.find_splits, coco_layout.read_split),
    _YOLO,
    Format(voc.LOOKED_FOR, voc.find_splits, voc.read_split, voc.explain_missing_split),
    Format(image_folder.LOOKED_FOR, image_folder.find_splits, image_folder.read_split, options=("stretch_16bit",)),
    # A COCO file that does not say its split may lie beside the files of any other format.
    Format((), coco_layout.find_unnamed, coco_layout.read_unnamed, coco_layout.explain_missing_split),
)


_PANOPTIC = Format(coco_panoptic.LOOKED_FOR, coco_panoptic.find_splits, coco_panoptic.read_split)
_OUTLINES = Format(coco_layout.LOOKED_FOR, coco_layout.find_splits, partial(coco_layout.read_split, masks=True))
# The formats that have masks, by kind.
MASK_FORMATS: dict[Masks, tuple[Format, ...]] = {
    "instances": (
        _OUTLINES,
        Format(mask_layout.LOOKED_FOR, mask_layout.find_splits, partial(mask_folders.read_split, whole=False)),
        Format(
            (),
            coco_layout.find_unnamed,
            partial(coco_layout.read_unnamed, masks=True),
            coco_layout.explain_missing_split,
        ),
    ),
    "panoptic": (
        _PANOPTIC,
        Format(mask_layout.LOOKED_FOR, mask_layout.find_splits, partial(mask_folders.read_split, whole=True)),
    ),
}


def open_dataset(
    data: str | Path,
    split: str,
    *,
    orientation: Orientation = "auto",
    stretch_16bit: bool = False,
    masks: Masks | None = None,
) -> DetectionDataset:
    """Opens one split of a data set.

    Args:
        data: a folder in a known format, a COCO `.json` file, the `.yaml` or `.data` file of a YOLO data set, or `digits` for the
            built-in set.
        split: `train`, `val`, `test` or whatever the data set calls it. If the name or folder of an annotation file says which split it
            is, only that split can be opened. Any other annotation file is used for every split.
        orientation: whether pictures with an EXIF orientation were annotated as "stored" or as "shown"; "auto" finds out. For COCO and VOC.
        stretch_16bit: whether 16-bit grey pictures are stretched to the whole range, see `read_image`.
        masks: "instances" for objects with their outlines, "panoptic" for all segments, stuff included; None reads boxes only.

    Raises:
        NoImagesError: the split lists no images, or the data set names it, but there are no pictures.
        DataError: there is no readable data set at this path, the split does not exist, or the data set has an error.
    """
    given: dict[str, Any] = {"orientation": orientation} if orientation != "auto" else {}
    given |= {"stretch_16bit": True} if stretch_16bit else {}
    _check_masks(data, masks)
    if str(data) == BUILT_IN:
        return read_digits(split)
    path = existing(data)
    if _is_annotation_file(path):
        return _open_file(path, split, masks, given)
    form, files = _format_of(path, masks)
    spelling = _spelling(split, files)
    if spelling is None:
        raise _missing_split(path, split, form, files, masks)
    for name in given:
        if name not in form.options:
            raise DataError(f"{path} is in a format that leaves no choice of {name}: leave it out.")
    folder = path if path.is_dir() else path.parent
    return form.read_split(files[spelling], f"{folder.resolve().name} {split}", **given)


def kind_of_masks(data: str | Path) -> Masks:
    """What kind of masks to read where nobody says it: "panoptic" where a data set has stuff, too, otherwise "instances".

    COCO's panoptic files have stuff, and so do folders of masks that list some or do not tell objects apart. COCO's outlines come before
    folders of masks.

    Args:
        data: as for `open_dataset`.

    Raises:
        DataError: there is no data set at this path.
    """
    if str(data) == BUILT_IN:
        return "instances"
    path = existing(data)
    if path.is_file():
        return "panoptic" if path.name.startswith(coco_panoptic.PREFIX) else "instances"
    if coco_panoptic.find_splits(path):
        return "panoptic"
    only_folders = not coco_layout.find_splits(path)
    return (
        "panoptic" if only_folders and mask_layout.have_stuff(mask_layout.find_splits(path).values()) else "instances"
    )


def has_only_masks(data: str | Path) -> bool:
    """Whether this is a folder of masks and in no format that has boxes, so that it cannot be read without masks.

    Args:
        data: as for `open_dataset`.

    Raises:
        DataError: there is no data set at this path.
    """
    if str(data) == BUILT_IN or (path := existing(data)).is_file():
        return False
    return bool(mask_layout.find_splits(path)) and not any(form.find_splits(path) for form in FORMATS)


def _spelling(split: str, known: Iterable[str]) -> str | None:
    """The name by which a data set knows a split, or None."""
    return next((spelling for spelling in spellings(split) if spelling in known), None)


def _check_masks(data: str | Path, masks: Masks | None) -> None:
    if masks is not None and masks not in get_args(Masks):
        raise DataError(f"There are no masks of the kind {masks!r}: choose 'instances' or 'panoptic'.")
    if masks is not None and str(data) == BUILT_IN:
        raise DataError(
            f"The built-in set '{BUILT_IN}' has no masks: give a data set that has some, or leave masks out."
        )


def _missing_split(path: Path, split: str, form: Format, files: dict[str, Any], masks: Masks | None) -> DataError:
    """Says why a split does not exist, and which ones do."""
    empty = form.without_pictures(files)
    named = _spelling(split, empty)
    if named is not None:
        return NoImagesError(empty[named])
    reason, available = form.explain_missing(files), available_splits(path, masks)
    if reason or len(available) > 1:
        return DataError(f"{path} has no split '{split}': {reason or closest(split, available)}")
    return DataError(f"{path} has no split '{split}', only '{available[0]}': {_how_to_ask(available[0])}.")


def _how_to_ask(split: str) -> str:
    return f"ask for that one (in training --train-split {split} or --val-split {split}, elsewhere --split {split})"


def available_splits(data: str | Path, masks: Masks | None = None) -> list[str]:
    """The splits that `open_dataset` can open, `train`, `val` and `test` first; empty for an annotation file that does not say which split it is.

    They have their plain names; those that share one keep their own, such as `val2014` and `val2017`.

    Args:
        data: as for `open_dataset`.
        masks: likewise.

    Raises:
        DataError: there is no readable data set at this path.
    """
    if str(data) == BUILT_IN:
        return list(DIGIT_SPLITS)
    path = existing(data)
    if _is_annotation_file(path):
        file_split = coco_layout.split_of_file(path)
        return [] if file_split is None else [plain_split(file_split)]
    return in_usual_order(plain_where_unique(_format_of(path, masks)[1]).values())


def splits_without_pictures(data: str | Path, masks: Masks | None = None) -> dict[str, str]:
    """Splits that a data set names, although they have no pictures, each with a sentence about it; `available_splits` leaves them out.

    Args:
        data: as for `open_dataset`.
        masks: likewise.

    Raises:
        DataError: there is no readable data set at this path.
    """
    if str(data) == BUILT_IN or _is_annotation_file(path := existing(data)):
        return {}
    form, files = _format_of(path, masks)
    return form.without_pictures(files)


def name_in_data(data: str | Path, split: str, masks: Masks | None = None) -> str:
    """The name that a data set itself has for a split; the given one where it has none.

    Args:
        data: as for `open_dataset`.
        split: likewise.
        masks: likewise.

    Raises:
        DataError: there is no readable data set at this path.
    """
    if str(data) == BUILT_IN:
        return plain_split(split)
    path = existing(data)
    if _is_annotation_file(path):
        return coco_layout.split_of_file(path) or plain_split(split)
    return _spelling(split, _format_of(path, masks)[1]) or split


def _is_annotation_file(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".json"


def _open_file(path: Path, split: str, masks: Masks | None, given: dict[str, Any]) -> DetectionDataset:
    read = coco_layout.read_split if masks is None else (_PANOPTIC if masks == "panoptic" else _OUTLINES).read_split
    file_split = coco_layout.split_of_file(path)
    if file_split is None:
        return read(path, path.stem, **given)
    if file_split not in spellings(split):
        raise DataError(
            f"{path} is the split '{file_split}', not '{split}': {_how_to_ask(file_split)}, or give the folder above it."
        )
    return read(path, f"{coco_layout.root_of_file(path).name} {file_split}", **given)


def _format_of(path: Path, masks: Masks | None) -> tuple[Format, dict[str, Any]]:
    """The format of a folder or a YAML file, and what describes its splits."""
    if path.is_file():
        if masks is not None:
            raise DataError(f"{path} is read without masks: give COCO's annotation file or folder, or leave masks out.")
        return _YOLO, yolo_layout.find_splits_in_file(path)
    for form in FORMATS if masks is None else MASK_FORMATS[masks]:
        files = form.find_splits(path)
        if files:
            return form, files
    raise _nothing_readable(path) if masks is None else _no_masks(path, masks)


def _no_masks(folder: Path, masks: Masks) -> DataError:
    """Says what was looked for and what is there."""
    *others, last = [name for form in MASK_FORMATS[masks] for name in form.looked_for]
    what = "outlines of objects" if masks == "instances" else "panoptic segments"
    found = _entries(folder)
    return DataError(
        f"{folder} has no {what}: looked for {', '.join(others)} and {last}, found {found}; without masks, boxes are read.{mask_layout.not_png(folder)}"
    )


def _entries(folder: Path) -> str:
    """The first few names in a folder."""
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    return (", ".join(entries[:_ENTRIES_SHOWN]) + (", …" if len(entries) > _ENTRIES_SHOWN else "")) or "nothing at all"


def _nothing_readable(folder: Path) -> DataError:
    """Says what was looked for and what is there."""
    missing = what_is_missing(folder)
    if missing:
        return DataError(f"{folder} contains no readable data set: {missing}.")
    looked_for = [name for form in FORMATS for name in form.looked_for]
    return DataError(
        f"{folder} contains no readable data set: looked for {', '.join(looked_for[:-1])} and {looked_for[-1]}, "
        f"found {_entries(folder)}.{_masks_instead(folder)}"
    )


def _masks_instead(folder: Path) -> str:
    """A sentence about a folder's masks, which are read only if they are asked for; empty if it has none."""
    if not mask_layout.find_splits(folder):
        return ""
    kind = kind_of_masks(folder)
    return f" It has masks of classes: read these (--masks {kind}, in Python masks='{kind}')."
