"""Building blocks of all papers' tables: recognising files, reading settings from shapes, and rules for common parts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from detrkit.checkpoints.hugging_face import HuggingFaceForm
from detrkit.checkpoints.key_mapping import Dropped, KeyMapping, Rule, same
from detrkit.checkpoints.stored import stored_attention_heads, stored_dilation
from detrkit.errors import CheckpointError

Tensors = Mapping[str, Tensor]
# The size of each axis: a number, None for any size, or a letter that stands for the same number throughout a signature, possibly with a
# factor or an offset ("2D", "D-1"). None instead of sizes allows any shape.
Shape = tuple[int | str | None, ...] | None
Signature = Mapping[str, Shape]
_SIZE = re.compile(r"(\d*)([A-Z])([+-]\d+)?")


def matches(signature: Signature, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether all tensors of a signature are among these and have the required sizes."""
    letters: dict[str, int] = {}
    for name, required in signature.items():
        if name not in shapes:
            return False
        if required is None:
            continue
        if len(required) != len(shapes[name]):
            return False
        for size, given in zip(required, shapes[name], strict=True):
            if size is not None and not _size_agrees(size, given, letters):
                return False
    return True


def _size_agrees(size: int | str, given: int, letters: dict[str, int]) -> bool:
    """Whether `given` is the required size; a letter that occurs for the first time gets its value from `given`."""
    if isinstance(size, int):
        return size == given
    match = _SIZE.fullmatch(size)
    if match is None:
        raise ValueError(f"'{size}' is not a size in a signature: use a number or a letter, such as 'D', '2D' or 'D-1'")
    factor, letter, offset = int(match[1] or 1), match[2], int(match[3] or 0)
    value, rest = divmod(given - offset, factor)
    return rest == 0 and letters.setdefault(letter, value) == value


@dataclass(frozen=True)
class Paper:
    """A paper's name and what its files are recognised by.

    Attributes:
        name: what people call the model.
        signatures: a file with all tensors of any of these is the paper's, unless it is a descendant's.
        article: the article before the name.
    """

    name: str
    signatures: tuple[Signature, ...] = ()
    article: str = "a"

    def wrote(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether a file with these names and shapes has one of the signatures."""
        return any(matches(signature, shapes) for signature in self.signatures)


class _LackingError(CheckpointError):
    """A tensor that shows a setting is missing."""


def size(tensors: Tensors, name: str, axis: int = 0) -> int:
    """The size of a tensor's axis; 0 without such a tensor.

    Raises:
        CheckpointError: the tensor has no such axis.
    """
    if name not in tensors:
        return 0
    shape = tensors[name].shape
    if axis >= len(shape):
        raise CheckpointError(
            f"'{name}' has the shape {list(shape)}, which it has in no model: the weights are of another model or damaged"
        )
    return shape[axis]


class Reading(Protocol):
    """How one setting is read from the weights.

    Attributes:
        setting: field of the configuration.
    """

    @property
    def setting(self) -> str: ...

    def read(self, tensors: Tensors) -> int | bool:
        """The setting's value.

        Raises:
            CheckpointError: the tensor that shows it is missing.
        """
        ...


@dataclass(frozen=True)
class Size:
    """A setting that is the size of a tensor.

    Attributes:
        setting: field of the configuration.
        tensor: our name of the tensor; of several names, the first that occurs counts.
        axis: the axis whose size it is.
        offset: added to the size.
    """

    setting: str
    tensor: str | tuple[str, ...]
    axis: int = 0
    offset: int = 0

    def read(self, tensors: Tensors) -> int:
        """See `Reading`."""
        names = (self.tensor,) if isinstance(self.tensor, str) else self.tensor
        for name in names:
            if name in tensors:
                return size(tensors, name, self.axis) + self.offset
        raise _LackingError(f"the weights lack '{names[0]}'")


@dataclass(frozen=True)
class Count:
    """A setting that is the number of modules in a list, such as layers.

    Attributes:
        setting: field of the configuration.
        beginning: what the modules' names begin with, up to the number.
    """

    setting: str
    beginning: str

    def read(self, tensors: Tensors) -> int:
        """See `Reading`."""
        return count_modules(tensors, self.beginning)


@dataclass(frozen=True)
class Present:
    """A setting that is on where a tensor exists.

    Attributes:
        setting: field of the configuration.
        tensor: our name of the tensor.
    """

    setting: str
    tensor: str

    def read(self, tensors: Tensors) -> bool:
        """See `Reading`."""
        return self.tensor in tensors


@dataclass(frozen=True)
class Rows:
    """A setting that is the number of rows of a tensor, 0 where there is no such tensor.

    Attributes:
        setting: field of the configuration.
        tensor: our name of the tensor.
    """

    setting: str
    tensor: str

    def read(self, tensors: Tensors) -> int:
        """See `Reading`."""
        return size(tensors, self.tensor)


def _nothing_stated(arguments: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - see `Table.stated`
    return {}


def _nothing_to_compute(values: Mapping[str, Any], tensors: Tensors, arguments: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - see `Table.compute`
    return {}


@dataclass(frozen=True)
class Table:
    """All that is known about one paper's files.

    Attributes:
        paper: its name and what its files are recognised by.
        official: the authors' names for a model with a given configuration.
        layout: the key mapping for a file with these tensors; the file must have one of the paper's signatures.
        readings: the settings that are read from the weights. One that only tells variants apart may be a property of the configuration.
        telling: settings, the most important first, that decide which variants fit the weights best.
        stated: settings given by the stored arguments, besides dilation and attention heads; variants that agree
            less with them than another are ruled out.
        compute: settings that take arithmetic, given all settings so far, the weights by our names and the stored arguments.
        fixed: settings with the only values that the authors' code has.
        ours_alone: why the authors' code builds no such model; empty where it does.
        hugging_face: how `transformers` has the model; None where it does not.
    """

    paper: Paper
    official: Callable[[Any], KeyMapping]
    layout: Callable[[Tensors], KeyMapping]
    readings: tuple[Reading, ...] = ()
    telling: tuple[str, ...] = ()
    stated: Callable[[Mapping[str, Any]], dict[str, Any]] = _nothing_stated
    compute: Callable[[Mapping[str, Any], Tensors, Mapping[str, Any]], dict[str, Any]] = field(
        default=_nothing_to_compute
    )
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ours_alone: str = ""
    hugging_face: HuggingFaceForm | None = None

    def candidates(self, tensors: Tensors, configs: Mapping[str, Any]) -> list[str]:
        """The variants that the weights could belong to: those that agree in the first setting of `telling`, then in the second, and so on.

        A model that was built with changed settings may not agree with any variant in all of them; its settings are read from the weights.

        Args:
            tensors: the weights by our names.
            configs: the configurations of variants whose backbone fits the weights, by name.
        """
        values = {
            reading.setting: reading.read(tensors) for reading in self.readings if reading.setting in self.telling
        }
        agreement = {
            name: [agreement_of(getattr(config, setting), values[setting]) for setting in self.telling]
            for name, config in configs.items()
        }
        best = max(agreement.values())
        return [name for name, agrees in agreement.items() if agrees == best]

    def fit_config(self, config: Any, tensors: Tensors, arguments: Mapping[str, Any]) -> Any:
        """A configuration with all settings that shapes and stored arguments determine.

        Args:
            config: the variant's configuration; settings that nothing determines keep its values.
            tensors: the weights by our names.
            arguments: options stored beside the weights.

        Raises:
            CheckpointError: the weights are only part of a model, or contradict the arguments.
        """
        try:
            read: dict[str, Any] = {reading.setting: reading.read(tensors) for reading in self.readings}
        except _LackingError as problem:
            part = f"a part of {self.paper.article} {self.paper.name}"
            raise CheckpointError(f"{problem}: this is only {part}") from problem
        told_apart_by = {name for name in read if isinstance(getattr(type(config), name, None), property)}
        values = {name: value for name, value in read.items() if name not in told_apart_by}
        values["attention_heads"] = stored_attention_heads(arguments, config.attention_heads)
        values["backbone"] = _stored_backbone(arguments, config.backbone)
        values |= self.stated(arguments)
        values |= self.compute({**dataclasses.asdict(config), **values}, tensors, arguments)
        return dataclasses.replace(config, **values)


def agreement_of(setting: Any, value: Any) -> int:
    """How well a variant's setting agrees with what a file shows: 2 if equal, 1 if both are zero or both are not, else 0."""
    return 2 if setting == value else int(bool(setting) == bool(value))


def count_modules(names: Collection[str], beginning: str) -> int:
    """The number of different module numbers that follow this beginning of a name."""
    return len({name.removeprefix(beginning).split(".")[0] for name in names if name.startswith(beginning)})


def _stored_backbone(arguments: Mapping[str, Any], name: str) -> str:
    """The backbone with dilation as stored arguments give it: weights never show it, and models can have it that no variant has."""
    dilated = stored_dilation(arguments)
    if dilated is None:
        return name
    plain = name.removesuffix("-dc5")
    return f"{plain}-dc5" if dilated else plain


def fitting_backbones(own_names: Collection[str]) -> list[str]:
    """The backbones that the weights fit, by our names; more than one if they differ in dilation or in the place of a stride only."""
    if "backbone.conv1.weight" not in own_names:
        stages = sum(f"backbone.stages.{stage}.first.0.weight" in own_names for stage in range(3))
        compact = {1: "compact-c3", 2: "compact-c4"}.get(stages, "compact")
        first_tensors = {"backbone.blocks.0.0.weight": "mobilenet_v2", "backbone.stem.0.0.weight": compact}
        return [backbone for name, backbone in first_tensors.items() if name in own_names]
    bottleneck = "backbone.layer1.0.conv3.weight" in own_names
    deep = "backbone.layer3.22.conv1.weight" in own_names
    medium = "backbone.layer3.5.conv1.weight" in own_names
    name = ("resnet101" if deep else "resnet50") if bottleneck else "resnet34" if medium else "resnet18"
    if "backbone.layer4.0.conv1.weight" not in own_names:
        return [f"{name}-c4"]
    return [name, f"{name}-dc5", f"{name}-caffe"] if bottleneck else [name]


_COUNTERS = "batch norm counts batches for its running averages, which frozen norms do not update"
# The compact backbone's norms are trained, so its counters are kept.
OFFICIAL_COUNTERS = tuple(
    Dropped(f"backbone.0.body.{norms}.num_batches_tracked", _COUNTERS)
    for norms in ("bn{n}", "layer{rest}", "blocks.{rest}")
)
HUGGING_FACE_COUNTERS = (Dropped("model.backbone.conv_encoder.model.{rest}.num_batches_tracked", _COUNTERS),)
OFFICIAL_BACKBONE = Rule("backbone.{rest}", ("backbone.0.body.{rest}",))
# Hugging Face's files hold one of two backbones: its own ResNet, or timm's with torchvision's names.
OWN_RESNET = "model.backbone.conv_encoder.model.embedder.embedder.convolution.weight"
TIMM_BACKBONE = [Rule("backbone.{rest}", ("model.backbone.conv_encoder.model.{rest}",))]


def official_layers(part: str, attentions: Mapping[str, str], norms: Sequence[str]) -> list[Rule]:
    """Rules for the layers of a transformer as the authors name them.

    Args:
        part: "encoder" or "decoder".
        attentions: from our name of each multi-head attention to the authors' name.
        norms: our names of the norms, in the order of the authors' numbers.
    """
    our_layer, their_layer = f"{part}.layers.{{n}}", f"transformer.{part}.layers.{{n}}"
    rules = [
        same(f"{our_layer}.feed_forward.expand", f"{their_layer}.linear1"),
        same(f"{our_layer}.feed_forward.contract", f"{their_layer}.linear2"),
        *(same(f"{our_layer}.{name}", f"{their_layer}.norm{index}") for index, name in enumerate(norms, start=1)),
    ]
    for our_name, their_name in attentions.items():
        rules.append(
            Rule(f"{our_layer}.{our_name}.projection_{{leaf}}", (f"{their_layer}.{their_name}.in_proj_{{leaf}}",))
        )
        rules.append(same(f"{our_layer}.{our_name}.output", f"{their_layer}.{their_name}.out_proj"))
    return rules


def hugging_face_layers(part: str, attentions: Mapping[str, str]) -> list[Rule]:
    """Rules for the layers of a transformer as Hugging Face names them; arguments as in `official_layers`."""
    our_layer, their_layer = f"{part}.layers.{{n}}", f"model.{part}.layers.{{n}}"
    rules = [
        same(f"{our_layer}.feed_forward.expand", f"{their_layer}.fc1"),
        same(f"{our_layer}.feed_forward.contract", f"{their_layer}.fc2"),
        same(f"{our_layer}.feed_forward.norm", f"{their_layer}.final_layer_norm"),
    ]
    for our_name, their_name in attentions.items():
        norm = our_name.replace("attention", "norm")
        projections = tuple(f"{their_layer}.{their_name}.{letter}_proj.{{leaf}}" for letter in "qkv")
        rules += [
            Rule(f"{our_layer}.{our_name}.projection_{{leaf}}", projections),
            same(f"{our_layer}.{our_name}.output", f"{their_layer}.{their_name}.out_proj"),
            same(f"{our_layer}.{norm}", f"{their_layer}.{their_name}_layer_norm"),
        ]
    return rules


def hugging_face_backbone() -> list[Rule]:
    """Rules for Hugging Face's own ResNet, which numbers stages and convolutions from 0 and pairs each convolution with its norm."""
    their_backbone = "model.backbone.conv_encoder.model"
    rules = []
    for our_kind, their_kind in (("conv", "convolution"), ("bn", "normalization")):
        rules.append(same(f"backbone.{our_kind}1", f"{their_backbone}.embedder.embedder.{their_kind}"))
        for stage in range(4):
            our_blocks, their_blocks = (
                f"backbone.layer{stage + 1}.{{n}}",
                f"{their_backbone}.encoder.stages.{stage}.layers.{{n}}",
            )
            rules += [
                same(f"{our_blocks}.{our_kind}{index + 1}", f"{their_blocks}.layer.{index}.{their_kind}")
                for index in range(3)
            ]
            rules.append(
                same(
                    f"{our_blocks}.downsample.{0 if our_kind == 'conv' else 1}", f"{their_blocks}.shortcut.{their_kind}"
                )
            )
    return rules
