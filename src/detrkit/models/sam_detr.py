"""SAM-DETR (Zhang et al. 2022, arXiv:2203.06883): a query is made of what the image shows in its box, so that both speak the same language.

Attention compares queries with tokens, which in DETR come from different places and have to learn to match. Here, before each cross-attention, the
query's box is cut out of the encoded image, salient points in it are found, one a head, and what lies there becomes the query's content. With a
Gaussian around these points (SMCA), attention also begins at the right place.

Symbols: B images, Q queries, S memory tokens, D width, M heads, L decoder layers, K classes.

Deviations from the authors' code: a region is cut out once a layer where they do it twice, with a quarter of the channels, and its salient points
are looked up in the image itself; losses of all layers are computed together. None of it changes a value beyond rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.backbones import build_backbone
from detrkit.cards import ModelCard, PublishedWeights, Recipe, Source, Variant
from detrkit.errors import OptionError
from detrkit.layers.attention import attend_heads, attention_weights, merge_heads, split_heads
from detrkit.layers.dropout import Dropout
from detrkit.layers.heads import MLP, LayerwiseHeads, inverse_sigmoid
from detrkit.layers.initialization import start_heads, xavier_matrices
from detrkit.layers.position_encoding import CellCenterEncoding, reference_code
from detrkit.layers.precision import at_least_float32
from detrkit.layers.regions import Regions, regions_of
from detrkit.layers.transformer import FeedForward
from detrkit.models import conditional_detr, deformable_detr, detr, smca_detr
from detrkit.models.conditional_detr import SelfAttention
from detrkit.models.detector import EncoderDecoder
from detrkit.models.settings import MultiScaleSettings
from detrkit.necks.multi_scale import MultiScaleNeck, group_norm
from detrkit.structures import Decoded, Memory, Queries, Target, record

EPSILON = 1e-5  # of the inverse sigmoid, as in the authors' code
CELLS = 7  # a box is cut out as so many rows and columns
SMOOTH = 8.0  # of the Gaussian, as in SMCA-DETR


@dataclass(frozen=True)
class Config(MultiScaleSettings):
    """SAM-DETR's settings; the defaults are the paper's.

    Attributes:
        levels: feature levels; each decoder layer looks at one, the first third at the coarsest and so on. With several, the encoder is that of Deformable DETR.
        points: sampling points of that encoder.
        gaussian: whether attention has a Gaussian around each salient point ("w/ SMCA").
        normed_levels: whether levels are normed. The authors norm a single level only in models that are trained for less than 25 epochs.
        cross_attention: whether queries attend to the image after their content was taken from it; if not, that content is all they get.
        learn_queries: whether boxes are trained; if not, give good ones with `queries_from` in training.

    Raises:
        ConfigurationError: see `Settings`; or settings that do not fit together.
    """

    hidden: int = 2048
    levels: int = 1
    gaussian: bool = False
    normed_levels: bool = False
    cross_attention: bool = True
    learn_queries: bool = True

    @property
    def compares_all(self) -> bool:
        """See `Settings.compares_all`; with several levels the encoder is that of Deformable DETR."""
        return self.levels == 1

    @property
    def kept_maps(self) -> int:
        """See `Settings.kept_maps`; the weights of every pixel for the salient points, and the Gaussian."""
        return 1 + self.gaussian

    @property
    def wide_heads(self) -> bool:
        """See `Settings.wide_heads`."""
        return True

    def attended(self, tokens: float) -> float:
        """See `Settings.attended`; each layer looks at one level."""
        return tokens / self.levels

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        if self.levels > 3:
            raise OptionError(f"levels must be at most 3, all from the backbone, not {self.levels}", "levels")
        if self.gaussian and not self.cross_attention:
            raise OptionError(
                "gaussian=True needs cross-attention: leave it out, or leave out cross_attention=False",
                *("gaussian", "cross_attention"),
            )


@record
class BoxQueries(Queries):
    """Queries that start from boxes.

    Attributes:
        reference_logits: (B, Q, 4), of which `references` are the sigmoid; moves are added to them.
    """

    reference_logits: Tensor | None = None


class LearnedBoxes(nn.Module):
    """Q learned boxes, the same for every image; content starts at zero.

    Args:
        count: Q.
        width: D.
    """

    def __init__(self, *, count: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.logits = nn.Parameter(torch.randn(count, 4))

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> BoxQueries:  # noqa: ARG002 - ignores the targets
        """Queries for every image of the batch."""
        logits = at_least_float32(self.logits).expand(memory.tokens.shape[0], -1, -1)  # (B, Q, 4)
        content = memory.tokens.new_zeros(*logits.shape[:2], self.width)
        return BoxQueries(content, None, logits.sigmoid(), reference_logits=logits)


@dataclass(frozen=True)
class Aligned:
    """A query that was made from the image, for every head.

    Attributes:
        content: (B, Q, M, D).
        position: (B, Q, M, D).
        points: (B, Q, M, 2) the salient points, x and y in [0, 1] of the image without its padding.
        scales: (B, Q, M, 2) of the Gaussian along x and y; None without one.
    """

    content: Tensor
    position: Tensor
    points: Tensor
    scales: Tensor | None


class SemanticsAligner(nn.Module):
    """Takes a query's content from salient points in its box (section 3.3).

    Args:
        width: D.
        attention_heads: M, one point each.
        gaussian: whether a head also gets a scale for each axis.
    """

    def __init__(self, *, width: int, attention_heads: int, gaussian: bool) -> None:
        super().__init__()
        self.width, self.attention_heads, self.gaussian = width, attention_heads, gaussian
        self.squeeze = nn.Conv2d(width, width // 4, kernel_size=1)
        numbers = 4 if gaussian else 2
        self.points = MLP(width // 4 * CELLS**2, width, 2 * width, 2 * width, numbers * attention_heads)
        self.content_gate = nn.Linear(width, attention_heads * width)
        self.position_gate = nn.Linear(width, attention_heads * width)

    def forward(self, content: Tensor, boxes_cxcywh: Tensor, memory: Memory) -> Aligned:
        """What the query becomes.

        Args:
            content: (B, Q, D) what the queries carry.
            boxes_cxcywh: (B, Q, 4) in [0, 1] of the image without its padding.
            memory: the level that is looked at.
        """
        sampled, places, scales = self.resample(boxes_cxcywh, memory)
        centers, sides = boxes_cxcywh[:, :, None, :2], boxes_cxcywh[:, :, None, 2:]
        points = centers + places.to(centers.dtype) * sides / 2  # (B, Q, M, 2)
        # No gradient goes through codes of points and boxes, as in the authors' code.
        code = reference_code(points.detach(), width=self.width).to(content.dtype)
        return Aligned(
            content=sampled.to(content.dtype) * self._gate(self.content_gate, content),
            position=code * self._gate(self.position_gate, content),
            points=points,
            scales=scales,
        )

    def resample(self, boxes_cxcywh: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor | None]:
        """Finds a salient point in each box for every head and what lies there; arguments as in `forward`.

        Returns:
            (B, Q, M, D) of the image, float32 or better; the points (B, Q, M, 2), whose x and y are -1 and 1 at the sides of the box; and their
            scales (B, Q, M, 2), if there is a Gaussian.
        """
        size, ratios = memory.level_sizes[0], memory.valid_ratios()[:, 0]
        regions = regions_of(boxes_cxcywh, ratios, size=size, cells=CELLS)
        numbers = self.points(self._squeezed(regions, memory.tokens, size).to(memory.tokens.dtype))
        numbers = torch.unflatten(numbers, -1, (-1, self.attention_heads, 2))  # (B, Q, 1 or 2, M, 2)
        places = numbers[:, :, 0].tanh()
        return regions.sample(memory.tokens, places), places, numbers[:, :, 1] if self.gaussian else None

    def _squeezed(self, regions: Regions, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, Q, D / 4 · 49) the regions with a quarter of the channels; the image is squeezed before it is cut, which is a quarter of the work."""
        squeezed = F.linear(tokens, self.squeeze.weight.flatten(1))  # (B, h · w, D / 4)
        maps = torch.unflatten(squeezed, 1, size).permute(0, 3, 1, 2)
        # The bias comes last, since a region shows zeros beyond the image.
        cells = regions.cut_out(maps) + at_least_float32(cast(Tensor, self.squeeze.bias))[:, None, None]
        return cells.relu().flatten(2)

    def _gate(self, gate: nn.Linear, content: Tensor) -> Tensor:
        """(B, Q, M, D) between 0 and 1."""
        return torch.unflatten(gate(content).sigmoid(), -1, (self.attention_heads, -1))


class AlignedAttention(nn.Module):
    """Attention with queries as wide as the model in every head, and with one key for all heads (section 3.4).

    Args:
        width: D.
        attention_heads: M.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, *, width: int, attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_heads, self.dropout = attention_heads, dropout
        self.content_query, self.content_key = nn.Linear(width, width), nn.Linear(width, width)
        self.position_query, self.position_key = MLP(width, width, width), MLP(width, width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.output.bias)

    def forward(self, aligned: Aligned, memory: Memory) -> Tensor:
        """(B, Q, D), from every query to every token of one level."""
        value = split_heads(self.value(memory.tokens), self.attention_heads)
        attended = attend_heads(
            *self._query_and_key(aligned, memory),
            value,
            mask=self._mask(aligned, memory),
            drop=self.dropout if self.training else 0.0,
        )
        return self.output(merge_heads(attended))  # type: ignore[no-any-return]

    def weights(self, aligned: Aligned, memory: Memory) -> Tensor:
        """(B, M, Q, S) attention weights; arguments as in `forward`."""
        return attention_weights(*self._query_and_key(aligned, memory), mask=self._mask(aligned, memory))

    def _query_and_key(self, aligned: Aligned, memory: Memory) -> tuple[Tensor, Tensor]:
        """(B, M, Q, D) and, the same for all heads, (B, M, S, D)."""
        query = self.content_query(aligned.content) + self.position_query(aligned.position)
        key = self.content_key(memory.tokens) + self.position_key(memory.positions)
        return query.transpose(1, 2), key[:, None].expand(-1, self.attention_heads, -1, -1)

    def _mask(self, aligned: Aligned, memory: Memory) -> Tensor | None:
        """Hides padding; with scales, the Gaussian is added to the scores."""
        visible = None if memory.padding is None else ~memory.padding[:, None, None]
        if (bias := self.gaussian(aligned, memory)) is None:
            return visible
        return bias if visible is None else bias.masked_fill(~visible, -torch.inf)

    @staticmethod
    def gaussian(aligned: Aligned, memory: Memory) -> Tensor | None:
        """(B, M, Q, S) logarithms of the Gaussians around the salient points; None without scales. Arguments as in `forward`."""
        if aligned.scales is None:
            return None
        # From fractions to cells, whose centres lie half a cell behind their numbers.
        centers = aligned.points * memory.valid_sizes[:, :1, None].to(aligned.points.dtype) - 0.5
        centers, scales = centers.transpose(1, 2), at_least_float32(aligned.scales).transpose(1, 2)
        return smca_detr.log_gaussian(centers, scales, memory.level_sizes[0]) / SMOOTH


class SampledContent(nn.Module):
    """No attention at all: each head gives what lies at its salient point.

    Args:
        width: D.
        attention_heads: M.
    """

    def __init__(self, *, width: int, attention_heads: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, width // attention_heads)
        self.output = nn.Linear(width, width)
        nn.init.zeros_(self.output.bias)

    def forward(self, aligned: Aligned, memory: Memory) -> Tensor:  # noqa: ARG002 - what it needs of memory was taken out before
        """(B, Q, D)."""
        return self.output(self.value(aligned.content + aligned.position).flatten(2))  # type: ignore[no-any-return]


class AlignedDecoderLayer(nn.Module):
    """Self-attention among queries, new content from the image, attention to the image, then a feed-forward network (figure 2).

    Args:
        look: `AlignedAttention` or `SampledContent`.
        gaussian: see `Config`.
        width: D.
        attention_heads: M.
        hidden: width between the two layers of the feed-forward network.
        dropout: probability, everywhere in the layer.
    """

    def __init__(
        self, look: nn.Module, *, gaussian: bool, width: int, attention_heads: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = SelfAttention(width=width, attention_heads=attention_heads, dropout=dropout)
        self.self_norm = nn.LayerNorm(width)
        self.aligner = SemanticsAligner(width=width, attention_heads=attention_heads, gaussian=gaussian)
        self.cross_attention = look
        self.cross_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout)

    def forward(self, content: Tensor, references: Tensor, memory: Memory, *, mask: Tensor | None = None) -> Tensor:
        """One round.

        Args:
            content: (B, Q, D) what the queries carry.
            references: (B, Q, 4) their boxes, cxcywh in [0, 1] of the image without its padding.
            memory: the level that this layer looks at.
            mask: of the attention among queries, as in `attend_heads`.

        Returns:
            (B, Q, D).
        """
        position = reference_code(references[..., :2].detach(), width=content.shape[-1]).to(content.dtype)
        content = self.self_norm(content + self.dropout(self.self_attention(content, position, mask)))
        aligned = self.aligner(content, references, memory)
        content = self.cross_norm(content + self.dropout(self.cross_attention(aligned, memory)))
        return self.feed_forward(content)  # type: ignore[no-any-return]


class AlignedDecoder(nn.Module):
    """Decoder layers around boxes that each of them moves; the heads see the layers' states as they are.

    The boxes' logits are a sum of all moves and are never clamped, unlike what the predicted boxes are relative to.

    Args:
        layers: decoder layers.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, queries: BoxQueries, memory: Memory, heads: LayerwiseHeads) -> Decoded:
        """States of every layer, and the boxes that they started from."""
        assert queries.reference_logits is not None
        levels = [memory.level(index) for index in range(len(memory.level_sizes))]
        logits, content, states, references = queries.reference_logits, queries.content, [], []
        for index, layer in enumerate(self.layers):
            if index > 0:  # only the first boxes are learned through what is predicted from them
                with torch.no_grad():
                    logits = logits + heads.box_logits(content, index - 1)
            references.append(logits.sigmoid())
            level = len(levels) - 1 - index * len(levels) // len(self.layers)
            content = layer(content, references[-1], levels[level], mask=queries.mask)
            states.append(content)
        base_logits = inverse_sigmoid(torch.stack(references), epsilon=EPSILON)
        return Decoded(torch.stack(states), base_logits, tuple(references))


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """The parts of figure 2."""
    backbone = build_backbone(config.backbone, levels=config.levels)
    heads = LayerwiseHeads(width=config.width, outputs=config.class_count, layers=config.decoder_layers)
    start_heads(heads)
    boxes = LearnedBoxes(count=config.queries, width=config.width)
    return EncoderDecoder(
        backbone=backbone,
        neck=MultiScaleNeck(
            channels=backbone.channels,
            strides=backbone.strides,
            width=config.width,
            levels=config.levels,
            position_encoding=CellCenterEncoding(width=config.width),
            norm=group_norm if config.normed_levels else None,
        ),
        encoder=encoder(config),
        query_source=boxes.requires_grad_(config.learn_queries),
        decoder=decoder(config),
        heads=heads,
        card=card,
    )


def encoder(config: Config) -> nn.Module:
    """DETR's for a single level, Deformable DETR's with half the hidden width for several."""
    if config.levels == 1:
        return detr.encoder(config)
    return deformable_detr.encoder(replace(config, hidden=config.hidden // 2))


def decoder(config: Config) -> AlignedDecoder:
    """Layers with or without attention to the image."""
    layers = []
    for _ in range(config.decoder_layers):
        sizes: dict[str, Any] = detr.layer_sizes(config)
        look: nn.Module = SampledContent(width=config.width, attention_heads=config.attention_heads)
        if config.cross_attention:
            look = AlignedAttention(**{name: sizes[name] for name in ("width", "attention_heads", "dropout")})
        layers.append(AlignedDecoderLayer(look, gaussian=config.gaussian, **sizes))
    xavier_matrices(*layers)
    for layer in layers:
        nn.init.zeros_(layer.aligner.points.output.bias)  # points begin near the middle of the box
    return AlignedDecoder(layers)


criterion, selection = conditional_detr.criterion, conditional_detr.selection  # the same loss, and the same hundred
SOURCE = Source("ZhangGongjie/SAM-DETR", "df4e5676765ab0d1a65a82da89989309f399f3ef", "MIT", "2203.06883")
RECIPE, RECIPE_DC5 = Recipe(epochs=50, batch_size=16), Recipe(epochs=50, batch_size=8)
_AT_THE_EDGE = "A box at the edge of the image also sees the padding behind it, as in the authors' code."
PADDING = {"tokens_behind_padding_are_not_looked_at": _AT_THE_EDGE}
_DC5: dict[str, Any] = {"backbone": "resnet50-dc5"}
_SMCA: dict[str, Any] = {"gaussian": True}
_MULTISCALE: dict[str, Any] = {"levels": 3, "normed_levels": True}
_AS_SMCA = smca_detr.COMPACT_RECIPE, smca_detr.COMPACT_PREPROCESSING
_COMPACT = Variant(Config(**smca_detr.COMPACT, normed_levels=True), *_AS_SMCA, exceptions=PADDING)


def _variant(short: tuple[str, float], long: tuple[str, float], **settings: Any) -> Variant:
    """A variant with the authors' files of 12 and of 50 epochs, each with its AP."""
    weights = tuple(
        PublishedWeights(f"https://drive.google.com/file/d/{file}", ap, "MIT", tag=f"{epochs} epochs")
        for epochs, (file, ap) in ((12, short), (50, long))
    )
    recipe = RECIPE_DC5 if "backbone" in settings else RECIPE
    return Variant(Config(**settings), recipe, weights=weights, exceptions=PADDING)


# fmt: off
VARIANTS: dict[str, Variant] = {
    "sam-detr-r50": _variant(
        ("1RXGs50nXkYBlYKFjI8nzt2ZDfLEVsLJZ", 0.331), ("11BZHGv2UAtqECX10MZ3VMS81RqGQM5Aq", 0.398)),
    "sam-detr-r50-smca": _variant(
        ("16ucFXgf0lrgzLArdmFzn3oOn3eGUrCU4", 0.360), ("1XHDkMsVB-zncVRsf21Z1-hPxJJCi7TGN", 0.418), **_SMCA),
    "sam-detr-r50-dc5": _variant(
        ("18kZUCGLIQKerzcIlh_Hh87V3wUkrTwEu", 0.383), ("1XYLr3yhqmmT3RWIJ_4SN1S-bO4BtWgcX", 0.433), **_DC5),
    "sam-detr-r50-dc5-smca": _variant(
        ("1gDfRo1DEv43d6DUMF1n_Lzv2lkRv0huE", 0.406), ("1q_iWQOZl1zXtaVD4vI4V9piwj2tkE8ek", 0.450), **_DC5, **_SMCA),
    "sam-detr-r50-multiscale": _variant(
        ("1Rdp7QngEaS0mxRQoxq7pGUM7LkZtgyzx", 0.411), ("1Fb6MFyldV-tJNfL7t1gpV7Yvk1LvhNvQ", 0.461), **_MULTISCALE),
    "sam-detr-r50-multiscale-smca": _variant(
        ("12xJJA-8P1YPfW3wp3l2aMdkQX_mCAOR5", 0.428), ("1yZHRDxa3eVvgDBBEwpCbsm_yqShEV3cC", 0.471),
        **_MULTISCALE, **_SMCA),
    "sam-detr-compact": _COMPACT,
    "sam-detr-compact-without-cross-attention": replace(_COMPACT, config=replace(_COMPACT.config, cross_attention=False)),
}
# fmt: on
