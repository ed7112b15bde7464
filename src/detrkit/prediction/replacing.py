"""What already lies where results will be written: those of an earlier run are replaced, anything else is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from detrkit.cards import Category
from detrkit.errors import OutputError
from detrkit.files import refuse_folder
from detrkit.prediction.result_files import (
    CLASSES,
    CROPS,
    CSV_COLUMNS,
    CSV_FILE,
    IMAGES_BEGIN,
    IMAGES_FILE,
    JSON_FILE,
    LABELS,
    PANOPTIC_BEGIN,
    PANOPTIC_FILE,
    ResultFormat,
    class_names,
)
from detrkit.prediction.results import is_drawing, output_names

_REMEDY = "choose another --output"
_JSON_BEGIN = re.compile(rb'\s*(\[\s*(\]|\{\s*"image_id"))?')
_BEGIN = 200  # bytes that show whose file it is
# A class, four fractions and a score; annotations have no sixth number, or one that is no score.
_SCORED = re.compile(r"\d+( +[0-9.]+){4} +(0\.\d+|1\.0+)\s*")


def check_replaceable(
    output: Path, formats: Sequence[ResultFormat], images: Sequence[Path], categories: Sequence[Category]
) -> None:
    """Refuses to write results in the place of files that detrkit did not write, before anything is computed.

    Args:
        output: the folder for the results.
        formats: those that will be written.
        images: all images that will be looked at.
        categories: the model's classes.

    Raises:
        OutputError: the message names the first such file, or a folder where a file will be written.
    """
    checks: dict[ResultFormat, Callable[[], None]] = {
        "json": lambda: _check_json(output),
        "csv": lambda: _check_file(output / CSV_FILE, _is_csv),
        "panoptic": lambda: _check_panoptic(output / PANOPTIC_FILE),
        "yolo": lambda: _check_labels(output, categories),
        "images": lambda: _check_drawings(output, images),
        "crops": lambda: _check_crops(output / CROPS),
    }
    for each in dict.fromkeys(formats):
        checks[each]()


def _check_file(path: Path, is_ours: Callable[[bytes], bool]) -> None:
    refuse_folder(path)
    if path.is_file():
        with path.open("rb") as file:
            begin = file.read(_BEGIN)
        if not is_ours(begin):
            raise OutputError(f"{path} was not written by detrkit and would be overwritten: {_REMEDY}")


def _check_json(output: Path) -> None:
    _check_file(output / JSON_FILE, _is_json)
    _check_file(output / IMAGES_FILE, lambda begin: begin.startswith(IMAGES_BEGIN.encode()))


def _check_panoptic(file: Path) -> None:
    """The JSON file says whose the PNG files beside it are."""
    _check_file(file, lambda begin: begin.startswith(PANOPTIC_BEGIN.encode()))
    folder = file.with_suffix("")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, and a folder is to be written: {_REMEDY}")
    first = next(_files_in(folder), None)
    if first is not None and not file.exists():
        raise OutputError(
            f"{folder} contains what detrkit did not write, such as {first}, which would be mixed with results: {_REMEDY}"
        )


def _is_json(begin: bytes) -> bool:
    found = _JSON_BEGIN.match(begin)
    return found is not None and (found[1] is not None or found.end() == len(begin))


def _is_csv(begin: bytes) -> bool:
    return not begin or begin.startswith(",".join(CSV_COLUMNS).encode())


def _check_labels(output: Path, categories: Sequence[Category]) -> None:
    """Labels with scores are predictions. Where all are empty, the list of classes says whose they are."""
    folder, classes = output / LABELS, output / CLASSES
    refuse_folder(classes)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, and a folder is to be written: {_REMEDY}")
    scored = 0
    for file in _files_in(folder):
        lines = _lines(file)
        if file.suffix != ".txt" or lines is None or not all(map(_SCORED.fullmatch, lines)):
            raise OutputError(
                f"{folder} contains what detrkit did not write, such as {file}, which would be overwritten or mixed with results: {_REMEDY}"
            )
        scored += bool(lines)
    if scored:
        return
    if classes.exists() and _lines(classes) != class_names(categories):
        raise OutputError(f"{classes} was not written by detrkit and would be overwritten: {_REMEDY}")
    if not classes.exists() and any(_files_in(folder)):
        raise OutputError(
            f"{folder} contains empty labels and no {CLASSES} of this model lies beside it, so they may be annotations: {_REMEDY}"
        )


def _check_drawings(output: Path, images: Sequence[Path]) -> None:
    for image, name in zip(images, output_names(images), strict=True):
        path = output / name
        if path.exists() and not is_drawing(refuse_folder(path)):
            raise OutputError(
                f"{path} was not drawn by detrkit and would be overwritten by the drawing of {image}: {_REMEDY}"
            )


def _check_crops(folder: Path) -> None:
    for file in _files_in(folder):
        if not is_drawing(file):
            raise OutputError(
                f"{folder} contains what detrkit did not write, such as {file}, which would be mixed with results: {_REMEDY}"
            )


def _files_in(folder: Path) -> Iterator[Path]:
    """Everything in a folder and in those inside it, sorted, but for hidden files, which systems leave there."""
    found: Iterable[Path] = sorted(folder.rglob("*")) if folder.is_dir() else ()
    return (path for path in found if not path.is_dir() and not path.name.startswith("."))


def _lines(file: Path) -> list[str] | None:
    """The lines of a text file without blank ones; None where it is no text."""
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (UnicodeDecodeError, OSError):
        return None
