"""`detrkit convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from detrkit.data import DetectionDataset


def convert(
    path: str,
    *,
    to: Literal["coco", "yolo", "voc"],
    output: Path,
    split: Annotated[list[str] | None, Parameter(negative=())] = None,
) -> None:
    """Write a data set in another format: checked, with its pictures copied byte by byte.

    Boxes, classes and sizes stay what they are; outlines are not kept. YOLO has no crowd regions, so they are left out. Boxes that were
    annotated on the stored pixels of a turned picture are turned with it. What was changed is printed.

    Args:
        path: folder or annotation file of a data set, or "digits".
        to: the format to write.
        output: a new or empty folder.
        split: the split to write, more than once for several; by default all.
    """
    from detrkit.files import new_folder
    from detrkit.terminal import terminal

    console = terminal()
    output = output.expanduser()
    with new_folder(output) as folder:
        for name, dataset in _open_splits(path, split).items():
            notes = _write(to, dataset, folder, name)
            console.print(f"{name}: {dataset.description()}")
            for note in (*dataset.notes, *notes):
                console.print(f"Note: {note}")
    console.print(f"Written to {output}\nNext: detrkit train VARIANT --data {output}")


def _open_splits(path: str, asked: list[str] | None) -> dict[str, DetectionDataset]:
    """All splits, opened and checked before the first is written."""
    from detrkit.data import available_splits, open_dataset, plain_split
    from detrkit.errors import ConfigurationError, DataError

    available = available_splits(path)
    splits = list(dict.fromkeys(asked or available))
    if not available and len(splits) != 1:
        raise ConfigurationError(f"{path} does not say which split it is: give one, such as --split train")
    try:
        return {plain_split(split): open_dataset(path, split) for split in splits}
    except DataError as problem:
        if asked or len(splits) == 1:
            raise
        raise DataError(f"{problem} (To write only some of {', '.join(splits)}, give --split.)") from problem


def _write(form: str, dataset: DetectionDataset, folder: Path, split: str) -> list[str]:
    from detrkit.data.writing import as_shown, write_coco, write_yolo

    if form == "coco":
        return write_coco(dataset, folder, split)
    if form == "yolo":
        return write_yolo(dataset, folder, split)
    from detrkit.data.writing_voc import write_voc

    dataset, notes = as_shown(dataset)
    return [*notes, *write_voc(dataset, folder, split)]
