"""DETR (Carion et al. 2020, arXiv:2005.12872): detection as set prediction, with nothing but a transformer and one-to-one matching.

Symbols: B images, Q object queries, S memory tokens, D width, L decoder layers, K = classes + 1 class scores, the last one for no-object.

Deviations from the authors' code: projections of query, key and value are not computed twice where query and key are equal; losses of all
layers are computed together; the model itself sets padded pixels to zero. None of them changes a value beyond rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from detrkit.backbones import Backbone, build_backbone
from detrkit.cards import Category, ModelCard, Preprocessing, PublishedWeights, Recipe, Source, Variant
from detrkit.errors import OptionError
from detrkit.layers.heads import DetectionHeads
from detrkit.layers.initialization import xavier_matrices
from detrkit.layers.position_encoding import SinePositionEncoding
from detrkit.layers.selection import SoftmaxSelection
from detrkit.layers.transformer import DecoderLayer, Encoder, EncoderLayer
from detrkit.losses.boxes import giou_loss, l1_loss
from detrkit.losses.classification import cross_entropy_with_no_object
from detrkit.losses.criterion import SetCriterion
from detrkit.matching.costs import softmax_class_cost
from detrkit.matching.hungarian import set_matcher
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.settings import Settings
from detrkit.necks.projection import ProjectionNeck
from detrkit.structures import Decoded, Memory, Queries, Target


@dataclass(frozen=True)
class Config(Settings):
    """DETR's settings; the defaults are the paper's.

    Attributes:
        class_weight: weight of the class term in matching and loss.
        no_object_weight: weight of queries without an object in the class loss (section 3.1).
        learn_queries: whether object queries are trained; if not, give good ones with `queries_from` in training.

    Raises:
        ConfigurationError: see `Settings`.
    """

    queries: int = 100
    class_weight: float = 1.0
    no_object_weight: float = 0.1
    learn_queries: bool = True

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        if not self.no_object_weight > 0:
            raise OptionError(
                f"no_object_weight must be above 0, not {self.no_object_weight}: images without objects would have no loss",
                "no_object_weight",
            )


class LearnedQueries(nn.Module):
    """Object queries (section 3.2): Q learned position codes, the same for every image; their content starts at zero.

    Args:
        count: Q.
        width: D.
    """

    def __init__(self, *, count: int, width: int) -> None:
        super().__init__()
        self.position = nn.Embedding(count, width)

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:  # noqa: ARG002 - DETR ignores the targets
        """Queries for every image of the batch."""
        position = self.position.weight.to(memory.tokens.dtype).expand(memory.tokens.shape[0], -1, -1)  # (B, Q, D)
        return Queries(content=torch.zeros_like(position), position=position)


class Decoder(nn.Module):
    """All queries are decoded in parallel (section 3.2); a layer's states are normed for the heads but not for the next layer.

    Args:
        layers: decoder layers.
        width: D.
    """

    def __init__(self, layers: list[nn.Module], *, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Queries, memory: Memory, heads: nn.Module) -> Decoded:  # noqa: ARG002 - DETR predicts no boxes between layers
        """States of every layer, (L, B, Q, D)."""
        content, states = queries.content, []
        for layer in self.layers:
            content = layer(content, queries.position, memory, mask=queries.mask)
            states.append(self.norm(content))
        return Decoded(torch.stack(states))


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """The six parts of DETR, put together (figure 2)."""
    backbone = build_backbone(config.backbone)
    return EncoderDecoder(
        backbone=backbone,
        neck=neck(config, backbone),
        encoder=encoder(config),
        query_source=LearnedQueries(count=config.queries, width=config.width).requires_grad_(config.learn_queries),
        decoder=decoder(config),
        heads=DetectionHeads(width=config.width, outputs=config.class_count + 1),
        card=card,
    )


def neck(config: Settings, backbone: Backbone, *, temperature: float = 10000.0) -> ProjectionNeck:
    """A 1 x 1 convolution to the width of the transformer, and sine codes of this temperature."""
    encoding = SinePositionEncoding(width=config.width, temperature=temperature)
    return ProjectionNeck(channels=backbone.channels, width=config.width, position_encoding=encoding)


def encoder(config: Settings) -> Encoder:
    """Self-attention among all tokens; without layers it leaves memory unchanged."""
    layers: list[nn.Module] = [EncoderLayer(**layer_sizes(config)) for _ in range(config.encoder_layers)]
    xavier_matrices(*layers)
    return Encoder(layers)


def decoder(config: Settings) -> Decoder:
    """Decoder layers with a norm for the heads."""
    layers: list[nn.Module] = [DecoderLayer(**layer_sizes(config)) for _ in range(config.decoder_layers)]
    xavier_matrices(*layers)
    return Decoder(layers, width=config.width)


def layer_sizes(config: Settings) -> dict[str, Any]:
    """What every layer of a transformer with dense attention is built from."""
    return {name: getattr(config, name) for name in ("width", "attention_heads", "hidden", "dropout")}


def criterion(config: Config, model: Detector | None = None) -> SetCriterion:  # noqa: ARG001 - for papers with masks
    """Hungarian matching and the set loss (section 3.1), with the same weights in both."""
    class_loss = partial(cross_entropy_with_no_object, no_object_weight=config.no_object_weight)
    return SetCriterion(
        matcher=set_matcher(softmax_class_cost, config.term_weights),
        terms={"class": class_loss, "l1": l1_loss, "giou": giou_loss},
        term_weights=config.term_weights,
        layers=config.decoder_layers,
        class_count=config.class_count,
    )


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> SoftmaxSelection:  # noqa: ARG001
    """One detection per query, of its most probable named class."""
    return SoftmaxSelection([category.index for category in categories])


def published(
    file: str, ap: float, *, mask_ap: float | None = None, panoptic_quality: float | None = None
) -> tuple[PublishedWeights, ...]:
    """The file of this name that the authors offer, with its figures on COCO val2017; its name ends with the beginning of its SHA-256."""
    address = f"https://dl.fbaipublicfiles.com/detr/{file}"
    prefix = file.removesuffix(".pth").rpartition("-")[2]
    return (PublishedWeights(address, ap, "Apache-2.0", prefix, mask_ap=mask_ap, panoptic_quality=panoptic_quality),)


SOURCE = Source("facebookresearch/detr", "29901c51", "Apache-2.0", "2005.12872")
RECIPE = Recipe(epochs=500, batch_size=64)  # section A.4
# For images of about 128 pixels with few objects: no encoder, since 16 tokens need none, and more weight on classes.
_COMPACT = Variant(
    Config(
        backbone="compact",
        queries=16,
        width=128,
        hidden=512,
        encoder_layers=0,
        decoder_layers=3,
        dropout=0.0,
        class_weight=5.0,
    ),
    Recipe(
        learning_rate=6e-4,
        backbone_learning_rate=6e-4,
        gradient_clip=10.0,
        epochs=20,
        batch_size=16,
        schedule="cosine",
        warmup_steps=50,
    ),
    Preprocessing(short_side=128, long_side=208),
)
VARIANTS: dict[str, Variant] = {
    "detr-r50": Variant(Config(), RECIPE, weights=published("detr-r50-e632da11.pth", 0.420)),
    "detr-r50-dc5": Variant(
        Config(backbone="resnet50-dc5"), RECIPE, weights=published("detr-r50-dc5-f0fb7ef5.pth", 0.433)
    ),
    "detr-r101": Variant(Config(backbone="resnet101"), RECIPE, weights=published("detr-r101-2c7b67e5.pth", 0.435)),
    "detr-r101-dc5": Variant(
        Config(backbone="resnet101-dc5"), RECIPE, weights=published("detr-r101-dc5-a2e86def.pth", 0.449)
    ),
    "detr-r34": Variant(Config(backbone="resnet34"), RECIPE),
    "detr-r18": Variant(Config(backbone="resnet18"), RECIPE),
    "detr-r18-c4": Variant(Config(backbone="resnet18-c4"), RECIPE),
    "detr-mobilenetv2": Variant(Config(backbone="mobilenet_v2"), RECIPE),
    "detr-compact": _COMPACT,
}
