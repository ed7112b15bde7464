"""Every picture decoded once: whether it is whole, and a small grey version of it for comparing pictures."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detrkit.data.dataset import ImageFiles
from detrkit.data.images import read_small_grey
from detrkit.data.inspection.finding import Finding, Split, finding, places
from detrkit.data.wording import agreeing, are, have, some_of
from detrkit.errors import DataError

THUMBNAIL = 24  # cells on each side
_ENOUGH = (
    8 * THUMBNAIL
)  # pixels from which the cells are computed: with fewer they depend on how the file was compressed
_LONGEST = 4.0  # times the shorter side
_FILL, _LEAST_FILLED = (
    128,
    0.03,
)  # grey level that JPEG decoders put where data are missing, and share of a side from which it counts
_MOST = 0.5  # share of the pictures from which such bands are how they are meant to be
_FLAT = 1.0  # grey levels between the darkest and the brightest cell of one colour: JPEG rounds
_THREADS = 8


@dataclass(frozen=True, eq=False)
class Look:
    """What decoding all pictures of a split showed.

    Attributes:
        problems: by position, the message about a picture that cannot be decoded.
        thumbnails: (I, 24, 24) uint16, 256 times the mean grey level of each cell; 0 where there is a problem.
        blank: (I,) bool, True for pictures of one colour.
        cut_off: (I,) bool, True for pictures that end in the grey that decoders put where data are missing.
        digests: (I,) bytes that are equal for equal files.
        seconds: how long it took.
    """

    problems: dict[int, str]
    thumbnails: NDArray[np.uint16]
    blank: NDArray[np.bool_]
    cut_off: NDArray[np.bool_]
    digests: NDArray[np.object_]
    seconds: float

    def __len__(self) -> int:
        return len(self.blank)


def look_at_pictures(split: Split, progress: Callable[[Iterable[None]], Iterable[None]] = iter) -> Look:
    """Decodes every picture of a split, several at a time.

    Args:
        split: the pictures.
        progress: gets something for each of them, to show how far they are.
    """
    begin, count = time.perf_counter(), len(split.dataset)
    look = Look(
        {},
        np.zeros((count, THUMBNAIL, THUMBNAIL), np.uint16),
        np.zeros(count, np.bool_),
        np.zeros(count, np.bool_),
        np.empty(count, object),
        0.0,
    )

    def look_at(index: int) -> None:
        try:
            grey = small_grey(split, index, _ENOUGH)
        except DataError as problem:
            look.problems[index] = str(problem)
            return
        low, high = grey.getextrema()
        look.blank[index] = high - low <= _FLAT  # type: ignore[operator]  # grey has one pair
        look.cut_off[index] = not look.blank[index] and _ends_in_fill(np.asarray(grey))
        look.thumbnails[index] = cells(grey, THUMBNAIL) * 256
        look.digests[index] = _digest(split, index)

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in progress(pool.map(look_at, range(count))):
            pass
    return replace(look, seconds=time.perf_counter() - begin)


def damaged_pictures(split: Split, look: Look) -> list[Finding]:
    """Pictures that cannot be decoded."""
    damaged = sorted(look.problems)
    if not damaged:
        return []
    message = f"{some_of(len(damaged), len(look), 'picture')} cannot be decoded: {look.problems[damaged[0]]}"
    return [finding("damaged-pictures", split.name, message, count=len(damaged), files=split.files(damaged))]


def blank_pictures(split: Split, look: Look) -> list[Finding]:
    """Pictures of one colour."""
    blank = np.flatnonzero(look.blank)
    if not blank.size:
        return []
    files = split.files(blank)
    message = f"{some_of(len(blank), len(look), 'picture')} {have(len(blank))} one colour everywhere {places(files)}."
    return [finding("blank-pictures", split.name, message, count=len(blank), files=files)]


def cut_off_pictures(split: Split, look: Look) -> list[Finding]:
    """Pictures of which a part is missing although their files end properly; where most of them end in grey, they were made so."""
    cut = np.flatnonzero(look.cut_off)
    if not cut.size or 1 < len(cut) > _MOST * (len(look) - len(look.problems)):
        return []
    files = split.files(cut)
    message = (
        f"{some_of(len(cut), len(look), 'picture')} {agreeing(len(cut), 'ends', 'end')} in plain grey, where data are missing or padding was "
        f"added {places(files)}."
    )
    return [finding("cut-off-pictures", split.name, message, count=len(cut), files=files)]


def long_pictures(split: Split) -> list[Finding]:
    """Pictures that are far longer than wide."""
    sizes = split.dataset.sizes
    long = np.flatnonzero(sizes.max(axis=1) > _LONGEST * sizes.min(axis=1))
    if not long.size:
        return []
    files = split.files(long)
    message = f"{some_of(len(long), len(sizes), 'picture')} {are(len(long))} more than four times as long as wide {places(files)}."
    return [finding("long-pictures", split.name, message, count=len(long), files=files)]


def small_grey(split: Split, index: int, side: int | None) -> Image.Image:
    """A picture in grey, with at least this many pixels on each side if it has them; None leaves it whole.

    Raises:
        DataError: it cannot be decoded.
    """
    images = split.dataset.images
    if isinstance(images, ImageFiles):
        return read_small_grey(images[index], side, stretch_16bit=images.stretch_16bit)
    return images.open(index).convert("L")


def cells(grey: Image.Image, side: int) -> NDArray[np.float32]:
    """(side, side) mean grey levels of equal parts of a picture."""
    return np.asarray(grey.convert("F").resize((side, side), Image.Resampling.BOX))


def _ends_in_fill(grey: NDArray[np.uint8]) -> bool:
    """Whether one side of a picture, but not the opposite one, is a band of the decoders' grey: bars on both sides are meant to be there."""
    for lines in (grey, grey.T):
        filled = (lines == _FILL).all(axis=1)
        band = max(1, round(_LEAST_FILLED * len(filled)))
        if bool(filled[-band:].all()) != bool(filled[:band].all()):
            return True
    return False


def _digest(split: Split, index: int) -> bytes:
    """The same bytes for the same file, or for the same pixels in memory."""
    images = split.dataset.images
    content = images[index].read_bytes() if isinstance(images, ImageFiles) else images.open(index).tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()
