"""Where a folder of masks has its photos, its masks of classes and its masks of objects, and which belong together; see `mask_folders`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrkit.data.coco_layout import children
from detrkit.data.dataset import NoImagesError
from detrkit.data.findings import Note
from detrkit.data.pictures import is_picture
from detrkit.data.split_names import ASSUMED_SPLIT, split_named
from detrkit.data.text_files import read_lines
from detrkit.data.wording import agreeing, are, first_few, have, some_of, were
from detrkit.errors import DataError

LOOKED_FOR = ("masks/<split>/*.png", "<split>/masks/*.png", "SegmentationClass/*.png")
STUFF = "stuff.txt"
_MASKS, _OBJECTS = ("masks", "segmentationclass"), ("instances", "segmentationobject")
_PICTURES, _LISTS = ("images", "jpegimages"), "segmentation"


@dataclass(frozen=True)
class MaskSplit:
    """One split.

    Attributes:
        root: folder of the data set, for its lists of classes.
        pictures: folder of the photos.
        classes: folder of the PNG files whose values are classes.
        objects: folder of those whose values are objects; None without.
        list_file: the names of its pictures; None for all that have a mask.
    """

    root: Path
    pictures: Path
    classes: Path
    objects: Path | None
    list_file: Path | None = None


def find_splits(folder: Path) -> dict[str, MaskSplit]:
    """The splits of a folder, by name; empty if it has no masks beside pictures."""
    found: dict[str, MaskSplit] = {}
    for masks in children(folder, _MASKS):
        pictures, objects = _first(folder, _PICTURES), _first(folder, _OBJECTS)
        if pictures is None:
            continue
        lists = [each for sets in children(folder, ("imagesets",)) for each in children(sets, (_LISTS,))]
        for file in sorted(file for each in lists for file in each.glob("*.txt")):
            found.setdefault(file.stem, MaskSplit(folder, pictures, masks, objects, file))
        for inner in sorted(child for child in masks.iterdir() if child.is_dir() and _masks_in(child)):
            own = None if objects is None else objects / inner.name
            found.setdefault(inner.name, MaskSplit(folder, pictures / inner.name, inner, own))
        if not found and _masks_in(masks):
            found[split_named(folder.resolve().name) or ASSUMED_SPLIT] = MaskSplit(folder, pictures, masks, objects)
    if found:
        return found
    for inner in sorted(child for child in folder.iterdir() if child.is_dir() and split_named(child.name)):
        masks_inside, pictures = _first(inner, _MASKS), _first(inner, _PICTURES)
        if masks_inside is not None and pictures is not None:
            found[inner.name] = MaskSplit(folder, pictures, masks_inside, _first(inner, _OBJECTS))
    return found


def have_stuff(splits: Iterable[MaskSplit]) -> bool:
    """Whether the masks say more than objects: nothing tells these apart, or some classes are listed as stuff."""
    return any(split.objects is None or listed_stuff(split) for split in splits)


def listed_stuff(split: MaskSplit) -> set[str]:
    """The classes in the data set's list of stuff; none without such a list."""
    file = split.root / STUFF
    return {line.strip() for line in read_lines(file) if line.strip()} if file.is_file() else set()


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next(iter(children(folder, names)), None)


def matched_files(split: MaskSplit) -> tuple[list[str], list[str], list[str]]:
    """Names of the pictures, and of their masks in the same order, and notes.

    Raises:
        NoImagesError: there are none.
        DataError: a mask or a picture is missing.
    """
    if not split.pictures.is_dir():
        raise DataError(f"{split.pictures} does not exist: put the pictures of {split.classes} there.")
    pictures: dict[str, str] = {}
    for file in sorted(split.pictures.iterdir()):
        if file.is_file() and is_picture(file.name):
            pictures.setdefault(file.stem, file.name)
    masks = {file.stem: file.name for file in _masks_in(split.classes)}
    listed = (
        list(masks)
        if split.list_file is None
        else [line.strip() for line in read_lines(split.list_file) if line.strip()]
    )
    if not listed:
        raise NoImagesError(f"{split.list_file or split.classes} names no pictures: add some.")
    for known, folder, what in ((pictures, split.pictures, "picture"), (masks, split.classes, "mask")):
        missing = [stem for stem in listed if stem not in known]
        if missing:
            lossy = _lossy(split.classes, missing) if what == "mask" else ""
            raise DataError(
                f"{folder}: {some_of(len(missing), len(listed), what)} {agreeing(len(missing), 'is', 'are')} missing: {first_few(missing)}; "
                f"add {agreeing(len(missing), 'it', 'them')}, or remove {'the mask' if what == 'picture' else 'the name'}.{lossy}"
            )
    without = [pictures[stem] for stem in pictures if stem not in masks]
    notes: list[str] = []
    if without and split.list_file is None:
        text = (
            f"{some_of(len(without), len(pictures), 'picture')} {have(len(without))} no mask and {were(len(without))} left out "
            f"(the first: {without[0]}).{_lossy(split.classes, [Path(name).stem for name in without])}"
        )
        notes.append(Note(text, "no mask", count=len(without), files=without))
    return [pictures[stem] for stem in listed], [masks[stem] for stem in listed], notes


def _masks_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() == ".png")


def _lossy(folder: Path, stems: Sequence[str]) -> str:
    """A sentence about files that are no PNG files, where these masks are missing; empty if there are none."""
    wanted = set(stems)
    others = sorted(file.name for file in folder.iterdir() if file.stem in wanted and is_picture(file.name))
    if not others:
        return ""
    return (
        f" There {are(len(others))} {first_few(others)} in {folder}, and masks have to be PNG files (JPEG changes values): "
        f"export {agreeing(len(others), 'it', 'them')} again as PNG from the source of the masks."
    )


def not_png(folder: Path) -> str:
    """A sentence about masks of a folder that are pictures, but no PNG files; empty if there are none."""
    for masks in children(folder, _MASKS):
        files = sorted(file for file in masks.rglob("*") if is_picture(file.name))
        if files and not any(file.suffix.lower() == ".png" for file in files):
            return f" {files[0]} is no PNG file, and masks have to be (JPEG changes values): export them again as PNG from the source of the masks."
    return ""
