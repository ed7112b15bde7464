"""Compares the sizes that XML files give with those of the pictures: tools are often a pixel off, and some exchange width and height."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from detrkit.data.coco import Record
from detrkit.data.findings import Note
from detrkit.data.images import ImageFacts, inspect_image
from detrkit.data.wording import have, some_of
from detrkit.errors import DataError

_THREADS = 8
_NAMES_SHOWN = 3
_TOLERANCE = 1  # pixels by which tools miss a width or height

Size = tuple[int, int]  # height and width


@dataclass(frozen=True)
class _Difference:
    """A size in an XML file that the picture does not have, neither as stored nor as shown."""

    position: int
    file: Path
    given: Size
    facts: ImageFacts

    @property
    def fitting(self) -> list[Size]:
        """The sizes of the picture, as shown and as stored, that are a pixel off at most."""
        return [size for size in (self.facts.shown_size, self.facts.stored_size) if _almost_equal(self.given, size)]

    @property
    def is_exchanged(self) -> bool:
        return _almost_equal(self.given[::-1], self.facts.shown_size)

    def __str__(self) -> str:
        exchanged = ", width and height exchanged" if self.is_exchanged else ""
        return f"{self.file.name} has {_shown(self.given)} (the picture {_shown(self.facts.shown_size)}{exchanged})"


def settle_sizes(
    records: Sequence[Record], files: Sequence[Path | None], folder: Path
) -> tuple[list[Record], list[str]]:
    """The image records, with the pictures' own sizes where an XML file is a pixel off, and a note about these.

    Sizes that EXIF orientation explains stay as they are, and pictures that cannot be opened are passed over: the reader of COCO files,
    which gets the records next, decides about both.

    Args:
        records: of images, in COCO's format; height and width are None where they are not known.
        files: the XML file of each image, or None.
        folder: contains the pictures.

    Raises:
        DataError: sizes differ by more than a pixel; all of them are counted and the first ones named.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        headers = list(pool.map(lambda record: size_in_header(folder / record["file_name"]), records))
    differences = []
    for position, (record, file, header) in enumerate(zip(records, files, headers, strict=True)):
        given = (record["height"], record["width"])
        if file is not None and None not in given and header not in (None, given):
            facts = _facts(folder / record["file_name"])
            if facts is not None and given not in (facts.shown_size, facts.stored_size):
                differences.append(_Difference(position, file, given, facts))
    wrong = [each for each in differences if not each.fitting]
    if wrong:
        raise _wrong_sizes(wrong, len(records))
    settled = list(records)
    for each in differences:
        # Where both sizes of the picture are as near, the one that is meant is not known.
        height, width = each.fitting[0] if len(set(each.fitting)) == 1 else (None, None)
        settled[each.position] = {**records[each.position], "height": height, "width": width}
    return settled, _notes(differences, len(records))


def _wrong_sizes(wrong: Sequence[_Difference], count: int) -> DataError:
    names = "; ".join(map(str, wrong[:_NAMES_SHOWN])) + ("; …" if len(wrong) > _NAMES_SHOWN else "")
    exchanged = sum(each.is_exchanged for each in wrong)
    if exchanged == len(wrong):
        remedy = (
            "exchange <width> and <height> in the XML files if the boxes fit the pictures, otherwise turn the pictures."
        )
    else:
        counted = f" (in {exchanged} of them width and height are exchanged)" if exchanged else ""
        remedy = f"use the pictures that were annotated, or export the annotations again{counted}."
    return DataError(
        f"{wrong[0].file.parent}: {some_of(len(wrong), count, 'image')} {have(len(wrong))} another size in the XML file than the picture has: {names}; {remedy}"
    )


def _notes(differences: Sequence[_Difference], count: int) -> list[str]:
    if not differences:
        return []
    first = differences[0]
    number = len(differences)
    note = (
        f"{some_of(number, count, 'image')} {have(number)} a size in the XML file that is a pixel off, so the picture's own is used (the first: "
        f"{first.file.name} has {_shown(first.given)}, the picture {_shown(first.fitting[0])})."
    )
    return [Note(note, "a pixel off", count=number, files=[each.file.name for each in differences])]


def size_in_header(path: Path) -> Size | None:
    """Height and width as stored, or None if the picture cannot be opened: the check of all pictures says why."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # Pillow's decoders raise many kinds on damaged files
        return None


def _facts(path: Path) -> ImageFacts | None:
    try:
        return inspect_image(path)
    except DataError:
        return None


def _almost_equal(given: Size, size: Size) -> bool:
    return all(abs(one - other) <= _TOLERANCE for one, other in zip(given, size, strict=True))


def _shown(size: Size) -> str:
    return f"{size[1]} × {size[0]}"
