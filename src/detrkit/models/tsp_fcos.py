"""TSP-FCOS (Sun et al. 2021, arXiv:2011.10881): features of interest instead of object queries, and an encoder without a decoder.

The paper finds that DETR learns slowly because its decoder's cross-attention takes long to become sparse. So the decoder goes: a classifier on
the feature pyramid chooses the features that probably lie on an object, they see each other in an encoder, and each predicts one box around its
own cell. A feature may only be matched to an object whose centre it lies in and whose size belongs to its level, which makes the matching a
minimum for each object, the same from epoch to epoch.

    ImageBatch -> backbone -> neck (P3 to P7) -> head (towers) -> interest (the best cells) -> encoder -> predictor -> FeatureOutput

Symbols: B images, S cells of all levels, Q features of interest, C width of the pyramid, D of the encoder, K class scores, one a class.

Deviations from the authors' code: a batch may hold images of both orientations; the share of features that a training step leaves out is drawn by
PyTorch. Neither changes a value otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.backbones import build_backbone
from detrkit.boxes import xyxy_to_cxcywh
from detrkit.cards import Category, ModelCard, Preprocessing, PublishedResult, Source, Variant
from detrkit.errors import OptionError
from detrkit.layers.fcos_head import CellFeatures, FCOSHead, FeatureOutput, FeaturesOfInterest
from detrkit.layers.heads import precisely
from detrkit.layers.initialization import PRIOR_LOGIT
from detrkit.layers.nms_selection import SuppressedSelection
from detrkit.layers.position_encoding import SinePositionEncoding
from detrkit.layers.precision import at_least_float32
from detrkit.layers.proposals import rows_of
from detrkit.layers.targets import check_counts
from detrkit.losses.tsp_fcos import FeatureCriterion
from detrkit.matching.cells import Cells, assign_cells
from detrkit.models import tsp
from detrkit.models.detector import Detector
from detrkit.necks.feature_pyramid import FeaturePyramid
from detrkit.structures import ImageBatch, Output, Proposals, Target

OVERLAP = 0.6  # IoU from which a detection repeats a better one
BEST_OF_LEVEL = 1000  # pairs of feature and class that compete in each level


@dataclass(frozen=True)
class Config(tsp.TSPSettings):
    """TSP-FCOS's settings; the defaults are those of the authors' script.

    Attributes:
        class_weight: weight of both class losses: that of the features, and that of the classifier that chooses them.
        giou_weight: weight of the overlap loss.
        l1_weight: 0, since there is no distance loss.
        centerness_weight: weight of the centerness loss.

    Raises:
        ConfigurationError: see `TSPSettings`; or widths that do not fit together.
    """

    giou_weight: float = 1.0
    l1_weight: float = 0.0
    centerness_weight: float = 1.0

    least: ClassVar[dict[str, int]] = tsp.TSPSettings.least | {"centerness_weight": 0}

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        if self.pyramid_width % 32 or self.pyramid_width < 64 or self.width != 2 * self.pyramid_width:
            raise OptionError(
                f"pyramid_width must be a multiple of 32 (groups of its norms), at least 64, and half of width ({self.width}), since features of two towers "
                f"become tokens, not {self.pyramid_width}",
                "pyramid_width",
            )
        if self.l1_weight:
            raise OptionError(f"l1_weight must be 0, not {self.l1_weight}: TSP-FCOS has no distance loss", "l1_weight")


class CellPositions(nn.Module):
    """Codes of the cells of all levels: those of their place in the image, and a learned one of their level.

    Args:
        width: D.
        levels: how many.
    """

    def __init__(self, *, width: int, levels: int) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.ones(levels, width))
        self.place = SinePositionEncoding(width=width)

    def forward(self, levels: tuple[Tensor, ...], padding: Tensor | None) -> Tensor:
        """(B, S, D).

        Args:
            levels: (B, C, h, w) each.
            padding: (B, H, W) bool of the images before they were enlarged to whole cells; None where nothing is padded.
        """
        paddings = tsp.level_paddings(padding, levels)
        codes = [
            self.place(level, hidden).flatten(2).mT + code.to(level.dtype)
            for level, hidden, code in zip(levels, paddings, self.levels, strict=True)
        ]
        return torch.cat(codes, dim=1)


class FeatureInterest(nn.Module):
    """Which cells become tokens (section 4.1): those whose best class has the highest score.

    Args:
        count: Q.
        drop: the largest share of them that training leaves out.
    """

    def __init__(self, *, count: int, drop: float) -> None:
        super().__init__()
        self.count, self.drop = count, drop

    @torch.no_grad()
    def forward(self, logits: Tensor, positive: Tensor | None = None) -> Tensor:
        """(B, Q) int64 cells, best first; all cells where there are fewer than Q.

        Args:
            logits: (B, S, K) class scores of the cells.
            positive: (B, S) bool, cells that belong to an object; they come before all others. None where objects are not to be known.
        """
        scores = at_least_float32(logits).sigmoid().amax(-1)  # (B, S)
        if positive is not None:
            scores = torch.where(positive, (scores + 1) / 2, scores)
        cells = scores.topk(min(self.count, scores.shape[1]), dim=1).indices
        if not self.training or self.drop == 0:
            return cells
        # The same ranks in all images, so that they have equally many.
        kept = max(1, int(cells.shape[1] * (1 - self.drop * torch.rand(()).item())))
        ranks = torch.randperm(cells.shape[1])[:kept].sort().values
        return cells[:, ranks.to(cells.device)]


class FeaturePredictor(nn.Module):
    """Class, box and centerness of every encoded feature.

    Args:
        width: D.
        outputs: K.
        levels: of the pyramid; each has a factor of its own for distances.
    """

    def __init__(self, *, width: int, outputs: int, levels: int) -> None:
        super().__init__()
        self.class_head, self.box_head, self.centerness_head = (nn.Linear(width, size) for size in (outputs, 4, 1))
        self.scales = nn.Parameter(torch.ones(levels))
        for head in (self.class_head, self.box_head, self.centerness_head):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
        nn.init.constant_(self.class_head.bias, PRIOR_LOGIT)

    def forward(self, tokens: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, Q, K), distances (B, Q, 4) in strides, and centerness logits (B, Q) of tokens (B, Q, D) of these levels (B, Q)."""
        distances = F.relu(precisely(self.box_head, tokens)) * at_least_float32(self.scales)[levels][..., None]
        return self.class_head(tokens), distances, self.centerness_head(tokens)[..., 0]

    def by_class(self) -> list[nn.Module]:
        """Layers with a row for each class."""
        return [self.class_head]


class FeatureDetector(Detector):
    """TSP-FCOS.

    Args:
        config: its settings.
        card: what the model is besides its weights.
    """

    def __init__(self, config: Config, card: ModelCard) -> None:
        super().__init__(backbone=build_backbone(config.backbone, levels=3), card=card)
        self.neck = FeaturePyramid(
            channels=self.backbone.channels, strides=self.backbone.strides, width=config.pyramid_width
        )
        levels = len(self.neck.strides)
        self.head = FCOSHead(width=config.pyramid_width, outputs=config.class_count)
        self.interest = FeatureInterest(count=config.queries, drop=config.drop)
        self.positions = CellPositions(width=config.width, levels=levels)
        self.projection, self.norm = nn.Linear(config.width, config.width), nn.LayerNorm(config.width)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.encoder = tsp.encoder(config)
        self.predictor = FeaturePredictor(width=config.width, outputs=config.class_count, levels=levels)

    @property
    def coarsest_stride(self) -> int:
        """See `Detector.coarsest_stride`."""
        return self.neck.coarsest_stride

    def forward(self, batch: ImageBatch, targets: Sequence[Target] | None = None) -> FeatureOutput:
        """See `Detector.forward`; in training, features that belong to an object of the targets are chosen first."""
        levels = self.neck(self.backbone(tsp.padded(batch)))
        seen: CellFeatures = self.head(levels)
        sizes = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        cells = Cells.of(sizes, self.neck.strides, like=at_least_float32(seen.logits))
        image_sizes = batch.image_sizes()

        positive = None
        if self.training and targets is not None:
            check_counts(targets, images=len(batch.pixels))
            positive = assign_cells(cells, targets, image_sizes).objects >= 0
        rows = self.interest(seen.logits, positive)  # (B, Q)

        tokens, positions = self.tokens(levels, seen, rows, batch.padding)
        logits, distances, centerness = self.predictor(self.encoder(tokens, positions), cells.levels[rows])
        features = FeaturesOfInterest(
            rows, distances, centerness, seen.logits, sizes, self.neck.strides, image_sizes.to(distances)
        )
        return FeatureOutput(logits[None], _boxes(features, cells)[None], Proposals(rows=rows), features=features)

    def tokens(
        self, levels: tuple[Tensor, ...], seen: CellFeatures, rows: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the encoder gets of the chosen cells: tokens and their position codes, (B, Q, D) each.

        Args:
            levels: of the pyramid.
            seen: the head's features of all cells.
            rows: (B, Q) the chosen cells.
            padding: (B, H, W) of the images.
        """
        tokens = self.norm(self.projection(rows_of(seen.features, rows)))
        return tokens, rows_of(self.positions(levels, padding), rows).to(tokens.dtype)


def _boxes(features: FeaturesOfInterest, cells: Cells) -> Tensor:
    """(B, Q, 4) boxes around the chosen cells as fractions of the images."""
    centers, distances = cells.centers[features.cells], features.distances * cells.strides[features.cells][..., None]
    corners = torch.cat([centers - distances[..., :2], centers + distances[..., 2:]], dim=-1)
    return xyxy_to_cxcywh(corners / features.image_sizes[:, None].repeat(1, 1, 2))


class FeatureSelection(SuppressedSelection):
    """TSP-FCOS's post-processing: the best thousand pairs of each level compete, and the root of the probability is the score."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """See `SuppressedSelection.probabilities`."""
        return logits.sigmoid()

    def score(self, probabilities: Tensor) -> Tensor:
        """See `SuppressedSelection.score`."""
        return probabilities.sqrt()

    def number(self, scores: Tensor) -> int:
        """See `SuppressedSelection.number`; pairs as good as the last one stay, too."""
        count = super().number(scores)
        return count if count == 0 else int((scores >= scores[count - 1]).sum())

    def competing(self, output: Output, scores: Tensor) -> Tensor:
        """See `SuppressedSelection.competing`."""
        found = scores > 0
        if scores[0].numel() <= BEST_OF_LEVEL:
            return found
        features = cast(FeatureOutput, output).features
        assert features is not None
        levels = Cells.of(features.level_sizes, features.strides, like=scores).levels[features.cells]  # (B, Q)
        best = torch.zeros_like(found).flatten(1)
        for level in range(len(features.strides)):
            of_level = torch.where((levels == level)[..., None], scores, -1.0).flatten(1)
            values, pairs = of_level.topk(BEST_OF_LEVEL, dim=1)
            best |= torch.zeros_like(best).scatter(1, pairs, values > 0)  # fewer in a level with fewer features
        return found & torch.unflatten(best, 1, scores.shape[1:])


def build(config: Config, card: ModelCard) -> FeatureDetector:
    """The parts of figure 5."""
    return FeatureDetector(config, card)


def criterion(config: Config, model: Detector | None = None) -> FeatureCriterion:  # noqa: ARG001 - masks need the model
    """The restricted matching and its losses."""
    return FeatureCriterion(
        class_count=config.class_count,
        class_weight=config.class_weight,
        giou_weight=config.giou_weight,
        centerness_weight=config.centerness_weight,
    )


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> FeatureSelection:  # noqa: ARG001
    """The best hundred that repeat no better one, of classes that have a name."""
    return FeatureSelection([category.index for category in categories], overlap=OVERLAP)


_RECIPE = tsp.recipe(0.01)
SOURCE = Source("Edward-Sun/TSP-Detection", "1b8a50388c84dd2644b6feba582cd934ade852e5", "Apache-2.0", "2011.10881")
VARIANTS: dict[str, Variant] = {
    "tsp-fcos-r50": Variant(Config(), _RECIPE, tsp.PREPROCESSING, results=(PublishedResult(0.431),)),
    "tsp-fcos-r101": Variant(
        Config(backbone="resnet101-caffe"), _RECIPE, tsp.PREPROCESSING, results=(PublishedResult(0.444),)
    ),
    "tsp-fcos-mobilenetv2": Variant(Config(backbone="mobilenet_v2"), _RECIPE, Preprocessing()),
    "tsp-fcos-compact": Variant(Config(**tsp.COMPACT), tsp.COMPACT_RECIPE, tsp.COMPACT_PREPROCESSING),
}
