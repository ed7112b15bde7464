"""Networks of timm (Wightman 2019, github.com/huggingface/pytorch-image-models) as backbones; timm is imported only for them."""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detrkit.backbones.backbone import Backbone
from detrkit.cards import Colours
from detrkit.errors import MissingPackageError, OptionError, closest

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

PREFIX = "timm/"
COARSEST = 32  # pixels per cell; features of larger strides are left out
_ENDS = {"-c4": 16, "-c3": 8}  # what a name may end with, and the coarsest stride then
# What lets networks that were made for one size of images take any; a network knows the first of these, the second, or none.
_ANY_SIZE: tuple[Mapping[str, bool], ...] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
)


class TimmBackbone(Backbone):
    """The levels of one of timm's networks, as its `features_only` form gives them.

    Images are padded with zeros to whole cells of the network's coarsest level, which some networks need, and cells beyond them are cut off: a
    level has as many cells as those of the other backbones.

    Batch norms are frozen: they keep the statistics, scales and shifts of the pretrained weights, in training, too. Everything else is trained.

    Args:
        name: `timm/` and a name of timm's, such as `timm/convnext_tiny` or `timm/resnet50.a1_in1k`; `-c4` ends at stride 16, `-c3` at stride 8.
        levels: how many of the coarsest levels to return, of those up to stride 32.

    Raises:
        OptionError: timm has no such network, the network has not so many levels, or it takes images of one size only.
        MissingPackageError: timm is not installed.
    """

    def __init__(self, name: str, *, levels: int = 1) -> None:
        super().__init__()
        settings = pretrained_settings(name)
        strides, places = _places(name, levels)
        self.net: nn.Module = _created(name, features_only=True, out_indices=tuple(places.values()))
        self.name, self.whole_cell = name, max(strides)
        self.strides, self.channels = tuple(places), tuple(self.net.feature_info.channels())  # type: ignore[union-attr,operator]
        self.unused_weights = ()  # `checkpoints.timm_weights` chooses among the tensors of a file
        self.colours = Colours(tuple(settings.mean), tuple(settings.std))  # type: ignore[arg-type]
        # Networks made from others say it; those written for features always give channels first.
        self.channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        self._norms = [module for module in self.net.modules() if isinstance(module, _BatchNorm)]
        self.frozen_norms = bool(self._norms)
        for parameter in itertools.chain.from_iterable(norm.parameters(recurse=False) for norm in self._norms):
            parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> TimmBackbone:
        """Batch norms stay in eval mode."""
        super().train(mode)
        for norm in self._norms:
            norm.training = False  # not its activation and dropout, which some of timm's norms hold
        return self

    def features(self, pixels: Tensor) -> list[Tensor]:
        """See `Backbone.features`."""
        height, width = pixels.shape[-2:]
        maps = self.net(F.pad(pixels, (0, -width % self.whole_cell, 0, -height % self.whole_cell)))
        if self.channels_last:
            maps = [values.permute(0, 3, 1, 2) for values in maps]
        return [
            values[..., : -(-height // stride), : -(-width // stride)]
            for values, stride in zip(maps, self.strides, strict=True)
        ]

    def whole(self) -> nn.Module:
        """The network as timm has it, with its classifier and random weights."""
        return _created(self.name)


def architecture(name: str) -> str:
    """The name in timm, with the tag of its weights if there is one: without the prefix, and without where it ends."""
    return re.sub("-c[34]$", "", name.removeprefix(PREFIX))


def pretrained_settings(name: str) -> PretrainedCfg:
    """What timm says of a network's pretrained weights: where they are, and the colours of their images.

    Args:
        name: of the backbone; without a tag timm's own choice is meant.

    Raises:
        OptionError: timm has no such network, or no weights with this tag.
        MissingPackageError: timm is not installed.
    """
    if importlib.util.find_spec("timm") is None:
        raise MissingPackageError(
            f"the backbone {name} is one of timm, which is not installed: pip install 'detrkit[timm]'"
        )
    import timm  # takes a second or two

    known = architecture(name)
    network, _, tag = known.partition(".")
    if not timm.is_model(network):
        raise OptionError(
            f"timm has no network '{network}': {closest(network, timm.list_models(), listing='timm.list_models() shows all')}",
            "backbone",
        )
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{network}.*")]
    if tag and tag not in tags:
        known_tags = f"its tags are {', '.join(tags)}" if tags else "it has none"
        raise OptionError(f"timm has no weights '{tag}' of {network}: {known_tags}", "backbone")
    settings = timm.get_pretrained_cfg(known)
    return settings if settings is not None else timm.models.PretrainedCfg(architecture=network)


def _places(name: str, levels: int) -> tuple[list[int], dict[int, int]]:
    """The strides of all features of the network; and the numbers of those that are wanted by their strides, of several with one stride the last."""
    with torch.device("meta"):
        features: Any = _created(name, features_only=True).feature_info
    strides, indices = list(features.reduction()), features.out_indices
    coarsest = next((stride for end, stride in _ENDS.items() if name.endswith(end)), COARSEST)
    places = {stride: index for stride, index in zip(strides, indices, strict=True) if stride <= coarsest}
    if len(places) < levels or not places:
        wanted = "a level" if levels == 1 else f"{levels} levels"
        raise OptionError(
            f"{name} has features of stride {', '.join(map(str, dict.fromkeys(strides)))}, and the model needs {wanted} of stride "
            f"{coarsest} or less: choose another backbone",
            "backbone",
        )
    return strides, dict(list(places.items())[-levels:])


def _created(name: str, **options: Any) -> nn.Module:
    """The network with random weights, for images of any size.

    Raises:
        OptionError: it takes images of one size only, or has no features.
    """
    import timm

    create = partial(timm.create_model, architecture(name), pretrained=False, **options)
    settings = pretrained_settings(name)
    try:
        if not settings.fixed_input_size:
            return create()
        for made in _of_any_size(create):
            return made
    except RuntimeError as problem:  # what timm raises for networks that cannot give features
        raise OptionError(f"{name} gives no features ({problem}): choose another backbone", "backbone") from problem
    size = " x ".join(map(str, settings.input_size[1:]))
    raise OptionError(f"{name} takes only images of {size} pixels: choose another backbone", "backbone")


def _of_any_size(create: partial[nn.Module]) -> Iterator[nn.Module]:
    for options in _ANY_SIZE:
        try:
            yield create(**options)
        except TypeError:  # it does not know this
            continue
