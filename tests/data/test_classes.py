"""Which classes of two splits are the same, and what becomes of the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detrkit.cards import Category
from detrkit.data import DetectionDataset, open_dataset, read_digits
from detrkit.data.classes import same_classes, unite_classes
from detrkit.errors import DataError


def classes(*names: str, first_id: int = 1) -> tuple[Category, ...]:
    return tuple(Category(first_id + index, name, index) for index, name in enumerate(names))


def split(name: str, categories: tuple[Category, ...]) -> DetectionDataset:
    return replace(read_digits("val", images=2), name=name, categories=categories)


def paired(ones: tuple[str, ...], others: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(one.name, other.name) for one, other in same_classes(classes(*ones), classes(*others, first_id=50))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("square", "square "),
        ("Square", "square"),
        ("traffic_light", "traffic light"),
        ("traffic-light", "traffic_light"),
        ("traffic light", "traffic  light"),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_the_same_name_written_otherwise(one: str, other: str) -> None:
    assert paired((one, "bar"), ("bar", other)) == [("bar", "bar"), (one, other)]
    training, validation = split("a train", classes(one, "bar")), split("a val", classes("bar", other))
    united, notes = unite_classes(training, validation)
    assert united is training
    assert notes == [f"a val writes the class {one!r} as {other!r}; both are taken for the same class."]


def test_names_that_could_have_two_partners_have_none() -> None:
    assert paired(("Square", "square"), ("SQUARE",)) == []
    assert paired(("SQUARE",), ("Square", "square")) == []
    assert paired(("Square", "square"), ("square", "SQUARE")) == [("square", "square"), ("Square", "SQUARE")]


def test_classes_of_the_validation_split_alone_are_added() -> None:
    training, validation = split("a train", classes("square", "bar")), split("a val", classes("disc", "square", "ring"))
    united, notes = unite_classes(training, validation)
    assert united.categories == (
        Category(1, "square", 0),
        Category(2, "bar", 1),
        Category(3, "disc", 2),  # its own id, 1, is taken
        Category(4, "ring", 3),  # and so is 3 by now
    )
    assert united.labels is training.labels
    assert notes == ["2 classes of a val are not in a train and cannot be learned: disc, ring."]
    _, notes = unite_classes(training, split("a val", classes("disc", "bar")))
    assert notes == ["1 class of a val is not in a train and cannot be learned: disc."]


def test_a_split_with_fewer_classes_changes_nothing() -> None:
    training, validation = split("a train", classes("square", "bar")), split("a val", classes("bar"))
    united, notes = unite_classes(training, validation)
    assert united is training
    assert notes == []


def test_nothing_in_common(shared: Path) -> None:
    case = shared / "cases/val_other_classes"
    with pytest.raises(DataError) as caught:
        unite_classes(open_dataset(case, "train"), open_dataset(case, "val"))
    assert str(caught.value) == (
        "No class of val_other_classes val (cls_square, cls_bar) is a class of val_other_classes train (square, bar): give the same classes "
        "the same names in both, such as 'square' for 'cls_square'."
    )
    with pytest.raises(DataError, match=r"give the same classes the same names in both\.$"):
        unite_classes(split("a train", classes("dog")), split("a val", classes("Auto")))
