"""Anchor DETR (Wang et al. 2022, arXiv:2109.07107): a query is a point of the image, and several objects may lie at one point.

DETR's queries are vectors that nobody can place on the image. Here a query's position code is made from a point by the same function that
codes the cells of the image, so that it is known from the start where the query looks. Each point comes with several patterns, as content,
one for each object that may lie there. Row-column decoupled attention weighs the columns of the image and its rows apart: a query compares itself
with w + h keys instead of w · h.

Symbols: B images, Q = A · P queries from A points and P patterns, S = h · w memory tokens, D width, M heads, L decoder layers, K classes.

Deviations from the authors' code: keys are averaged before their projection instead of after it, and columns are summed up first whatever the
shape of the image; losses of all layers are computed together. None of them changes a value beyond rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from detrkit.backbones import build_backbone
from detrkit.cards import Category, ModelCard, Preprocessing, PublishedWeights, Recipe, Source, Variant
from detrkit.errors import OptionError
from detrkit.layers.attention import MultiHeadAttention
from detrkit.layers.dropout import Dropout
from detrkit.layers.heads import MLP, DetectionHeads
from detrkit.layers.initialization import PRIOR_LOGIT
from detrkit.layers.position_encoding import reference_code, sine_code
from detrkit.layers.precision import at_least_float32
from detrkit.layers.references import ReferenceTrail
from detrkit.layers.row_column_attention import RowColumnAttention
from detrkit.layers.selection import TopKSelection
from detrkit.layers.transformer import DecoderLayer, Encoder, EncoderLayer, FeedForward
from detrkit.losses.criterion import SetCriterion, focal_criterion
from detrkit.models import detr
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.settings import Settings
from detrkit.necks.multi_scale import MultiScaleNeck
from detrkit.structures import Decoded, Memory, Queries, Target

EPSILON = 1e-5  # of the inverse sigmoid, as in the authors' code
START_SIDE_LOGIT = -2.0  # of width and height: boxes begin at 0.12 of the image


@dataclass(frozen=True)
class Config(Settings):
    """Anchor DETR's settings; the defaults are the paper's.

    Attributes:
        patterns: P, how many objects can be found at each point; `queries` is a multiple of it.
        row_column: whether encoder and cross-attention weigh columns and rows apart; if not, they are DETR's, as a comparison.
        learn_queries: whether points and patterns are trained; if not, give good ones with `queries_from` in training.

    Raises:
        ConfigurationError: see `Settings`; or settings that do not fit together.
    """

    queries: int = 900
    hidden: int = 1024
    dropout: float = 0.0
    patterns: int = 3
    row_column: bool = True
    learn_queries: bool = True

    least: ClassVar[dict[str, int]] = Settings.least | {"patterns": 1}

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        if self.width % 32:
            raise OptionError(f"width {self.width} must be a multiple of 32 (groups of the neck's norm)", "width")
        if self.queries % self.patterns:
            raise OptionError(
                f"queries must be a multiple of patterns ({self.patterns}), not {self.queries}: every point comes once with each pattern",
                *("queries", "patterns"),
            )


class PointCodes(nn.Module):
    """One code for cells and for points: a sine code of both coordinates, changed by a small network (section 3.2).

    Args:
        width: D.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width
        self.point = MLP(width, width, width)

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """(B, D, h, w) codes of the cells of a feature map, in its type."""
        x, y = cell_centers(features, padding)
        cells = torch.stack(
            [x[:, None].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])], dim=-1
        )  # (B, h, w, 2)
        code = self._of(self.point, reference_code(cells, width=self.width))
        return code.movedim(-1, 1).to(features.dtype).expand(features.shape[0], -1, -1, -1)

    def of_points(self, points: Tensor) -> Tensor:
        """(..., D) codes of points (..., 2), x and y in [0, 1]."""
        return self._of(self.point, reference_code(points, width=self.width))

    @staticmethod
    def _of(network: MLP, code: Tensor) -> Tensor:
        return network(code.to(network.output.weight.dtype))  # type: ignore[no-any-return]


class RowColumnCodes(PointCodes):
    """Codes of columns, of rows, and of points (section 3.4): columns by x alone, rows by y alone, with one network for both.

    Args:
        width: D.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__(width=width)
        self.line = MLP(width, width, width)

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """(B, 2 D, h, w): the code of each cell's column, then that of its row."""
        x, y = (self._of_lines(values).movedim(-1, 1) for values in cell_centers(features, padding))
        size = (-1, -1, *features.shape[-2:])
        code = torch.cat([x[:, :, None, :].expand(size), y[:, :, :, None].expand(size)], dim=1)
        return code.to(features.dtype).expand(features.shape[0], -1, -1, -1)

    def of_points(self, points: Tensor) -> Tensor:
        """(..., 3 D) of points (..., 2): the code of both coordinates, that of x, and that of y."""
        lines = [self._of_lines(values) for values in points.unbind(-1)]
        return torch.cat([super().of_points(points), *lines], dim=-1)

    def _of_lines(self, values: Tensor) -> Tensor:
        return self._of(self.line, sine_code(values * (2 * math.pi), channels=self.width))


def cell_centers(features: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """X of each column (B or 1, w) and y of each row (B or 1, h), float32, in (0, 1) of the image without its padding.

    What lies behind padding has the place of the last cell before it.

    Args:
        features: (B, C, h, w).
        padding: (B, h, w) bool or None; looked at in the first row and the first column.
    """
    if padding is None:
        padding = torch.zeros(1, *features.shape[-2:], dtype=torch.bool, device=features.device)
    counts = [(~line).to(torch.float32).cumsum(1) for line in (padding[:, 0], padding[:, :, 0])]
    x, y = ((count - 0.5) / count[:, -1:] for count in counts)
    return x, y


class RowColumnEncoderLayer(nn.Module):
    """Row-column attention among the cells, then a feed-forward network.

    Args:
        width: D.
        attention_heads: M.
        hidden: width between the two layers of the feed-forward network.
        dropout: probability, everywhere in the layer.
    """

    def __init__(self, *, width: int, attention_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = RowColumnAttention(width=width, attention_heads=attention_heads, dropout=dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout)

    def forward(self, memory: Memory) -> Tensor:
        """The tokens of memory after one round of attention, (B, S, D)."""
        assert memory.positions is not None
        column_codes, row_codes = memory.positions.chunk(2, dim=-1)
        attended = self.attention(memory.tokens + column_codes, memory.tokens + row_codes, memory)
        return self.feed_forward(self.norm(memory.tokens + self.dropout(attended)))  # type: ignore[no-any-return]


class RowColumnEncoder(nn.Module):
    """Encoder layers with row-column attention, one after the other."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, memory: Memory) -> Memory:
        """Memory with encoded tokens; everything else is unchanged."""
        for layer in self.layers:
            memory = replace(memory, tokens=layer(memory))
        return memory


class RowColumnDecoderLayer(nn.Module):
    """DETR's attention among queries, row-column attention to memory, then a feed-forward network.

    Args:
        width: D.
        attention_heads: M.
        hidden: width between the two layers of the feed-forward network.
        dropout: probability, everywhere in the layer.
    """

    def __init__(self, *, width: int, attention_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(width=width, attention_heads=attention_heads, dropout=dropout)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = RowColumnAttention(width=width, attention_heads=attention_heads, dropout=dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout)

    def forward(self, content: Tensor, position: Tensor, memory: Memory, *, mask: Tensor | None = None) -> Tensor:
        """One round of attention.

        Args:
            content: (B, Q, D) what the queries carry.
            position: (B, Q, 3 D) their points' codes: of both coordinates, of x, of y.
            memory: the encoded image.
            mask: of the attention among queries, as in `attend_heads`.

        Returns:
            (B, Q, D).
        """
        point, column, row = position.chunk(3, dim=-1)
        query = content + point
        attended = self.self_attention(query, query, content, mask)
        content = self.self_norm(content + self.dropout(attended))
        attended = self.cross_attention(content + column, content + row, memory)
        content = self.cross_norm(content + self.dropout(attended))
        return self.feed_forward(content)  # type: ignore[no-any-return]


class AnchorPoints(nn.Module):
    """Learned points with patterns for content (section 3.3): query p · A + a is point a with pattern p.

    Args:
        points: A.
        patterns: P.
        width: D.
    """

    def __init__(self, *, points: int, patterns: int, width: int) -> None:
        super().__init__()
        # x and y themselves, not logits: nothing keeps training from moving a point out of the image.
        self.points = nn.Parameter(torch.rand(points, 2))
        self.patterns = nn.Embedding(patterns, width)

    def forward(self, memory: Memory, codes: PointCodes) -> Queries:
        """Queries for every image of the batch.

        Args:
            memory: the encoded image; only its batch and type matter.
            codes: those of memory's cells.
        """
        batch, patterns = memory.tokens.shape[0], len(self.patterns.weight)
        content = self.patterns.weight.repeat_interleave(len(self.points), dim=0)  # (Q, D)
        points = at_least_float32(self.points)
        position = codes.of_points(points).repeat(patterns, 1)  # (Q, D) or (Q, 3 D)
        content, position = (each.to(memory.tokens.dtype).expand(batch, -1, -1) for each in (content, position))
        return Queries(content, position, points.repeat(patterns, 1).expand(batch, -1, -1))


class AnchorPointDecoder(nn.Module):
    """Decoder layers around fixed points; the heads see their states as they are, without a norm.

    Args:
        layers: decoder layers.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, queries: Queries, memory: Memory, heads: nn.Module) -> Decoded:  # noqa: ARG002 - no boxes between layers
        """States of every layer; boxes are relative to the points."""
        assert queries.references is not None
        trail, content, states = ReferenceTrail(queries.references, epsilon=EPSILON), queries.content, []
        for index, layer in enumerate(self.layers):
            if index > 0:
                trail.stay()
            content = layer(content, queries.position, memory, mask=queries.mask)
            states.append(content)
        return Decoded(torch.stack(states), trail.base_logits(), trail.references())


class AnchorDetector(EncoderDecoder):
    """The six parts; the neck's position codes are those of the queries' points, too."""

    def make_queries(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:  # noqa: ARG002 - ignores the targets
        """See `EncoderDecoder.make_queries`."""
        return self.query_source(memory, self.neck.position_encoding)  # type: ignore[no-any-return]


def build(config: Config, card: ModelCard) -> AnchorDetector:
    """The parts of figure 3."""
    backbone = build_backbone(config.backbone)
    codes = (RowColumnCodes if config.row_column else PointCodes)(width=config.width)
    points = AnchorPoints(
        points=config.queries // config.patterns, patterns=config.patterns, width=config.width
    ).requires_grad_(config.learn_queries)
    heads = DetectionHeads(width=config.width, outputs=config.class_count)
    start_heads(heads)
    return AnchorDetector(
        backbone=backbone,
        neck=MultiScaleNeck(
            channels=backbone.channels,
            strides=backbone.strides,
            width=config.width,
            levels=1,
            position_encoding=codes,
        ),
        encoder=encoder(config),
        query_source=points,
        decoder=decoder(config),
        heads=heads,
        card=card,
    )


def encoder(config: Config) -> Encoder | RowColumnEncoder:
    """Layers with the chosen attention."""
    if not config.row_column:
        return Encoder([EncoderLayer(**detr.layer_sizes(config)) for _ in range(config.encoder_layers)])
    return RowColumnEncoder([RowColumnEncoderLayer(**detr.layer_sizes(config)) for _ in range(config.encoder_layers)])


def decoder(config: Config) -> AnchorPointDecoder:
    """Layers with the chosen cross-attention."""
    kind = RowColumnDecoderLayer if config.row_column else DecoderLayer
    return AnchorPointDecoder([kind(**detr.layer_sizes(config)) for _ in range(config.decoder_layers)])


@torch.no_grad()
def start_heads(heads: DetectionHeads) -> None:
    """Rare classes, and boxes of one size around their points."""
    nn.init.constant_(heads.class_head.bias, PRIOR_LOGIT)
    nn.init.zeros_(heads.box_head.output.weight)
    heads.box_head.output.bias.copy_(torch.tensor([0.0, 0.0, START_SIDE_LOGIT, START_SIDE_LOGIT]))


def criterion(config: Config, model: Detector | None = None) -> SetCriterion:  # noqa: ARG001 - masks need the model
    """Hungarian matching and the set loss with focal classification, with the same weights in both."""
    return focal_criterion(
        class_count=config.class_count,
        layers=config.decoder_layers,
        cost_weights=config.term_weights,
        loss_weights=config.term_weights,
    )


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> TopKSelection:  # noqa: ARG001
    """The best hundred pairs of query and class, of classes that have a name."""
    return TopKSelection([category.index for category in categories])


def _published(file: str, ap: float) -> tuple[PublishedWeights, ...]:
    return (PublishedWeights(f"https://drive.google.com/file/d/{file}", ap, "Apache-2.0", tag="50 epochs"),)


SOURCE = Source("megvii-research/AnchorDETR", "0b4358a1caacf4b311b8653312e145f1c94de3d3", "Apache-2.0", "2109.07107")
RECIPE = Recipe(epochs=50, batch_size=8)
PADDING = {
    "tokens_behind_padding_are_not_looked_at": (
        "Row-column attention averages keys over whole rows and columns with what lies behind padding, as the authors' does."
    )
}
_COMPACT: Mapping[str, Any] = {
    "backbone": "compact-c4",
    "queries": 30,
    "width": 96,
    "attention_heads": 4,
    "hidden": 192,
    "encoder_layers": 1,
    "decoder_layers": 2,
}
_COMPACT_RECIPE = Recipe(
    learning_rate=1e-3,
    backbone_learning_rate=1e-3,
    gradient_clip=1.0,
    epochs=20,
    batch_size=16,
    schedule="cosine",
    warmup_steps=50,
)
VARIANTS: dict[str, Variant] = {
    "anchor-detr-r50-c5": Variant(
        Config(), RECIPE, weights=_published("1ktLJyw4PGdaXkOn61W537Z67WHcttXDs", 0.421), exceptions=PADDING
    ),
    "anchor-detr-r50-dc5": Variant(
        Config(backbone="resnet50-dc5"),
        RECIPE,
        weights=_published("1lJZWdIlHj6KKmAdU28Y01tTyO0hc6Jxs", 0.443),
        exceptions=PADDING,
    ),
    "anchor-detr-r101-c5": Variant(
        Config(backbone="resnet101"),
        RECIPE,
        weights=_published("1eBLYzlKWwSF_RRcfjgRXqIplRKetsvtg", 0.435),
        exceptions=PADDING,
    ),
    "anchor-detr-r101-dc5": Variant(
        Config(backbone="resnet101-dc5"),
        RECIPE,
        weights=_published("1irmZPSALME4Nht3_qhM9WLExDyO9Sj-J", 0.451),
        exceptions=PADDING,
    ),
    "anchor-detr-r50-c5-plain": Variant(Config(row_column=False), RECIPE),
    "anchor-detr-r50-dc5-plain": Variant(Config(backbone="resnet50-dc5", row_column=False), RECIPE),
    "anchor-detr-compact": Variant(
        Config(**_COMPACT), _COMPACT_RECIPE, Preprocessing(short_side=128, long_side=208), exceptions=PADDING
    ),
}
