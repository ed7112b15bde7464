"""DETR (Carion et al. 2020, arXiv:2005.12872): detection is predicting a set, so a transformer and one-to-one matching are all it takes.

Symbols: B images, Q object queries, S memory tokens, D width, L decoder layers, K = classes + 1 class scores, the last one no-object.

Deviations from the authors' code: projections of query, key and value are not computed twice where query and key are equal; losses of all
layers are computed together; padded pixels are zeroed inside. None of them changes a value beyond rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from detrkit.backbones import build_backbone
from detrkit.errors import ConfigurationError
from detrkit.layers.heads import DetectionHeads
from detrkit.layers.position_encoding import SinePositionEncoding
from detrkit.layers.selection import SoftmaxSelection
from detrkit.layers.transformer import DecoderLayer, Encoder, EncoderLayer
from detrkit.losses.classification import cross_entropy_with_no_object
from detrkit.losses.criterion import SetCriterion
from detrkit.matching.costs import softmax_class_cost
from detrkit.matching.hungarian import set_matcher
from detrkit.models.detector import Detector
from detrkit.necks import ProjectionNeck
from detrkit.structures import Category, Decoded, Memory, ModelCard, Queries, Target


@dataclass(frozen=True)
class Config:
    """DETR's settings; the defaults are the paper's.

    Attributes:
        classes: outputs of the class head beside no-object; COCO's ids run to 90, so the authors have 91.
        backbone: a name in `detrkit.backbones.BACKBONES`.
        queries: Q, the most objects that can be found in an image.
        width: D.
        heads: attention heads.
        hidden: width between the two layers of a feed-forward network.
        encoder_layers: layers of the encoder.
        decoder_layers: L.
        dropout: probability, everywhere in the transformer.
        class_weight: weight of the class term, in matching and loss.
        l1_weight: weight of the box distance, in matching and loss.
        giou_weight: weight of the generalised IoU, in matching and loss.
        no_object_weight: weight of queries without an object in the class loss (section 3.1).

    Raises:
        ConfigurationError: a number that no model can have.
    """

    classes: int = 91
    backbone: str = "resnet50"
    queries: int = 100
    width: int = 256
    heads: int = 8
    hidden: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float = 0.1
    class_weight: float = 1.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    no_object_weight: float = 0.1

    def __post_init__(self) -> None:
        for name in ("classes", "queries", "width", "heads", "hidden", "decoder_layers"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.encoder_layers < 0 or not 0 <= self.dropout < 1:
            raise ConfigurationError("encoder_layers must not be below 0, and dropout lies in [0, 1)")
        if self.width % self.heads or self.width % 4:
            raise ConfigurationError(
                f"width {self.width} must be a multiple of 4 (sine and cosine of two axes) and of the {self.heads} heads"
            )


class LearnedQueries(nn.Module):
    """Object queries (section 3.2): Q learned codes of where to look, the same for every image; their content starts at zero.

    Args:
        count: Q.
        width: D.
    """

    def __init__(self, *, count: int, width: int) -> None:
        super().__init__()
        self.position = nn.Embedding(count, width)

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:  # noqa: ARG002 - DETR shows its queries no targets
        """Queries for every image of the batch."""
        position = self.position.weight.to(memory.tokens.dtype).expand(memory.tokens.shape[0], -1, -1)  # (B, Q, D)
        return Queries(content=torch.zeros_like(position), position=position)


class Decoder(nn.Module):
    """All queries are decoded in parallel (section 3.2); every layer's states are normed for the heads, not for the next layer.

    Args:
        layers: decoder layers.
        width: D.
    """

    def __init__(self, layers: list[nn.Module], *, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Queries, memory: Memory, heads: nn.Module) -> Decoded:  # noqa: ARG002 - no boxes between layers
        """States of every layer, (L, B, Q, D)."""
        placed_memory = memory.tokens + memory.positions  # the keys, the same for all layers
        content, states = queries.content, []
        for layer in self.layers:
            content = layer(content, queries.position, memory, placed_memory, queries.attention_mask)
            states.append(self.norm(content))
        return Decoded(torch.stack(states))


def build(config: Config, card: ModelCard) -> Detector:
    """The six parts of DETR, put together (figure 2)."""
    backbone = build_backbone(config.backbone)
    size = {"width": config.width, "heads": config.heads, "hidden": config.hidden}
    encoder = Encoder([EncoderLayer(**size, dropout=config.dropout) for _ in range(config.encoder_layers)])
    decoder_layers: list[nn.Module] = [
        DecoderLayer(**size, dropout=config.dropout) for _ in range(config.decoder_layers)
    ]
    decoder = Decoder(decoder_layers, width=config.width)
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return Detector(
        backbone=backbone,
        neck=ProjectionNeck(
            channels=backbone.channels,
            width=config.width,
            position_encoding=SinePositionEncoding(width=config.width),
        ),
        encoder=encoder,
        query_source=LearnedQueries(count=config.queries, width=config.width),
        decoder=decoder,
        heads=DetectionHeads(width=config.width, outputs=config.classes + 1),
        card=card,
    )


def criterion(config: Config) -> SetCriterion:
    """Hungarian matching and the set loss (section 3.1), with the same weights in both."""
    weights = {"class": config.class_weight, "l1": config.l1_weight, "giou": config.giou_weight}
    return SetCriterion(
        matcher=set_matcher(softmax_class_cost, weights),
        class_loss=partial(_class_loss, no_object_weight=config.no_object_weight),
        no_object=config.classes,
        term_weights=weights,
        layers=config.decoder_layers,
    )


def _class_loss(logits: Tensor, labels: Tensor, objects: Tensor, *, no_object_weight: float) -> Tensor:  # noqa: ARG001
    """DETR divides by the sum of weights of the local batch, not by the number of objects."""
    return cross_entropy_with_no_object(logits, labels, no_object_weight)


def selection(config: Config, categories: Sequence[Category]) -> SoftmaxSelection:  # noqa: ARG001 - other papers' selection has settings
    """One detection a query, of its most probable class that has a name."""
    return SoftmaxSelection([category.index for category in categories])


VARIANTS: dict[str, Config] = {
    "detr-r50": Config(),
    "detr-r50-dc5": Config(backbone="resnet50-dc5"),
    "detr-r101": Config(backbone="resnet101"),
    "detr-r101-dc5": Config(backbone="resnet101-dc5"),
    "detr-r34": Config(backbone="resnet34"),
    "detr-r18": Config(backbone="resnet18"),
    "detr-r18-c4": Config(backbone="resnet18-c4"),
    "detr-mobilenetv2": Config(backbone="mobilenet_v2"),
    # For images of some 128 pixels with few objects: no encoder, since 16 tokens need none, and more weight on classes.
    "detr-compact": Config(
        backbone="compact",
        queries=16,
        width=128,
        heads=8,
        hidden=512,
        encoder_layers=0,
        decoder_layers=3,
        dropout=0.0,
        class_weight=5.0,
    ),
}
