"""Deformable DETR (Zhu et al. 2021, arXiv:2010.04159): queries look at a few learned points around a reference, on all scales at once.

DETR's attention compares every query with every cell, so it starts without any focus and cannot afford fine levels. Here each query carries a
reference point (or box) and looks at a few points of each level around it: learning starts near the object, and the cost is linear in the
number of cells. Boxes are predicted relative to the reference; they can be refined from layer to layer, and in the
two-stage form the encoder's best proposals become the references.

Symbols: B images, Q queries, S memory tokens, D width, M heads, L decoder layers, K outputs of the class head, one per class (without no-object).

Deviations from the authors' code: the losses of all layers are computed together; the box that refines a reference is computed without
gradient instead of being detached. Neither changes a value beyond rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.backbones import Backbone, build_backbone
from detrkit.cards import Category, ModelCard, Preprocessing, PublishedWeights, Recipe, Source, Variant
from detrkit.errors import OptionError
from detrkit.layers.deformable_attention import DeformableAttention
from detrkit.layers.deformable_transformer import DeformableDecoderLayer, DeformableEncoderLayer
from detrkit.layers.heads import DetectionHeads, LayerwiseHeads, precisely
from detrkit.layers.initialization import start_heads, xavier_matrices
from detrkit.layers.position_encoding import SinePositionEncoding, sine_code
from detrkit.layers.proposals import TokenProposals, take_rows, token_centers
from detrkit.layers.references import ReferenceTrail
from detrkit.layers.selection import TopKSelection
from detrkit.layers.transformer import Encoder
from detrkit.losses.criterion import SetCriterion, focal_criterion
from detrkit.losses.sets import AllProposals
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.settings import MultiScaleSettings
from detrkit.necks.multi_scale import MultiScaleNeck
from detrkit.structures import Decoded, Memory, Proposals, Queries, Target

EPSILON = 1e-5  # of the inverse sigmoid, as in the authors' code


@dataclass(frozen=True)
class Config(MultiScaleSettings):
    """Deformable DETR's settings; the defaults are the paper's.

    Attributes:
        refine: whether every decoder layer refines the boxes of the previous one (appendix A.4).
        two_stage: whether the encoder's best proposals are the queries' references (appendix A.4); `queries` of them are kept.

    Raises:
        ConfigurationError: see `MultiScaleSettings`.
    """

    refine: bool = False
    two_stage: bool = False

    @property
    def proposes(self) -> bool:
        """See `Settings.proposes`."""
        return self.two_stage


class DeformableEncoder(nn.Module):
    """The encoder over all levels (section 4.1); a learned code distinguishes the levels.

    Args:
        layers: encoder layers.
        width: D.
        levels: feature levels.
    """

    def __init__(self, layers: list[nn.Module], *, width: int, levels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.level_code = nn.Parameter(torch.randn(levels, width))

    def forward(self, memory: Memory) -> Memory:
        """Memory with encoded tokens, and with the level's code added to the position codes."""
        assert memory.positions is not None
        codes = [
            code.expand(height * width, -1)
            for code, (height, width) in zip(self.level_code, memory.level_sizes, strict=True)
        ]
        memory = replace(memory, positions=memory.positions + torch.cat(codes))
        references = token_centers(memory)[:, :, None] * memory.valid_ratios()[:, None]  # (B, S, levels, 2)
        for layer in self.layers:
            memory = replace(memory, tokens=layer(memory, memory.positions, references))
        return memory


class LearnedReferences(nn.Module):
    """Learned queries; each one's position code also gives its reference point (section 4.1).

    Args:
        count: Q.
        width: D.
    """

    reference_size = 2

    def __init__(self, *, count: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, 2 * width)  # position, then content
        self.reference_points = nn.Linear(width, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:  # noqa: ARG002 - ignores the targets
        """Queries for every image of the batch."""
        position, content = self.embedding.weight.chunk(2, dim=-1)
        references = precisely(self.reference_points, position).sigmoid()  # (Q, 2)
        batch = memory.tokens.shape[0]
        content, position = (part.to(memory.tokens.dtype).expand(batch, -1, -1) for part in (content, position))
        return Queries(content, position, references.expand(batch, -1, -1))


class ProposalQueries(nn.Module):
    """The two-stage form: every memory token proposes a box, and the queries start from the best proposals (appendix A.4).

    Args:
        count: Q.
        width: D.
        outputs: K.
    """

    reference_size = 4

    def __init__(self, *, count: int, width: int, outputs: int) -> None:
        super().__init__()
        self.count, self.width = count, width
        self.proposals = TokenProposals(width=width, outputs=outputs)
        self.position_projection, self.position_norm = nn.Linear(2 * width, 2 * width), nn.LayerNorm(2 * width)
        xavier_matrices(self.position_projection)

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:  # noqa: ARG002 - ignores the targets
        """Queries from the best proposals of each image, fewer where memory has fewer tokens."""
        return self.best(memory, self.count)

    def best(self, memory: Memory, count: int) -> Queries:
        """Queries from so many of the best proposals: a step for papers that make more of them in training, or other contents.

        Args:
            memory: the encoded image.
            count: the most queries.
        """
        proposals = self.proposals(memory)
        scores = proposals.logits[..., 0].detach()
        rows = scores.topk(min(count, scores.shape[1]), dim=1).indices  # (B, Q), best first
        return self.of_rows(Proposals(all=proposals), rows)

    def of_rows(self, proposals: Proposals, rows: Tensor) -> Queries:
        """The queries that start from these proposals.

        Args:
            proposals: of all tokens.
            rows: (B, Q) int64.
        """
        assert proposals.all is not None
        references = take_rows(proposals.all, rows).boxes_cxcywh  # (B, Q, 4)
        position, content = self.codes(references)
        return Queries(content, position, references, replace(proposals, rows=rows))

    def codes(self, boxes_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Q, 4) boxes to position codes and contents, (B, Q, D) each."""
        code = sine_code(boxes_cxcywh * (2 * math.pi), channels=self.width // 2).flatten(-2)  # (B, Q, 2 D)
        code = self.position_projection(code.to(self.position_projection.weight.dtype))
        position, content = self.position_norm(code).chunk(2, dim=-1)
        return position, content


class DeformableDecoder(nn.Module):
    """Decoder layers around references, which each layer may refine (appendix A.4).

    Args:
        layers: decoder layers.
        refine: whether a layer's boxes, without gradient, are the next layer's references.
    """

    def __init__(self, layers: list[nn.Module], *, refine: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.refine = refine

    def forward(self, queries: Queries, memory: Memory, heads: DetectionHeads | LayerwiseHeads) -> Decoded:
        """States of every layer, and the references that their boxes are relative to."""
        assert queries.references is not None
        trail, content, states = self.trail(queries.references), queries.content, []
        ratios = memory.valid_ratios()[:, None].repeat(1, 1, 1, 2)  # (B, 1, levels, 4)
        for index, layer in enumerate(self.layers):
            if index > 0 and self.refine:
                trail.move(partial(heads.box_logits, content, index - 1))
            elif index > 0:
                trail.stay()
            references = trail.current[:, :, None] * ratios[..., : trail.current.shape[-1]]  # (B, Q, levels, 2 or 4)
            position = self.query_position(queries, content, trail.current, memory, layer=index)
            mask = self.query_mask(queries, trail.current)
            content = layer(content, position, memory, references=references, mask=mask)
            states.append(self.state(content))
        return Decoded(torch.stack(states), trail.base_logits(), trail.references())

    def trail(self, start: Tensor) -> ReferenceTrail:
        """How references move from layer to layer: a step for papers that look forward twice.

        Args:
            start: (B, Q, 2 or 4), where the first layer looks.
        """
        return ReferenceTrail(start, epsilon=EPSILON)

    def query_position(
        self,
        queries: Queries,
        content: Tensor,  # noqa: ARG002 - for papers that override this
        references: Tensor,  # noqa: ARG002
        memory: Memory,  # noqa: ARG002
        *,
        layer: int,  # noqa: ARG002
    ) -> Tensor | None:
        """The position codes of the queries; papers that make them from the references in every layer override this.

        Args:
            queries: as the query source made them.
            content: (B, Q, D) what the queries carry into the layer.
            references: (B, Q, 2 or 4), where the layer looks.
            memory: the encoded image.
            layer: its number.

        Returns:
            (B, Q, D), or None where nothing is added.
        """
        return queries.position

    def query_mask(self, queries: Queries, references: Tensor) -> Tensor | None:  # noqa: ARG002 - for papers that override this
        """The mask for attention among queries; papers whose queries see how their boxes lie override this.

        Args:
            queries: as the query source made them.
            references: (B, Q, 2 or 4), where the next layer looks.
        """
        return queries.mask

    def state(self, content: Tensor) -> Tensor:
        """What the heads see of a layer's result, (B, Q, D) both; papers with a norm in between override this."""
        return content


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """The six parts of Deformable DETR, put together (figure 1)."""
    backbone = build_levels(config)
    return EncoderDecoder(
        backbone=backbone,
        neck=neck(config, backbone),
        encoder=encoder(config),
        **queries_and_heads(config),
        decoder=DeformableDecoder(decoder_layers(config), refine=config.refine),
        card=card,
    )


def build_levels(config: MultiScaleSettings) -> Backbone:
    """The backbone, with levels of stride 8, 16 and 32 (only the last one if the model has one level).

    Raises:
        ConfigurationError: the backbone has no such levels.
    """
    if config.levels == 1:
        return build_backbone(config.backbone)
    backbone = build_backbone(config.backbone, levels=min(config.levels, 3))
    if config.levels > 2 and backbone.strides[0] != 8:
        raise OptionError(
            f"'{config.backbone}' has maps of stride {', '.join(map(str, backbone.strides))}, and those of stride 8, 16 and 32 are needed: "
            "choose another backbone, or levels=1",
            *("backbone", "levels"),
        )
    return backbone


def neck(config: MultiScaleSettings, backbone: Backbone) -> MultiScaleNeck:
    """Levels at the width of the transformer, with sine codes of the cells' centres."""
    return MultiScaleNeck(
        channels=backbone.channels,
        strides=backbone.strides,
        width=config.width,
        levels=config.levels,
        position_encoding=SinePositionEncoding(width=config.width, shift=0.5),
    )


def encoder(config: MultiScaleSettings) -> nn.Module:
    """The encoder; without layers it leaves memory unchanged."""
    if config.encoder_layers == 0:
        return Encoder([])
    layers: list[nn.Module] = [DeformableEncoderLayer(**layer_sizes(config)) for _ in range(config.encoder_layers)]
    start_layers(layers)
    return DeformableEncoder(layers, width=config.width, levels=config.levels)


def decoder_layers(config: MultiScaleSettings) -> list[nn.Module]:
    """Decoder layers with deformable attention."""
    layers: list[nn.Module] = [DeformableDecoderLayer(**layer_sizes(config)) for _ in range(config.decoder_layers)]
    start_layers(layers)
    return layers


def layer_sizes(config: MultiScaleSettings) -> dict[str, Any]:
    """What every layer with deformable attention is built from."""
    names = ("width", "attention_heads", "levels", "points", "hidden", "dropout")
    return {name: getattr(config, name) for name in names}


def queries_and_heads(config: Config) -> dict[str, nn.Module]:
    """Learned references or the encoder's proposals; one pair of heads for all layers, or one pair per layer with refinement.

    One function builds both because all heads, also those of the proposals, start alike.
    """
    heads: DetectionHeads | LayerwiseHeads = DetectionHeads(width=config.width, outputs=config.class_count)
    if config.refine:
        heads = LayerwiseHeads(width=config.width, outputs=config.class_count, layers=config.decoder_layers)
    if config.two_stage:
        source = ProposalQueries(count=config.queries, width=config.width, outputs=config.class_count)
        start_heads(heads, source.proposals)
        return {"query_source": source, "heads": heads}
    start_heads(heads)
    with torch.no_grad():  # a point has no size: the first boxes start with sigmoid(-2), an eighth of the image
        nn.init.constant_(heads.pairs()[0][1].output.bias[2:], -2.0)
    return {"query_source": LearnedReferences(count=config.queries, width=config.width), "heads": heads}


def start_layers(layers: Sequence[nn.Module]) -> None:
    """Xavier matrices, and sampling points in a star (appendix A.4)."""
    xavier_matrices(*layers)
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, DeformableAttention):
                module.reset()


def criterion(config: Config, model: Detector | None = None) -> SetCriterion:  # noqa: ARG001 - for papers with masks
    """Hungarian matching and the set loss with focal classification (section 5), with the same weights in both."""
    return focal_criterion(
        class_count=config.class_count,
        layers=config.decoder_layers,
        cost_weights=config.term_weights,
        loss_weights=config.term_weights,
        sets=[AllProposals()] if config.two_stage else [],
    )


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> TopKSelection:  # noqa: ARG001
    """The best hundred pairs of a query and a named class."""
    return TopKSelection([category.index for category in categories])


def _published(file_id: str, ap: float) -> tuple[PublishedWeights, ...]:
    return (PublishedWeights(f"https://drive.google.com/file/d/{file_id}/view", ap, "Apache-2.0"),)


SOURCE = Source("fundamentalvision/Deformable-DETR", "11169a60", "Apache-2.0", "2010.04159")
RECIPE = Recipe(  # section 5
    learning_rate=2e-4,
    backbone_learning_rate=2e-5,
    epochs=50,
    batch_size=32,
    slow_parts=("offsets", "reference_points"),
)
# For images of about 128 pixels with few objects.
COMPACT = Config(
    backbone="compact",
    levels=3,
    queries=30,
    width=96,
    hidden=192,
    encoder_layers=0,
    decoder_layers=2,
    dropout=0.0,
)
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
_TWO_STAGE: dict[str, Any] = {"refine": True, "two_stage": True}
VARIANTS: dict[str, Variant] = {
    "deformable-detr-r50": Variant(Config(), RECIPE, weights=_published("1nDWZWHuRwtwGden77NLM9JoWe-YisJnA", 0.445)),
    "deformable-detr-r50-single-scale": Variant(
        Config(levels=1), RECIPE, weights=_published("1WEjQ9_FgfI5sw5OZZ4ix-OKk-IJ_-SDU", 0.394)
    ),
    "deformable-detr-r50-single-scale-dc5": Variant(
        Config(levels=1, backbone="resnet50-dc5"),
        RECIPE,
        weights=_published("1m_TgMjzH7D44fbA-c_jiBZ-xf-odxGdk", 0.415),
    ),
    "deformable-detr-r50-refine": Variant(
        Config(refine=True), RECIPE, weights=_published("1JYKyRYzUH7uo9eVfDaVCiaIGZb5YTCuI", 0.462)
    ),
    "deformable-detr-r50-two-stage": Variant(
        Config(**_TWO_STAGE), RECIPE, weights=_published("15I03A7hNTpwuLNdfuEmW9_taZMNVssEp", 0.469)
    ),
    "deformable-detr-r18": Variant(Config(backbone="resnet18"), RECIPE),
    "deformable-detr-r18-two-stage": Variant(Config(backbone="resnet18", **_TWO_STAGE), RECIPE),
    "deformable-detr-mobilenetv2": Variant(Config(backbone="mobilenet_v2"), RECIPE),
    "deformable-detr-mobilenetv2-two-stage": Variant(Config(backbone="mobilenet_v2", **_TWO_STAGE), RECIPE),
    "deformable-detr-compact": Variant(COMPACT, COMPACT_RECIPE, COMPACT_PREPROCESSING),
    "deformable-detr-compact-two-stage": Variant(replace(COMPACT, **_TWO_STAGE), COMPACT_RECIPE, COMPACT_PREPROCESSING),
}
