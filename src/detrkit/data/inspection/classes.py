"""Classes: without objects, with few, missing where they are learned, or named alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from detrkit.cards import Category
from detrkit.data.classes import plain_class_name, same_classes
from detrkit.data.dataset import DetectionDataset
from detrkit.data.inspection.finding import Finding, Split, finding, places
from detrkit.data.wording import agreeing, are, counted, have, some_of

_FEW_OBJECTS = 10


def what_lacks(dataset: DetectionDataset) -> str | None:
    """Why a split has no ground truth, as the end of a sentence; None if it has some."""
    if not len(dataset.labels):
        return f"has no objects in its {agreeing(len(dataset), 'only image', f'{len(dataset)} images')}"
    if dataset.crowd.all():
        return f"has only crowd regions, {len(dataset.labels)} in {counted(len(dataset), 'image')}"
    return None


def without_ground_truth(split: Split) -> list[Finding]:
    """A split without any object that could be learned or found."""
    lack = what_lacks(split.dataset)
    if lack is None:
        return []
    kind = "nothing-to-learn" if split.for_training else "nothing-to-evaluate"
    files = split.files(range(len(split.dataset)))
    return [finding(kind, split.name, f"The split '{split.name}' {lack}.", count=len(split.dataset), files=files)]


def similar_names(split: Split) -> list[Finding]:
    """Classes of a split that are named alike."""
    groups: dict[str, list[str]] = defaultdict(list)
    for category in split.dataset.categories:
        groups[plain_class_name(category.name)].append(category.name)
    alike = [" and ".join(map(repr, names)) for names in groups.values() if len(names) > 1]
    if not alike:
        return []
    message = f"{counted(len(alike), 'class name')} {are(len(alike))} there in several spellings {places(alike)}."
    return [finding("similar-class-names", split.name, message, count=len(alike))]


def rare_classes(split: Split) -> list[Finding]:
    """Classes of which the training split has a few objects only."""
    if not split.for_training:
        return []
    counts = object_counts(split)
    rare = [category for category in split.dataset.categories if 0 < counts[category.index] < _FEW_OBJECTS]
    rare.sort(key=lambda category: int(counts[category.index]))
    if not rare:
        return []
    shown = [f"{category.name}: {counts[category.index]}" for category in rare]
    verb = have(len(rare))
    message = f"{_of_classes(rare, split)} {verb} only 1 to {_FEW_OBJECTS - 1} objects {places(shown)}."
    return [finding("rare-classes", split.name, message, count=len(rare))]


def unused_classes(splits: Sequence[Split]) -> list[Finding]:
    """Classes without objects in all splits."""
    used = {plain_class_name(name) for split in splits for name in _used(split)}
    listed = dict.fromkeys(category.name for split in splits for category in split.dataset.categories)
    unused = [name for name in listed if plain_class_name(name) not in used]
    if not unused:
        return []
    message = (
        f"{some_of(len(unused), len(listed), 'class', 'classes')} {have(len(unused))} no objects in {_names(splits)} "
        f"{places(unused)}."
    )
    return [finding("unused-classes", _names(splits), message, count=len(unused))]


def classes_not_in_training(splits: Sequence[Split]) -> list[Finding]:
    """Classes that other splits have objects of, but not the training split; and splits that share no class with it."""
    training = next((split for split in splits if split.for_training), None)
    if training is None or what_lacks(training.dataset) is not None:
        return []
    learned = {plain_class_name(name) for name in _used(training)}
    found = []
    for split in splits:
        if split is training:
            continue
        if not same_classes(training.dataset.categories, split.dataset.categories):
            message = (
                f"No class of '{split.name}' {places(_category_names(split))} is a class of '{training.name}' "
                f"{places(_category_names(training))}."
            )
            found.append(finding("no-common-classes", split.name, message, count=len(split.dataset.categories)))
            continue
        missing = [name for name in _used(split) if plain_class_name(name) not in learned]
        if missing:
            message = (
                f"{counted(len(missing), 'class', 'classes')} {have(len(missing))} objects in '{split.name}', but none in "
                f"'{training.name}' {places(missing)}."
            )
            found.append(finding("class-not-in-training", split.name, message, count=len(missing)))
    return found


def object_counts(split: Split) -> np.ndarray:
    """(K,) the number of objects of each class, without crowd regions."""
    return np.bincount(split.dataset.labels[~split.dataset.crowd], minlength=len(split.dataset.categories))


def _used(split: Split) -> list[str]:
    counts = object_counts(split)
    return [category.name for category in split.dataset.categories if counts[category.index]]


def _category_names(split: Split) -> list[str]:
    return [category.name for category in split.dataset.categories]


def _of_classes(some: Sequence[Category], split: Split) -> str:
    return some_of(len(some), len(split.dataset.categories), "class", "classes")


def _names(splits: Sequence[Split]) -> str:
    return ", ".join(split.name for split in splits)
