"""DAB-DETR (Liu et al. 2022, arXiv:2201.12329): queries are anchor boxes, refined layer by layer.

A learned query is slow to train because it says where to look only in a code that has to be learned: its attention has several modes, and
they do not follow the size of the object. Here a query *is* a box of four coordinates. Each layer codes the box with sines, like the
cells of the image, looks around its centre as widely as it is wide and high, and moves it. The next layer starts from the moved box.

Symbols: B images, Q queries, S memory tokens, D width, P patterns, L decoder layers, K outputs of the class head, one per class (no no-object).

Deviations from the authors' code: the losses of all layers are computed together; padded pixels are zeroed inside. Neither changes a value
beyond rounding. Their option to fix the centres of anchors does not keep them (the paper says it does); here they stay where they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from detrkit.backbones import build_backbone
from detrkit.cards import Category, ModelCard, PublishedWeights, Recipe, Source, Variant
from detrkit.errors import ConfigurationError, OptionError
from detrkit.layers.attention import padding_mask
from detrkit.layers.heads import MLP, DetectionHeads, inverse_sigmoid, precisely, predictions
from detrkit.layers.initialization import start_heads, xavier_matrices
from detrkit.layers.position_encoding import reference_code
from detrkit.layers.precision import at_least_float32
from detrkit.layers.references import ReferenceTrail
from detrkit.layers.selection import TopKSelection
from detrkit.layers.transformer import Encoder, EncoderLayer
from detrkit.losses.criterion import SetCriterion, focal_criterion
from detrkit.models import conditional_detr, detr
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.settings import CostSettings, Settings
from detrkit.structures import Decoded, Memory, Output, Queries, Target

EPSILON = 1e-3  # of the inverse sigmoid, as in the authors' code
GIOU_EPSILON = 1e-6  # in the divisors of IoU and generalised IoU, as in the authors' code
LIMIT = 300  # detections of an image


@dataclass(frozen=True)
class Config(CostSettings):
    """DAB-DETR's settings; the defaults are the authors', also where another value looks sounder, so that their weights mean the same.

    Attributes:
        queries: Q, counting every pattern.
        patterns: P, learned contents that share the same Q / P anchors; 0 starts every query with empty content.
        learned_content: whether each anchor learns a content of its own. It then also scales the query's place in the first layer, where
            the scale is otherwise 1, also with patterns. Published weights have none; what it is worth from scratch:
            docs/why.md, "Parts of DAB-DETR".
        centers: "learned"; "random" (fixed where they were drawn, the authors' "fixxy"); or "grid" (fixed on a square grid).
        learn_queries: whether anchors and contents are trained; if not, give good ones with `queries_from` in training.
        box_head_per_layer: whether each layer has its own box head instead of one for all.
        modulate: whether a box's width and height set how widely its query looks (section 4.4).
        least_side: sides below this fraction of the image count as this much there. By default there is no limit, and the code of a very
            thin box is multiplied by thousands; 0.01 avoids that when training from scratch.
        temperature: of the image's position codes; low values give broad attention (section 4.5). DETR has 10000.
        detach_references: whether layers look at moved boxes without gradient.
        normed_references: whether the next layer starts from the very boxes that this one predicts. By default it does not: predictions come
            from normed states, moves from the same states before the norm. True makes the two one, for training from scratch.

    Raises:
        ConfigurationError: see `Settings`; or settings that do not fit together.
    """

    dropout: float = 0.0
    class_weight: float = 1.0
    patterns: int = 0
    learned_content: bool = False
    centers: str = "learned"
    learn_queries: bool = True
    box_head_per_layer: bool = False
    modulate: bool = True
    least_side: float = 0.0
    temperature: float = 20.0
    detach_references: bool = True
    normed_references: bool = False

    least: ClassVar[dict[str, int]] = {
        **CostSettings.least,
        **dict.fromkeys(("patterns", "least_side"), 0),
        "temperature": 1,
    }

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        check_anchors(self.queries, self.patterns, self.centers)
        if not self.least_side < 1:
            raise OptionError(
                f"least_side must be a fraction of the image below 1, not {self.least_side}", "least_side"
            )


class AnchorQueries(nn.Module):
    """Learned anchor boxes (section 4.2). With patterns, every anchor comes once with each of them: query p · Q / P + a has pattern p.

    Args:
        count: Q.
        width: D.
        patterns: see `Config`.
        learned_content: see `Config`.
        centers: see `Config`.
    """

    reference_size = 4

    def __init__(self, *, count: int, width: int, patterns: int, learned_content: bool, centers: str) -> None:
        super().__init__()
        self.width, self.repeats = width, max(patterns, 1)
        anchors = count // self.repeats
        starts = {
            "learned": lambda: torch.randn(anchors, 2),
            "random": lambda: inverse_sigmoid(torch.rand(anchors, 2), epsilon=EPSILON),
            "grid": lambda: inverse_sigmoid(square_grid(anchors), epsilon=EPSILON),
        }
        logits = starts[centers]()
        self.center_logits = nn.Parameter(logits, requires_grad=centers == "learned")
        self.side_logits = nn.Parameter(torch.randn(anchors, 2))
        self.content = nn.Embedding(anchors, width) if learned_content else None
        self.patterns = nn.Embedding(patterns, width) if patterns else None

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:  # noqa: ARG002 - ignores the targets
        """Queries for every image of the batch; their position codes are made in every layer."""
        batch = memory.tokens.shape[0]
        content = memory.tokens.new_zeros(self.repeats, len(self.side_logits), self.width)
        if self.content is not None:
            content = content + self.content.weight.to(content.dtype)
        if self.patterns is not None:
            content = content + self.patterns.weight[:, None].to(content.dtype)  # (P, Q / P, D)
        logits = at_least_float32(torch.cat([self.center_logits, self.side_logits], dim=-1))
        anchors = logits.sigmoid().repeat(self.repeats, 1)  # (Q, 4)
        return Queries(content.flatten(0, 1).expand(batch, -1, -1), None, anchors.expand(batch, -1, -1))

    @torch.no_grad()
    def place(self, boxes_cxcywh: Tensor) -> None:
        """Starts from given anchors, for example typical boxes of a data set.

        Args:
            boxes_cxcywh: (Q / P, 4), every coordinate above 0 and below 1; a tensor, an array or lists.

        Raises:
            ConfigurationError: no numbers, another number of boxes, or a coordinate that is not between 0 and 1.
        """
        try:
            boxes = torch.as_tensor(boxes_cxcywh, device="cpu", dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigurationError(f"anchors must be rows of four numbers: {error}") from error
        if boxes.shape != (len(self.side_logits), 4):
            raise ConfigurationError(
                f"anchors must be boxes of shape ({len(self.side_logits)}, 4), not {tuple(boxes.shape)}: give one box for each anchor"
            )
        outside = ~((boxes > 0) & (boxes < 1)).all(-1)
        if outside.any():
            row = int(outside.nonzero()[0])
            raise ConfigurationError(
                f"anchor {row} is {boxes[row].tolist()}: give centre, width and height as fractions of the image above 0 and below 1"
            )
        center_logits, side_logits = boxes.logit().chunk(2, dim=-1)
        self.center_logits.copy_(center_logits)
        self.side_logits.copy_(side_logits)


class ScaledEncoder(Encoder):
    """The encoder, which scales the cells' position codes by what each token carries, as the decoder does with its queries' codes.

    Args:
        layers: encoder layers.
        width: D.
    """

    def __init__(self, layers: list[nn.Module], *, width: int) -> None:
        super().__init__(layers)
        self.position_scale = MLP(width, width, width)
        xavier_matrices(self.layers, self.position_scale)

    def forward(self, memory: Memory) -> Memory:
        """Memory with encoded tokens; its position codes stay as they are."""
        tokens, mask = memory.tokens, padding_mask(memory.padding)
        for layer in self.layers:
            tokens = layer(tokens, memory.positions * self.position_scale(tokens), mask)
        return replace(memory, tokens=tokens)


class AnchorDecoder(nn.Module):
    """Decoder layers around boxes, which each layer moves (section 4.3).

    Args:
        layers: Conditional DETR's decoder layers.
        width: D.
        modulate: see `Config`.
        least_side: see `Config`.
        scale_first: whether content scales the place of a query in the first layer, too.
        detach_references: see `Config`.
        normed_references: see `Config`.
    """

    def __init__(
        self,
        layers: list[nn.Module],
        *,
        width: int,
        modulate: bool,
        least_side: float,
        scale_first: bool,
        detach_references: bool,
        normed_references: bool,
    ) -> None:
        super().__init__()
        self.width, self.least_side, self.scale_first = width, least_side, scale_first
        self.detach_references, self.normed_references = detach_references, normed_references
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)
        self.position_head = MLP(2 * width, width, width)  # from a box's code to its query's position
        self.position_scale = MLP(width, width, width)  # from what a query carries to the scale of its spatial query
        self.side_head = MLP(width, width, 2) if modulate else None  # from content to the width and height it looks for
        xavier_matrices(self)

    def forward(self, queries: Queries, memory: Memory, heads: DetectionHeads | BoxHeadPerLayer) -> Decoded:
        """States of every layer, normed for the heads, and the references that their boxes are relative to."""
        assert queries.references is not None
        trail, content = self.trail(queries.references), queries.content
        states: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if index > 0:
                moving = states[-1] if self.normed_references else content
                trail.move(partial(heads.box_logits, moving, index - 1))
            code = reference_code(trail.current, width=self.width)  # (B, Q, 2 D)
            position = self.position_head(code.to(content.dtype))
            spatial = self.spatial(code[..., : self.width], content, trail.current, first=index == 0)
            content = layer(content, position, memory, spatial=spatial, mask=queries.mask)
            states.append(self.norm(content))
        return Decoded(torch.stack(states), trail.base_logits(), trail.references())

    def trail(self, start: Tensor) -> ReferenceTrail:
        """How the boxes move from layer to layer; a layer also learns from the boxes of the next one.

        Args:
            start: (B, Q, 4), the anchors.
        """
        return ReferenceTrail(start, epsilon=EPSILON, look_forward_twice=True, detached=self.detach_references)

    def spatial(self, code: Tensor, content: Tensor, boxes_cxcywh: Tensor, *, first: bool) -> Tensor:
        """Where each query looks (section 4.4): its centre's code, scaled by what it carries and by the sides that it looks for over those it has.

        Args:
            code: (B, Q, D) code of the centres, y in the first half, x in the second.
            content: (B, Q, D) what the queries carry.
            boxes_cxcywh: (B, Q, 4).
            first: whether this is the first layer.

        Returns:
            (B, Q, D) in the content's type.
        """
        if not first or self.scale_first:
            code = code * self.position_scale(content)
        if self.side_head is not None:
            sides = boxes_cxcywh[..., 2:].clamp(min=self.least_side)
            ratios = precisely(self.side_head, content).sigmoid() / sides  # (B, Q, 2) of width and height
            code = code * ratios.flip(-1).repeat_interleave(self.width // 2, dim=-1)
        return code.to(content.dtype)


class BoxHeadPerLayer(nn.Module):
    """One class head for all decoder layers, and a box head for each.

    Args:
        width: D of the states.
        outputs: K.
        layers: L.
    """

    def __init__(self, *, width: int, outputs: int, layers: int) -> None:
        super().__init__()
        self.class_head = nn.Linear(width, outputs)
        self.box_heads = nn.ModuleList(MLP(width, width, width, 4) for _ in range(layers))

    def forward(self, decoded: Decoded) -> Output:
        """Predictions of every layer; shapes as in `DetectionHeads`."""
        boxes = [self.box_logits(states, layer) for layer, states in enumerate(decoded.states)]
        return predictions(self.class_head(decoded.states), torch.stack(boxes), decoded)

    def pairs(self) -> list[tuple[nn.Linear, MLP]]:
        """The class head with every box head, first layer to last."""
        return [(self.class_head, box_head) for box_head in self.box_heads]  # type: ignore[misc]

    def box_logits(self, states: Tensor, layer: int) -> Tensor:
        """What one layer's states add to the logits of their references, (B, Q, 4)."""
        return precisely(self.box_heads[layer], states)


def check_anchors(queries: int, patterns: int, centers: str = "learned") -> None:
    """Checks that queries are anchors times patterns, and that anchors fit their grid.

    Raises:
        ConfigurationError: they are not.
    """
    if patterns and queries % patterns:
        raise OptionError(
            f"queries must be a multiple of patterns ({patterns}), not {queries}: every anchor comes once with each pattern",
            *("queries", "patterns"),
        )
    if centers not in ("learned", "random", "grid"):
        raise OptionError(f"centers must be learned, random or grid, not '{centers}'", "centers")
    anchors = queries // max(patterns, 1)
    side = math.isqrt(anchors)
    if centers == "grid" and side**2 != anchors:
        fitting = [each**2 * max(patterns, 1) for each in (side, side + 1)]
        raise OptionError(
            f"{anchors} anchors do not fill a square grid: choose queries={fitting[0]} or queries={fitting[1]}",
            "queries",
        )


def square_grid(count: int) -> Tensor:
    """(count, 2) x and y of the cells' centres of a square grid, row by row, in (0, 1)."""
    side = math.isqrt(count)
    steps = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """Conditional DETR's parts, with anchors for queries and codes scaled by content (figure 5)."""
    backbone, detection_heads = build_backbone(config.backbone), heads(config)
    return EncoderDecoder(
        backbone=backbone,
        neck=detr.neck(config, backbone, temperature=config.temperature),
        encoder=encoder(config),
        query_source=query_source(config),
        decoder=decoder(config),
        heads=detection_heads,
        card=card,
    )


def encoder(config: Settings) -> Encoder:
    """Layers with scaled position codes and a learned slope in their activation; without layers memory is unchanged."""
    if config.encoder_layers == 0:
        return Encoder([])
    sizes = detr.layer_sizes(config)
    layers: list[nn.Module] = [EncoderLayer(**sizes, activation=nn.PReLU()) for _ in range(config.encoder_layers)]
    return ScaledEncoder(layers, width=config.width)


def decoder(config: Config) -> AnchorDecoder:
    """Conditional DETR's layers around moving boxes, with a learned slope in their activation."""
    return AnchorDecoder(
        conditional_detr.decoder_layers(config, nn.PReLU),
        width=config.width,
        modulate=config.modulate,
        least_side=config.least_side,
        scale_first=config.learned_content,
        detach_references=config.detach_references,
        normed_references=config.normed_references,
    )


def query_source(config: Config) -> AnchorQueries:
    """The anchors."""
    source = AnchorQueries(
        count=config.queries,
        width=config.width,
        patterns=config.patterns,
        learned_content=config.learned_content,
        centers=config.centers,
    )
    return source if config.learn_queries else source.requires_grad_(False)


def heads(config: Config) -> DetectionHeads | BoxHeadPerLayer:
    """One class head for all layers, with one box head or one for each layer."""
    made: DetectionHeads | BoxHeadPerLayer = DetectionHeads(width=config.width, outputs=config.class_count)
    if config.box_head_per_layer:
        made = BoxHeadPerLayer(width=config.width, outputs=config.class_count, layers=config.decoder_layers)
    start_heads(made)
    return made


def criterion(config: CostSettings, model: Detector | None = None) -> SetCriterion:  # noqa: ARG001 - for papers with masks
    """Hungarian matching and the set loss with focal classification; classes weigh less in the loss than in matching.

    Args:
        config: of this paper or a descendant.
        model: ignored.
    """
    return focal_criterion(
        class_count=config.class_count,
        layers=config.decoder_layers,
        cost_weights=config.cost_weights,
        loss_weights=config.term_weights,
        giou_epsilon=GIOU_EPSILON,
    )


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> TopKSelection:  # noqa: ARG001
    """The best three hundred pairs of a query and a named class."""
    return TopKSelection([category.index for category in categories], limit=LIMIT)


def _published(folder: str, ap: float) -> tuple[PublishedWeights, ...]:
    return (PublishedWeights(f"https://drive.google.com/drive/folders/{folder}", ap, "Apache-2.0", tag="50 epochs"),)


SOURCE = Source("IDEA-Research/DAB-DETR", "723ddb80e95dbd3c9a2e4ef68c1e0fa9319167cf", "Apache-2.0", "2201.12329")
_ALL_WEIGHTS = "1ByfbyCZL8o6zOKqH6dQFCsVQ8dgRXfUU"
_PATTERNS: dict[str, Any] = {"patterns": 3, "queries": 900}
RECIPE = Recipe(epochs=50, batch_size=16)
# Like Conditional DETR's. It is trained from scratch only, so it need not keep the quirks of published weights.
_COMPACT = Variant(
    Config(**conditional_detr.COMPACT, least_side=0.01, normed_references=True),
    conditional_detr.COMPACT_RECIPE,
    conditional_detr.COMPACT_PREPROCESSING,
)
VARIANTS: dict[str, Variant] = {
    "dab-detr-r50": Variant(Config(), RECIPE, weights=_published("1pae4Yxi0H9OOFdXZg3zXuKK9yOznhTNU", 0.422)),
    "dab-detr-r50-3patterns": Variant(Config(**_PATTERNS), RECIPE, weights=_published(_ALL_WEIGHTS, 0.426)),
    "dab-detr-r50-dc5": Variant(Config(backbone="resnet50-dc5"), RECIPE, weights=_published(_ALL_WEIGHTS, 0.445)),
    "dab-detr-r50-dc5-3patterns": Variant(
        Config(backbone="resnet50-dc5", **_PATTERNS), RECIPE, weights=_published(_ALL_WEIGHTS, 0.457)
    ),
    "dab-detr-r50-dc5-fixxy": Variant(
        Config(backbone="resnet50-dc5", centers="random"), RECIPE, weights=_published(_ALL_WEIGHTS, 0.447)
    ),
    "dab-detr-r101": Variant(Config(backbone="resnet101"), RECIPE),
    "dab-detr-r101-dc5": Variant(Config(backbone="resnet101-dc5"), RECIPE),
    "dab-detr-compact": _COMPACT,
}
