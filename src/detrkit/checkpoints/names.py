"""Names of tensors before a paper's table sees them: without the prefixes of wrappers, and as `transformers` writes them to files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Beside a model's own tensors: the counter of `AveragedModel`, and the weights of losses that training modules keep.
_NOT_THE_MODELS = re.compile(r"n_averaged|(.+\.)?criterion\..+")
_COMPILED = "_orig_mod."  # added by torch.compile, in front of a whole model's names or of a part's
_IN_MEMORY = "model.backbone.model."  # files have `conv_encoder` between
# From the names of modules in `transformers` 5 to those in its files, which are the names of its earlier releases.
_TO_FILE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^model\.backbone\.model\.", "model.backbone.conv_encoder.model."),
        (r"(\.layers\.\d+)\.mlp\.(fc[12])\.", r"\1.\2."),
        (r"\.(self_attn|encoder_attn)\.o_proj\.", r".\1.out_proj."),
        (r"\.self_attn\.([qk])_(content|pos)_proj\.", r".sa_\1\2_proj."),
        (r"(\.decoder\.layers\.\d+)\.encoder_attn\.([qk])_(content|pos|pos_sine)_proj\.", r"\1.ca_\2\3_proj."),
    )
)
# Conditional DETR's values are named like those of any attention, and were moved, too.
_VALUES = tuple(
    (re.compile(rf"(\.decoder\.layers\.\d+)\.{attention}\.v_proj\."), rf"\1.{short}_v_proj.")
    for attention, short in (("self_attn", "sa"), ("encoder_attn", "ca"))
)
# In a model with masks, what the names of the detector's tensors begin with.
_DETECTOR = re.compile(r"(conditional_)?detr\.")
_CONDITIONAL = "model.decoder.ref_point_head.layers.0.weight"


def without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what PyTorch's wrappers add to their names, and without the wrappers' own."""
    plain = {
        name.replace(_COMPILED, ""): tensor for name, tensor in tensors.items() if not _NOT_THE_MODELS.fullmatch(name)
    }
    while plain and all(name.startswith("module.") for name in plain):
        plain = {name.removeprefix("module."): tensor for name, tensor in plain.items()}
    return plain or dict(tensors)


def by_prefix(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors as they are, then without the prefix that all names have in common, one component after the other."""
    plain = dict(tensors)
    yield plain
    while (prefix := _common_component(plain)) is not None:
        plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
        yield plain


def as_in_files(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a `transformers` model, whose names in memory are others than in its files, by the names in files; others unchanged.

    The detector in a model with masks is called `detr`, as by the authors.
    """
    prefix = next((match[0] for name in tensors if (match := _DETECTOR.match(name))), None)
    if prefix is not None:
        inner = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
        beside = {name: each for name, each in tensors.items() if not name.startswith(prefix)}
        return {f"detr.{name}": each for name, each in as_in_files(inner).items()} | beside
    tensors = {
        name.replace(".conv_encoder.model._backbone.", ".conv_encoder.model."): each for name, each in tensors.items()
    }
    if not any(name.startswith(_IN_MEMORY) for name in tensors):
        return tensors
    replacements = (*_TO_FILE, *(_VALUES if _CONDITIONAL in tensors else ()))
    return {_replaced(name, replacements): tensor for name, tensor in tensors.items()}


def _replaced(name: str, replacements: Iterable[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in replacements:
        name = pattern.sub(replacement, name)
    return name


def _common_component(names: Iterable[str]) -> str | None:
    """What all names begin with up to and with their first dot, or None."""
    components = {name.partition(".")[0] if "." in name else "" for name in names}
    component = components.pop() if len(components) == 1 else ""
    return f"{component}." if component else None
