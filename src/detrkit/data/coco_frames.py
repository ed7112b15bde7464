"""Which pixels a picture with an EXIF orientation was annotated on: those stored in the file, or those that people see.

The size in the annotation file decides if it fits only the picture as shown. If it fits only the stored pixels, the boxes decide, since
some tools write the stored size and boxes of the shown picture: all boxes of a picture inside one of the two frames, and not inside the
other. What such pictures say holds for those that cannot tell, such as squares and half turns. If nothing decides, it is a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from detrkit.data.coco_ids import whole_number
from detrkit.data.coco_truth import Table
from detrkit.data.findings import Note
from detrkit.data.images import ImageFacts
from detrkit.data.wording import agreeing, are, first_few, have, some_of
from detrkit.errors import DataError

Orientation = Literal["auto", "stored", "shown"]
_Size = tuple[int, int]
_TOLERANCES = (0.01, 0.05)  # of the longer side: rounding, and if no frame fits, careless boxes


@dataclass(frozen=True, eq=False)
class Frames:
    """How the pictures are to be read.

    Attributes:
        as_stored: (I,) bool, whether the EXIF orientation is to be left out.
        sizes: (I, 2) int64 height and width of the pictures that are then read.
        notes: what was decided, or guessed.
    """

    as_stored: np.ndarray
    sizes: np.ndarray
    notes: tuple[str, ...]


def choose_frames(
    records: Sequence[dict[str, Any]],
    names: Sequence[str],
    facts: Sequence[ImageFacts],
    table: Table,
    orientation: Orientation,
    source: str,
) -> Frames:
    """Compares the sizes in the annotation file with the pictures, and decides about orientations.

    Args:
        records: the images of the annotation file.
        names: of their files, for messages.
        facts: of their files.
        table: the objects.
        orientation: "stored" or "shown" decides for all; "auto" decides as above.
        source: the file, for messages.

    Raises:
        DataError: a size fits neither the stored nor the shown picture by more than a pixel, or the orientation is an unknown word.
    """
    if orientation not in get_args(Orientation):
        raise DataError(f"There is no orientation {orientation!r}: choose 'auto', 'stored' or 'shown'.")
    stated = [stated_size(record) for record in records]
    _refuse_other_sizes(stated, names, facts, source)
    turned = [place for place, fact in enumerate(facts) if fact.orientation != 1]
    if orientation == "auto":
        stored, notes = _decide(turned, stated, names, facts, table)
    else:
        stored, notes = (set(turned) if orientation == "stored" else set()), []
    as_stored = np.array([place in stored for place in range(len(facts))], dtype=np.bool_)
    sizes = [fact.stored_size if place in stored else fact.shown_size for place, fact in enumerate(facts)]
    notes += _off_by_one(stated, names, facts)
    return Frames(as_stored, np.array(sizes, dtype=np.int64).reshape(-1, 2), tuple(notes))


def stated_size(record: dict[str, Any]) -> _Size | None:
    """Height and width as the annotation file states them; None where it does not."""
    given = record.get("height"), record.get("width")
    if any(side in (None, "", 0, "0") for side in given):  # tools write 0 for an unknown size
        return None
    height, width = (whole_number(side) for side in given)
    return (-1 if height is None else height, -1 if width is None else width)


def _near(size: _Size, other: _Size) -> bool:
    """Whether two sizes differ by a pixel at most, as tools round."""
    return abs(size[0] - other[0]) <= 1 and abs(size[1] - other[1]) <= 1


def _fits(size: _Size | None, frame: _Size, other: _Size) -> bool:
    """Whether a stated size means a frame; a size that is exactly the other frame does not mean this one, though it may be near."""
    return size is None or size == frame or (_near(size, frame) and size != other)


def _refuse_other_sizes(
    stated: Sequence[_Size | None], names: Sequence[str], facts: Sequence[ImageFacts], source: str
) -> None:
    wrong = [
        place
        for place, (size, fact) in enumerate(zip(stated, facts, strict=True))
        if size is not None and not _near(size, fact.shown_size) and not _near(size, fact.stored_size)
    ]
    if not wrong:
        return
    exchanged = sum(_near(stated[place], facts[place].shown_size[::-1]) for place in wrong)  # type: ignore[arg-type]
    hint = (
        f" (width and height are exchanged{f' in {exchanged} of them' if exchanged < len(wrong) else ''})"
        if exchanged
        else ""
    )
    shown = [
        f"{names[place]!r} is annotated as {_in_pixels(stated[place])} pixels, but the file has {_in_pixels(facts[place].shown_size)}"
        for place in wrong
    ]
    raise DataError(
        f"{source}: the {agreeing(len(wrong), 'size', 'sizes')} of {some_of(len(wrong), len(names), 'image')} {agreeing(len(wrong), 'differs from its file', 'differ from their files')}{hint}: {first_few(shown)}; "
        "use the pictures that were annotated, or export the annotations again."
    )


def _in_pixels(size: _Size | None) -> str:
    return "?" if size is None else " × ".join("?" if side < 0 else str(side) for side in size[::-1])


def _off_by_one(stated: Sequence[_Size | None], names: Sequence[str], facts: Sequence[ImageFacts]) -> list[str]:
    off = [
        place
        for place, (size, fact) in enumerate(zip(stated, facts, strict=True))
        if size is not None and size not in (fact.shown_size, fact.stored_size)
    ]
    if not off:
        return []
    first = off[0]
    note = (
        f"{some_of(len(off), len(names), 'image')} {are(len(off))} a pixel larger or smaller than the annotation file says; the picture's own "
        f"size counts (the first: {names[first]} is {_in_pixels(facts[first].shown_size)}, annotated as {_in_pixels(stated[first])})."
    )
    return [_note(note, "a pixel off", off, names)]


def _note(text: str, kind: str, places: Sequence[int], names: Sequence[str]) -> Note:
    return Note(text, kind, count=len(places), files=[names[place] for place in places])


def _decide(
    turned: Sequence[int],
    stated: Sequence[_Size | None],
    names: Sequence[str],
    facts: Sequence[ImageFacts],
    table: Table,
) -> tuple[set[int], list[str]]:
    """The places of the pictures that are to be read as stored, and notes."""
    by_size: dict[int, bool] = {}
    by_boxes: dict[int, bool] = {}
    silent: list[int] = []
    silent_stored_size: list[int] = []
    boxes_of = _boxes_by_image(turned, table)
    for place in turned:
        fact, size = facts[place], stated[place]
        shown = _fits(size, fact.shown_size, fact.stored_size)
        stored = _fits(size, fact.stored_size, fact.shown_size)
        vote = _vote(boxes_of[place], fact) if stored else None
        if not stored:
            by_size[place] = False
        elif vote is not None:
            by_boxes[place] = vote
        elif shown:
            silent.append(place)
        else:
            silent_stored_size.append(place)
    # A size of the stored pixels comes from a tool that pictures with shown sizes do not tell about.
    of_stored_sizes = _majority(list(by_boxes.values()))
    of_all = _majority([*by_size.values(), *by_boxes.values()])
    chosen = {place for place, vote in by_boxes.items() if vote}
    guessed: list[int] = []
    if of_stored_sizes is None:
        guessed += silent_stored_size
    if of_all is None:
        guessed += silent
        of_all = bool(silent_stored_size) and of_stored_sizes is None  # one guess for the whole data set
    chosen |= {place for place in silent_stored_size if of_stored_sizes is not False}
    chosen |= {place for place in silent if of_all}
    return chosen, _notes(chosen, turned, stated, sorted(guessed), names, facts)


def _boxes_by_image(places: Sequence[int], table: Table) -> dict[int, np.ndarray]:
    """The boxes (n, 4) of the images at these places."""
    if not places:
        return {}
    order = np.argsort(table.image_positions, kind="stable")
    positions = table.image_positions[order]
    starts, ends = (np.searchsorted(positions, places, side=side) for side in ("left", "right"))
    return {
        place: table.boxes_xyxy[order[start:end]]
        for place, start, end in zip(places, starts.tolist(), ends.tolist(), strict=True)
    }


def _vote(boxes_xyxy: np.ndarray, fact: ImageFacts) -> bool | None:
    """Whether the boxes of a picture fit only its stored frame (True) or only its shown one (False); None if they do not tell."""
    for tolerance in _TOLERANCES:
        stored, shown = (boxes_inside(boxes_xyxy, frame, tolerance) for frame in (fact.stored_size, fact.shown_size))
        if stored or shown:
            return None if stored and shown else stored
    return None


def boxes_inside(boxes_xyxy: np.ndarray, frame: _Size, share: float) -> bool:
    """Whether all boxes (n, 4) lie inside a frame of this height and width, or beyond it by no more than a share of its longer side."""
    height, width = frame
    tolerance = max(1.0, share * max(frame))
    limits = np.array([width, height, width, height]) + tolerance
    return bool(np.all((boxes_xyxy >= -tolerance) & (boxes_xyxy <= limits)))


def _majority(votes: Sequence[bool]) -> bool | None:
    count = sum(votes)
    return None if 2 * count == len(votes) else 2 * count > len(votes)


def _notes(
    stored: set[int],
    turned: Sequence[int],
    stated: Sequence[_Size | None],
    guessed: Sequence[int],
    names: Sequence[str],
    facts: Sequence[ImageFacts],
) -> list[str]:
    notes: list[str] = []
    total, certain = len(names), set(turned) - set(guessed)
    as_stored = sorted(stored & certain)
    against_size = [
        place
        for place in sorted(certain - stored)
        if not _fits(stated[place], facts[place].shown_size, facts[place].stored_size)
    ]
    if as_stored:
        count = len(as_stored)
        note = (
            f"{some_of(count, total, 'image')} {are(count)} annotated on the stored pixels, so the EXIF orientation is "
            f"not applied (the first: {names[as_stored[0]]})."
        )
        notes.append(_note(note, "as stored", as_stored, names))
    if against_size:
        count = len(against_size)
        note = (
            f"{some_of(count, total, 'image')} {have(count)} the size of the stored pixels in the annotation file, but boxes of the picture as "
            f"shown, so the EXIF orientation is applied (the first: {names[against_size[0]]})."
        )
        notes.append(_note(note, "against size", against_size, names))
    for taken, other, places in (
        ("stored", "shown", [place for place in guessed if place in stored]),
        ("shown", "stored", [place for place in guessed if place not in stored]),
    ):
        if places:
            count = len(places)
            they = agreeing(count, "it was", "they were")
            note = (
                f"{some_of(count, total, 'image')} {have(count)} an EXIF orientation, and neither sizes nor boxes tell whether {they} annotated "
                f"with it; it is a guess that {they} annotated as {taken} (the first: {names[places[0]]}); if boxes lie beside their objects, "
                f'open the data with orientation="{other}" (--orientation {other}).'
            )
            notes.append(_note(note, "orientation guessed", places, names))
    return notes
