"""Deformable DETR (Zhu et al. 2021, arXiv:2010.04159): queries look at a few learned points around a reference, on all scales at once.

DETR's attention compares every query with every cell, so it starts unaligned and cannot afford fine levels. Here each query carries a
reference point (or box) and looks at K points of each level around it: learning starts near the object, and the cost is linear in the
number of cells. Boxes are predicted relative to the reference; they can be refined from layer to layer, and in two stages the encoder's
best proposals become the references.

Symbols: B images, Q queries, S memory tokens, D width, M heads, L decoder layers, K outputs of the class head, one a class (no no-object).

Deviations from the authors' code: the losses of all layers are computed together; the box that refines a reference is computed without
gradient instead of being detached. Neither changes a value beyond rounding. Learned content and distinctness of proposals, the relation of
boxes and denoising are later papers', and off in the published variants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.backbones import build_backbone
from detrkit.errors import ConfigurationError
from detrkit.layers.attention import masked
from detrkit.layers.box_relation import BoxRelation
from detrkit.layers.deformable_transformer import DeformableAttention, DeformableDecoderLayer, DeformableEncoderLayer
from detrkit.layers.denoising import ContrastiveDenoising
from detrkit.layers.distinct import best_distinct
from detrkit.layers.heads import MLP, DetectionHeads, LayerwiseHeads, inverse_sigmoid, precisely
from detrkit.layers.position_encoding import SinePositionEncoding, sine_code
from detrkit.layers.selection import TopKSelection
from detrkit.layers.transformer import Encoder
from detrkit.losses.classification import focal_loss
from detrkit.losses.criterion import SetCriterion
from detrkit.matching.costs import focal_class_cost
from detrkit.matching.hungarian import set_matcher
from detrkit.models.detector import Detector
from detrkit.necks import MultiScaleNeck
from detrkit.structures import Category, Decoded, LayerOutput, Memory, ModelCard, Queries, Target

EPSILON = 1e-5  # of the inverse sigmoid, as in the authors' code
RARE = -math.log(99)  # class scores start at one in a hundred, so that background does not drown the first steps


@dataclass(frozen=True)
class Config:
    """Deformable DETR's settings; the defaults are the paper's.

    Attributes:
        classes: K, outputs of the class head; COCO's ids run to 90, so the authors have 91.
        backbone: a name in `detrkit.backbones.BACKBONES`.
        levels: feature levels; three come from the backbone (only its last where there is one level), the others are made from its last.
        queries: Q, in two stages the number of proposals that are kept.
        width: D.
        heads: M, attention heads.
        points: sampling points of each head on each level.
        hidden: width between the two layers of a feed-forward network.
        encoder_layers: layers of the encoder.
        decoder_layers: L.
        dropout: probability, everywhere in the transformer.
        refine: whether every decoder layer refines the boxes of the one before it (appendix A.4).
        two_stage: whether the encoder's best proposals are the queries' references (appendix A.4).
        learned_content: whether in two stages queries carry learned content, one code for each rank among the proposals (mixed query
            selection, Zhang et al. 2022, arXiv:2203.03605, section 3.4), instead of content made from their boxes, as in the paper.
        distinct_overlap: in two stages, IoU above which a proposal repeats a better one; of the best 4 Q, those come last that do (Zhang
            et al. 2023, arXiv:2303.12776). None takes the best Q whatever they overlap, as in the paper.
        box_relation: whether in two stages queries see how their boxes lie to each other (Hou et al. 2024, arXiv:2407.11699), which the
            paper has not.
        denoising: how many noised copies of objects an image may have beside its queries in training, in two stages (contrastive denoising,
            Zhang et al. 2022, arXiv:2203.03605, section 3.3), but at least two of each object of the image that has most; 0 for none, as
            in the paper.
        class_weight: weight of the class term, in matching and loss.
        l1_weight: weight of the box distance, in matching and loss.
        giou_weight: weight of the generalised IoU, in matching and loss.

    Raises:
        ConfigurationError: a number that no model can have.
    """

    classes: int = 91
    backbone: str = "resnet50"
    levels: int = 4
    queries: int = 300
    width: int = 256
    heads: int = 8
    points: int = 4
    hidden: int = 1024
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float = 0.1
    refine: bool = False
    two_stage: bool = False
    learned_content: bool = False
    distinct_overlap: float | None = None
    box_relation: bool = False
    denoising: int = 0
    class_weight: float = 2.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0

    def __post_init__(self) -> None:
        for name in ("classes", "levels", "queries", "width", "heads", "points", "hidden", "decoder_layers"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.denoising < 0:
            raise ConfigurationError(f"denoising must not be below 0, but is {self.denoising}")
        if self.encoder_layers < 0 or not 0 <= self.dropout < 1:
            raise ConfigurationError("encoder_layers must not be below 0, and dropout lies in [0, 1)")
        for name in ("learned_content", "distinct_overlap", "box_relation", "denoising"):
            if getattr(self, name) not in (False, None) and not self.two_stage:
                raise ConfigurationError(f"{name} needs two_stage=True: set both, or leave {name} out")
        if self.distinct_overlap is not None and not 0 < self.distinct_overlap < 1:
            raise ConfigurationError(f"distinct_overlap is an IoU between 0 and 1 or None, not {self.distinct_overlap}")
        if self.width % self.heads or self.width % 32 or self.width < 64:
            raise ConfigurationError(
                f"width {self.width} must be a multiple of 32 (groups of the neck's norms), at least 64, and a multiple of the {self.heads} heads"
            )

    @property
    def backbone_levels(self) -> int:
        """How many of the levels the backbone gives."""
        return 1 if self.levels == 1 else min(self.levels, 3)


class DeformableEncoder(nn.Module):
    """The encoder over all levels (section 4.1); a learned code tells the levels apart.

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
        """Memory with encoded tokens; everything else as it came."""
        codes = [
            code.expand(height * width, -1)
            for code, (height, width) in zip(self.level_code, memory.level_sizes, strict=True)
        ]
        positions = memory.positions + torch.cat(codes)  # (B, S, D)
        references = token_centers(memory)[:, :, None] * memory.valid_ratios()[:, None]  # (B, S, levels, 2)
        for layer in self.layers:
            memory = replace(memory, tokens=layer(memory, positions, references))
        return memory


def token_centers(memory: Memory) -> Tensor:
    """(B, S, 2) centre of every token as a fraction of the image without its padding, float32; above 1 behind padding."""
    centers = []
    for (height, width), size in zip(memory.level_sizes, memory.valid_sizes().unbind(1), strict=True):
        cells = [torch.arange(side, dtype=torch.float32, device=size.device) + 0.5 for side in (height, width)]
        y, x = torch.meshgrid(*cells, indexing="ij")
        centers.append(torch.stack([x, y], dim=-1).flatten(0, 1) / size[:, None])  # (B, h * w, 2)
    return torch.cat(centers, dim=1)


class LearnedReferences(nn.Module):
    """Learned queries; each one's position code also gives its reference point (section 4.1).

    Args:
        count: Q.
        width: D.
    """

    def __init__(self, *, count: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, 2 * width)  # position, then content
        self.reference_points = nn.Linear(width, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:  # noqa: ARG002 - shown no targets
        """Queries for every image of the batch."""
        position, content = self.embedding.weight.chunk(2, dim=-1)
        references = precisely(self.reference_points, position).sigmoid()  # (Q, 2)
        batch = memory.tokens.shape[0]
        content, position = (part.to(memory.tokens.dtype).expand(batch, -1, -1) for part in (content, position))
        return Queries(content, position, references.expand(batch, -1, -1))


class ProposalQueries(nn.Module):
    """Two stages: every token of memory proposes a box, and the best are where the queries start (appendix A.4).

    A proposal is 0.05 · 2^level wide and high before the head moves it. Tokens behind padding or with a proposal too near the border of the image are
    left out, in the authors' way: they all get the same feature and a box of (1, 1, 1, 1), and could still be chosen.

    Content made from boxes is nearly the same for two proposals of one object, and the decoder is long in learning which of them to keep. Learned
    content tells them apart by their rank. It takes the place of the second half of the projected position code, whose norm still runs over both
    halves: so it is in H-DETR's files (Jia et al. 2023), the sound form being a projection to D alone.

    Args:
        count: Q.
        width: D.
        outputs: K.
        learned_content: whether content is learned for each rank.
        distinct_overlap: IoU with a better proposal above which one is a repetition, see `best_distinct`; None chooses by score alone.
        denoising: noised objects beside the queries in training, see `ContrastiveDenoising`; 0 for none.
    """

    def __init__(
        self,
        *,
        count: int,
        width: int,
        outputs: int,
        learned_content: bool = False,
        distinct_overlap: float | None = None,
        denoising: int = 0,
    ) -> None:
        super().__init__()
        self.distinct_overlap = distinct_overlap
        self.embedding = nn.Embedding(count, width) if learned_content else None
        self.count, self.width = count, width
        self.projection, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.classes, self.boxes = nn.Linear(width, outputs), MLP(width, width, width, 4)
        self.position_projection, self.position_norm = nn.Linear(2 * width, 2 * width), nn.LayerNorm(2 * width)
        self.denoising = ContrastiveDenoising(width=width, outputs=outputs, rows=denoising) if denoising else None

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:
        """Queries from the best proposals of each image, fewer where memory has fewer tokens; in training with noised objects."""
        anchors, usable = proposal_anchors(memory)
        features = self.norm(self.projection(memory.tokens.masked_fill(~usable[..., None], 0.0)))
        logits = precisely(self.classes, features)  # (B, S, K), exact, since neighbouring scores decide who is kept
        box_logits = precisely(self.boxes, features) + anchors.masked_fill(~usable[..., None], torch.inf)  # (B, S, 4)
        boxes = box_logits.sigmoid()
        best = self.choose(logits[..., 0].detach(), boxes.detach())
        references = boxes.detach().gather(1, best[..., None].expand(-1, -1, 4))  # (B, Q, 4)
        position, content = self.place(references)
        if self.embedding is not None:
            content = self.embedding.weight[: content.shape[1]].to(content.dtype).expand_as(content)
        queries = Queries(content, position, references, LayerOutput(logits, boxes))
        if self.denoising is None or targets is None or not self.training:
            return queries
        return self.denoising(queries, targets, lambda boxes_cxcywh: self.place(boxes_cxcywh)[0])  # type: ignore[no-any-return]

    def place(self, boxes_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
        """Position and content, (B, Q, D) each, of queries that start from these boxes, (B, Q, 4)."""
        code = sine_code(boxes_cxcywh * (2 * math.pi), channels=self.width // 2).flatten(-2)  # (B, Q, 2 D)
        code = self.position_projection(code.to(self.position_projection.weight.dtype))
        position, content = self.position_norm(code).chunk(2, dim=-1)
        return position, content

    def choose(self, scores: Tensor, boxes_cxcywh: Tensor) -> Tensor:
        """Which proposals become queries: a step for papers that choose otherwise.

        Args:
            scores: (B, S) logits.
            boxes_cxcywh: (B, S, 4) in [0, 1] of the image without its padding.

        Returns:
            (B, Q) int64 rows of memory, best first.
        """
        count = min(self.count, scores.shape[1])
        if self.distinct_overlap is None:
            return scores.topk(count, dim=1).indices
        return best_distinct(scores, boxes_cxcywh, count=count, overlap=self.distinct_overlap)


def proposal_anchors(memory: Memory) -> tuple[Tensor, Tensor]:
    """The box that each token starts from.

    Returns:
        (B, S, 4) logits of cxcywh in float32, 0 where not usable; (B, S) bool, False behind padding and where a coordinate or side is outside (0.01, 0.99).
    """
    sides = [
        torch.full((height * width, 2), 0.05 * 2.0**level, device=memory.tokens.device)
        for level, (height, width) in enumerate(memory.level_sizes)
    ]
    centers = token_centers(memory)
    anchors = torch.cat([centers, torch.cat(sides).expand_as(centers)], dim=-1)
    usable = ((anchors > 0.01) & (anchors < 0.99)).all(-1)
    if memory.padding is not None:
        usable = usable & ~memory.padding
    anchors = torch.where(usable[..., None], anchors, 0.5)
    return torch.log(anchors / (1 - anchors)), usable


class DeformableDecoder(nn.Module):
    """Decoder layers around references, which each layer may refine (appendix A.4).

    Args:
        layers: decoder layers.
        refine: whether a layer's boxes, without gradient, are the next layer's references.
        relation: what the references, which must be boxes, add to the scores among queries; None adds nothing.
    """

    def __init__(self, layers: list[nn.Module], *, refine: bool, relation: BoxRelation | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.relation = relation
        self.refine = refine

    def forward(self, queries: Queries, memory: Memory, heads: DetectionHeads | LayerwiseHeads) -> Decoded:
        """States of every layer, and the references that their boxes are relative to."""
        references, content = queries.references, queries.content
        assert references is not None
        ratios = memory.valid_ratios()[:, None]  # (B, 1, levels, 2)
        states, base_logits, seen = [], [], []
        for index, layer in enumerate(self.layers):
            scale = torch.cat([ratios] * (references.shape[-1] // 2), dim=-1)  # for points or boxes
            score_bias = None if self.relation is None else self.relation(references)
            if queries.attention_mask is not None:
                score_bias = masked(score_bias, queries.attention_mask[:, None])
            content = layer(content, queries.position, references[:, :, None] * scale, memory, score_bias)
            logits = inverse_sigmoid(references, epsilon=EPSILON)
            if logits.shape[-1] == 2:
                logits = nn.functional.pad(logits, (0, 2))  # a point says nothing of width and height
            states.append(content)
            base_logits.append(logits)
            seen.append(references)
            if self.refine:
                with torch.no_grad():
                    references = (heads.box_logits(content, index) + logits).sigmoid()  # (B, Q, 4)
        return Decoded(torch.stack(states), torch.stack(base_logits), tuple(seen))


def build(config: Config, card: ModelCard) -> Detector:
    """The six parts of Deformable DETR, put together (figure 1)."""
    backbone = build_backbone(config.backbone, levels=config.backbone_levels)
    model = Detector(
        backbone=backbone,
        neck=MultiScaleNeck(
            channels=backbone.channels,
            strides=backbone.strides,
            width=config.width,
            levels=config.levels,
            position_encoding=SinePositionEncoding(width=config.width, shift=0.5),
        ),
        encoder=build_encoder(config),
        query_source=build_query_source(config),
        decoder=build_decoder(config),
        heads=build_heads(config),
        card=card,
    )
    initialize(model, config)
    return model


def build_encoder(config: Config) -> nn.Module:
    """The encoder; without layers it leaves memory as it is."""
    if config.encoder_layers == 0:
        return Encoder([])
    layers: list[nn.Module] = [DeformableEncoderLayer(**_sizes(config)) for _ in range(config.encoder_layers)]
    return DeformableEncoder(layers, width=config.width, levels=config.levels)


def build_query_source(config: Config) -> nn.Module:
    """Learned references, or the encoder's proposals."""
    if config.two_stage:
        return ProposalQueries(
            count=config.queries,
            width=config.width,
            outputs=config.classes,
            learned_content=config.learned_content,
            distinct_overlap=config.distinct_overlap,
            denoising=config.denoising,
        )
    return LearnedReferences(count=config.queries, width=config.width)


def build_decoder(config: Config) -> DeformableDecoder:
    """The decoder, with or without refinement."""
    layers: list[nn.Module] = [DeformableDecoderLayer(**_sizes(config)) for _ in range(config.decoder_layers)]
    relation = BoxRelation(heads=config.heads) if config.box_relation else None
    return DeformableDecoder(layers, refine=config.refine, relation=relation)


def build_heads(config: Config) -> DetectionHeads | LayerwiseHeads:
    """One pair of heads for all layers, or with refinement one for each."""
    if config.refine:
        return LayerwiseHeads(width=config.width, outputs=config.classes, layers=config.decoder_layers)
    return DetectionHeads(width=config.width, outputs=config.classes)


def _sizes(config: Config) -> dict[str, Any]:
    names = ("width", "heads", "levels", "points", "hidden", "dropout")
    return {name: getattr(config, name) for name in names}


def initialize(model: Detector, config: Config) -> None:
    """The authors' start: Xavier matrices, offsets in a star, rare classes, boxes on their references."""
    for part in (model.encoder, model.decoder, model.query_source):
        for name, parameter in part.named_parameters():
            # Embeddings keep their normal numbers, and a query source's heads are heads.
            if parameter.dim() > 1 and not name.startswith(
                ("level_code", "embedding", "denoising", "classes", "boxes")
            ):
                nn.init.xavier_uniform_(parameter)
    for module in model.modules():
        if isinstance(module, DeformableAttention | BoxRelation):
            module.reset()
    heads = [model.heads, model.query_source] if config.two_stage else [model.heads]
    class_heads = [head for part in heads for head in _as_list(part.classes)]
    box_heads = [head for part in heads for head in _as_list(part.boxes)]
    with torch.no_grad():
        for class_head, box_head in zip(class_heads, box_heads, strict=True):
            class_head.load_state_dict(class_heads[0].state_dict())  # copies start equal
            box_head.load_state_dict(box_heads[0].state_dict())
            nn.init.constant_(class_head.bias, RARE)
            nn.init.zeros_(box_head.layers[-1].weight)
            nn.init.zeros_(box_head.layers[-1].bias)
        if not config.two_stage:
            # Width and height have no reference there: they start at sigmoid(-2), an eighth of the image.
            box_heads[0].layers[-1].bias[2:] = -2.0


def _as_list(heads: Any) -> list[Any]:
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def criterion(config: Config) -> SetCriterion:
    """Hungarian matching and the set loss with focal classification (section 5), with the same weights in both."""
    weights = {"class": config.class_weight, "l1": config.l1_weight, "giou": config.giou_weight}
    return SetCriterion(
        matcher=set_matcher(focal_class_cost, weights),
        class_loss=focal_loss,
        no_object=config.classes,
        term_weights=weights,
        layers=config.decoder_layers,
        proposals=config.two_stage,
        groups=[ContrastiveDenoising.name] if config.denoising else [],
    )


def selection(config: Config, categories: Sequence[Category]) -> TopKSelection:  # noqa: ARG001 - other papers' selection has settings
    """The best hundred pairs of query and class, of classes that have a name."""
    return TopKSelection([category.index for category in categories])


# For images of some 128 pixels with few objects.
_COMPACT = Config(
    backbone="compact",
    levels=3,
    queries=30,
    width=96,
    hidden=192,
    encoder_layers=0,
    decoder_layers=2,
    dropout=0.0,
)
# For a few hundred photos of one's own and a computer without a GPU.
_LIGHT = Config(
    backbone="mobilenet_v2",
    levels=3,
    queries=60,
    width=128,
    hidden=256,
    encoder_layers=1,
    decoder_layers=4,
    dropout=0.0,
    refine=True,
    two_stage=True,
    learned_content=True,
    distinct_overlap=0.8,
    box_relation=True,
    denoising=60,
    class_weight=3.0,
    giou_weight=4.0,
)
VARIANTS: dict[str, Config] = {
    "deformable-detr-r50": Config(),
    "deformable-detr-r50-single-scale": Config(levels=1),
    "deformable-detr-r50-single-scale-dc5": Config(levels=1, backbone="resnet50-dc5"),
    "deformable-detr-r50-refine": Config(refine=True),
    "deformable-detr-r50-two-stage": Config(refine=True, two_stage=True),
    "deformable-detr-r18": Config(backbone="resnet18"),
    "deformable-detr-r18-two-stage": Config(backbone="resnet18", refine=True, two_stage=True),
    "deformable-detr-mobilenetv2": Config(backbone="mobilenet_v2"),
    "deformable-detr-mobilenetv2-two-stage": Config(backbone="mobilenet_v2", refine=True, two_stage=True),
    "deformable-detr-mobilenetv2-light": _LIGHT,
    "deformable-detr-compact": _COMPACT,
    "deformable-detr-compact-two-stage": replace(_COMPACT, refine=True, two_stage=True),
}
