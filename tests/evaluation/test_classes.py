"""Which class of a model stands for which class of the data, and which models are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from detrkit.cards import Category
from detrkit.data.dataset import ArrayImages, DetectionDataset
from detrkit.errors import ConfigurationError, DataError
from detrkit.evaluation.classes import match_categories
from detrkit.models.coco_categories import COCO_LAYOUTS


def classes(*names: str, first_id: int = 1) -> tuple[Category, ...]:
    return tuple(Category(first_id + place, name, place) for place, name in enumerate(names))


def data(*names: str, objects_of: tuple[int, ...] | None = None, first_id: int = 1) -> DetectionDataset:
    """One image with an object of each class, or of those given."""
    labels = np.array(range(len(names)) if objects_of is None else objects_of, dtype=np.int64)
    count = len(labels)
    return DetectionDataset(
        name="farm val",
        images=ArrayImages(np.zeros((1, 40, 60, 3), dtype=np.uint8)),
        image_ids=np.array([1]),
        sizes=np.array([[40, 60]]),
        categories=classes(*names, first_id=first_id),
        offsets=np.array([0, count]),
        boxes_xyxy=np.tile(np.array([1.0, 2, 11, 12]), (count, 1)),
        labels=labels,
        crowd=np.zeros(count, dtype=bool),
        areas=np.full(count, 100.0),
        annotation_ids=np.arange(count),
    )


@pytest.mark.parametrize("outputs", sorted(COCO_LAYOUTS))
def test_published_models_fit_data_with_cocos_names(outputs: int) -> None:
    names = [category.name for category in COCO_LAYOUTS[outputs]]
    whole = match_categories(COCO_LAYOUTS[outputs], data(*names, first_id=0))
    assert whole.ids == {category.index: place for place, category in enumerate(COCO_LAYOUTS[outputs])}
    assert whole.notes == ()
    some = match_categories(COCO_LAYOUTS[outputs], data("dog", "Person", first_id=7))
    person, dog = (
        next(each.index for each in COCO_LAYOUTS[outputs] if each.name == name) for name in ("person", "dog")
    )
    assert some.ids == {dog: 7, person: 8}
    assert "farm val writes the class 'person' as 'Person'" in some.notes[0]
    others = len(COCO_LAYOUTS[outputs]) - 2
    assert some.notes[1].startswith(f"Detections of {others} classes that the data set lacks were left out")


def test_names_count_and_not_ids() -> None:
    assert match_categories(classes("cow", "hen"), data("hen", " COW ")).ids == {0: 2, 1: 1}


def test_classes_that_the_model_lacks_are_named() -> None:
    match = match_categories(classes("cow", "hen"), data("cow", "hen", "pig"))
    assert match.ids == {0: 1, 1: 2}
    assert match.notes == ("The model does not know 1 class of the data set (AP counts as 0): pig.",)


@pytest.mark.parametrize("match_by", ["auto", "name"])
def test_a_model_of_other_classes_is_refused(match_by: str) -> None:
    with pytest.raises(DataError) as caught:
        match_categories(classes("RBC", "WBC"), data("cow", "hen"), match_by)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "The model's classes (RBC, WBC) are not those of farm val (cow, hen): use a model that was trained on these classes, or match "
        'classes by their ids if only the names differ (--match-by id, in Python match_by="id").'
    )
    with pytest.raises(DataError) as caught:
        match_categories(classes("RBC", "WBC", first_id=50), data("cow", "hen"), match_by)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "The model's classes (RBC, WBC) are not those of farm val (cow, hen): use a model that was trained on these classes."
    )


def test_a_model_that_knows_less_than_half_is_refused_unless_names_are_asked_for() -> None:
    farm = data("cow", "hen", "pig", "goat", "sheep")
    with pytest.raises(DataError) as caught:
        match_categories(classes("pig", "cow", "car"), farm)
    assert str(caught.value) == (
        "The model (pig, cow, car) knows 2 of 5 classes of farm val and lacks hen, goat, sheep: use a model that was trained on these classes, "
        'or count those that it lacks as never found (--match-by name, in Python match_by="name").'
    )
    match = match_categories(classes("pig", "cow", "car"), farm, "name")
    assert match.ids == {0: 3, 1: 1}
    assert match.notes[-1].startswith("The model does not know 3 classes of the data set (AP counts as 0)")


def test_only_classes_with_objects_decide_whether_a_model_fits() -> None:
    names = ("cow", "hen", "pig", "goat", "sheep")
    assert match_categories(classes("cow", "pig"), data(*names, objects_of=(0, 2, 2, 3))).ids == {0: 1, 1: 3}
    with pytest.raises(DataError, match="knows 1 of 3 classes of farm val and lacks hen, pig:"):
        match_categories(classes("cow", "sheep"), data(*names, objects_of=(0, 1, 2)))
    empty = dataclasses.replace(data(*names, objects_of=()), name="farm test")
    with pytest.raises(DataError, match="knows 1 of 5 classes of farm test"):
        match_categories(classes("cow"), empty)


def test_ids_decide_where_they_are_asked_for() -> None:
    match = match_categories(classes("Huhn", "Kuh", "pig"), data("cow", "hen", "Pig"), "id")
    assert match.ids == {0: 1, 1: 2, 2: 3}
    assert match.notes == ("Classes were matched by id: 'cow' is the model's 'Huhn' (1), and there are 2 such pairs.",)
    swapped = match_categories(classes("hen", "cow"), data("cow", "hen"), "id")
    assert swapped.notes == ("Classes were matched by id: 'cow' is the model's 'hen' (1), and there are 2 such pairs.",)
    assert match_categories(classes("cow"), data("cow"), "id").notes == ()
    with pytest.raises(DataError) as caught:
        match_categories(classes("cow", "hen", first_id=50), data("cow"), "id")
    assert str(caught.value) == (
        "The model's class ids (50 to 51) are not those of farm val (1): use a model that was trained on these classes."
    )


def test_a_way_that_does_not_exist() -> None:
    with pytest.raises(ConfigurationError, match="classes cannot be matched by 'size': choose 'name', 'id' or 'auto'"):
        match_categories(classes("cow"), data("cow"), "size")  # type: ignore[arg-type]
