"""Loads a detector from any file that holds one: detrkit's own, the authors' or Hugging Face's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from detrkit.cards import Category
from detrkit.checkpoints.key_mapping import KeyMapping
from detrkit.checkpoints.own_format import is_own, restore
from detrkit.checkpoints.reading import WeightFile, read_weights
from detrkit.checkpoints.recognition import TABLES, recognise
from detrkit.checkpoints.shared import fitting_backbones, stored_dilation
from detrkit.errors import CheckpointError, ConfigurationError
from detrkit.models.catalog import CATALOG, as_categories, build_from_config, config_of, find_variant
from detrkit.models.coco_categories import COCO_LAYOUTS
from detrkit.models.detector import Detector

# A name in every detrkit model and in no other code's; a run's resume.ckpt has "model." before it.
_OUR_NAME = "decoder.layers.0.feed_forward.expand.weight"


def load(path: str | Path, *, variant: str | None = None, classes: Sequence[str | Category] | None = None) -> Detector:
    """A trained detector, in eval mode.

    Args:
        path: a file that detrkit, the paper's authors or Hugging Face wrote.
        variant: its name in the catalog; needed only if names, shapes and stored options do not determine it (as for dilation).
        classes: names of the class head's outputs if the file does not contain them; an authors' file with 91 outputs has COCO's classes.

    Raises:
        CheckpointError: the file cannot be read, holds another model than `variant`, or fits several variants.
        ConfigurationError: there is no such variant.
    """
    if variant is not None:
        find_variant(variant)
    file = read_weights(path)
    if is_own(file):
        model = restore(file)
        if variant is not None and variant != model.card.variant:
            raise CheckpointError(f"{path} holds a {model.card.variant}, not a {variant}: leave `variant` out")
        if classes is not None:
            raise CheckpointError(f"{path} already contains the names of its classes: leave `classes` out")
        return model
    try:
        return _load_foreign(file, variant, classes)
    except CheckpointError as problem:
        raise CheckpointError(str(problem) if str(path) in str(problem) else f"{path}: {problem}") from problem


def to_official(tensors: Mapping[str, Tensor], model: Detector) -> dict[str, Tensor]:
    """Renames tensors from our parameter names to the authors' keys; weights or gradients of the whole model or a part of it.

    Raises:
        CheckpointError: a name is not one of the model's.
    """
    own_names = model.state_dict().keys()
    for name in tensors:
        if name not in own_names:
            raise CheckpointError(f"'{name}' is not the name of a parameter of this {model.card.variant}")
    return _official(model).to_foreign(tensors)


def from_official(tensors: Mapping[str, Tensor], model: Detector) -> dict[str, Tensor]:
    """Renames tensors from the authors' keys to our parameter names; weights or gradients of the whole model or a part of it.

    Raises:
        CheckpointError: a key has no place in the model.
    """
    return _official(model).from_foreign(tensors, set(model.state_dict()))


def _official(model: Detector) -> KeyMapping:
    return TABLES[model.card.family].official(config_of(model))


def _load_foreign(file: WeightFile, variant: str | None, classes: Sequence[str | Category] | None) -> Detector:
    given = None if classes is None else as_categories(classes)
    family = _find_family(file, variant)
    table = TABLES[family]
    weights = table.layout(file.tensors).from_foreign(file.tensors)
    name = _find_variant_name(file, family, weights, variant)
    entry = find_variant(name)
    try:
        config = table.fit_config(entry.config, weights, file.arguments)
        categories = _categories(file, config.class_count, given)
        model = build_from_config(family, name, config, categories=categories, preprocessing=entry.preprocessing)
    except ConfigurationError as problem:
        raise CheckpointError(
            f"{file.path} has settings that detrkit cannot build ({problem}): correct those stored with the weights"
        ) from problem
    _check_fit(file, name, weights, model)
    model.load_state_dict(weights)
    return model.eval()


def _check_fit(file: WeightFile, variant: str, weights: Mapping[str, Tensor], model: Detector) -> None:
    """Raises a CheckpointError if names or shapes of weights differ from the model's."""
    expected = model.state_dict()
    missing = sorted(set(expected) - set(weights))
    unknown = sorted(set(weights) - set(expected))
    wrong = sorted(key for key in set(weights) & set(expected) if weights[key].shape != expected[key].shape)
    for keys, complaint in (
        (missing, "lacks"),
        (unknown, "has, besides those of that model,"),
        (wrong, "has in another shape"),
    ):
        if keys:
            raise CheckpointError(
                f"{file.path} does not fit {variant}: it {complaint} {len(keys)} tensors such as '{keys[0]}'; "
                "give the variant that it was trained as"
            )


def _find_family(file: WeightFile, variant: str | None) -> str:
    """The family that a file belongs to; it must be one that detrkit builds, and the given variant's family if there is one."""
    recognised = recognise(file.tensors)
    if recognised is None and any(name.removeprefix("model.") == _OUR_NAME for name in file.tensors):
        raise CheckpointError(
            f"{file.path} holds detrkit's weights without their header: load the .safetensors that detrkit.save or training wrote"
        )
    if recognised is None:
        raise CheckpointError(
            f"{file.path} holds none of the models that detrkit knows ({', '.join(TABLES)}): "
            f"its first tensor is '{next(iter(file.tensors))}'"
        )
    family, paper = recognised.family, recognised.paper
    built = family in TABLES
    if variant is not None and family != find_variant(variant).family:
        remedy = "leave `variant` out" if built else f"detrkit does not build {paper.name} yet"
        raise CheckpointError(f"{file.path} holds {paper.article} {paper.name}, not a {variant}: {remedy}")
    if not built:
        raise CheckpointError(f"{file.path} is a checkpoint of {paper.name}, which detrkit does not build yet")
    return family


def _find_variant_name(file: WeightFile, family: str, weights: Mapping[str, Tensor], given: str | None) -> str:
    backbones = fitting_backbones(weights)
    if not backbones:
        raise CheckpointError(f"{file.path} holds no backbone that detrkit knows: give the whole model's file")
    configs = {name: entry.config for name, entry in CATALOG.items() if entry.family == family}
    fitting = {name: config for name, config in configs.items() if config.backbone in backbones}
    if not fitting:
        raise CheckpointError(f"{file.path} has a backbone ({' or '.join(backbones)}) that no {family} variant has")
    candidates = TABLES[family].candidates(weights, fitting)
    stored = _stored_variants(file, candidates, TABLES[family].stated(file.arguments))
    if given is not None:
        if given not in candidates:
            raise CheckpointError(f"{file.path} is not a {given}: its weights fit {' or '.join(candidates)}")
        if given not in stored:
            remedy = "leave `variant` out" if len(stored) == 1 else "give one of these"
            raise CheckpointError(
                f"{file.path} is a {' or a '.join(stored)}, as its contents say, not a {given}: {remedy}"
            )
        return given
    if len(stored) > 1:
        raise CheckpointError(
            f"{file.path} could be any of {', '.join(stored)}, between which its contents do not decide: say which one with `variant`"
        )
    return stored[0]


def _stored_variants(file: WeightFile, candidates: list[str], stated: Mapping[str, Any]) -> list[str]:
    """The candidates that agree with the file's stored options, or the one whose published file has this checksum.

    An option with which none agrees was changed for this model, and rules out no candidate.
    """
    dilation = stored_dilation(file.arguments)
    if dilation is not None:
        agreeing = [name for name in candidates if CATALOG[name].config.backbone.endswith("-dc5") == dilation]
        candidates = agreeing or candidates
    for setting, value in stated.items():
        agreeing = [name for name in candidates if getattr(CATALOG[name].config, setting) == value]
        # A setting must not choose the backbone: perhaps no variant has both.
        if {CATALOG[name].config.backbone for name in agreeing} == {
            CATALOG[name].config.backbone for name in candidates
        }:
            candidates = agreeing
    if len(candidates) == 1:
        return candidates
    prefixes = [
        (weights.sha256_prefix, name)
        for name in candidates
        for weights in CATALOG[name].weights
        if weights.sha256_prefix is not None
    ]
    digest = file.sha256() if prefixes else ""
    published = [name for prefix, name in prefixes if digest.startswith(prefix)]
    return published[:1] or candidates


def _categories(file: WeightFile, outputs: int, given: tuple[Category, ...] | None) -> tuple[Category, ...]:
    """What the outputs stand for: as given, as a Hugging Face file says, as in COCO, or just numbered."""
    if given is not None:
        if len(given) != outputs:
            raise CheckpointError(f"{file.path} has {outputs} class outputs but {len(given)} classes were given")
        return given
    labels: Any = file.arguments.get("id2label")
    if isinstance(labels, Mapping) and labels:
        if not all(str(key).isdigit() for key in labels):
            raise CheckpointError(
                f"{file.path} has a config.json whose id2label does not number its classes: correct it"
            )
        pairs = sorted((int(key), str(name)) for key, name in labels.items())
        return tuple(Category(id=key, name=name, index=key) for key, name in pairs if name != "N/A" and key < outputs)
    if outputs in COCO_LAYOUTS:
        return COCO_LAYOUTS[outputs]
    return as_categories([f"class {index}" for index in range(outputs)])
