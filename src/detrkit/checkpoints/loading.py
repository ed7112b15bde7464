"""A detector out of any file that holds one: detrkit's own, the authors', or Hugging Face's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from detrkit.checkpoints import deformable_detr, detr
from detrkit.checkpoints.detr import backbone_names, told_dilation
from detrkit.checkpoints.key_mapping import KeyMapping
from detrkit.checkpoints.own_format import is_own, restore
from detrkit.checkpoints.reading import WeightFile, read_weights
from detrkit.errors import CheckpointError
from detrkit.models.catalog import CATALOG, as_categories, build_from_config, config_of, find_variant
from detrkit.models.coco_categories import COCO_CATEGORIES
from detrkit.models.detector import Detector
from detrkit.structures import Category

# A family's table brings official, find_layout, candidates and fit_config.
TABLES: dict[str, ModuleType] = {"detr": detr, "deformable_detr": deformable_detr}
# Papers of the family that share many names with these, by a beginning that only they have; DN-DETR is also a DAB-DETR, and so on.
_OTHER_PAPERS = {
    "label_enc.": "DN-DETR or DINO",
    "refpoint_embed.": "DAB-DETR",
    "transformer.decoder.layers.0.ca_": "Conditional DETR",
    "transformer.decoder.ref_point_head.": "DINO",
    "decoder.dec_score_head.": "RT-DETR or D-FINE",
}
_COCO_OUTPUTS = 91  # ids 0 to 90


def load(path: str | Path, *, variant: str | None = None, classes: Sequence[str | Category] | None = None) -> Detector:
    """A trained detector, in eval mode.

    Args:
        path: a file that detrkit, the paper's authors or Hugging Face wrote.
        variant: its name in the catalog; needed only where neither names nor shapes nor stored options tell (dilation, say).
        classes: names of the class head's outputs where the file does not bring them; an authors' file with 91 outputs has COCO's.

    Raises:
        CheckpointError: the file cannot be read, is of another model than `variant`, or leaves open which variant it is.
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
            raise CheckpointError(f"{path} brings the names of its classes with it: leave `classes` out")
        return model
    try:
        return _load_foreign(file, variant, classes)
    except CheckpointError as problem:
        raise CheckpointError(str(problem) if str(path) in str(problem) else f"{path}: {problem}") from problem


def to_official(tensors: Mapping[str, Tensor], model: Detector) -> dict[str, Tensor]:
    """Tensors by our parameter names, under the authors' keys; weights or gradients, and any part of the model.

    Raises:
        CheckpointError: a name is not one of the model's.
    """
    own_names = model.state_dict().keys()
    for name in tensors:
        if name not in own_names:
            raise CheckpointError(f"'{name}' is not the name of a parameter of this {model.card.variant}")
    return _official(model).to_foreign(tensors)


def from_official(tensors: Mapping[str, Tensor], model: Detector) -> dict[str, Tensor]:
    """Tensors by the authors' keys, under our parameter names; weights or gradients, and any part of the model.

    Raises:
        CheckpointError: a key has no place in the model.
    """
    return _official(model).from_foreign(tensors, set(model.state_dict()))


def _official(model: Detector) -> KeyMapping:
    return TABLES[model.card.family].official(config_of(model))  # type: ignore[no-any-return]


def _load_foreign(file: WeightFile, variant: str | None, classes: Sequence[str | Category] | None) -> Detector:
    family, layout = _find_family(file)
    weights = layout.from_foreign(file.tensors)
    name = _find_variant_name(file, family, weights, variant)
    line = find_variant(name)
    config = TABLES[family].fit_config(line.config, weights, file.arguments)
    model = build_from_config(
        family, name, config, categories=_categories(file, config.classes, classes), preprocessing=line.preprocessing
    )
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(weights))
    strange = sorted(set(weights) - set(wanted))
    wrong = sorted(key for key in set(weights) & set(wanted) if weights[key].shape != wanted[key].shape)
    for keys, complaint in (
        (missing, "lacks"),
        (strange, "has, besides those of that model,"),
        (wrong, "has in another shape"),
    ):
        if keys:
            raise CheckpointError(
                f"{file.path} does not fit {name}: it {complaint} {len(keys)} tensors such as '{keys[0]}'; "
                "give the variant that it was trained as"
            )
    model.load_state_dict(weights)
    return model.eval()


def _find_family(file: WeightFile) -> tuple[str, KeyMapping]:
    for family, table in TABLES.items():
        layout = table.find_layout(file.tensors.keys())
        if layout is not None:
            return family, layout
    raise CheckpointError(
        f"{file.path} holds none of the models that detrkit knows ({', '.join(TABLES)}): {_hint(file.tensors)}"
    )


def _hint(names: Collection[str]) -> str:
    if {"query_embed.weight", "transformer.pos_trans.weight"} <= set(names):
        return "it has learned queries beside proposals, which is H-DETR's way; a detrkit model with learned_content is kept by detrkit.save"
    for beginning, setting in deformable_detr.OWN_NAMES.items():
        if any(name.startswith(beginning) for name in names):
            return f"it is of a detrkit model with {setting}, which no paper's names can tell; such a model is kept by detrkit.save"
    for beginning, paper in _OTHER_PAPERS.items():
        for name in names:
            if name.startswith(beginning):
                return f"its tensor '{name}' is one of {paper}"
    return f"its first tensor is '{next(iter(names))}'"


def _find_variant_name(file: WeightFile, family: str, weights: Mapping[str, Tensor], given: str | None) -> str:
    backbones = backbone_names(weights)
    if not backbones:
        raise CheckpointError(f"{file.path} holds no backbone that detrkit knows: give the whole model's file")
    lines = {name: line.config for name, line in CATALOG.items() if line.family == family}
    fitting = {name: config for name, config in lines.items() if config.backbone in backbones}
    if not fitting:
        raise CheckpointError(f"{file.path} has a backbone ({' or '.join(backbones)}) that no {family} variant has")
    candidates: list[str] = TABLES[family].candidates(weights, fitting)
    if given is not None and given not in candidates:
        raise CheckpointError(f"{file.path} is not a {given}: its weights fit {' or '.join(candidates)}")
    if len(candidates) == 1:
        return candidates[0]
    told = _told_variant(file, candidates)
    if told is None and given is None:
        raise CheckpointError(
            f"{file.path} could be any of {', '.join(candidates)}, which have the same weights: say which with `variant`"
        )
    if told is not None and given is not None and told != given:
        raise CheckpointError(f"{file.path} is a {told}, as its contents say, not a {given}: leave `variant` out")
    return told or given or candidates[0]


def _told_variant(file: WeightFile, candidates: Sequence[str]) -> str | None:
    """Which of the candidates a file is by its own word: the options stored in it, or the checksum of a published file."""
    dilation = told_dilation(file.arguments)
    if dilation is not None:
        dilated = {name: CATALOG[name].config.backbone.endswith("-dc5") for name in candidates}
        return next((name for name in candidates if dilated[name] == dilation), candidates[0])
    published = {
        name: weights.sha256_prefix
        for name in candidates
        if (weights := CATALOG[name].weights) is not None and weights.sha256_prefix is not None
    }
    digest = file.sha256() if published else ""
    return next((name for name, prefix in published.items() if digest.startswith(prefix)), None)


def _categories(file: WeightFile, outputs: int, classes: Sequence[str | Category] | None) -> tuple[Category, ...]:
    """What the outputs stand for: as told, as a Hugging Face file says, as COCO numbers them, or by number alone."""
    if classes is not None:
        found = as_categories(classes)
        if len(found) != outputs:
            raise CheckpointError(f"{file.path} has {outputs} class outputs but {len(found)} classes were given")
        return found
    labels: Any = file.arguments.get("id2label")
    if isinstance(labels, Mapping) and labels:
        if not all(str(key).isdigit() for key in labels):
            raise CheckpointError(f"{file.path} has a config.json whose id2label does not number its classes: mend it")
        pairs = sorted((int(key), str(name)) for key, name in labels.items())
        return tuple(Category(id=key, name=name, index=key) for key, name in pairs if name != "N/A" and key < outputs)
    if outputs == _COCO_OUTPUTS:
        return COCO_CATEGORIES
    return as_categories([f"class {index}" for index in range(outputs)])
