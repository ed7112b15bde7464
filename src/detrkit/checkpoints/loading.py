"""Loads a detector from any file that holds one: detrkit's own, the authors' or Hugging Face's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detrkit.backbones import TimmBackbone
from detrkit.cards import Category, ModelCard
from detrkit.checkpoints.blank import WithoutRandomValues
from detrkit.checkpoints.hugging_face import stored_preprocessing
from detrkit.checkpoints.key_mapping import KeyMapping
from detrkit.checkpoints.mistaken import other_network
from detrkit.checkpoints.names import as_in_files, by_prefix
from detrkit.checkpoints.own_format import accompanying_card, blank_model, is_own, restore
from detrkit.checkpoints.reading import WeightFile, read_weights
from detrkit.checkpoints.recognition import TABLES, recognise
from detrkit.checkpoints.shared import agreement_of, fitting_backbones
from detrkit.checkpoints.stored import stored_dilation
from detrkit.errors import CheckpointError, ConfigurationError
from detrkit.models.catalog import CATALOG, as_categories, build_from_config, config_of, find_variant
from detrkit.models.coco_categories import COCO_LAYOUTS
from detrkit.models.detector import Detector, unwrapped

# A name in every detrkit model with a decoder, one in every model without, and both in no other code's.
_OUR_NAMES = ("decoder.layers.0.feed_forward.expand.weight", "neck.lateral.0.weight")


def load(path: str | Path, *, variant: str | None = None, classes: Sequence[str | Category] | None = None) -> Detector:
    """A trained detector, in eval mode.

    Args:
        path: a file that detrkit, the paper's authors or Hugging Face wrote; the folder of a run stands for its best model, otherwise its last. A prefix that
            all names in the file have in common is taken off.
        variant: its name in the catalog; needed only if names, shapes and stored options do not determine it (as for dilation), and for
            the bare state dict of a detrkit model. What such a file does not show, such as preprocessing, is then as in the variant.
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
        _refuse_hints(file, model.card, variant, classes)
        return model
    try:
        return _load_foreign(file, variant, classes)
    except CheckpointError as problem:
        raise CheckpointError(str(problem) if str(path) in str(problem) else f"{path}: {problem}") from problem


def load_fitting(path: str | Path) -> Detector:
    """A trained detector from a file that fits one variant, for callers that cannot ask which of several it is.

    Raises:
        CheckpointError: as for `load`; or the file fits several variants.
    """
    try:
        return load(path)
    except CheckpointError as problem:
        if "`variant`" not in str(problem):
            raise
        remedy = "load it with detrkit.load(path, variant=...), save it with detrkit.save, and give that file"
        raise CheckpointError(f"{problem}; {remedy}") from problem


def to_official(tensors: Mapping[str, Tensor], model: Detector) -> dict[str, Tensor]:
    """Renames tensors from our parameter names to the authors' keys; weights or gradients of the whole model or a part of it.

    Raises:
        CheckpointError: a name is not one of the model's, or the backbone is one of timm's.
    """
    own_names = model.state_dict().keys()
    for name in tensors:
        if name not in own_names:
            raise CheckpointError(f"'{name}' is not the name of a parameter of this {model.card.variant}")
    return _official(model).to_foreign(tensors)


def from_official(tensors: Mapping[str, Tensor], model: Detector) -> dict[str, Tensor]:
    """Renames tensors from the authors' keys to our parameter names; weights or gradients of the whole model or a part of it.

    Raises:
        CheckpointError: a key has no place in the model, or the backbone is one of timm's.
    """
    return _official(model).from_foreign(tensors, set(model.state_dict()))


def _official(model: Detector) -> KeyMapping:
    if isinstance(model.backbone, TimmBackbone):
        raise CheckpointError(
            f"no authors have names for a {model.card.variant} with the backbone {model.backbone.name}: write it with detrkit.save"
        )
    return TABLES[model.card.family].official(config_of(model))


def as_detector(model: Detector | nn.Module | str | Path) -> Detector:
    """The detector that a user means: the one in a file, or in a wrapper of PyTorch.

    A compiled detector stays compiled, since it has the attributes of the one within. Other wrappers, such as DataParallel, are for training.

    Raises:
        CheckpointError: the file cannot be read; see `load`.
        ConfigurationError: this is no detector.
    """
    if isinstance(model, str | Path):
        return load(model)
    detector = unwrapped(model)
    return model if getattr(model, "_orig_mod", None) is detector else detector  # type: ignore[return-value]


def _load_foreign(file: WeightFile, variant: str | None, classes: Sequence[str | Category] | None) -> Detector:
    given = None if classes is None else as_categories(classes)
    file = _without_prefix(file)
    if any(name in file.tensors for name in _OUR_NAMES):
        return _load_bare(file, variant, given)
    family = _find_family(file, variant)
    weights = TABLES[family].layout(file.tensors).from_foreign(file.tensors)
    card = accompanying_card(file)
    if card is not None and card.family == family:
        _refuse_hints(file, card, variant, classes)
        return _converted(file, card, weights)
    return _assemble(file, family, _find_variant_name(file, family, weights, variant), weights, given)


def _refuse_hints(
    file: WeightFile, card: ModelCard, variant: str | None, classes: Sequence[str | Category] | None
) -> None:
    """Refuses what a user says about a file that says it itself."""
    if variant is not None and variant != card.variant:
        raise CheckpointError(f"{file.path} holds a {card.variant}, not a {variant}: leave `variant` out")
    if classes is not None:
        raise CheckpointError(f"{file.path} already contains the names of its classes: leave `classes` out")


def _converted(file: WeightFile, card: ModelCard, weights: Mapping[str, Tensor]) -> Detector:
    """The model that detrkit wrote in another form, with the names that classes have in the settings now."""
    model = blank_model(file, card)
    _check_fit(file, card.variant, weights, model)
    model.load_state_dict(weights)
    preprocessing = stored_preprocessing(file.path, card.preprocessing)
    model.card = replace(card, preprocessing=preprocessing)
    labels = file.arguments.get("id2label")
    if isinstance(labels, Mapping):
        names = {each.index: labels.get(str(each.index), each.name) for each in card.categories}
        categories = tuple(replace(each, name=str(names[each.index])) for each in card.categories)
        model.card = replace(model.card, categories=categories)
    return model.eval()


def _load_bare(file: WeightFile, variant: str | None, given: tuple[Category, ...] | None) -> Detector:
    """A detrkit model whose weights were saved without its card, so that only the user knows its variant."""
    if variant is None:
        raise CheckpointError(
            f"{file.path} holds the weights of a detrkit model without its card (variant, classes, preprocessing): load the .safetensors "
            f"that detrkit.save or training wrote{_beside(file.path)}, or give `variant`, and `classes` for their names"
        )
    family, file = find_variant(variant).family, replace(file, arguments={})
    try:
        name = _find_variant_name(file, family, file.tensors, variant)
        TABLES[family].fit_config(find_variant(name).config, file.tensors, {})
    except CheckpointError as problem:
        raise CheckpointError(
            f"{file.path} holds a detrkit model's weights that do not fit {variant}: give the variant that it was trained as"
        ) from problem
    return _assemble(file, family, name, file.tensors, given)


def _beside(path: Path) -> str:
    """The model of the run whose state the file is, if it lies beside it."""
    names = ("best.safetensors", "last.safetensors")
    return next((f" ({name} beside it)" for name in names if path.with_name(name).is_file()), "")


def _assemble(
    file: WeightFile, family: str, name: str, weights: Mapping[str, Tensor], given: tuple[Category, ...] | None
) -> Detector:
    """The model of this variant with these weights, by our names, and with the settings that they show."""
    entry = find_variant(name)
    try:
        config = TABLES[family].fit_config(entry.config, weights, file.arguments)
        categories = _categories(file, config.class_count, given)
        preprocessing = stored_preprocessing(file.path, entry.preprocessing)
        with WithoutRandomValues():
            model = build_from_config(family, name, config, categories=categories, preprocessing=preprocessing)
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


def _without_prefix(file: WeightFile) -> WeightFile:
    """The file with tensors that a paper's table or detrkit itself knows, if there are such below prefixes that all names share."""
    for tensors in map(as_in_files, by_prefix(file.tensors)):
        if any(name in tensors for name in _OUR_NAMES) or recognise(tensors) is not None:
            return replace(file, tensors=tensors)
    return file


def _find_family(file: WeightFile, variant: str | None) -> str:
    """The family that a file belongs to; it must be one that detrkit builds, and the given variant's family if there is one."""
    recognised = recognise(file.tensors)
    if recognised is None:
        network = other_network(file.tensors)
        if network is not None:
            raise CheckpointError(
                f"{file.path} holds a {network} for classifying images, and a detector is needed: train one that begins with these weights "
                "(`detrkit train VARIANT --backbone-weights FILE`), or give a detector's file"
            )
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
    """The candidates that agree best with the file's stored options, or the one whose published file has this checksum.

    An option with which none agrees was changed for this model, and rules out no candidate.
    """
    dilation = stored_dilation(file.arguments)
    if dilation is not None:
        agreeing = [name for name in candidates if CATALOG[name].config.backbone.endswith("-dc5") == dilation]
        candidates = agreeing or candidates
    for setting, value in stated.items():
        agreement = {name: agreement_of(getattr(CATALOG[name].config, setting), value) for name in candidates}
        agreeing = [name for name, agrees in agreement.items() if agrees == max(agreement.values())]
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
            raise CheckpointError(
                f"{file.path} has {outputs} class outputs but {len(given)} {'class was' if len(given) == 1 else 'classes were'} given"
            )
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
