"""Everything that can be built, in one table: the union of the variants in the papers' files.

This is the only place that knows all papers. `detrkit models` prints the table, and the tests for all variants loop over it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from torch import Tensor

from detrkit.cards import Category, ModelCard, Preprocessing, Variant
from detrkit.errors import ConfigurationError, OptionError, closest
from detrkit.losses.criterion import Criterion
from detrkit.models import (
    anchor_detr,
    conditional_detr,
    conditional_detr_segmentation,
    dab_deformable_detr,
    dab_detr,
    deformable_detr,
    deformable_detr_segmentation,
    detr,
    detr_segmentation,
    dino,
    dn_deformable_detr,
    dn_detr,
    h_detr,
    light_detr,
    sam_detr,
    smca_detr,
    smca_multiscale,
    tsp_fcos,
    tsp_rcnn,
)
from detrkit.models.coco_categories import coco_categories
from detrkit.models.detector import Detector, unwrapped
from detrkit.structures import Detections, Output

Selection = Callable[[Output, Tensor], list[Detections]]

# A family's module provides Config, build, criterion, selection, VARIANTS and SOURCE.
FAMILIES: dict[str, ModuleType] = {
    "detr": detr,
    "conditional_detr": conditional_detr,
    "dab_detr": dab_detr,
    "anchor_detr": anchor_detr,
    "smca_detr": smca_detr,
    "smca_multiscale": smca_multiscale,
    "sam_detr": sam_detr,
    "deformable_detr": deformable_detr,
    "dab_deformable_detr": dab_deformable_detr,
    "dn_detr": dn_detr,
    "dn_deformable_detr": dn_deformable_detr,
    "dino": dino,
    "h_detr": h_detr,
    "light_detr": light_detr,
    "tsp_fcos": tsp_fcos,
    "tsp_rcnn": tsp_rcnn,
    "detr_segmentation": detr_segmentation,
    "conditional_detr_segmentation": conditional_detr_segmentation,
    "deformable_detr_segmentation": deformable_detr_segmentation,
}

CATALOG: dict[str, Variant] = {
    name: dataclasses.replace(variant, source=module.SOURCE)
    for module in FAMILIES.values()
    for name, variant in module.VARIANTS.items()
}


def find_variant(name: str) -> Variant:
    """The catalog's entry of this name.

    Raises:
        ConfigurationError: there is no such variant; the message names the closest ones.
    """
    if name not in CATALOG:
        raise ConfigurationError(
            f"there is no variant '{name}': {closest(name, CATALOG, listing='`detrkit models` lists all')}"
        )
    return CATALOG[name]


def has_masks(variant: str) -> bool:
    """Whether models of this variant give masks besides boxes.

    Raises:
        ConfigurationError: there is no such variant.
    """
    return isinstance(find_variant(variant).config, detr_segmentation.MaskSettings)


def build(
    variant: str,
    *,
    classes: Sequence[str | Category] | None = None,
    preprocessing: Preprocessing | None = None,
    **changes: Any,
) -> Detector:
    """An untrained detector.

    Args:
        variant: a name in the catalog, such as "detr-r50".
        classes: the classes to detect: names, or categories with their own ids. None builds the authors' head for COCO.
        preprocessing: how its images will be prepared; None takes the variant's. A backbone that is made for images with other colours (mean,
            deviation, order of channels) gets these, unless this gives others than the variant's.
        **changes: fields of the family's configuration to change, such as `queries=300`.

    Returns:
        The detector, in training mode.

    Raises:
        ConfigurationError: an unknown variant or setting, no classes, or a duplicate class name.
    """
    entry = find_variant(variant)
    if classes is not None and "class_count" in changes:
        raise OptionError("class_count follows from classes: leave it out", "class_count")
    config = changed_config(entry.config, changes)
    if classes is None:
        categories = coco_categories(config.class_count)
    else:
        categories = as_categories(classes)
        config = dataclasses.replace(config, class_count=len(categories))
    usual, preprocessing = entry.preprocessing, preprocessing or entry.preprocessing
    model = build_from_config(entry.family, variant, config, categories=categories, preprocessing=preprocessing)
    if preprocessing.colours == usual.colours:
        own = model.card.preprocessing.with_colours(model.backbone.colours)
        model.card = dataclasses.replace(model.card, preprocessing=own)
    return model


def build_from_config(
    family: str, variant: str, config: Any, *, categories: Sequence[Category], preprocessing: Preprocessing
) -> Detector:
    """An untrained detector from a configuration of its family; `build` and checkpoints both use this."""
    card = ModelCard(
        family=family,
        variant=variant,
        config=dataclasses.asdict(config),
        categories=tuple(categories),
        preprocessing=preprocessing,
    )
    model: Detector = FAMILIES[family].build(config, card)
    # An image smaller than one cell of the coarsest level is padded to that size.
    smallest_side = max(preprocessing.smallest_side, model.coarsest_stride)
    model.card = dataclasses.replace(
        card, preprocessing=dataclasses.replace(preprocessing, smallest_side=smallest_side)
    )
    return model


def changed_config(config: Any, changes: dict[str, Any]) -> Any:
    """A configuration with some fields replaced.

    Raises:
        ConfigurationError: a name that is not a field; the message names the closest fields.
    """
    names = [field.name for field in dataclasses.fields(config)]
    for name in changes:
        if name not in names:
            raise ConfigurationError(f"there is no setting '{name}' in this family: {closest(name, names)}")
    return dataclasses.replace(config, **changes)


def fitting_queries(config: Any, objects: int) -> int:
    """A number of queries for images with this many objects, which leaves some without one.

    Args:
        config: a model's configuration; not every number fits its other settings, such as patterns or a grid of anchors.
        objects: the most in an image.

    Returns:
        The next multiple of 50 where it fits, otherwise the next number that does.
    """
    round_number: int = -(-(objects + 1) // 50) * 50
    candidates: tuple[int, ...] = (round_number, *range(objects + 1, 4 * objects + 200))
    for queries in candidates:
        try:
            dataclasses.replace(config, queries=queries)
        except ConfigurationError:
            continue
        return queries
    return round_number


def as_categories(classes: Sequence[str | Category]) -> tuple[Category, ...]:
    """Categories in the given order, one output of the class head each; plain names get ids from 0.

    Raises:
        ConfigurationError: no classes, or a duplicate name or id.
    """
    names = not isinstance(classes, str) and isinstance(classes, Sequence)
    if not (names and classes and all(isinstance(entry, str | Category) for entry in classes)):
        raise ConfigurationError(
            f'classes must be a list with at least one name, such as ["cat", "dog"], not {classes!r}'
        )
    categories = tuple(
        dataclasses.replace(entry, index=index)
        if isinstance(entry, Category)
        else Category(id=index, name=entry, index=index)
        for index, entry in enumerate(classes)
    )
    for name, count in Counter(category.name for category in categories).items():
        if count > 1:
            raise ConfigurationError(f"the class name '{name}' occurs twice: give every class a name of its own")
    for number, count in Counter(category.id for category in categories).items():
        if count > 1:
            raise ConfigurationError(f"two classes have the id {number}: give every class an id of its own")
    return categories


def config_of(model: Detector) -> Any:
    """The configuration that a detector was built from."""
    card = unwrapped(model).card
    return FAMILIES[card.family].Config(**card.config)


def criterion_for(model: Detector) -> Criterion:
    """The loss that belongs to a detector, with its paper's weights.

    Args:
        model: built by `build` or loaded.

    Returns:
        A module: `criterion(output, targets)` gives `Losses`; `criterion.weights` has the weight of every term.
    """
    model = unwrapped(model)
    criterion: Criterion = FAMILIES[model.card.family].criterion(config_of(model), model)
    return criterion if model.supervision is None else model.supervision.criterion(criterion)  # type: ignore[operator]


def selection_for(model: Detector) -> Selection:
    """The function that turns a detector's output into detections as in its paper: `select(output, original_sizes)`."""
    model = unwrapped(model)
    return FAMILIES[model.card.family].selection(config_of(model), model.card.categories, model)  # type: ignore[no-any-return]
