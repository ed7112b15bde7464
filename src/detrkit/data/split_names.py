"""Names of splits: `val`, `valid` and `validation` mean the same everywhere, and a year may follow."""

from __future__ import annotations

YEARS = ("2017", "2014")
_VALIDATION = ("val", "valid", "validation")
_USUAL_ORDER = ("train", "val", "test")


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


def in_usual_order(splits: set[str]) -> list[str]:
    """`train`, `val` and `test` first, then the others in the order of their names."""
    return [name for name in _USUAL_ORDER if name in splits] + sorted(splits.difference(_USUAL_ORDER))
