"""Notes on 16-bit pictures that use a small part of their range: few of the 256 grey levels are left of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detrkit.data.dataset import ImageFiles
from detrkit.data.findings import Note
from detrkit.data.images import ImageFacts, grey_range
from detrkit.data.wording import agreeing, some_of, were

_SAMPLE = 20
_FEW_LEVELS = 64  # of 256: what 14 bits in a 16-bit file leave


def narrow_range_notes(images: ImageFiles, facts: Sequence[ImageFacts]) -> list[str]:
    """A sentence if 16-bit pictures use a quarter of their range or less; at most 20 are decoded, evenly spaced.

    Args:
        images: the files; if they are stretched there is nothing to note.
        facts: of each of them.

    Raises:
        DataError: one of these pictures cannot be decoded.
    """
    deep = [place for place, fact in enumerate(facts) if fact.has_16_bits]
    if images.stretch_16bit or not deep:
        return []
    chosen = np.linspace(0, len(deep) - 1, min(len(deep), _SAMPLE)).round().astype(int).tolist()
    ranges = {deep[place]: grey_range(images[deep[place]]) for place in chosen}
    # A picture of a single value is empty, whatever the camera's range.
    narrow = {place: ends for place, ends in ranges.items() if 0 < ends[1] - ends[0] <= _FEW_LEVELS * 256}
    if not narrow:
        return []
    first, (lowest, highest) = next(iter(narrow.items()))
    levels = round(highest / 257) - round(lowest / 257) + 1
    note = (
        f"{some_of(len(narrow), len(ranges), '16-bit picture')} that {were(len(ranges))} looked at "
        f"{agreeing(len(narrow), 'uses a small part of its range', 'use a small part of their range')} (the first: "
        f"{images.name(first)} has values from {lowest} to {highest}, which leaves {levels} of 256 grey levels); open the data with "
        "stretch_16bit=True (--stretch-16bit of train, evaluate and predict) to stretch it."
    )
    return [Note(note, "small range", count=len(narrow), files=[images.name(place) for place in narrow])]
