"""Classes of two splits, or of a model and a data set: which of them are the same."""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from detrkit.cards import Category
from detrkit.data.dataset import DetectionDataset
from detrkit.data.wording import are, counted
from detrkit.errors import DataError

NAMES_SHOWN = 5


def same_classes(ones: Sequence[Category], others: Sequence[Category]) -> list[tuple[Category, Category]]:
    """Pairs of classes with the same name.

    Names that are written otherwise (case, blanks at the ends, `_`, `-` or several blanks in place of one, accents composed or not) are
    the same, unless that would give a class two partners.

    Args:
        ones: classes with different names.
        others: classes with different names.

    Returns:
        Pairs of one of each, those with the very same name first.
    """
    by_name = {category.name: category for category in ones}
    pairs = [(by_name[category.name], category) for category in others if category.name in by_name]
    taken = {category.name for category, _ in pairs}
    left = _by_plain_name([category for category in ones if category.name not in taken])
    candidates = _by_plain_name([category for category in others if category.name not in taken])
    return pairs + [(left[name], category) for name, category in candidates.items() if name in left]


def spelling_notes(pairs: Sequence[tuple[Category, Category]], where: str) -> list[str]:
    """A sentence if names of pairs are written otherwise.

    Args:
        pairs: see `same_classes`.
        where: what the second class of each pair belongs to.
    """
    otherwise = [(one.name, other.name) for one, other in pairs if one.name != other.name]
    if not otherwise:
        return []
    one, other = otherwise[0]
    more = f" ({len(otherwise)} such names)" if len(otherwise) > 1 else ""
    return [f"{where} writes the class {one!r} as {other!r}{more}; both are taken for the same class."]


def unite_classes(training: DetectionDataset, validation: DetectionDataset) -> tuple[DetectionDataset, list[str]]:
    """The training split with the classes of both splits, so that a class without training objects is not mistaken for another one.

    Args:
        training: its classes come first and keep their order.
        validation: classes that only it has are added, with their own ids where these are free.

    Returns:
        The training split, and what a user should know before the first step.

    Raises:
        DataError: the two have no class in common.
    """
    pairs = same_classes(training.categories, validation.categories)
    if not pairs:
        raise DataError(_nothing_in_common(training, validation))
    notes = spelling_notes(pairs, validation.name)
    known = {other.index for _, other in pairs}
    new = [category for category in validation.categories if category.index not in known]
    if not new:
        return training, notes
    categories = list(training.categories)
    for category in new:
        ids = {each.id for each in categories}
        free = category.id if category.id not in ids else max(ids) + 1
        categories.append(replace(category, id=free, index=len(categories)))
    notes.append(
        f"{counted(len(new), 'class', 'classes')} of {validation.name} {are(len(new))} not in {training.name} and cannot be learned: "
        f"{names_shown(new)}."
    )
    return replace(training, categories=tuple(categories)), notes


def names_shown(categories: Sequence[Category]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(category.name for category in categories[:NAMES_SHOWN])
    return shown if len(categories) <= NAMES_SHOWN else f"{shown} and {len(categories) - NAMES_SHOWN} more"


def _nothing_in_common(training: DetectionDataset, validation: DetectionDataset) -> str:
    known = _names(training)
    guesses = ((name, difflib.get_close_matches(name, known, n=1)) for name in _names(validation))
    example = next((f", such as '{guess[0]}' for '{name}'" for name, guess in guesses if guess), "")
    return (
        f"No class of {validation.name} ({names_shown(validation.categories)}) is a class of {training.name} "
        f"({names_shown(training.categories)}): give the same classes the same names in both{example}."
    )


def _names(dataset: DetectionDataset) -> list[str]:
    return [category.name for category in dataset.categories]


def _by_plain_name(categories: Sequence[Category]) -> dict[str, Category]:
    """Classes by their name in its plainest writing; names that two of them share are left out."""
    names = [plain_class_name(category.name) for category in categories]
    counts = Counter(names)
    return {name: category for name, category in zip(names, categories, strict=True) if counts[name] == 1}


def plain_class_name(name: str) -> str:
    """A name in its plainest writing: case, blanks, `_`, `-` and how accents are encoded make no difference."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").replace("-", " ").split())
