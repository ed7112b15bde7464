"""Whether corners of Pascal VOC boxes are in the wrong order, or are no corners at all but left, top, width and height.

Both put xmin above xmax. As left, top, width and height, every box must end inside its picture. Swapped corners do so by chance only, where a
box lies in the left upper quarter, so a few boxes decide. A box in which nothing is swapped and that fits both ways says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrkit.data.findings import Note
from detrkit.data.voc_xml import VocObject
from detrkit.data.wording import have, some_of
from detrkit.errors import DataError

_ENOUGH = 4  # boxes from which on it is no chance that all fit
_STRAYS = 20  # one box in so many may reach beyond its picture all the same
_TOLERANCE = 0.01  # by which a box may reach beyond its picture, as a share of the side

Size = tuple[int, int]  # height and width


@dataclass(frozen=True)
class PlacedObject:
    """An object with an area, the size of its picture (None if it is not known), and where it is, for messages."""

    object: VocObject
    size: Size | None
    where: str

    @property
    def fits_as_size(self) -> bool:
        """Whether it lies inside its picture if its numbers are left, top, width and height."""
        left, top, width, height = self.object.corners
        if self.size is None:
            return True
        ends = ((left + width - 1, self.size[1]), (top + height - 1, self.size[0]))
        return min(left, top, width, height) >= 0 and all(float(end) <= side * (1 + _TOLERANCE) for end, side in ends)


def check_corners(placed: Sequence[PlacedObject], total: int, source: Path) -> list[str]:
    """A note if corners are swapped, which the reader swaps back.

    Args:
        placed: the objects of a split that have an area.
        total: the number of all objects.
        source: of the split, for messages.

    Raises:
        DataError: the numbers are left, top, width and height.
    """
    swapped = [each for each in placed if each.object.is_swapped]
    if not swapped:
        return []
    given = [each for each in placed if not each.object.from_polygon]
    may_be_sizes = _nearly_all(each.fits_as_size for each in given)
    told = [each for each in swapped if each.size is not None and each.fits_as_size]
    if may_be_sizes and len(told) >= _ENOUGH:
        raise DataError(
            f"{source}: {some_of(len(swapped), total, 'box', 'boxes')} {have(len(swapped))} xmin above xmax or ymin above ymax, while as left, top, width and height the boxes "
            f"lie inside their pictures, so that is what the numbers seem to be (the first: {told[0].where}); write corners: xmax is xmin + "
            "width - 1, ymax is ymin + height - 1."
        )
    guess = (
        "; that is a guess, for the boxes would also lie inside their pictures if their numbers were left, top, width and height"
        if may_be_sizes
        else ""
    )
    note = (
        f"{some_of(len(swapped), total, 'box', 'boxes')} {have(len(swapped))} swapped corners (xmin above xmax, or ymin above ymax), which were "
        f"swapped back (the first: {swapped[0].where}){guess}."
    )
    return [
        Note(note, "swapped corners", count=len(swapped), files=[each.where.rpartition(" of ")[2] for each in swapped])
    ]


def _nearly_all(answers: Iterable[bool]) -> bool:
    listed = list(answers)
    return listed.count(False) * _STRAYS <= len(listed)
