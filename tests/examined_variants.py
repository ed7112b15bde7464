"""Which variants the checks of all variants run on: the smallest of each structure; for export, which takes longer, fewer of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

LAYERS = ("encoder_layers", "decoder_layers")
# Families that `make test` does not export: they are built from another family's parts and evaluate as it does; `tsp_rcnn` cannot be exported.
EXPORTED_LATER = frozenset(
    (
        "dn_detr",
        "dn_deformable_detr",
        "detr_segmentation",
        "conditional_detr_segmentation",
        "deformable_detr_segmentation",
        "tsp_rcnn",
    )
)


def structure(family: str, config: Any) -> tuple[Any, ...]:
    """What a model is made of without how large it is: its family, its settings, of each number only whether it is none, one or many.

    The number of levels counts in full, since some come from the backbone and others from the neck; of layers it does not count whether there
    are one or many, since they are alike; dropout adds no parts, and names, such as the backbone's, do not count here: see
    `backbone_kind`.
    """
    settings = dataclasses.asdict(config)
    exact = {name: settings.get(name) for name in ("levels",)}
    settings.pop("dropout", None)
    sizes = {name: min(value, 1 if name in LAYERS else 2) for name, value in settings.items() if type(value) is int}
    switches = {name: value for name, value in settings.items() if value is None or isinstance(value, bool)}
    weights = {name: value is not None and value > 0 for name, value in settings.items() if type(value) is float}
    return (family, *sorted((sizes | switches | weights | exact).items(), key=lambda item: item[0]))


def backbone_kind(config: Any) -> str:
    """The backbone's name without its depth: "resnet-dc" for "resnet50-dc5"."""
    return re.sub(r"\d+", "", config.backbone)


def size_of(config: Any) -> tuple[int, ...]:
    """Grows with a model: layers, width and queries, then the backbone's depth."""
    layers = config.encoder_layers + config.decoder_layers
    return (layers * config.width, config.queries, *(int(number) for number in re.findall(r"\d+", config.backbone)))


def representatives(variants: Mapping[str, Any]) -> dict[str, set[Any]]:
    """The smallest variant of each structure, and one for each kind of backbone; with that of which they are the first."""
    chosen: dict[str, set[Any]] = {}
    seen: set[Any] = set()
    for name in sorted(variants, key=lambda name: size_of(variants[name].config)):
        traits = {structure(variants[name].family, variants[name].config), backbone_kind(variants[name].config)}
        if traits - seen:
            chosen[name] = traits - seen
        seen |= traits
    return chosen


def export_traits(family: str, config: Any) -> set[Any]:
    """What export may depend on, one by one: the settings of a family, as in `structure`, the number of levels, and the kind of backbone.

    A model with an encoder stands for those without one, too.
    """
    _, *settings = structure(family, config)
    each = {name: min(value, 2) if name == "levels" and value else value for name, value in settings}
    if not each["encoder_layers"]:
        del each["encoder_layers"]
    own = {(family, *setting) for setting in each.items()}
    return own | {("levels", getattr(config, "levels", None)), ("backbone", backbone_kind(config))}


def to_export(variants: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What `make test` exports, a representative of most families and of every kind of backbone, and what `make test-slow` exports besides.

    All of them have all traits of all variants between them.
    """
    names = representatives(variants)
    traits = {name: export_traits(variants[name].family, variants[name].config) for name in names}
    kinds = {
        name: {variants[name].family, backbone_kind(variants[name].config)}
        for name in names
        if variants[name].family not in EXPORTED_LATER
    }
    first = _covering(kinds, set().union(*kinds.values()))
    covered: set[Any] = set().union(*(traits[name] for name in first))
    return first, _covering(traits, set().union(*traits.values()) - covered)


def _covering(traits: Mapping[str, set[Any]], missing: set[Any]) -> list[str]:
    """A few that have all missing traits between them; of equals the first."""
    chosen: list[str] = []
    while missing:
        chosen.append(max(traits, key=lambda name: len(traits[name] & missing)))
        missing = missing - traits[chosen[-1]]
    return chosen
