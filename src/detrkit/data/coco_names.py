"""Names of categories: texts inside, whatever a file has in their place.

Numbers are taken as texts, and categories without a name are called by their ids; both are noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detrkit.data.coco_ids import whole_number
from detrkit.data.coco_values import is_finite
from detrkit.data.findings import Changes
from detrkit.data.wording import are, first_few, have, shown_value, some_of
from detrkit.errors import DataError


def name_text(value: Any) -> str | None:
    """A name as text: "7" for 7 and 7.0; None for what is no name, such as a list, a truth value or nothing at all."""
    if isinstance(value, str):
        return value if value.strip() else None
    if not is_finite(value):
        return None
    number = whole_number(value)
    return str(value if number is None else number)


def read_names(categories: Sequence[dict[str, Any]], source: str) -> tuple[tuple[str, ...], list[str]]:
    """The name of each category, and notes about names that the file does not have as texts.

    Args:
        categories: their entries, with usable ids.
        source: the file, for messages.

    Raises:
        DataError: a name is neither a text nor a number.
    """
    names: list[str] = []
    odd: list[str] = []
    changes = Changes()
    for record in categories:
        given, identifier = record.get("name"), record["id"]
        name = name_text(given)
        if name is None and (given is None or isinstance(given, str)):
            name = str(identifier).strip()
            changes.add("no name", shown_value(identifier), source)
        elif name is None:
            odd.append(f"category {shown_value(identifier)} ({shown_value(given)})")
        elif not isinstance(given, str):
            changes.add("number as name", f"category {shown_value(identifier)} is {name!r}", source)
        names.append(name or "")
    if odd:
        count = some_of(len(odd), len(names), "category", "categories")
        raise DataError(
            f"{source}: {count} {have(len(odd))} a name that is no text: {first_few(odd)}; give each a text."
        )

    def total(number: int) -> str:
        return f"{some_of(number, len(names), 'category', 'categories')} {have(number)}"

    return tuple(names), changes.notes(
        {
            "number as name": lambda number, first: (
                f"{total(number)} a number as name, which is taken as text (the first: {first})."
            ),
            "no name": lambda number, first: (
                f"{total(number)} no name and {are(number)} called by the id instead (the first: {first})."
            ),
        }
    )
