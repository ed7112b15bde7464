"""Names of splits: `val`, `valid` and `validation` mean the same everywhere, and a year may follow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

YEARS = ("2017", "2014")
_VALIDATION = ("val", "valid", "validation")
_USUAL_ORDER = ("train", "val", "test")
ASSUMED_SPLIT = "train"  # where nothing says which split the pictures are
TOGETHER = "trainval"  # Pascal VOC's name for `train` and `val` together
SPLIT_NAME = (
    r"(train|training|val|valid|validation|test|testing|trainval)(?:[_-]?(\d{4}))?"  # in lower case, with its year
)
_SHORT = {"training": "train", "testing": "test"}


def split_named(name: str) -> str | None:
    """The split that a name is and nothing else, in lower case and as it is usually written: "train2017" for `Training_2017`; or None."""
    found = re.fullmatch(SPLIT_NAME, name.lower())
    return None if found is None else usual_name(found)


def usual_name(found: re.Match[str]) -> str:
    """A split's name as it is usually written, from a match of `SPLIT_NAME`."""
    split, year = found.groups()
    return _SHORT.get(split, split) + (year or "")


def plain_split(split: str) -> str:
    """A split's name without its year, and `val` instead of `valid` and `validation`."""
    for year in YEARS:
        split = split.removesuffix(year) or split
    return "val" if split in _VALIDATION else split


def spellings(split: str) -> list[str]:
    """The names that folders and annotation files may use for a split, most literal first; a name with a year means that year only."""
    if split.endswith(YEARS):
        return [split]
    names = [*_VALIDATION] if plain_split(split) == "val" else [split]
    return list(dict.fromkeys([split, *names, *(name + year for year in YEARS for name in names)]))


def plain_where_unique(splits: Iterable[str]) -> dict[str, str]:
    """The plain name of each split; those that share one keep the names that they have: `val2014` and `val2017`."""
    names = list(dict.fromkeys(splits))
    counts = Counter(map(plain_split, names))
    return {name: plain_split(name) if counts[plain_split(name)] == 1 else name for name in names}


def in_usual_order(splits: Iterable[str]) -> list[str]:
    """`train`, `val` and `test` first, by whichever of their names, then the others in the order of their names."""
    order = {name: place for place, name in enumerate(_USUAL_ORDER)}
    return sorted(splits, key=lambda split: (order.get(plain_split(split), len(order)), split))
