"""Ids of images and categories: whole numbers inside, whatever a file calls them.

Integral texts and floats ("7", 7.0) are numbers. If any id of a list is another text, all entries of the list are numbered from 1 in their
order, and the file's own ids are kept for result files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from detrkit.data.wording import agreeing, first_few, have, shown_value, some_of
from detrkit.errors import DataError

_WHOLE = re.compile(r"[+-]?[0-9]{1,19}(\.0*)?")
_PLURALS = {"image": "images", "category": "categories"}


@dataclass(frozen=True, eq=False)
class Ids:
    """The ids of one list of a file.

    Attributes:
        numbers: the whole number of each entry, all different.
        own: what the file calls each entry, where these are not the same as the numbers; otherwise None.
    """

    numbers: tuple[int, ...]
    own: tuple[Any, ...] | None
    _by_key: dict[int | str, int]

    def find(self, value: Any) -> int | None:
        """The number of the entry that a reference means, or None if the list has no such entry."""
        if self.own is None:
            key: int | str | None = value if value.__class__ is int else whole_number(value)
        else:
            key = _text(value)
        return None if key is None else self._by_key.get(key)


def read_ids(records: Sequence[dict[str, Any]], noun: str, source: str) -> Ids:
    """The ids of a list of images or categories.

    Args:
        records: its entries.
        noun: "image" or "category".
        source: the file, for messages.

    Raises:
        DataError: an id is missing, is neither a whole number nor a text, or occurs twice.
    """
    values = [record.get("id") for record in records]
    texts = [_text(value) for value in values]
    unusable = [
        f"{_label(records[place], place)} ({shown_value(values[place])})"
        for place, text in enumerate(texts)
        if not text
    ]
    if unusable:
        raise DataError(
            f"{source}: {some_of(len(unusable), len(values), noun, _PLURALS[noun])} {have(len(unusable))} no usable id: {first_few(unusable)}; "
            "give each a whole number or a text."
        )
    numbers = [whole_number(value) for value in values]
    if None not in numbers and len(set(numbers)) == len(numbers):
        found = [number for number in numbers if number is not None]
        return Ids(tuple(found), None, {number: number for number in found})
    _refuse_twins(records, texts, noun, source)
    return Ids(
        tuple(range(1, len(values) + 1)),
        tuple(values),
        {text: number for number, text in enumerate(texts, start=1) if text is not None},
    )


def whole_number(value: Any) -> int | None:
    """7 for 7, 7.0, "7" and "7.0"; None for anything else, also for numbers beyond 64 bits."""
    if value.__class__ is int:  # nearly always
        return value if abs(value) < 2**63 else None
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        number = int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None
    elif isinstance(value, Integral) or (isinstance(value, Real) and float(value).is_integer()):
        number = int(float(value)) if not isinstance(value, Integral) else int(value)
    else:
        number = None
    return number if number is not None and abs(number) < 2**63 else None


def _text(value: Any) -> str | None:
    """An id as text, so that 7 and "7" are the same; None if it can be no id."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return str(int(value))  # also numbers beyond 64 bits, which are numbered like texts
    number = whole_number(value)
    return None if number is None else str(number)


def _refuse_twins(records: Sequence[dict[str, Any]], texts: Sequence[str | None], noun: str, source: str) -> None:
    twins = [text for text, count in Counter(texts).items() if count > 1]
    if not twins:
        return
    shown = [
        f"{twin} ({first_few([_label(records[place], place) for place, text in enumerate(texts) if text == twin])})"
        for twin in twins[:3]
    ]
    shown += [""] * (len(twins) - len(shown))  # only counted
    verb = agreeing(len(twins), "id occurs", "ids occur")
    raise DataError(
        f"{source}: {len(twins)} {noun} {verb} more than once: {first_few(shown)}; give every {noun} its own."
    )


def _label(record: dict[str, Any], place: int) -> str:
    name = record.get("file_name", record.get("name"))
    return f"entry {place}" if name is None else shown_value(name)
