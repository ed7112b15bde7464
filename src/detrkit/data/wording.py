"""Parts of sentences for messages and notes about many entries at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SHOWN, _LONGEST = 3, 60


def first_few(entries: Sequence[str]) -> str:
    """The first three entries, and how many more there are: "a, b, c and 4 more"."""
    shown = ", ".join(entries[:_SHOWN])
    return shown if len(entries) <= _SHOWN else f"{shown} and {len(entries) - _SHOWN} more"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun, such as "1 box" or "2 boxes"."""
    return f"{number} {agreeing(number, singular, plural or singular + 's')}"


def some_of(number: int, total: int, singular: str, plural: str | None = None) -> str:
    """A part of a whole, such as "1 of 7 pictures" or "1 of 1 picture"."""
    return f"{number} of {counted(total, singular, plural)}"


def agreeing(number: int, singular: str, plural: str) -> str:
    """The form of a word that goes with a number of things."""
    return singular if number == 1 else plural


def are(number: int) -> str:
    """The verb for a number of things."""
    return agreeing(number, "is", "are")


def were(number: int) -> str:
    """The verb for a number of things."""
    return agreeing(number, "was", "were")


def have(number: int) -> str:
    """The verb for a number of things."""
    return agreeing(number, "has", "have")


def shown_value(value: Any) -> str:
    """A value as Python writes it, cut to a length that fits a sentence."""
    try:
        text = repr(value)
    except RecursionError:  # nested nearly as deeply as a JSON file can be
        return f"a deeply nested {type(value).__name__}"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
