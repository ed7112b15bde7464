"""Masks for DETR (Carion et al. 2020, arXiv:2005.12872, section 4.4): a small network on the decoded queries, one mask for each.

A query's attention to the encoded image, a map for each head, says roughly where its object is. Together with the projected features it is
refined by convolutions, which get the finer levels of the backbone on the way (figure 8).

Symbols: B images, Q queries, D width, M attention heads, P pairs of an image and a query whose masks are wanted, (h, w) size of a map.

Deviations from the authors' code: masks are computed for pairs that are asked for (matched queries in training, kept queries in prediction)
and not for all, which changes nothing, since norms are per query; the part of the first convolution that sees the features is computed once
per image instead of once per query. Neither changes a value beyond rounding.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.backbones import build_backbone
from detrkit.cards import Category, ModelCard, Preprocessing, Recipe, Variant
from detrkit.errors import ConfigurationError
from detrkit.layers.attention import split_heads
from detrkit.layers.initialization import xavier_matrices
from detrkit.layers.mask_selection import MaskSelection
from detrkit.layers.refinement import GROUPS, Refinement, norm_groups
from detrkit.losses.masks import MaskCriterion
from detrkit.models import detr
from detrkit.models.detector import Detector, EncoderDecoder, flatten_levels, with_queries, without_padding
from detrkit.models.settings import Settings
from detrkit.structures import ImageBatch, Output, Target, TensorRecord, record

_FINER_LEVELS = 3  # which the head gets from the backbone: strides 16, 8 and 4


@dataclass(frozen=True)
class MaskSettings(Settings):
    """What every detector with masks has in addition to its paper's settings; the paper's configuration comes first among the bases.

    Attributes:
        mask_weight: weight of the focal loss on the pixels of masks.
        dice_weight: weight of the Dice loss of masks.
        attention_gain: factor on the initial weights with which the mask head reads attention maps. All cells and heads share a sum of 1, so
            that the maps' values are small beside those of features, and with the authors' initial weights a mask head needs many steps until
            it tells objects from each other.

    Raises:
        ConfigurationError: see `Settings`; or a width or number of heads that does not suit the mask head's norms.
    """

    mask_weight: float = 1.0
    dice_weight: float = 1.0
    attention_gain: float = 1.0

    least: ClassVar[dict[str, int]] = Settings.least | dict.fromkeys(
        ("mask_weight", "dice_weight", "attention_gain"), 0
    )

    @property
    def mask_width(self) -> int:
        """See `Settings.mask_width`."""
        return self.width

    def check_mask_head(self) -> None:
        """Checks that the mask head's norms can be built.

        Raises:
            ConfigurationError: a width or number of heads that does not suit them.
        """
        first = self.width + self.attention_heads
        widths = [self.width // 2 ** (step + 1) for step in range(_FINER_LEVELS + 1)]
        if self.width % 2 ** (_FINER_LEVELS + 1) or any(each % norm_groups(each) for each in (first, *widths)):
            raise ConfigurationError(
                f"a mask head needs width + attention heads, and half, a quarter, an eighth and a sixteenth of the width, that split into "
                f"{GROUPS} groups or fewer, not width {self.width} and {self.attention_heads} attention heads: take width 128 or 256 and 8 heads"
            )


@dataclass(frozen=True)
class Config(detr.Config, MaskSettings):
    """DETR's settings with masks; the class head is that of COCO's panoptic ids, of which the highest is 200.

    Raises:
        ConfigurationError: see `MaskSettings`.
    """

    class_count: int = 250

    least: ClassVar[dict[str, int]] = detr.Config.least | MaskSettings.least

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        self.check_mask_head()


@record
class MaskInputs(TensorRecord):
    """What the masks of all queries are computed from; far smaller than the masks.

    Attributes:
        states: (B, Q, D) the queries' states after the last decoder layer.
        memory: (B, D, h, w) the coarsest level that the backbone gives, encoded.
        projected: (B, D, h, w) the same level before the encoder.
        padding: (B, h, w) bool of that level, or None where nothing is padded.
        features: the backbone's finer levels, coarsest first, each (B, C, h, w).
        image_size: height and width of the padded batch in pixels, which masks cover.
    """

    states: Tensor
    memory: Tensor
    projected: Tensor
    padding: Tensor | None
    features: tuple[Tensor, ...]
    image_size: tuple[int, int]


@record
class MaskOutput(Output):
    """A detector's output from which masks can be computed.

    Attributes:
        mask_inputs: what `MaskDetector.mask_logits` computes masks from.
    """

    mask_inputs: MaskInputs | None = None


class MaskAttention(nn.Module):
    """Where each query looks in the encoded image; the weights of all heads and cells together sum to 1.

    Args:
        width: D.
        attention_heads: M.
    """

    def __init__(self, *, width: int, attention_heads: int) -> None:
        super().__init__()
        self.attention_heads = attention_heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        xavier_matrices(self)
        for projection in (self.query, self.key):
            nn.init.zeros_(projection.bias)

    def forward(self, states: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
        """Weights of every query.

        Args:
            states: (B, Q, D).
            memory: (B, D, h, w).
            padding: (B, h, w) bool or None.

        Returns:
            (B, Q, M, h, w).
        """
        query = split_heads(self.query(states), self.attention_heads)  # (B, M, Q, d)
        key = split_heads(self.key(memory.flatten(2).transpose(1, 2)), self.attention_heads)  # (B, M, h · w, d)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, M, Q, h · w)
        if padding is not None:
            scores = scores.masked_fill(padding.flatten(1)[:, None, None], -torch.inf)
        weights = scores.transpose(1, 2).flatten(2).softmax(-1)  # (B, Q, M · h · w)
        return torch.unflatten(weights, -1, (self.attention_heads, *memory.shape[-2:]))


class MaskHead(nn.Module):
    """From attention maps to masks of four times their resolution and more, with finer features added at each step.

    Args:
        width: D.
        attention_heads: M.
        channels: of the backbone's finer levels, coarsest first.
        attention_gain: see `MaskSettings`.
    """

    def __init__(
        self, *, width: int, attention_heads: int, channels: Sequence[int], attention_gain: float = 1.0
    ) -> None:
        super().__init__()
        self.width = width
        first = width + attention_heads
        self.first, self.second = Refinement(first, first), Refinement(first, width // 2)
        narrowing = [width // 2 ** (step + 1) for step in range(len(channels) + 1)]
        self.adapters = nn.ModuleList(
            nn.Conv2d(count, wide, kernel_size=1) for count, wide in zip(channels, narrowing, strict=False)
        )
        self.refinements = nn.ModuleList(Refinement(wide, narrow) for wide, narrow in itertools.pairwise(narrowing))
        self.output = nn.Conv2d(narrowing[-1], 1, kernel_size=3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.first.convolution.weight[:, width:] *= attention_gain

    def forward(self, attention: Tensor, inputs: MaskInputs, images: Tensor) -> Tensor:
        """The masks of some queries.

        Args:
            attention: (P, M, h, w) of each query.
            inputs: of the whole batch.
            images: (P,) int64, the image of each query.

        Returns:
            (P, h, w) logits, at the size of the finest level.
        """
        weight, bias = self.first.convolution.weight, self.first.convolution.bias
        shared = F.conv2d(inputs.projected, weight[:, : self.width], bias, padding=1)  # once for each image
        values = F.conv2d(attention, weight[:, self.width :], padding=1) + shared[images]
        values = self.second(self.first.activated(values))
        for adapter, refinement, features in zip(self.adapters, self.refinements, inputs.features, strict=True):
            values = F.interpolate(values, features.shape[-2:], mode="nearest")
            values = refinement(values + adapter(features)[images])
        masks: Tensor = self.output(values)
        return masks[:, 0]


class MaskDetector(EncoderDecoder):
    """An encoder-decoder of any paper that can also give the mask of each query.

    Args:
        mask_attention: see `MaskAttention`.
        mask_head: see `MaskHead`.
        **parts: those of `EncoderDecoder`; the backbone returns finer levels besides those that the neck takes.
    """

    def __init__(self, *, mask_attention: MaskAttention, mask_head: MaskHead, **parts: Any) -> None:
        super().__init__(**parts)
        self.mask_attention, self.mask_head = mask_attention, mask_head
        self.detector_frozen = False

    @classmethod
    def around(cls, detector: EncoderDecoder, config: MaskSettings) -> Self:
        """The detector of a paper with a mask head, and with a backbone that also returns the levels that this head needs.

        Raises:
            ConfigurationError: the backbone does not have them, or the detector has steps of its own.
        """
        if type(detector) is not EncoderDecoder:
            raise ConfigurationError(
                f"a mask head goes on an EncoderDecoder, and {type(detector).__name__} has steps of its own: subclass MaskDetector with them"
            )
        backbone = build_backbone(config.backbone, levels=_FINER_LEVELS + 1)
        if len(backbone.channels) <= _FINER_LEVELS:
            raise ConfigurationError(
                f"the backbone '{config.backbone}' has levels of stride {', '.join(map(str, backbone.strides))}, but masks need a level "
                "and three finer ones: choose another backbone, such as one whose name does not end in -c4"
            )
        parts = {name: getattr(detector, name) for name in ("neck", "encoder", "query_source", "decoder", "heads")}
        return cls(
            mask_attention=MaskAttention(width=config.width, attention_heads=config.attention_heads),
            mask_head=MaskHead(
                width=config.width,
                attention_heads=config.attention_heads,
                channels=backbone.channels[-2::-1],
                attention_gain=config.attention_gain,
            ),
            backbone=backbone,
            card=detector.card,
            **parts,
        )

    def forward(self, batch: ImageBatch, targets: Sequence[Target] | None = None) -> MaskOutput:
        """See `Detector.forward`; masks are not computed yet, see `mask_logits`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detector_frozen):
            features = self.backbone(without_padding(batch))
            levels = self.neck(features[-self.levels_taken :], batch.padding)
            memory = self.encoder(flatten_levels(levels, batch.image_sizes()))
            queries = self.make_queries(memory, targets)
            decoded = self.decoder(queries, memory, self.heads)
            output = with_queries(self.heads(decoded), queries)
        coarsest = self.levels_taken - 1  # a neck may have added coarser ones
        inputs = MaskInputs(
            states=decoded.states[-1],
            memory=memory.maps()[coarsest],
            projected=levels.maps[coarsest],
            padding=levels.paddings[coarsest],
            features=tuple(level.features for level in features[-2::-1]),
            image_size=(batch.pixels.shape[-2], batch.pixels.shape[-1]),
        )
        predicted = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
        return MaskOutput(**predicted, mask_inputs=inputs)

    @property
    def levels_taken(self) -> int:
        """How many of the backbone's levels, the coarsest, the neck takes."""
        return min(len(self.neck.projections), _FINER_LEVELS)  # type: ignore[arg-type]

    def mask_logits(self, inputs: MaskInputs, images: Tensor, queries: Tensor) -> Tensor:
        """The masks of some queries.

        Args:
            inputs: from the output of `forward`.
            images: (P,) int64, the row in the batch of each query's image.
            queries: (P,) int64, the query's number.

        Returns:
            (P, h, w) logits over the padded batch, at the size of the backbone's finest level.
        """
        own_type = self.mask_head.output.weight.dtype
        types = [values.dtype for values in (inputs.projected, inputs.memory, *inputs.features)]
        lower = next((each for each in types if each != own_type), None)  # norms may have left some of them in float32
        # Losses are computed outside of autocast, but masks are a part of the model.
        with torch.autocast(inputs.projected.device.type, lower or own_type, enabled=lower is not None):
            attention = self.mask_attention(inputs.states, inputs.memory, inputs.padding)[images, queries]
            return self.mask_head(attention, inputs, images)  # type: ignore[no-any-return]

    def freeze_detector(self) -> Self:
        """Leaves only the mask head to train: everything else keeps its weights, and its norms and dropout stay as in evaluation."""
        self.detector_frozen = True
        for name, part in self.named_children():
            if not name.startswith("mask_"):
                part.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """See `torch.nn.Module.train`; a frozen detector stays in evaluation mode."""
        super().train(mode)
        if self.detector_frozen:
            for name, part in self.named_children():
                part.train(mode and name.startswith("mask_"))
        return self


class WithMasks(nn.Module):
    """A detector that gives the masks of all its queries in one forward pass, for export.

    Args:
        detector: with masks.
    """

    def __init__(self, detector: MaskDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: ImageBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Class scores (B, Q, K) and boxes cxcywh (B, Q, 4) of the last layer, and mask logits (B, Q, h, w) over the padded batch."""
        output = self.detector(batch)
        count, queries = output.logits.shape[1:3]
        rows = torch.arange(count * queries, device=output.logits.device)
        masks = self.detector.mask_logits(output.mask_inputs, rows // queries, rows % queries)
        return output.logits[-1], output.boxes_cxcywh[-1], torch.unflatten(masks, 0, (count, queries))


def build(config: Config, card: ModelCard) -> MaskDetector:
    """DETR with a mask head."""
    return MaskDetector.around(detr.build(config, card), config)


def criterion(config: Config, model: Detector | None = None) -> MaskCriterion:
    """DETR's loss, and the focal and Dice loss of masks in the last layer (section 4.4)."""
    return mask_criterion(detr.criterion(config, model), config, model)


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> MaskSelection:
    """DETR's detections, with masks on request, and panoptic results."""
    return mask_selection(detr.selection(config, categories, model), categories, model)


def mask_criterion(criterion: Any, config: MaskSettings, model: Detector | None) -> MaskCriterion:
    """The criterion of a paper with the losses of masks.

    Args:
        criterion: of the paper.
        config: the settings of the detector.
        model: the detector itself, since masks are computed for matched queries only.
    """
    return MaskCriterion(
        criterion,
        mask_logits=_logits_of(model),
        term_weights={"mask": config.mask_weight, "dice": config.dice_weight},
    )


def mask_selection(selection: Any, categories: Sequence[Category], model: Detector | None) -> MaskSelection:
    """The selection of a paper with masks; arguments as for `mask_criterion`."""
    return MaskSelection(selection, categories, mask_logits=_logits_of(model))


def _logits_of(model: Detector | None) -> Callable[[MaskInputs, Tensor, Tensor], Tensor]:
    if not isinstance(model, MaskDetector):
        raise ConfigurationError("masks are computed by the model: give the detector itself besides its configuration")
    return model.mask_logits


SOURCE = detr.SOURCE
RECIPE = Recipe(epochs=300, batch_size=64)  # boxes; the head then takes 25 epochs with the detector frozen
# For images of about 200 pixels: widths that the norms of the mask head can split.
COMPACT: dict[str, Any] = {
    "backbone": "compact",
    "queries": 50,
    "width": 128,
    "hidden": 256,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "dropout": 0.0,
    "attention_gain": 1000.0,  # with 1, the masks of two images were not learned in 200 steps; with this, in 100
}
COMPACT_RECIPE = Recipe(
    learning_rate=2e-3,
    backbone_learning_rate=2e-3,
    gradient_clip=1.0,
    epochs=50,
    batch_size=8,
    schedule="cosine",
    warmup_steps=50,
)
COMPACT_PREPROCESSING = Preprocessing(short_side=160, long_side=256)


def _published(file: str, ap: float, mask_ap: float, quality: float, **settings: Any) -> Variant:
    """A variant with the authors' file, and its AP of boxes and of masks and its PQ."""
    weights = detr.published(f"detr-{file}.pth", ap, mask_ap=mask_ap, panoptic_quality=quality)
    return Variant(Config(**settings), RECIPE, weights=weights)


VARIANTS: dict[str, Variant] = {
    "detr-r50-panoptic": _published("r50-panoptic-00ce5173", 0.388, 0.311, 0.434),
    "detr-r50-dc5-panoptic": _published("r50-dc5-panoptic-da08f1b1", 0.402, 0.319, 0.446, backbone="resnet50-dc5"),
    "detr-r101-panoptic": _published("r101-panoptic-40021d53", 0.401, 0.330, 0.451, backbone="resnet101"),
    "detr-mobilenetv2-panoptic": Variant(Config(backbone="mobilenet_v2"), RECIPE),
    "detr-compact-panoptic": Variant(Config(**COMPACT), COMPACT_RECIPE, COMPACT_PREPROCESSING),
}
