"""SMCA-DETR (Gao et al. 2021, arXiv:2101.07448): a Gaussian around a guessed centre tells every head of a query where to look.

DETR's cross-attention starts out spread over the whole image and takes hundreds of epochs to narrow down. Here each query guesses a centre,
each head moves it and chooses a width and a height, and the logarithm of the Gaussian there is added to the scores of attention. Boxes are relative
to the same centre.

Symbols: B images, Q queries, S memory tokens of (h, w) cells, D width, M heads, L decoder layers, K classes.

Deviations from the authors' code: centres are divided by the level's own stride, where the authors divide by 32 whatever the stride is; the
two are the same for all published models. The Gaussian is made from columns and rows apart; losses of all layers are computed together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.backbones import build_backbone
from detrkit.cards import Category, ModelCard, Preprocessing, PublishedResult, Recipe, Source, Variant
from detrkit.errors import OptionError
from detrkit.layers.attention import MultiHeadAttention
from detrkit.layers.dropout import Dropout
from detrkit.layers.heads import MLP, DetectionHeads, precisely
from detrkit.layers.initialization import PRIOR_LOGIT, xavier_matrices
from detrkit.layers.selection import TopKSelection
from detrkit.layers.transformer import FeedForward, add_position
from detrkit.losses.criterion import SetCriterion, focal_criterion
from detrkit.models import detr
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.settings import Settings
from detrkit.structures import Decoded, Memory, Queries


@dataclass(frozen=True)
class Config(Settings):
    """SMCA-DETR's settings; the defaults are the paper's.

    Attributes:
        class_count: outputs of the class head. The authors have one more than in other papers, which no object ever has.
        scales: numbers by which each head scales the Gaussian: 0 (it has a fixed size), 1 (one for both axes), 2 (width and height; the paper's
            best), or 3 (one more for the product of both distances). The authors call these types 1 to 4.
        smooth: β, what squared distances in cells are divided by (equation 4).
        learn_queries: whether object queries are trained; if not, give good ones with `queries_from` in training.

    Raises:
        ConfigurationError: see `Settings`; or an impossible number of scales.
    """

    class_count: int = 92
    scales: int = 2
    smooth: float = 8.0
    learn_queries: bool = True

    least: ClassVar[dict[str, int]] = Settings.least | {"scales": 0}

    @property
    def kept_maps(self) -> int:
        """See `Settings.kept_maps`; the Gaussian."""
        return 1

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        if self.scales > 3:
            raise OptionError(f"scales must be 0, 1, 2 or 3, not {self.scales}", "scales")
        if not self.smooth > 0:
            raise OptionError(f"smooth must be above 0, not {self.smooth}: distances are divided by it", "smooth")


class Guide(nn.Module):
    """What the states of queries say about where to look.

    Args:
        width: D.
        outputs: how many places each query looks at.
        scales: see `Config`.
    """

    def __init__(self, *, width: int, outputs: int, scales: int) -> None:
        super().__init__()
        self.offset = nn.Linear(width, 2 * outputs)
        self.scale = nn.Linear(width, scales * outputs) if scales else None

    def start(self) -> None:
        """The initial values: all places have the same size."""
        if self.scale is not None:
            nn.init.zeros_(self.scale.weight)
            nn.init.ones_(self.scale.bias)


class Gaussian(Guide):
    """Where each head of each query looks, as logarithms of Gaussians over the cells of one level (section 3.2).

    Args:
        width: D.
        attention_heads: M.
        scales: see `Config`.
        smooth: see `Config`.
        stride: image pixels per cell of the level.
    """

    def __init__(self, *, width: int, attention_heads: int, scales: int, smooth: float, stride: int) -> None:
        super().__init__(width=width, outputs=attention_heads, scales=scales)
        self.attention_heads, self.smooth, self.stride = attention_heads, smooth, stride

    def forward(self, states: Tensor, references: Tensor, memory: Memory) -> Tensor:
        """What is added to the scores of attention.

        Args:
            states: (B, Q, D) what decides on offsets and scales.
            references: (B, Q, 2) x and y in [0, 1] of the image without its padding; float32 or better.
            memory: one level.

        Returns:
            (B, M, Q, S), at most 0, in the type of the references.
        """
        centers = cells_of(references, memory, self.stride)
        offsets = per_head(self.offset, states, self.attention_heads)
        scales = None if self.scale is None else per_head(self.scale, states, self.attention_heads)
        return log_gaussian(centers[:, None] + offsets, scales, memory.level_sizes[0]) / self.smooth


def cells_of(references: Tensor, memory: Memory, stride: int) -> Tensor:
    """Points (B, Q, 2) in [0, 1] of the images in cells of a level: 250 pixels are 7.8 cells of 32 here, not the 8 that a map has."""
    return references * (memory.image_sizes / stride)[:, None].to(references.dtype)


def per_head(layer: nn.Linear, states: Tensor, attention_heads: int) -> Tensor:
    """What a layer makes of states (B, Q, D), as (B, M, Q, numbers) in float32 or better."""
    return torch.unflatten(precisely(layer, states), -1, (attention_heads, -1)).transpose(1, 2)


def log_gaussian(centers: Tensor, scales: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Minus the scaled squared distances of centres to all cells (equation 4).

    Args:
        centers: (B, M, Q, 2) x and y in cells.
        scales: (B, M, Q, 1, 2 or 3), see `Config`; None for a scale of 1.
        size: h and w of the map.

    Returns:
        (B, M, Q, h · w).
    """
    # Cells are taken to lie at 0, 1, ..., their corners, half a cell from where they look; offsets learn that.
    x, y = (_squared_distances(place, count) for place, count in zip(centers.unbind(-1), reversed(size), strict=True))
    if scales is None:
        return -(y[..., :, None] + x[..., None, :]).flatten(3)
    of_axis = scales.square().unbind(-1)  # (B, M, Q) each
    scaled_x, scaled_y = x * of_axis[0][..., None], y * of_axis[min(1, len(of_axis) - 1)][..., None]
    distances = scaled_y[..., :, None] + scaled_x[..., None, :]  # (B, M, Q, h, w)
    if len(of_axis) == 3:
        distances = distances + (y * of_axis[2][..., None])[..., :, None] * x[..., None, :]
    return -distances.flatten(3)


def _squared_distances(places: Tensor, count: int) -> Tensor:
    """(..., count), from every place to the cells of an axis."""
    return (places[..., None] - torch.arange(count, dtype=places.dtype, device=places.device)).square()


class ModulatedDecoderLayer(nn.Module):
    """Self-attention among queries, attention to memory around each head's centre, then a feed-forward network.

    Args:
        gaussian: where the heads look.
        width: D.
        attention_heads: M.
        hidden: width between the two layers of the feed-forward network.
        dropout: probability, everywhere in the layer.
    """

    attention_class: ClassVar[type[nn.Module]] = MultiHeadAttention  # to memory

    def __init__(self, gaussian: Guide, *, width: int, attention_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.gaussian, self.gaussian_norm = gaussian, nn.LayerNorm(width)
        self.self_attention = MultiHeadAttention(width=width, attention_heads=attention_heads, dropout=dropout)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = self.attention_class(width=width, attention_heads=attention_heads, dropout=dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout)

    def forward(
        self, content: Tensor, position: Tensor, memory: Memory, *, references: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """One round of attention.

        Args:
            content: (B, Q, D) what the queries carry.
            position: (B, Q, D) the queries' position codes.
            memory: the encoded image.
            references: (B, Q, 2) the queries' centres in [0, 1].
            mask: of the attention among queries, as in `attend_heads`.

        Returns:
            (B, Q, D).
        """
        states = self.gaussian_norm(content + position)  # before the queries have seen each other
        query = content + position
        content = self.self_norm(content + self.dropout(self.self_attention(query, query, content, mask)))
        attended = self.look(states, content + position, memory, references)
        content = self.cross_norm(content + self.dropout(attended))
        return self.feed_forward(content)  # type: ignore[no-any-return]

    def look(self, states: Tensor, query: Tensor, memory: Memory, references: Tensor) -> Tensor:
        """Attention to memory, (B, Q, D).

        Args:
            states: (B, Q, D) what decides on offsets and scales.
            query: (B, Q, D).
            memory: the encoded image.
            references: (B, Q, 2) centres in [0, 1].
        """
        bias = self.gaussian(states, references, memory)  # (B, M, Q, S)
        if memory.padding is not None:
            bias = bias.masked_fill(memory.padding[:, None, None], -torch.inf)
        return self.cross_attention(query, add_position(memory.tokens, memory.positions), memory.tokens, bias)  # type: ignore[no-any-return]


class ModulatedDecoder(nn.Module):
    """Decoder layers around centres that the queries guess before the first of them.

    Args:
        layers: decoder layers.
        width: D.
    """

    def __init__(self, layers: Sequence[ModulatedDecoderLayer], *, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)
        self.center_head = MLP(width, width, width, 2)

    def forward(self, queries: Queries, memory: Memory, heads: nn.Module) -> Decoded:  # noqa: ARG002 - no boxes between layers
        """States of every layer, normed for the heads; boxes are relative to the centres."""
        first: Any = self.layers[0]
        center_logits = precisely(
            self.center_head, first.gaussian_norm(add_position(queries.content, queries.position))
        )
        references, content, states = center_logits.sigmoid(), queries.content, []
        for layer in self.layers:
            content = layer(content, queries.position, memory, references=references, mask=queries.mask)
            states.append(self.norm(content))
        base_logits = F.pad(center_logits, (0, 2)).expand(len(states), -1, -1, -1)
        return Decoded(torch.stack(states), base_logits, (references,) * len(states))


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """DETR's parts with a modulated decoder (figure 2)."""
    backbone = build_backbone(config.backbone)
    heads = DetectionHeads(width=config.width, outputs=config.class_count)
    nn.init.constant_(heads.class_head.bias, PRIOR_LOGIT)
    return EncoderDecoder(
        backbone=backbone,
        neck=detr.neck(config, backbone),
        encoder=detr.encoder(config),
        query_source=query_source(config),
        decoder=decoder(config, stride=backbone.strides[-1]),
        heads=heads,
        card=card,
    )


def query_source(config: Config) -> detr.LearnedQueries:
    """DETR's object queries."""
    return detr.LearnedQueries(count=config.queries, width=config.width).requires_grad_(config.learn_queries)


def decoder(config: Config, *, stride: int) -> ModulatedDecoder:
    """Layers around centres on a level of this stride."""
    sizes: dict[str, Any] = detr.layer_sizes(config)
    numbers = {name: getattr(config, name) for name in ("width", "attention_heads", "scales", "smooth")}
    layers = [ModulatedDecoderLayer(Gaussian(**numbers, stride=stride), **sizes) for _ in range(config.decoder_layers)]
    return modulated_decoder(layers, width=config.width)


def modulated_decoder(layers: Sequence[ModulatedDecoderLayer], *, width: int) -> ModulatedDecoder:
    """A decoder of these layers with their initial values."""
    result = ModulatedDecoder(layers, width=width)
    xavier_matrices(result)
    for layer in layers:
        layer.gaussian.start()
    return result


def criterion(config: Config, model: Detector | None = None) -> SetCriterion:  # noqa: ARG001 - masks need the model
    """Hungarian matching and the set loss with focal classification, with the same weights in both."""
    return focal_criterion(
        class_count=config.class_count,
        layers=config.decoder_layers,
        cost_weights=config.term_weights,
        loss_weights=config.term_weights,
    )


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> TopKSelection:  # noqa: ARG001
    """As many of the best pairs of query and class as there are queries, of classes that have a name."""
    return TopKSelection([category.index for category in categories], limit=config.queries)


SOURCE = Source("gaopengcuhk/SMCA-DETR", "e4df3ab2081571a016c82794a85abd2342a2fc1b", None, "2101.07448")
RECIPE = Recipe(epochs=50, batch_size=16)
COMPACT: dict[str, Any] = {
    "backbone": "compact-c4",
    "queries": 30,
    "width": 96,
    "attention_heads": 4,
    "hidden": 192,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "dropout": 0.0,
}
COMPACT_RECIPE = Recipe(
    learning_rate=1e-3,
    backbone_learning_rate=1e-3,
    gradient_clip=1.0,
    epochs=20,
    batch_size=16,
    schedule="cosine",
    warmup_steps=50,
)
COMPACT_PREPROCESSING = Preprocessing(short_side=128, long_side=208)
_RESULTS = tuple(PublishedResult(ap, f"{epochs} epochs") for epochs, ap in ((50, 0.410), (108, 0.427), (250, 0.435)))
VARIANTS: dict[str, Variant] = {
    "smca-detr-r50": Variant(Config(), RECIPE, results=_RESULTS),
    "smca-detr-r50-type1": Variant(Config(scales=0), RECIPE),
    "smca-detr-r50-type2": Variant(Config(scales=1), RECIPE),
    "smca-detr-r50-type4": Variant(Config(scales=3), RECIPE),
    "smca-detr-compact": Variant(Config(**COMPACT), COMPACT_RECIPE, COMPACT_PREPROCESSING),
}
