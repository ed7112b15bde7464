"""SMCA-DETR with several resolutions (Gao et al. 2021, arXiv:2101.07448, section 3.4, in the form of the authors' published code).

Maps of four resolutions pass to each other what they hold, in convolutions with large kernels instead of self-attention. In the decoder
every head has a Gaussian on each level; a query weighs the levels against each other, and attention sums to one on each of them.

Symbols as in `smca_detr.py`; V levels.

Deviations from the authors' code: each image of a batch weighs the levels for itself, where the authors take the first image's weights for all
(they train with one image a device, so weights do not depend on it). Convolutions of one cell and norms run over the tokens of all levels at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.backbones import Backbone, build_backbone
from detrkit.cards import Category, ModelCard, PublishedResult, Variant
from detrkit.errors import OptionError
from detrkit.layers.attention import MultiHeadAttention
from detrkit.layers.dropout import Dropout
from detrkit.layers.heads import DetectionHeads
from detrkit.layers.initialization import PRIOR_LOGIT, xavier_matrices
from detrkit.layers.padding import shrink_padding
from detrkit.layers.position_encoding import SinePositionEncoding
from detrkit.layers.selection import TopKSelection
from detrkit.layers.transformer import FeedForward, add_position
from detrkit.models import detr, smca_detr
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.smca_detr import ModulatedDecoder, ModulatedDecoderLayer
from detrkit.necks.multi_scale import MultiScaleNeck
from detrkit.structures import Memory

KERNEL = 7
SMOOTH_STRIDE = 32  # the level whose Gaussians are as smooth as those of the single scale
LIMIT = 500


@dataclass(frozen=True)
class Config(smca_detr.Config):
    """Settings of the multi-scale SMCA-DETR; the defaults are the authors'.

    Attributes:
        levels: V; the first three come from the backbone, at strides 8, 16 and 32, further ones are made from its last.

    Raises:
        ConfigurationError: see `Settings`.
    """

    hidden: int = 1024
    levels: int = 4

    least: ClassVar[dict[str, int]] = smca_detr.Config.least | {"levels": 2}

    @property
    def token_levels(self) -> int:
        """See `Settings.token_levels`."""
        return self.levels

    @property
    def compares_all(self) -> bool:
        """See `Settings.compares_all`; levels look around themselves by convolutions."""
        return False

    def attended(self, tokens: float) -> float:
        """See `Settings.attended`; of the finest level a quarter is left."""
        finest = 0.75 / (1 - 0.25**self.levels)  # as a share of all
        return tokens * (1 - 0.75 * finest)


class LevelsNeck(MultiScaleNeck):
    """Levels without norms; the padding of a level that the backbone lacks is shrunk from the level before it."""

    def added_padding(self, features: Tensor, image_padding: Tensor | None, before: Tensor | None) -> Tensor | None:  # noqa: ARG002
        """See `MultiScaleNeck.added_padding`."""
        return shrink_padding(before, features)


class ConvolutionalEncoderLayer(nn.Module):
    """Each level looks around itself and gets what its neighbours saw, then a feed-forward network.

    It has no mask: what lies behind padding takes part, as in the authors' code.

    Args:
        width: D.
        levels: V.
        hidden: width between the two layers of the feed-forward network.
        dropout: probability, everywhere in the layer.
    """

    def __init__(self, *, width: int, levels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"kernel_size": KERNEL, "padding": KERNEL // 2, "groups": width}
        self.enter, self.leave = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.within = nn.ModuleList(nn.Conv2d(width, width, **sizes) for _ in range(levels))
        self.to_coarser, self.to_finer = nn.Conv2d(width, width, stride=2, **sizes), nn.Conv2d(width, width, **sizes)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout)

    def forward(self, memory: Memory) -> Tensor:
        """The tokens of memory, (B, S, D)."""
        entered = replace(memory, tokens=_each_cell(self.enter, add_position(memory.tokens, memory.positions)))
        seen = [within(level) for within, level in zip(self.within, entered.maps(), strict=True)]  # (B, D, h, w) each
        mixed = []
        for index, level in enumerate(seen):
            received = level
            if index + 1 < len(seen):
                finer = self.to_finer(seen[index + 1])
                received = received + F.interpolate(finer, level.shape[-2:], mode="bilinear", align_corners=True)
            if index > 0:
                received = received + self.to_coarser(seen[index - 1])
            mixed.append(received.flatten(2).mT)
        tokens = memory.tokens + self.dropout(_each_cell(self.leave, torch.cat(mixed, dim=1)))
        return self.feed_forward(self.norm(tokens))  # type: ignore[no-any-return]


def _each_cell(convolution: nn.Conv2d, tokens: Tensor) -> Tensor:
    """A convolution of one cell, for (B, S, D)."""
    return convolution(tokens.mT[..., None])[..., 0].mT  # type: ignore[no-any-return]


class ConvolutionalEncoder(nn.Module):
    """Layers over all levels; afterwards the finest is made as coarse as the second, which also gives it its position codes.

    Args:
        layers: encoder layers.
        width: D.
        levels: V.
    """

    def __init__(self, layers: list[nn.Module], *, width: int, levels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.level_code = nn.Parameter(torch.randn(levels, width))
        self.reduce = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1)

    def forward(self, memory: Memory) -> Memory:
        """Memory with encoded tokens; its two finest levels have the same size, positions and padding."""
        counts = [height * width for height, width in memory.level_sizes]
        codes = [code.expand(count, -1) for code, count in zip(self.level_code, counts, strict=True)]
        memory = replace(memory, positions=add_position(torch.cat(codes), memory.positions))
        for layer in self.layers:
            memory = replace(memory, tokens=layer(memory))
        reduced, second = self.reduce(memory.maps()[0]).flatten(2).mT, memory.level(1)

        def with_second(first: Tensor | None, all_levels: Tensor | None) -> Tensor | None:
            """What the finest level now has, then what the others have."""
            return (
                None if first is None or all_levels is None else torch.cat([first, all_levels[:, counts[0] :]], dim=1)
            )

        tokens = with_second(reduced, memory.tokens)
        assert tokens is not None
        return Memory.of(
            tokens=tokens,
            positions=with_second(second.positions, memory.positions),
            padding=with_second(second.padding, memory.padding),
            level_sizes=(memory.level_sizes[1], *memory.level_sizes[1:]),
            image_sizes=memory.image_sizes,
        )


class LevelGaussians(smca_detr.Guide):
    """Where each head of each query looks on each level, and how much each level counts (equation 7).

    Args:
        width: D.
        attention_heads: M.
        scales: see `Config`.
        smooth: see `Config`.
        strides: image pixels per cell of every level.
    """

    def __init__(self, *, width: int, attention_heads: int, scales: int, smooth: float, strides: Sequence[int]) -> None:
        super().__init__(width=width, outputs=len(strides) * attention_heads, scales=scales)
        self.outputs = len(strides) * attention_heads
        self.strides = tuple(strides)
        # A coarse level's cells are larger, so that its Gaussians are narrower when counted in cells.
        self.smooth = tuple(smooth * SMOOTH_STRIDE / stride for stride in strides)
        self.level = nn.Linear(width, len(self.strides))

    def forward(self, states: Tensor, references: Tensor, memory: Memory) -> list[Tensor]:
        """What is added to the scores of attention on each level, (B, M, Q, h · w) each; arguments as in `smca_detr.Gaussian`."""
        offsets = self._of_levels(self.offset, states)
        scales = (None,) * len(offsets) if self.scale is None else self._of_levels(self.scale, states)
        biases = []
        for level, (offset, scale) in enumerate(zip(offsets, scales, strict=True)):
            centers = smca_detr.cells_of(references, memory, self.strides[level])[:, None] + offset
            biases.append(smca_detr.log_gaussian(centers, scale, memory.level_sizes[level]) / self.smooth[level])
        return biases

    def level_weights(self, states: Tensor) -> Tensor:
        """How much each level counts for each query, (B, Q, V); they sum to 1."""
        return self.level(states).softmax(-1)  # type: ignore[no-any-return]

    def _of_levels(self, layer: nn.Linear, states: Tensor) -> tuple[Tensor, ...]:
        """What a layer makes of states, (B, M, Q, numbers) for each level."""
        return smca_detr.per_head(layer, states, self.outputs).chunk(len(self.strides), dim=1)


class LevelsAttention(MultiHeadAttention):
    """Attention to each level for itself; what it saw is weighed by how much each level counts."""

    def forward(self, query: Tensor, memory: Memory, biases: Sequence[Tensor], level_weights: Tensor) -> Tensor:  # type: ignore[override]
        """Attention from every query to every level. The output projection is linear and weights sum to 1, so that each level can be projected apart.

        Args:
            query: (B, Q, D).
            memory: the encoded image.
            biases: for each level (B, M, Q, h · w), added to the scores.
            level_weights: (B, Q, V), how much each level counts; they sum to 1.

        Returns:
            (B, Q, D).
        """
        seen = [super(LevelsAttention, self).forward(query, *each) for each in self._levels(memory, biases)]
        return (torch.stack(seen, dim=-1) * level_weights[..., None, :]).sum(-1)

    def weights(self, query: Tensor, memory: Memory, biases: Sequence[Tensor], level_weights: Tensor) -> Tensor:  # type: ignore[override]
        """(B, M, Q, S) attention weights over the tokens of all levels, which sum to 1; arguments as in `forward`."""
        of_levels = [super(LevelsAttention, self).weights(query, *each) for each in self._levels(memory, biases)]
        shares = level_weights[:, None].unbind(-1)  # (B, 1, Q) each
        return torch.cat([each * share[..., None] for each, share in zip(of_levels, shares, strict=True)], dim=-1)

    @staticmethod
    def _levels(memory: Memory, biases: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Keys, values and mask of each level."""
        for index, bias in enumerate(biases):
            level = memory.level(index)
            if level.padding is not None:
                bias = bias.masked_fill(level.padding[:, None, None], -torch.inf)
            yield add_position(level.tokens, level.positions), level.tokens, bias


class LevelsDecoderLayer(ModulatedDecoderLayer):
    """A layer that looks at each level for itself, and weighs what it saw."""

    attention_class = LevelsAttention

    def look(self, states: Tensor, query: Tensor, memory: Memory, references: Tensor) -> Tensor:
        """See `ModulatedDecoderLayer.look`."""
        assert isinstance(self.gaussian, LevelGaussians)
        weights = self.gaussian.level_weights(states).to(query.dtype)  # (B, Q, V)
        return self.cross_attention(query, memory, self.gaussian(states, references, memory), weights)  # type: ignore[no-any-return]


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """Levels that exchange what they hold, and a decoder that looks at each."""
    backbone = build_levels(config)
    heads = DetectionHeads(width=config.width, outputs=config.class_count)
    nn.init.constant_(heads.class_head.bias, PRIOR_LOGIT)
    return EncoderDecoder(
        backbone=backbone,
        neck=LevelsNeck(
            channels=backbone.channels,
            strides=backbone.strides,
            width=config.width,
            levels=config.levels,
            position_encoding=SinePositionEncoding(width=config.width),
            norm=None,
        ),
        encoder=encoder(config),
        query_source=smca_detr.query_source(config),
        decoder=decoder(config, finest_stride=backbone.strides[0]),
        heads=heads,
        card=card,
    )


def build_levels(config: Config) -> Backbone:
    """The backbone, with two or three levels.

    Raises:
        ConfigurationError: the backbone has no such levels, or one of them has not twice the stride of the one before.
    """
    backbone = build_backbone(config.backbone, levels=min(config.levels, 3))
    strides = backbone.strides
    if any(2 * finer != coarser for finer, coarser in itertools.pairwise(strides)):
        raise OptionError(
            f"'{config.backbone}' has maps of stride {', '.join(map(str, strides))}, but each must have twice the stride of the one before: "
            "choose another backbone, without dilation",
            "backbone",
        )
    return backbone


def encoder(config: Config) -> ConvolutionalEncoder:
    """Layers in which levels look around themselves and to their neighbours."""
    sizes = {name: getattr(config, name) for name in ("width", "levels", "hidden", "dropout")}
    layers: list[nn.Module] = [ConvolutionalEncoderLayer(**sizes) for _ in range(config.encoder_layers)]
    xavier_matrices(*layers)
    return ConvolutionalEncoder(layers, width=config.width, levels=config.levels)


def decoder(config: Config, *, finest_stride: int) -> ModulatedDecoder:
    """Layers around centres on every level; the encoder has made the finest level as coarse as the second."""
    strides = [finest_stride * 2 ** max(level, 1) for level in range(config.levels)]
    numbers = {name: getattr(config, name) for name in ("width", "attention_heads", "scales", "smooth")}
    sizes: dict[str, Any] = detr.layer_sizes(config)
    return smca_detr.modulated_decoder(
        [LevelsDecoderLayer(LevelGaussians(**numbers, strides=strides), **sizes) for _ in range(config.decoder_layers)],
        width=config.width,
    )


criterion = smca_detr.criterion


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> TopKSelection:  # noqa: ARG001
    """The best five hundred pairs of query and class, of classes that have a name."""
    return TopKSelection([category.index for category in categories], limit=LIMIT)


SOURCE = smca_detr.SOURCE  # in an archive within it
PADDING = {
    "tokens_behind_padding_are_not_looked_at": (
        "The encoder's convolutions take in what lies behind padding, as the authors' do."
    )
}
VARIANTS: dict[str, Variant] = {
    "smca-detr-r50-multiscale": Variant(
        Config(), smca_detr.RECIPE, results=(PublishedResult(0.444, "50 epochs"),), exceptions=PADDING
    ),
    "smca-detr-compact-multiscale": Variant(
        Config(**smca_detr.COMPACT | {"backbone": "compact", "levels": 3}),
        smca_detr.COMPACT_RECIPE,
        smca_detr.COMPACT_PREPROCESSING,
        exceptions=PADDING,
    ),
}
