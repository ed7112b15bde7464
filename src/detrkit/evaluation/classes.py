"""Which class of a model stands for which class of the data that it is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detrkit.cards import Category
from detrkit.data.classes import names_shown, same_classes, spelling_notes
from detrkit.data.dataset import DetectionDataset
from detrkit.data.wording import counted, some_of
from detrkit.errors import ConfigurationError, DataError

MatchBy = Literal["auto", "name", "id"]
_LEAST_KNOWN = 0.5  # of the classes with objects; with fewer, the figures say more about the choice of the model than about the model
_Pairs = list[tuple[Category, Category]]


@dataclass(frozen=True)
class CategoryMatch:
    """Which output of a model's class head stands for which category of a data set.

    Attributes:
        ids: maps the output's index to the category id of the data set.
        notes: sentences about classes that only the model or only the data set has.
    """

    ids: dict[int, int]
    notes: tuple[str, ...]


def match_categories(
    model_categories: Sequence[Category], dataset: DetectionDataset, match_by: MatchBy = "auto"
) -> CategoryMatch:
    """Matches a model's classes with those of a data set.

    Args:
        model_categories: the model's classes.
        dataset: the data set whose categories are matched.
        match_by: "name" takes classes with the same name (see `same_classes`) for the same, and "id" those with the same id, whatever their
            names. Classes of the data set that find no partner count as never found. "auto" matches by name, and refuses a model that knows
            less than half of the classes that have objects.

    Raises:
        DataError: no class matches, or with "auto" too few.
        ConfigurationError: there is no such way to match.
    """
    if match_by not in ("auto", "name", "id"):
        raise ConfigurationError(f"classes cannot be matched by {match_by!r}: choose 'name', 'id' or 'auto'")
    by_id = match_by == "id"
    pairs = _same_ids(model_categories, dataset) if by_id else same_classes(model_categories, dataset.categories)
    if not pairs:
        raise DataError(_nothing_in_common(model_categories, dataset, by_id=by_id))
    if match_by == "auto":
        _check_enough(model_categories, dataset, pairs)
    notes = _id_notes(pairs) if by_id else spelling_notes(pairs, dataset.name)
    used = {of_model.index for of_model, _ in pairs}
    matched = {of_dataset.index for _, of_dataset in pairs}
    unused = [category for category in model_categories if category.index not in used]
    missing = [category for category in dataset.categories if category.index not in matched]
    if unused:
        notes.append(f"Detections of {_classes(unused)} that the data set lacks were left out: {names_shown(unused)}.")
    if missing:
        notes.append(
            f"The model does not know {_classes(missing)} of the data set (AP counts as 0): {names_shown(missing)}."
        )
    return CategoryMatch({of_model.index: of_dataset.id for of_model, of_dataset in pairs}, tuple(notes))


def _same_ids(model_categories: Sequence[Category], dataset: DetectionDataset) -> _Pairs:
    of_model = {category.id: category for category in model_categories}
    return [(of_model[category.id], category) for category in dataset.categories if category.id in of_model]


def _nothing_in_common(model_categories: Sequence[Category], dataset: DetectionDataset, *, by_id: bool) -> str:
    """Why nothing can be compared: the names of both sides, or their ids."""
    theirs, remedy = dataset.categories, "use a model that was trained on these classes"
    if by_id:
        return f"The model's class ids ({_ids(model_categories)}) are not those of {dataset.name} ({_ids(theirs)}): {remedy}."
    if _same_ids(model_categories, dataset):
        remedy += ', or match classes by their ids if only the names differ (--match-by id, in Python match_by="id")'
    return f"The model's classes ({names_shown(model_categories)}) are not those of {dataset.name} ({names_shown(theirs)}): {remedy}."


def _check_enough(model_categories: Sequence[Category], dataset: DetectionDataset, pairs: _Pairs) -> None:
    """Refuses a model that could not find most of what there is."""
    present = set(np.unique(dataset.labels).tolist())
    asked = [category for category in dataset.categories if category.index in present] or list(dataset.categories)
    matched = {of_dataset.index for _, of_dataset in pairs}
    unknown = [category for category in asked if category.index not in matched]
    known = len(asked) - len(unknown)
    if known < _LEAST_KNOWN * len(asked):
        raise DataError(
            f"The model ({names_shown(model_categories)}) knows {some_of(known, len(asked), 'class', 'classes')} of {dataset.name} and lacks "
            f"{names_shown(unknown)}: use a model that was trained on these classes, or count those that it lacks as never found "
            '(--match-by name, in Python match_by="name").'
        )


def _id_notes(pairs: _Pairs) -> list[str]:
    """A sentence if classes with the same id have different names."""
    same = same_classes([of_model for of_model, _ in pairs], [of_dataset for _, of_dataset in pairs])
    other = [pair for pair in pairs if pair not in same]
    if not other:
        return []
    of_model, of_dataset = other[0]
    more = f", and there are {len(other)} such pairs" if len(other) > 1 else ""
    return [
        f"Classes were matched by id: '{of_dataset.name}' is the model's '{of_model.name}' ({of_dataset.id}){more}."
    ]


def _ids(categories: Sequence[Category]) -> str:
    numbers = [category.id for category in categories]
    return f"{min(numbers)} to {max(numbers)}" if len(numbers) > 1 else str(numbers[0])


def _classes(categories: Sequence[Category]) -> str:
    return counted(len(categories), "class", "classes")
