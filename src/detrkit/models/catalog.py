"""Everything that can be built, in one table: variant to configuration, training recipe and published weights.

This is the one place that knows all papers. `detrkit models` prints it, and the tests that every variant has to pass run over it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from detrkit.errors import ConfigurationError, closest
from detrkit.losses.criterion import SetCriterion
from detrkit.models import deformable_detr, detr
from detrkit.models.coco_categories import COCO_CATEGORIES
from detrkit.models.detector import Detector
from detrkit.structures import Category, Detections, ModelCard, Output, Preprocessing, Recipe

Selection = Callable[[Output, Tensor], list[Detections]]

# A family's module brings Config, build, criterion, selection and VARIANTS.
FAMILIES: dict[str, ModuleType] = {"detr": detr, "deformable_detr": deformable_detr}


@dataclass(frozen=True)
class PublishedWeights:
    """The authors' trained weights of a variant.

    Attributes:
        address: where the authors offer the file.
        sha256_prefix: first digits of its SHA-256, as the authors publish them in its name; None where they publish none.
        ap: published AP on COCO val2017, in [0, 1].
        licence: SPDX name of its licence.
    """

    address: str
    sha256_prefix: str | None
    ap: float
    licence: str


@dataclass(frozen=True)
class Variant:
    """One line of the catalog.

    Attributes:
        family: key of `FAMILIES`.
        config: the family's configuration.
        recipe: how the paper trains it.
        preprocessing: how images are prepared for it.
        weights: what the authors published, or None.
    """

    family: str
    config: Any
    recipe: Recipe
    preprocessing: Preprocessing
    weights: PublishedWeights | None


_DETR_ADDRESS = "https://dl.fbaipublicfiles.com/detr/"
_WEIGHTS: dict[str, PublishedWeights] = {
    "detr-r50": PublishedWeights(_DETR_ADDRESS + "detr-r50-e632da11.pth", "e632da11", 0.420, "Apache-2.0"),
    "detr-r50-dc5": PublishedWeights(_DETR_ADDRESS + "detr-r50-dc5-f0fb7ef5.pth", "f0fb7ef5", 0.433, "Apache-2.0"),
    "detr-r101": PublishedWeights(_DETR_ADDRESS + "detr-r101-2c7b67e5.pth", "2c7b67e5", 0.435, "Apache-2.0"),
    "detr-r101-dc5": PublishedWeights(_DETR_ADDRESS + "detr-r101-dc5-a2e86def.pth", "a2e86def", 0.449, "Apache-2.0"),
    **{
        f"deformable-detr-r50{name}": PublishedWeights(
            f"https://drive.google.com/file/d/{file}/view", None, ap, "Apache-2.0"
        )
        for name, file, ap in (
            ("", "1nDWZWHuRwtwGden77NLM9JoWe-YisJnA", 0.445),
            ("-single-scale", "1WEjQ9_FgfI5sw5OZZ4ix-OKk-IJ_-SDU", 0.394),
            ("-single-scale-dc5", "1m_TgMjzH7D44fbA-c_jiBZ-xf-odxGdk", 0.415),
            ("-refine", "1JYKyRYzUH7uo9eVfDaVCiaIGZb5YTCuI", 0.462),
            ("-two-stage", "15I03A7hNTpwuLNdfuEmW9_taZMNVssEp", 0.469),
        )
    },
}
_FAMILY_RECIPES: dict[str, Recipe] = {
    "deformable_detr": Recipe(
        learning_rate=2e-4,
        backbone_learning_rate=2e-5,
        epochs=50,
        batch_size=32,
        slow_parts=("offsets", "reference_points"),
    ),
}
_RECIPES: dict[str, Recipe] = {
    "detr-compact": Recipe(
        learning_rate=6e-4,
        backbone_learning_rate=6e-4,
        gradient_clip=10.0,
        epochs=20,
        batch_size=16,
        schedule="cosine",
        warmup_steps=50,
    ),
    **dict.fromkeys(
        ("deformable-detr-compact", "deformable-detr-compact-two-stage"),
        Recipe(
            learning_rate=3e-3,
            backbone_learning_rate=3e-3,
            gradient_clip=1.0,
            epochs=20,
            batch_size=16,
            schedule="cosine",
            warmup_steps=50,
        ),
    ),
    "deformable-detr-mobilenetv2-light": Recipe(
        learning_rate=7e-4,
        backbone_learning_rate=2e-4,
        weight_decay=0.02,
        gradient_clip=1.0,
        epochs=50,
        batch_size=4,
        schedule="cosine",
        warmup_steps=50,
    ),
}
_PREPROCESSING: dict[str, Preprocessing] = {
    **dict.fromkeys(
        ("detr-compact", "deformable-detr-compact", "deformable-detr-compact-two-stage"),
        Preprocessing(short_side=128, long_side=208),
    ),
    "deformable-detr-mobilenetv2-light": Preprocessing(short_side=320, long_side=430),
}

CATALOG: dict[str, Variant] = {
    name: Variant(
        family=family,
        config=config,
        recipe=_RECIPES.get(name, _FAMILY_RECIPES.get(family, Recipe())),
        preprocessing=_PREPROCESSING.get(name, Preprocessing()),
        weights=_WEIGHTS.get(name),
    )
    for family, module in FAMILIES.items()
    for name, config in module.VARIANTS.items()
}


def find_variant(name: str) -> Variant:
    """The catalog's line of this name.

    Raises:
        ConfigurationError: there is none; the message names the nearest.
    """
    if name not in CATALOG:
        raise ConfigurationError(f"there is no variant '{name}': {closest(name, CATALOG)}")
    return CATALOG[name]


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
        classes: what it shall tell apart: names, or categories with ids of their own. None builds the authors' head for COCO.
        preprocessing: how its images will be prepared; None takes the variant's.
        **changes: fields of the family's configuration that shall differ, such as `queries=300`.

    Returns:
        The detector, in training mode.

    Raises:
        ConfigurationError: an unknown variant or setting, no class at all, or a name given twice.
    """
    line = find_variant(variant)
    config = changed_config(line.config, changes)
    if classes is None:
        categories: tuple[Category, ...] = COCO_CATEGORIES
    else:
        categories = as_categories(classes)
        config = dataclasses.replace(config, classes=len(categories))
    return build_from_config(
        line.family, variant, config, categories=categories, preprocessing=preprocessing or line.preprocessing
    )


def build_from_config(
    family: str, variant: str, config: Any, *, categories: Sequence[Category], preprocessing: Preprocessing
) -> Detector:
    """An untrained detector of a family from a configuration of its own: what `build` and checkpoints end in."""
    card = ModelCard(
        family=family,
        variant=variant,
        config=dataclasses.asdict(config),
        categories=tuple(categories),
        preprocessing=preprocessing,
    )
    return FAMILIES[family].build(config, card)  # type: ignore[no-any-return]


def changed_config(config: Any, changes: dict[str, Any]) -> Any:
    """A configuration with some fields replaced.

    Raises:
        ConfigurationError: a name that is not a field; the message names the nearest.
    """
    names = [field.name for field in dataclasses.fields(config)]
    for name in changes:
        if name not in names:
            raise ConfigurationError(f"there is no setting '{name}' in this family: {closest(name, names)}")
    return dataclasses.replace(config, **changes)


def as_categories(classes: Sequence[str | Category]) -> tuple[Category, ...]:
    """Categories in the order given, one output of the class head each; names alone are numbered from 0.

    Raises:
        ConfigurationError: no class, or one name twice.
    """
    if isinstance(classes, str) or not classes:
        raise ConfigurationError(
            f'classes must be a list with at least one name, such as ["cat", "dog"], not {classes!r}'
        )
    found = tuple(
        Category(id=entry.id, name=entry.name, index=index)
        if isinstance(entry, Category)
        else Category(id=index, name=entry, index=index)
        for index, entry in enumerate(classes)
    )
    for name, count in Counter(category.name for category in found).items():
        if count > 1:
            raise ConfigurationError(f"the class name '{name}' occurs twice: give every class a name of its own")
    for number, count in Counter(category.id for category in found).items():
        if count > 1:
            raise ConfigurationError(f"two classes have the id {number}: give every class an id of its own")
    return found


def config_of(model: Detector) -> Any:
    """The configuration that a detector was built from."""
    return FAMILIES[model.card.family].Config(**model.card.config)


def criterion_for(model: Detector) -> SetCriterion:
    """The loss that belongs to a detector, with its paper's weights.

    Args:
        model: built by `build` or loaded.

    Returns:
        A module: `criterion(output, targets)` gives `Losses`; `criterion.weights` has the weight of every term.
    """
    return FAMILIES[model.card.family].criterion(config_of(model))  # type: ignore[no-any-return]


def selection_for(model: Detector) -> Selection:
    """What turns a detector's output into detections, as its paper does: `select(output, original_sizes)`."""
    return FAMILIES[model.card.family].selection(config_of(model), model.card.categories)  # type: ignore[no-any-return]
