"""TSP-RCNN (Sun et al. 2021, arXiv:2011.10881): proposals instead of object queries, and an encoder without a decoder.

The paper finds that DETR learns slowly because its decoder's cross-attention takes long to become sparse. So the decoder goes: a region proposal
network chooses boxes that probably hold an object, what lies in them becomes tokens that see each other in an encoder, and each predicts a class
and a better box. A proposal may only be matched to an object that it overlaps by half, which makes the matching a minimum for each object.

    ImageBatch -> backbone -> neck (P2 to P7) -> proposals (P3 to P7) -> region features (P2 to P5) -> encoder -> predictor -> RegionOutput

Symbols: B images, A anchors, Q regions, C width of the pyramid, D of the encoder, K classes; the last of K + 1 class scores is for background.

Deviations from the authors' code: an image for which nothing is proposed gets itself as its only region. It changes no value otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from detrkit.backbones import build_backbone
from detrkit.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detrkit.cards import Category, ModelCard, Preprocessing, PublishedResult, Source, Variant
from detrkit.errors import OptionError
from detrkit.layers.box_coding import moved_boxes
from detrkit.layers.heads import MLP, precisely
from detrkit.layers.nms_selection import SuppressedSelection
from detrkit.layers.region_proposals import AnchorPredictions, RegionProposals, proposed_regions
from detrkit.layers.regions_of_interest import (
    CELLS,
    REGION_WEIGHTS,
    RegionOutput,
    RegionsOfInterest,
    region_code,
    region_features,
    side_by_side,
)
from detrkit.layers.targets import check_counts
from detrkit.losses.tsp_rcnn import RegionCriterion
from detrkit.matching.regions import training_regions
from detrkit.models import tsp
from detrkit.models.detector import Detector
from detrkit.necks.feature_pyramid import FeaturePyramid
from detrkit.structures import ImageBatch, Output, Target

OVERLAP = 0.7  # IoU from which a proposal, or a detection, repeats a better one
BEFORE_NMS = {True: 2000, False: 1000}  # proposals of each level, in training and otherwise


@dataclass(frozen=True)
class Config(tsp.TSPSettings):
    """TSP-RCNN's settings; the defaults are those of the authors' script.

    Attributes:
        l1_weight: weight of the distance loss (of R-CNN's deltas).
        giou_weight: weight of the overlap loss.
        proposal_weight: weight of the losses of the region proposal network.

    Raises:
        ConfigurationError: see `TSPSettings`; or widths that no position code has.
    """

    l1_weight: float = 1.0
    giou_weight: float = 2.0
    proposal_weight: float = 1.0

    least: ClassVar[dict[str, int]] = tsp.TSPSettings.least | {"proposal_weight": 0}

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        if self.width % 16:
            raise OptionError(
                f"width {self.width} must be a multiple of 16 (sine and cosine of eight numbers of a box)", "width"
            )


class RegionTokens(nn.Module):
    """Regions as tokens: a projection of their features, and one of their place.

    Args:
        channels: C of the levels.
        width: D.
    """

    def __init__(self, *, channels: int, width: int) -> None:
        super().__init__()
        self.features = nn.Linear(channels * CELLS * CELLS, width)
        self.place = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        for projection in (self.features, self.place):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, features: Tensor, code: Tensor) -> Tensor:
        """(B, Q, D) of features (B, Q, C, 7, 7) and position codes (B, Q, D)."""
        return self.norm(self.features(features.flatten(2)) + self.place(code))  # type: ignore[no-any-return]


class RegionPredictor(nn.Module):
    """Class scores of every encoded region, and a box for each class.

    Args:
        width: D.
        classes: K.
    """

    def __init__(self, *, width: int, classes: int) -> None:
        super().__init__()
        self.class_head, self.box_head = nn.Linear(width, classes + 1), MLP(width, width, width, 4 * classes)
        nn.init.normal_(self.class_head.weight, std=0.01)
        nn.init.zeros_(self.class_head.bias)
        nn.init.normal_(self.box_head.output.weight, std=0.001)
        nn.init.zeros_(self.box_head.output.bias)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, Q, K + 1) and deltas (B, Q, K, 4) of tokens (B, Q, D)."""
        return self.class_head(tokens), torch.unflatten(precisely(self.box_head, tokens), -1, (-1, 4))

    def by_class(self) -> list[nn.Module]:
        """Layers with a row, or four, for each class."""
        return [self.class_head, self.box_head.output]


class RegionDetector(Detector):
    """TSP-RCNN.

    Args:
        config: its settings.
        card: what the model is besides its weights.
    """

    def __init__(self, config: Config, card: ModelCard) -> None:
        super().__init__(backbone=build_backbone(config.backbone, levels=4), card=card)
        self.count, self.drop = config.queries, config.drop
        self.neck = FeaturePyramid(
            channels=self.backbone.channels, strides=self.backbone.strides, width=config.pyramid_width
        )
        self.proposals = RegionProposals(width=config.pyramid_width, strides=self.neck.strides[1:])
        self.regions = RegionTokens(channels=config.pyramid_width, width=config.width)
        self.encoder = tsp.encoder(config)
        self.predictor = RegionPredictor(width=config.width, classes=config.class_count)

    @property
    def coarsest_stride(self) -> int:
        """See `Detector.coarsest_stride`."""
        return self.neck.coarsest_stride

    def forward(self, batch: ImageBatch, targets: Sequence[Target] | None = None) -> RegionOutput:
        """See `Detector.forward`; in training, regions are sampled by what they overlap of the targets."""
        levels = self.neck(self.backbone(tsp.padded(batch)))
        predicted: AnchorPredictions = self.proposals(levels[1:])
        image_sizes = batch.image_sizes().to(predicted.anchors_xyxy)
        boxes, padding = side_by_side(self.choose(predicted, image_sizes, targets))  # (B, Q, 4)

        features = region_features(levels[:4], self.neck.strides[:4], boxes)
        tokens, code = self.tokens(features, boxes, image_sizes)
        logits, deltas = self.predictor(self.encoder(tokens, code, padding))
        regions = RegionsOfInterest(
            boxes, padding, deltas, predicted.logits, predicted.deltas, predicted.anchors_xyxy, image_sizes
        )
        best = logits[..., :-1].argmax(-1)[..., None]  # (B, Q, 1)
        return RegionOutput(logits[None], boxes_for(regions, best)[None, :, :, 0], regions=regions)

    def choose(
        self, predicted: AnchorPredictions, image_sizes: Tensor, targets: Sequence[Target] | None
    ) -> list[Tensor]:
        """The regions of each image, (N, 4) in pixels.

        Args:
            predicted: what is proposed.
            image_sizes: (B, 2) width and height in pixels.
            targets: the objects of each image; looked at in training only.
        """
        found = proposed_regions(
            predicted, image_sizes, before=BEFORE_NMS[self.training], after=self.count, overlap=OVERLAP
        )
        if not self.training or targets is None:
            return found
        check_counts(targets, images=len(image_sizes))
        objects = [
            cxcywh_to_xyxy(target.boxes_cxcywh.to(size)) * size.repeat(2)
            for target, size in zip(targets, image_sizes, strict=True)
        ]
        found = [training_regions(*pair, count=self.count) for pair in zip(found, objects, strict=True)]
        if self.drop == 0:
            return found
        share = 1 - self.drop * torch.rand(()).item()
        return [each[torch.randperm(len(each))[: max(1, int(share * len(each)))].to(each.device)] for each in found]

    def tokens(self, features: Tensor, boxes_xyxy: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder gets of the regions: tokens and their position codes, (B, Q, D) each.

        Args:
            features: (B, Q, C, 7, 7).
            boxes_xyxy: (B, Q, 4) in pixels.
            image_sizes: (B, 2) width and height in pixels.
        """
        weight = self.regions.features.weight
        code = region_code(boxes_xyxy, image_sizes, width=len(weight)).to(weight.dtype)
        return self.regions(features.to(weight.dtype), code), code


def boxes_for(regions: RegionsOfInterest, labels: Tensor) -> Tensor:
    """(B, Q, N, 4) boxes as fractions of the images, of every region for N classes each.

    Args:
        regions: with deltas for all classes.
        labels: (B, Q, N).
    """
    deltas = regions.deltas.gather(2, labels[..., None].expand(-1, -1, -1, 4))
    corners = moved_boxes(regions.boxes_xyxy[:, :, None], deltas, REGION_WEIGHTS)
    return xyxy_to_cxcywh(corners / regions.image_sizes.repeat(1, 2)[:, None, None])


class RegionSelection(SuppressedSelection):
    """TSP-RCNN's post-processing: every class has a box of its own, which is cut off at the image before it competes."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """See `SuppressedSelection.probabilities`; without background."""
        return logits.softmax(-1)[..., :-1]

    def boxes_cxcywh(self, output: Output, labels: Tensor) -> Tensor:
        """See `SuppressedSelection.boxes_cxcywh`."""
        regions = cast(RegionOutput, output).regions
        assert regions is not None
        boxes = boxes_for(regions, labels.expand(*regions.padding.shape, -1))
        return xyxy_to_cxcywh(cxcywh_to_xyxy(boxes).clamp(0, 1))

    def competing(self, output: Output, scores: Tensor) -> Tensor:
        """See `SuppressedSelection.competing`."""
        regions = cast(RegionOutput, output).regions
        assert regions is not None
        return (scores > 0) & ~regions.padding[..., None]


def build(config: Config, card: ModelCard) -> RegionDetector:
    """The parts of figure 6."""
    return RegionDetector(config, card)


def criterion(config: Config, model: Detector | None = None) -> RegionCriterion:  # noqa: ARG001 - masks need the model
    """The restricted matching and its losses, and those of the proposals."""
    return RegionCriterion(
        class_count=config.class_count,
        class_weight=config.class_weight,
        l1_weight=config.l1_weight,
        giou_weight=config.giou_weight,
        proposal_weight=config.proposal_weight,
    )


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> RegionSelection:  # noqa: ARG001
    """The best hundred that repeat no better one, of classes that have a name."""
    return RegionSelection([category.index for category in categories], overlap=OVERLAP)


_EXCEPTIONS = {
    "export": "Proposals are suppressed inside the forward, so their number depends on the image: one graph for all images cannot be exported."
}
_RECIPE = tsp.recipe(0.02)
SOURCE = Source("Edward-Sun/TSP-Detection", "1b8a50388c84dd2644b6feba582cd934ade852e5", "Apache-2.0", "2011.10881")


def _results(ap: float, *, longer: float) -> tuple[PublishedResult, ...]:
    """What the paper has of a backbone in table 1: after 36 epochs, and as TSP-RCNN+ after 96."""
    return PublishedResult(ap, "36 epochs"), PublishedResult(longer, "96 epochs")


VARIANTS: dict[str, Variant] = {
    "tsp-rcnn-r50": Variant(
        Config(), _RECIPE, tsp.PREPROCESSING, results=_results(0.438, longer=0.450), exceptions=_EXCEPTIONS
    ),
    "tsp-rcnn-r101": Variant(
        Config(backbone="resnet101-caffe"),
        _RECIPE,
        tsp.PREPROCESSING,
        results=_results(0.448, longer=0.465),
        exceptions=_EXCEPTIONS,
    ),
    "tsp-rcnn-mobilenetv2": Variant(Config(backbone="mobilenet_v2"), _RECIPE, Preprocessing(), exceptions=_EXCEPTIONS),
    "tsp-rcnn-compact": Variant(
        Config(**tsp.COMPACT), tsp.COMPACT_RECIPE, tsp.COMPACT_PREPROCESSING, exceptions=_EXCEPTIONS
    ),
}
