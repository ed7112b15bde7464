"""Conditional DETR (Meng et al. 2021, arXiv:2108.06152): a query asks about content and about place separately.

In DETR's cross-attention one vector has to match what a cell holds and where it lies, so the match of places depends on the quality of the
content, which takes long to learn. Here every query has a reference point. Content and place are compared side by side: the score is the
sum of a content product and a place product, and the place part is the point's sine code, scaled by what the query carries. Each head can
then look for one edge of the object, or a region inside it, from the first epochs on.

Symbols: B images, Q queries, S memory tokens, D width, M heads, L decoder layers, K outputs of the class head, one a class (no no-object).

Deviations from the authors' code: the losses of all layers are computed together; padded pixels are zeroed inside. Neither changes a value
beyond rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.backbones import build_backbone
from detrkit.cards import Category, ModelCard, Preprocessing, PublishedWeights, Recipe, Source, Variant
from detrkit.layers.attention import (
    attend_heads,
    attention_weights,
    merge_heads,
    padding_mask,
    side_by_side,
    split_heads,
)
from detrkit.layers.dropout import Dropout
from detrkit.layers.heads import MLP, DetectionHeads, precisely
from detrkit.layers.initialization import start_heads, xavier_matrices
from detrkit.layers.position_encoding import reference_code
from detrkit.layers.references import ReferenceTrail
from detrkit.layers.selection import TopKSelection
from detrkit.layers.transformer import FeedForward
from detrkit.losses.criterion import SetCriterion, focal_criterion
from detrkit.models import detr
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.settings import Settings
from detrkit.structures import Decoded, Memory, Queries, Target

EPSILON = 1e-5  # of the inverse sigmoid, as in the authors' code


@dataclass(frozen=True)
class Config(Settings):
    """Conditional DETR's settings; the defaults of `Settings` are the paper's.

    Attributes:
        learn_queries: whether queries and their reference points are trained; if not, give good ones with `queries_from` in training.

    Raises:
        ConfigurationError: see `Settings`.
    """

    learn_queries: bool = True


class PointQueries(nn.Module):
    """Learned queries whose position code also gives a reference point; their content starts at zero.

    Args:
        count: Q.
        width: D.
    """

    reference_size = 2

    def __init__(self, *, count: int, width: int) -> None:
        super().__init__()
        self.position = nn.Embedding(count, width)
        self.reference_head = MLP(width, width, 2)
        xavier_matrices(self.reference_head)

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:  # noqa: ARG002 - ignores the targets
        """Queries for every image of the batch."""
        batch = memory.tokens.shape[0]
        references = precisely(self.reference_head, self.position.weight).sigmoid()  # (Q, 2)
        position = self.position.weight.to(memory.tokens.dtype).expand(batch, -1, -1)  # (B, Q, D)
        return Queries(torch.zeros_like(position), position, references.expand(batch, -1, -1))


class SelfAttention(nn.Module):
    """Attention among queries; content and position have projections of their own, whose results are added.

    Args:
        width: D.
        attention_heads: M.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, *, width: int, attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_heads, self.dropout = attention_heads, dropout
        self.content_query, self.position_query = nn.Linear(width, width), nn.Linear(width, width)
        self.content_key, self.position_key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.output.bias)

    def forward(self, content: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, Q, D) content and position to (B, Q, D); `mask` as in `attend_heads`."""
        query, key = self._query_and_key(content, position)
        value = split_heads(self.value(content), self.attention_heads)
        attended = attend_heads(query, key, value, mask=mask, drop=self.dropout if self.training else 0.0)
        return self.output(merge_heads(attended))  # type: ignore[no-any-return]

    def weights(self, content: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, M, Q, Q) attention weights; arguments as in `forward`."""
        return attention_weights(*self._query_and_key(content, position), mask=mask)

    def _query_and_key(self, content: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Projected and split, (B, M, Q, D / M) each."""
        query = self.content_query(content) + self.position_query(position)
        key = self.content_key(content) + self.position_key(position)
        return split_heads(query, self.attention_heads), split_heads(key, self.attention_heads)


class CrossAttention(nn.Module):
    """Attention to memory that compares content and place side by side (section 3.3).

    In every head queries and keys are content and place, one behind the other, so that the score is the sum of two products.

    Args:
        width: D.
        attention_heads: M.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, *, width: int, attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_heads, self.dropout = attention_heads, dropout
        self.content_query, self.content_key = nn.Linear(width, width), nn.Linear(width, width)
        self.spatial_query, self.spatial_key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, content: Tensor, position: Tensor, spatial: Tensor, memory: Memory, mask: Tensor | None = None
    ) -> Tensor:
        """Attention from every query to every token.

        Args:
            content: (B, Q, D) what the queries carry.
            position: (B, Q, D) the queries' position codes.
            spatial: (B, Q, D) sine code of where each query looks.
            memory: the encoded image.
            mask: as in `attend_heads`.

        Returns:
            (B, Q, D).
        """
        query, key = self._query_and_key(content, position, spatial, memory)
        value = split_heads(self.value(memory.tokens), self.attention_heads)
        attended = attend_heads(query, key, value, mask=mask, drop=self.dropout if self.training else 0.0)
        return self.output(merge_heads(attended))  # type: ignore[no-any-return]

    def weights(
        self, content: Tensor, position: Tensor, spatial: Tensor, memory: Memory, mask: Tensor | None = None
    ) -> Tensor:
        """(B, M, Q, S) attention weights; arguments as in `forward`."""
        return attention_weights(*self._query_and_key(content, position, spatial, memory), mask=mask)

    def _query_and_key(
        self, content: Tensor, position: Tensor, spatial: Tensor, memory: Memory
    ) -> tuple[Tensor, Tensor]:
        """Projected and split, (B, M, Q, 2 D / M) and (B, M, S, 2 D / M)."""
        spatial_key = self.spatial_key(memory.positions)
        query, key = self.contents(content, position, memory.tokens, spatial_key)
        query = side_by_side(query, self.spatial_query(spatial), self.attention_heads)
        key = side_by_side(key, spatial_key, self.attention_heads)
        return split_heads(query, self.attention_heads), split_heads(key, self.attention_heads)

    def contents(self, content: Tensor, position: Tensor, tokens: Tensor, spatial_key: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The content part of queries (B, Q, D) and keys (B, S, D)."""
        return self.content_query(content), self.content_key(tokens)


class FirstCrossAttention(CrossAttention):
    """Cross-attention of the first layer, whose queries carry no content yet: positions are added to both sides, as in DETR.

    Args:
        width: D.
        attention_heads: M.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, *, width: int, attention_heads: int, dropout: float) -> None:
        super().__init__(width=width, attention_heads=attention_heads, dropout=dropout)
        self.position_query = nn.Linear(width, width)

    def contents(self, content: Tensor, position: Tensor, tokens: Tensor, spatial_key: Tensor) -> tuple[Tensor, Tensor]:
        """See `CrossAttention.contents`."""
        return self.content_query(content) + self.position_query(position), self.content_key(tokens) + spatial_key


class ConditionalDecoderLayer(nn.Module):
    """Self-attention among queries, conditional cross-attention to memory, then a feed-forward network.

    Args:
        cross_attention: `CrossAttention` or `FirstCrossAttention`.
        width: D.
        attention_heads: M.
        hidden: width between the two layers of the feed-forward network.
        dropout: probability, on attention weights and before every residual.
        activation: see `FeedForward`.
    """

    def __init__(
        self,
        cross_attention: CrossAttention,
        *,
        width: int,
        attention_heads: int,
        hidden: int,
        dropout: float,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.self_attention = SelfAttention(width=width, attention_heads=attention_heads, dropout=dropout)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = cross_attention
        self.cross_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout, activation=activation)

    def forward(
        self, content: Tensor, position: Tensor, memory: Memory, *, spatial: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """One round of attention.

        Args:
            content: (B, Q, D) what the queries carry.
            position: (B, Q, D) the queries' position codes.
            memory: the encoded image.
            spatial: (B, Q, D) sine code of where each query looks, scaled by what it carries.
            mask: of the attention among queries, as in `attend_heads`.

        Returns:
            (B, Q, D).
        """
        content = self.self_norm(content + self.dropout(self.self_attention(content, position, mask)))
        attended = self.cross_attention(content, position, spatial, memory, padding_mask(memory.padding))
        content = self.cross_norm(content + self.dropout(attended))
        return self.feed_forward(content)  # type: ignore[no-any-return]


class ConditionalDecoder(nn.Module):
    """Decoder layers around fixed reference points (section 3).

    Args:
        layers: decoder layers.
        width: D.
    """

    def __init__(self, layers: list[nn.Module], *, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)
        # From what a query carries to the scale of its spatial query (section 3.3).
        self.position_scale = MLP(width, width, width)
        xavier_matrices(self.layers, self.position_scale)

    def forward(self, queries: Queries, memory: Memory, heads: nn.Module) -> Decoded:  # noqa: ARG002 - no boxes between layers
        """States of every layer, normed for the heads; boxes are relative to the reference points."""
        assert queries.references is not None
        trail, content, states = ReferenceTrail(queries.references, epsilon=EPSILON), queries.content, []
        spatial = reference_code(queries.references, width=content.shape[-1]).to(content.dtype)  # (B, Q, D)
        for index, layer in enumerate(self.layers):
            if index > 0:
                trail.stay()
            scaled = spatial if index == 0 else spatial * self.position_scale(content)
            content = layer(content, queries.position, memory, spatial=scaled, mask=queries.mask)
            states.append(self.norm(content))
        return Decoded(torch.stack(states), trail.base_logits(), trail.references())


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """DETR's backbone, neck and encoder; queries with points and a conditional decoder (figure 3)."""
    backbone = build_backbone(config.backbone)
    heads = DetectionHeads(width=config.width, outputs=config.class_count)
    start_heads(heads)
    return EncoderDecoder(
        backbone=backbone,
        neck=detr.neck(config, backbone),
        encoder=detr.encoder(config),
        query_source=PointQueries(count=config.queries, width=config.width).requires_grad_(config.learn_queries),
        decoder=ConditionalDecoder(decoder_layers(config), width=config.width),
        heads=heads,
        card=card,
    )


def decoder_layers(config: Settings, activation: Callable[[], nn.Module | None] = lambda: None) -> list[nn.Module]:
    """Layers with conditional cross-attention, the first with positions in its content.

    Args:
        config: of this paper or a descendant.
        activation: makes each layer's activation, see `FeedForward`.
    """
    sizes: dict[str, Any] = detr.layer_sizes(config)
    attention = {name: sizes[name] for name in ("width", "attention_heads", "dropout")}
    kinds = [FirstCrossAttention, *[CrossAttention] * (config.decoder_layers - 1)]
    return [ConditionalDecoderLayer(kind(**attention), **sizes, activation=activation()) for kind in kinds]


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
    address = f"https://github.com/DeppMeng/ConditionalDETR/releases/download/v1.0/ConditionalDETR_{file}_epoch50.pth"
    return (PublishedWeights(address, ap, "Apache-2.0", tag="50 epochs"),)


SOURCE = Source("Atten4Vis/ConditionalDETR", "8ea7c3f3fff49cd287855d4f13cc12a6066bc8e9", "Apache-2.0", "2108.06152")
RECIPE, RECIPE_DC5 = Recipe(epochs=50, batch_size=16), Recipe(epochs=50, batch_size=8)
# For images of some 128 pixels with few objects: at stride 16, since a place must have cells of its own to be looked at.
COMPACT: dict[str, Any] = {
    "backbone": "compact-c4",
    "queries": 30,
    "width": 96,
    "attention_heads": 4,
    "hidden": 192,
    "encoder_layers": 0,
    "decoder_layers": 2,
    "dropout": 0.0,
}
COMPACT_RECIPE = Recipe(
    learning_rate=3e-3,
    backbone_learning_rate=3e-3,
    gradient_clip=1.0,
    epochs=20,
    batch_size=16,
    schedule="cosine",
    warmup_steps=50,
)
COMPACT_PREPROCESSING = Preprocessing(short_side=128, long_side=208)
VARIANTS: dict[str, Variant] = {
    "conditional-detr-r50": Variant(Config(), RECIPE, weights=_published("r50", 0.410)),
    "conditional-detr-r50-dc5": Variant(
        Config(backbone="resnet50-dc5"), RECIPE_DC5, weights=_published("r50dc5", 0.437)
    ),
    "conditional-detr-r101": Variant(Config(backbone="resnet101"), RECIPE, weights=_published("r101", 0.428)),
    "conditional-detr-r101-dc5": Variant(
        Config(backbone="resnet101-dc5"), RECIPE_DC5, weights=_published("r101dc5", 0.450)
    ),
    "conditional-detr-compact": Variant(Config(**COMPACT), COMPACT_RECIPE, COMPACT_PREPROCESSING),
}
