"""`detrkit convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from detrkit.commands.values import PathText

if TYPE_CHECKING:
    from detrkit.data import DetectionDataset
    from detrkit.data.coco_frames import Orientation

_WEIGHTS = (".pth", ".pt", ".safetensors")


def convert(
    path: PathText,
    *,
    to: Literal["coco", "yolo", "voc"],
    output: Path,
    split: Annotated[list[str] | None, Parameter(negative=())] = None,
    orientation: Literal["auto", "stored", "shown"] = "auto",
) -> None:
    """Write a data set in another format: checked, with its pictures copied as they are, byte by byte.

    Boxes, classes and sizes stay what they are; outlines are not kept. YOLO has no crowd regions, so they are left out. Boxes that were
    annotated on the stored pixels of a turned picture are turned with it. Nothing in the pictures changes: 16-bit grey is stretched only where
    they are read (--stretch-16bit of train, evaluate and predict). What was changed is printed.

    Args:
        path: folder or annotation file of a data set, or "digits".
        to: the format to write.
        output: a new or empty folder.
        split: the split to write, more than once for several; by default all that have pictures, but `trainval` only where it is more than
            `train` and `val`.
        orientation: whether pictures with an EXIF orientation were annotated as "stored" or as "shown"; "auto" finds out. For COCO and
            Pascal VOC.
    """
    from detrkit.data.places import find_data
    from detrkit.errors import ConfigurationError
    from detrkit.files import expanded, new_folder
    from detrkit.terminal import terminal

    if Path(path).suffix in _WEIGHTS:
        raise ConfigurationError(f"{path} is a file of weights, and a data set is needed: use detrkit convert-weights")
    find_data(path)  # before anything is created
    console = terminal()
    output = expanded(output)
    with new_folder(output) as folder:
        opened, left_out = _open_splits(path, split, orientation)
        lines = [f"Note: {note}" for note in left_out]
        for name, dataset in opened.items():
            notes = _write(to, dataset, folder, name)
            lines.append(f"{name}: {dataset.description()}")
            lines += [f"Note: {note}" for note in (*dataset.notes, *notes)]
    for line in dict.fromkeys(lines):  # a reader that goes away must not take the folder with it
        console.print(line)
    console.print(f"Written to {output}\nNext: {_next_command(output, list(opened))}", soft_wrap=True)


def _next_command(output: Path, splits: list[str]) -> str:
    """What fits the splits that were written: evaluation if they are only for that, otherwise training."""
    from detrkit.data.split_names import in_usual_order, plain_split

    ordered = in_usual_order(splits)
    if all(plain_split(split) in ("val", "test") for split in splits):
        option = "" if plain_split(ordered[0]) == "val" and len(splits) == 1 else f" --split {ordered[0]}"
        return f"detrkit evaluate CHECKPOINT --data {output}{option}"
    # Whatever has another name is for training, and the next such one for validation: `default`, `minival`.
    training = next(split for split in ordered if plain_split(split) not in ("val", "test"))
    named = [split for split in ordered if plain_split(split) == "val"]
    validation = next(
        (split for split in [*named, *ordered] if split != training and plain_split(split) != "test"), "val"
    )
    given = (("train", training), ("val", validation))
    return f"detrkit train VARIANT --data {output}" + "".join(
        f" --{key}-split {split}" for key, split in given if plain_split(split) != key
    )


def _open_splits(
    path: PathText, asked: list[str] | None, orientation: Orientation
) -> tuple[dict[str, DetectionDataset], list[str]]:
    """All splits by the names they are written with, opened and checked before the first is written, and sentences about those without pictures."""
    from detrkit.data import NoImagesError, open_dataset
    from detrkit.data.split_names import plain_where_unique
    from detrkit.errors import DataError

    splits = _splits_to_write(path, asked)
    names = plain_where_unique(splits)
    opened, empty = {}, []
    try:
        for split in splits:
            try:
                opened[names[split]] = open_dataset(path, split, orientation=orientation)
            except NoImagesError as problem:
                if asked or len(splits) == 1:
                    raise
                empty.append(problem)
    except DataError as problem:
        if asked or len(splits) == 1:
            raise
        raise DataError(f"{problem} To write only some of {', '.join(splits)}, give --split.") from problem
    if not opened:
        raise empty[0]
    together = [] if asked else _drop_together(opened)
    return opened, [*(f"{note} This split was left out." for note in (*empty, *_left_out(path, asked))), *together]


def _splits_to_write(path: PathText, asked: list[str] | None) -> list[str]:
    """The splits, each once, although it may be asked for by several names."""
    from detrkit.data import available_splits
    from detrkit.data.opening import name_in_data
    from detrkit.errors import ConfigurationError

    available = available_splits(path)
    splits = {name_in_data(path, split): split for split in reversed(asked or available)}
    if not available and len(set(asked or ())) != 1:
        raise ConfigurationError(f"{path} does not say which split it is: give one, such as --split train")
    return list(reversed(splits.values()))


def _left_out(path: PathText, asked: list[str] | None) -> list[str]:
    from detrkit.data.opening import splits_without_pictures

    return [] if asked else list(splits_without_pictures(path).values())


def _drop_together(opened: dict[str, DetectionDataset]) -> list[str]:
    """Takes `trainval` out where it would copy the pictures of `train` and `val` a second time, and says so."""
    from detrkit.data.split_names import TOGETHER

    if not {"train", "val", TOGETHER} <= set(opened):
        return []
    names = {name: {data.image_name(index) for index in range(len(data))} for name, data in opened.items()}
    if not names[TOGETHER] <= names["train"] | names["val"]:
        return []
    del opened[TOGETHER]
    return [
        f"The split '{TOGETHER}' was not written, since its pictures are in 'train' and 'val': --split {TOGETHER} writes it."
    ]


def _write(form: str, dataset: DetectionDataset, folder: Path, split: str) -> list[str]:
    from detrkit.data.writing import as_shown, write_coco, write_yolo

    if form == "coco":
        return write_coco(dataset, folder, split)
    if form == "yolo":
        return write_yolo(dataset, folder, split)
    from detrkit.data.writing_voc import write_voc

    dataset, notes = as_shown(dataset)
    return [*notes, *write_voc(dataset, folder, split)]
