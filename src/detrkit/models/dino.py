"""DINO (Zhang et al. 2022, arXiv:2203.03605): a two-stage Deformable DETR whose boxes are denoised, well chosen, and refined with a view of the next step.

Three ideas on top of Deformable DETR, DAB-DETR and DN-DETR:

- Contrastive denoising (section 3.3): in training, noised copies of the objects go through the decoder. From a copy near the object it has to
  restore the object, from one that is further off it has to say that there is none. So it learns boxes from the first step on, and to report
  an object once.
- Mixed query selection (section 3.4): the best proposals give the boxes that queries start from, but what queries carry is learned, so that
  proposals of unclear content do not mislead the decoder.
- Looking forward twice (section 3.5): a layer also learns from the boxes of the next layer, which start from its own.

Symbols: B images, Q queries, S memory tokens, D width, L decoder layers, K outputs of the class head, one per class (without no-object).

Deviations from the authors' code: the losses of all layers are computed together; box heads look at the chosen tokens only, which are the only ones
that are trained; the number of noised objects is limited, so that a crowded image does not multiply the batch (up to 100 objects it is the
authors' number). None changes a value beyond rounding below that limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from detrkit.backbones import Backbone, build_backbone
from detrkit.cards import Category, ModelCard, PublishedWeights, Recipe, Source, Variant
from detrkit.errors import OptionError
from detrkit.layers.denoising import MOST_BOX_NOISE, ContrastiveDenoising
from detrkit.layers.heads import MLP, DetectionHeads
from detrkit.layers.initialization import start_heads, xavier_matrices
from detrkit.layers.position_encoding import SinePositionEncoding, reference_code
from detrkit.layers.proposals import TokenProposals, proposal_anchors, rows_of
from detrkit.layers.references import ReferenceTrail
from detrkit.layers.selection import TopKSelection
from detrkit.layers.targets import needed
from detrkit.losses.criterion import SetCriterion, focal_criterion
from detrkit.losses.sets import ChosenProposals, KnownGroup
from detrkit.models import deformable_detr
from detrkit.models.dab_detr import EPSILON, GIOU_EPSILON, LIMIT
from detrkit.models.deformable_detr import DeformableDecoder
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.settings import CostSettings, MultiScaleSettings
from detrkit.necks.multi_scale import MultiScaleNeck
from detrkit.structures import Memory, Proposals, Queries, Target


@dataclass(frozen=True)
class Config(MultiScaleSettings, CostSettings):
    """DINO's settings; the defaults are those of the authors' scripts for four scales.

    Attributes:
        temperature: of the image's position codes, see `dab_detr.Config`.
        padded_positions: whether a query's box is coded as a part of the padded batch, see `dab_deformable_detr.Config`.
        denoising: in training, the largest number of noised copies of objects per image, in addition to its queries, at least two. As many
            repetitions of all objects are made as fit; of an image with more objects than fit, a random choice is noised in each step.
        label_noise: probability that a noised object gets a random class.
        box_noise: how far boxes are moved, see `contrastive_noise`.
        label_codes: classes for which denoising has a code; 0 for one more than there are classes, as in the authors' code.

    Raises:
        ConfigurationError: see `MultiScaleSettings`.
    """

    queries: int = 900
    hidden: int = 2048
    dropout: float = 0.0
    class_weight: float = 1.0  # again, since `MultiScaleSettings` has that of `Settings`
    temperature: float = 20.0
    padded_positions: bool = True
    denoising: int = 200
    label_noise: float = 0.25
    box_noise: float = 1.0
    label_codes: int = 0

    least: ClassVar[dict[str, int]] = {
        **MultiScaleSettings.least,
        **CostSettings.least,
        **dict.fromkeys(("label_noise", "box_noise", "label_codes"), 0),
        "temperature": 1,
        "denoising": 2,
    }

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        for name, most in (("label_noise", 1.0), ("box_noise", MOST_BOX_NOISE)):
            if getattr(self, name) > most:
                raise OptionError(f"{name} must be at most {most:g}, not {getattr(self, name)}", name)

    @property
    def training_queries(self) -> int:
        """See `Settings.training_queries`."""
        return self.queries + self.denoising

    @property
    def proposes(self) -> bool:
        """See `Settings.proposes`."""
        return True


class MixedQueries(nn.Module):
    """Boxes from the best proposals, and content that is learned for each rank (section 3.4); in training, noised objects are added.

    Args:
        count: Q.
        width: D.
        outputs: K.
        denoising: adds the noised objects.
    """

    def __init__(self, *, count: int, width: int, outputs: int, denoising: ContrastiveDenoising) -> None:
        super().__init__()
        self.count = count
        self.proposals = TokenProposals(width=width, outputs=outputs)
        self.content = nn.Embedding(count, width)
        self.denoising = denoising
        xavier_matrices(self.content)

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:
        """Queries from the best proposals of each image, fewer where memory has fewer tokens; their position codes are made in every layer."""
        anchor_logits, usable = proposal_anchors(memory)
        with torch.no_grad():  # only the chosen proposals are trained
            scores = self.proposals.class_logits(memory.tokens, usable).amax(-1)  # (B, S)
        rows = scores.topk(min(self.count, scores.shape[1]), dim=1).indices  # (B, Q), best first
        chosen = self.proposals.predict(*(rows_of(values, rows) for values in (memory.tokens, anchor_logits, usable)))
        content = self.content.weight[: rows.shape[1]].to(memory.tokens.dtype).expand(rows.shape[0], -1, -1)
        queries = Queries(content, None, chosen.boxes_cxcywh.detach(), Proposals(chosen=chosen, rows=rows))
        if not self.training:
            return queries
        return self.denoising(queries, needed(targets))  # type: ignore[no-any-return]


class ForwardLookingDecoder(DeformableDecoder):
    """Deformable DETR's refining decoder, with positions made from boxes in every layer, and boxes that teach the layer before (section 3.5).

    A box is predicted from a normed state; the next layer's reference comes from the same state before the norm.

    Args:
        layers: decoder layers.
        width: D.
        padded_positions: see `Config`.
    """

    def __init__(self, layers: list[nn.Module], *, width: int, padded_positions: bool) -> None:
        super().__init__(layers, refine=True)
        self.width, self.padded_positions = width, padded_positions
        self.norm = nn.LayerNorm(width)
        self.position_head = MLP(2 * width, width, width)  # from a box's code to its query's position
        xavier_matrices(self.position_head)

    def trail(self, start: Tensor) -> ReferenceTrail:
        """See `DeformableDecoder.trail`."""
        return ReferenceTrail(start, epsilon=EPSILON, look_forward_twice=True)

    def query_position(
        self,
        queries: Queries,  # noqa: ARG002 - its positions are made here
        content: Tensor,
        references: Tensor,
        memory: Memory,
        *,
        layer: int,  # noqa: ARG002 - all layers are alike
    ) -> Tensor:
        """See `DeformableDecoder.query_position`."""
        if self.padded_positions:  # the share of the first level's cells that is no padding
            references = references * memory.valid_ratios()[:, :1].repeat(1, 1, 2)
        code = reference_code(references, width=self.width)  # (B, Q, 2 D)
        return self.position_head(code.to(content.dtype))  # type: ignore[no-any-return]

    def state(self, content: Tensor) -> Tensor:
        """See `DeformableDecoder.state`."""
        return self.norm(content)  # type: ignore[no-any-return]


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """Deformable DETR's backbone levels, encoder and layers; mixed queries, and one pair of heads for all layers (figure 2)."""
    backbone = build_levels(config)
    source = MixedQueries(
        count=config.queries, width=config.width, outputs=config.class_count, denoising=denoising(config)
    )
    heads = DetectionHeads(width=config.width, outputs=config.class_count)
    start_heads(heads, source.proposals)
    return EncoderDecoder(
        backbone=backbone,
        neck=neck(config, backbone),
        encoder=deformable_detr.encoder(config),
        query_source=source,
        decoder=ForwardLookingDecoder(
            deformable_detr.decoder_layers(config), width=config.width, padded_positions=config.padded_positions
        ),
        heads=heads,
        card=card,
    )


def build_levels(config: MultiScaleSettings) -> Backbone:
    """Deformable DETR's levels; of five levels the finest one is the backbone's of stride 4.

    Raises:
        ConfigurationError: the backbone has no such levels.
    """
    return build_backbone(config.backbone, levels=4) if config.levels > 4 else deformable_detr.build_levels(config)


def neck(config: Config, backbone: Backbone) -> MultiScaleNeck:
    """Levels at the width of the transformer, with sine codes of low temperature."""
    return MultiScaleNeck(
        channels=backbone.channels,
        strides=backbone.strides,
        width=config.width,
        levels=config.levels,
        position_encoding=SinePositionEncoding(width=config.width, temperature=config.temperature),
    )


def denoising(config: Config) -> ContrastiveDenoising:
    """The part that adds noised objects."""
    return ContrastiveDenoising(
        width=config.width,
        outputs=config.class_count,
        rows=config.denoising,
        label_noise=config.label_noise,
        box_noise=config.box_noise,
        codes=config.label_codes or config.class_count + 1,
    )


def criterion(config: Config, model: Detector | None = None) -> SetCriterion:  # noqa: ARG001 - for papers with masks
    """DAB-DETR's set loss for the layers, the chosen proposals and the noised objects."""
    return focal_criterion(
        class_count=config.class_count,
        layers=config.decoder_layers,
        cost_weights=config.cost_weights,
        loss_weights=config.term_weights,
        giou_epsilon=GIOU_EPSILON,
        sets=[ChosenProposals(), KnownGroup(ContrastiveDenoising.name)],
    )


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> TopKSelection:  # noqa: ARG001
    """The best three hundred pairs of a query and a named class."""
    return TopKSelection([category.index for category in categories], limit=LIMIT)


_FOLDER = "https://drive.google.com/drive/folders/1qD5m1NmK0kjE5hh-G17XUX751WsEG-h_"
_PADDING = {
    "tokens_behind_padding_are_not_looked_at": "Queries code their boxes as parts of the padded batch, as in the authors' code, so results "
    "change a little with the padding; padded_positions=False ends that."
}


def _published(*results: tuple[int, float]) -> tuple[PublishedWeights, ...]:
    return tuple(PublishedWeights(_FOLDER, ap, "Apache-2.0", tag=f"{epochs} epochs") for epochs, ap in results)


SOURCE = Source("IDEA-Research/DINO", "faa8520", "Apache-2.0", "2203.03605")
RECIPE = Recipe(epochs=12, batch_size=16, drop_after=11 / 12)
VARIANTS: dict[str, Variant] = {
    "dino-r50-4scale": Variant(
        Config(), RECIPE, weights=_published((12, 0.490), (24, 0.504), (36, 0.509)), exceptions=_PADDING
    ),
    "dino-r50-5scale": Variant(
        Config(levels=5), RECIPE, weights=_published((12, 0.494), (36, 0.512), (24, 0.513)), exceptions=_PADDING
    ),
    "dino-r18-4scale": Variant(Config(backbone="resnet18"), RECIPE, exceptions=_PADDING),
    "dino-mobilenetv2-4scale": Variant(Config(backbone="mobilenet_v2"), RECIPE, exceptions=_PADDING),
    "dino-compact": Variant(
        Config(
            backbone="compact",
            levels=3,
            queries=30,
            width=96,
            hidden=192,
            encoder_layers=0,
            decoder_layers=2,
            padded_positions=False,
            denoising=60,
        ),
        deformable_detr.COMPACT_RECIPE,
        deformable_detr.COMPACT_PREPROCESSING,
    ),
}
