"""DN-DETR (Li et al. 2022, arXiv:2203.01305): DAB-DETR that also learns to restore noised objects.

Hungarian matching gives a query one object in this epoch and another one in the next, so early training has no steady aim. Here noised copies of
the objects go through the decoder beside the queries. Each has to become its object again, and which one that is needs no matching. So that
both kinds of queries can be one kind for the decoder, a query carries the code of a class (of no known one if it is not noised) and an
indicator that tells which kind it is. Only training has noised objects; the network that detects is DAB-DETR's.

Symbols: B images, Q queries, M slots for objects, G groups, R = G · M rows of noised objects, D width, K classes, L decoder layers.

Deviations from the authors' code: `denoising` limits the rows, which changes nothing where an image has up to `denoising / denoising_groups`
objects; noised objects come behind the queries; without any object in a batch there is one row of padding, so that all parameters take part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from detrkit.backbones import build_backbone
from detrkit.cards import Category, ModelCard, PublishedWeights, Recipe, Source, Variant
from detrkit.errors import OptionError
from detrkit.layers.denoising import (
    NoisedObjects,
    Slots,
    append_group,
    block_mask,
    flip_labels,
    pick_objects,
    rows_that_fit,
)
from detrkit.layers.heads import inverse_sigmoid
from detrkit.layers.selection import TopKSelection
from detrkit.layers.targets import check_counts, needed
from detrkit.losses.criterion import SetCriterion, focal_criterion
from detrkit.losses.sets import KnownGroup
from detrkit.models import conditional_detr, dab_detr, detr
from detrkit.models.dab_detr import EPSILON, GIOU_EPSILON, AnchorQueries
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.models.settings import CostSettings, Settings
from detrkit.structures import Memory, Queries, QueryGroup, Target


@dataclass(frozen=True)
class DenoisingSettings(Settings):
    """Settings of denoising, for DAB-DETR and DAB-Deformable-DETR alike; the defaults are the authors'.

    Attributes:
        denoising: in training, the largest number of noised copies of objects per image, in addition to its queries. Where it does not suffice
            for all groups, there are fewer of them; where it does not suffice for one, each step takes other objects. The authors have no
            limit; 500 copies are a hundred objects in five groups.
        denoising_groups: G, how many noised copies each object gets. Copies of different groups do not see each other.
        label_noise: probability that a copy's class is replaced, possibly by the same one.
        box_noise: how far boxes are changed. A centre moves by less than half of this share of the box's width and height, and these change
            by less than this share of themselves.

    Raises:
        ConfigurationError: see `Settings`.
    """

    denoising: int = 500
    denoising_groups: int = 5
    label_noise: float = 0.2
    box_noise: float = 0.4

    least: ClassVar[dict[str, int]] = {
        **Settings.least,
        **dict.fromkeys(("denoising", "denoising_groups"), 1),
        **dict.fromkeys(("label_noise", "box_noise"), 0),
    }

    @property
    def training_queries(self) -> int:
        """See `Settings.training_queries`."""
        return self.queries + self.denoising


@dataclass(frozen=True)
class Config(dab_detr.Config, DenoisingSettings):
    """DN-DETR's settings: DAB-DETR's and those of denoising.

    A pattern or a learned content is added to the code of no known class. Codes of classes are trained also with `learn_queries=False`.

    Raises:
        ConfigurationError: see `dab_detr.Config`; or noise above 1.
    """

    least: ClassVar[dict[str, int]] = {**DenoisingSettings.least, **dab_detr.Config.least}

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        check_noise(self)


class Noise(NamedTuple):
    """Random numbers of denoising; the axis of one is that of copies in a group.

    Attributes:
        flipped: (B, G, 1, M) bool, whether the class is replaced.
        labels: (B, G, 1, M) int64, by what; it may be the true one.
        shifts: (B, G, 1, M, 4) in [-1, 1), how far centre x, centre y, width and height change, in shares of the most that they may.
    """

    flipped: Tensor
    labels: Tensor
    shifts: Tensor


def noised_objects(slots: Slots, noise: Noise, *, box_noise: float) -> NoisedObjects:
    """Objects with changed classes and boxes (section 4.3: label flipping, centre shifting and box scaling).

    Args:
        slots: the objects.
        noise: the draws.
        box_noise: see `DenoisingSettings`.
    """
    real = (slots.objects >= 0)[:, None, None].expand_as(noise.labels)  # (B, G, 1, M)
    labels = flip_labels(slots.labels, noise.flipped, noise.labels).where(real, 0)
    boxes = jitter(slots.boxes_cxcywh, noise.shifts * box_noise).where(real[..., None], 0.5)
    boxes = inverse_sigmoid(boxes, epsilon=EPSILON).sigmoid()
    objects = slots.objects[:, None, None].expand_as(noise.labels)
    return NoisedObjects(labels.flatten(1), boxes.flatten(1, 3), real.flatten(1), objects.flatten(1))


def jitter(boxes_cxcywh: Tensor, shifts: Tensor) -> Tensor:
    """Boxes with another centre and other sides.

    Args:
        boxes_cxcywh: (B, M, 4) in [0, 1].
        shifts: (B, G, 1, M, 4) of centre x and y in halves of the width and height, and of both sides in themselves.

    Returns:
        (B, G, 1, M, 4), each number in [0, 1] for itself, so that a box may reach out of the image; what is not finite becomes 0.5 or the
        nearest in [0, 1].
    """
    sides = boxes_cxcywh[..., 2:]
    reach = torch.cat([sides / 2, sides], dim=-1)[:, None, None]  # (B, 1, 1, M, 4)
    # A box that is not finite is reported by the matcher, so nothing is raised here.
    return (boxes_cxcywh[:, None, None] + shifts * reach).clamp(0, 1).nan_to_num(0.5)


class LabelDenoising(nn.Module):
    """The codes of classes, and noised objects that carry them (sections 4.3 to 4.5).

    What a query carries is the code of a class in all channels but the last, and there the indicator: 1 for noised objects, 0 for others.

    Args:
        width: D.
        outputs: K.
        rows: see `DenoisingSettings.denoising`.
        groups: see `DenoisingSettings.denoising_groups`.
        label_noise: see `DenoisingSettings`.
        box_noise: see `DenoisingSettings`.
    """

    name = "denoising"  # of the group, and beginning of its losses' names

    def __init__(
        self, *, width: int, outputs: int, rows: int, groups: int, label_noise: float, box_noise: float
    ) -> None:
        super().__init__()
        self.outputs, self.rows, self.groups = outputs, rows, groups
        self.label_noise, self.box_noise = label_noise, box_noise
        self.embedding = nn.Embedding(outputs + 1, width - 1)  # the last row is for no known class

    def forward(self, queries: Queries, targets: Sequence[Target]) -> Queries:
        """Queries with a training group behind them and a mask: nobody sees the noised objects but their own group.

        Args:
            queries: Q for each image, with boxes as references.
            targets: the objects of each image. A label that is not an output is left for the criterion to refuse.

        Raises:
            ValueError: see `check_counts`.
        """
        assert queries.references is not None
        check_counts(targets, images=len(queries.references))
        count, groups = rows_that_fit(targets, rows=self.rows, copies=1)
        groups = min(groups, self.groups)
        slots = pick_objects(targets, count, like=queries.references)
        noised = noised_objects(slots, self.draw(groups, like=slots.boxes_cxcywh), box_noise=self.box_noise)
        codes = self.embedding(noised.labels.clamp(0, self.outputs - 1))  # (B, R, D - 1)
        content = with_indicator(codes, 1.0) * noised.real[..., None]  # (B, R, D); padding rows carry nothing
        group = QueryGroup(
            self.name, rows=content.shape[1], objects=noised.objects, repeats=groups, counted=noised.real
        )
        return append_group(
            queries,
            group,
            content=content,
            position=None,
            references=noised.boxes_cxcywh,
            # As in the authors' code, a group sees its padding rows, too.
            mask=block_mask(torch.ones_like(noised.real), queries=queries.content.shape[1], repeats=groups),
        )

    def draw(self, groups: int, *, like: Tensor) -> Noise:
        """Random numbers from PyTorch's generator; replace this to give others.

        Args:
            groups: G.
            like: (B, M, 4), of the device and type that is wanted.
        """
        images, slots, _ = like.shape
        shape = (images, groups, 1, slots)
        return Noise(
            flipped=torch.rand(shape, device=like.device) < self.label_noise,
            labels=torch.randint(self.outputs, shape, device=like.device),
            shifts=torch.rand((*shape, 4), device=like.device, dtype=like.dtype) * 2 - 1,
        )

    def unknown(self) -> Tensor:
        """(D,) what a query carries that is no noised object: the code of no known class, and the indicator."""
        return with_indicator(self.embedding.weight[-1], 0.0)


def with_indicator(codes: Tensor, value: float) -> Tensor:
    """(..., D - 1) codes to (..., D) contents with this value in the last channel."""
    return nn.functional.pad(codes, (0, 1), value=value)


class LabelledAnchors(AnchorQueries):
    """Anchors that carry the code of no known class, besides a pattern if they have one; in training, noised objects follow them.

    Args:
        denoising: the codes, and what adds noised objects.
        count: see `AnchorQueries`.
        width: see `AnchorQueries`.
        patterns: see `AnchorQueries`.
        learned_content: see `AnchorQueries`.
        centers: see `AnchorQueries`.
    """

    def __init__(
        self, denoising: LabelDenoising, *, count: int, width: int, patterns: int, learned_content: bool, centers: str
    ) -> None:
        super().__init__(count=count, width=width, patterns=patterns, learned_content=learned_content, centers=centers)
        self.denoising = denoising

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:
        """Queries for every image of the batch; in training with noised objects behind them.

        Raises:
            ValueError: no targets in training.
        """
        queries = super().forward(memory)
        queries = replace(queries, content=self.labelled(queries.content))
        if not self.training:
            return queries
        return self.denoising(queries, needed(targets))  # type: ignore[no-any-return]

    def labelled(self, content: Tensor) -> Tensor:
        """What anchors carry, with a code and the indicator; papers that have no code for anchors override this.

        Args:
            content: (B, Q, D), patterns and learned contents, or zero.
        """
        return content + self.denoising.unknown().to(content.dtype)


class DenoisedGroup(KnownGroup):
    """Noised objects, whose losses are divided by their number in this process: as in the authors' code, no other process is asked."""

    def divisor(self, targets: Sequence[Target], object_count: Tensor, group: QueryGroup) -> Tensor:  # noqa: ARG002
        """See `KnownGroup.divisor`."""
        assert group.counted is not None
        return group.counted.sum().clamp(min=1).to(object_count)


def check_noise(config: DenoisingSettings) -> None:
    """Checks that noise is a share.

    Raises:
        ConfigurationError: it is above 1.
    """
    for name in ("label_noise", "box_noise"):
        if getattr(config, name) > 1:
            raise OptionError(f"{name} must be at most 1, not {getattr(config, name)}", name)


def build(config: Config, card: ModelCard) -> EncoderDecoder:
    """DAB-DETR's parts; what queries carry is new (figure 4)."""
    backbone, heads = build_backbone(config.backbone), dab_detr.heads(config)
    return EncoderDecoder(
        backbone=backbone,
        neck=detr.neck(config, backbone, temperature=config.temperature),
        encoder=dab_detr.encoder(config),
        query_source=query_source(config),
        decoder=dab_detr.decoder(config),
        heads=heads,
        card=card,
    )


def query_source(config: Config) -> LabelledAnchors:
    """The anchors with codes of classes, which are trained also where anchors are not."""
    source = LabelledAnchors(
        denoising(config),
        count=config.queries,
        width=config.width,
        patterns=config.patterns,
        learned_content=config.learned_content,
        centers=config.centers,
    )
    if not config.learn_queries:
        source.requires_grad_(False).denoising.requires_grad_(True)
    return source


def denoising(config: DenoisingSettings) -> LabelDenoising:
    """Codes and noise by the settings."""
    return LabelDenoising(
        width=config.width,
        outputs=config.class_count,
        rows=config.denoising,
        groups=config.denoising_groups,
        label_noise=config.label_noise,
        box_noise=config.box_noise,
    )


def criterion(config: CostSettings, model: Detector | None = None) -> SetCriterion:  # noqa: ARG001 - for papers with masks
    """DAB-DETR's set loss; the losses of noised objects are weighted like those of the queries.

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
        sets=[DenoisedGroup(LabelDenoising.name)],
    )


def selection(config: Config, categories: Sequence[Category], model: Detector | None = None) -> TopKSelection:
    """DAB-DETR's."""
    return dab_detr.selection(config, categories, model)


def _published(folder: str, ap: float, tag: str) -> tuple[PublishedWeights, ...]:
    return (PublishedWeights(f"https://drive.google.com/drive/folders/{folder}", ap, "Apache-2.0", tag=tag),)


_PATTERNS: dict[str, Any] = {"patterns": 3, "queries": 900}
SOURCE = Source("IDEA-Research/DN-DETR", "ff3902a", "Apache-2.0", "2203.01305")
RECIPE = dab_detr.RECIPE
RECIPE_12 = Recipe(epochs=12, batch_size=16, drop_after=11 / 12)
VARIANTS: dict[str, Variant] = {
    "dn-dab-detr-r50": Variant(
        Config(), RECIPE, weights=_published("1kuwScU8PhN61qQOl5bbiPhKAYbzDHsWs", 0.444, "50 epochs")
    ),
    "dn-dab-detr-r50-dc5": Variant(
        Config(backbone="resnet50-dc5"),
        RECIPE,
        weights=_published("1jr8BdDdMu8esABXdU3lNY7fpWVxAJtWa", 0.463, "50 epochs"),
    ),
    "dn-dab-detr-r50-dc5-3patterns": Variant(
        Config(backbone="resnet50-dc5", **_PATTERNS),
        RECIPE_12,
        weights=_published("1jWSIWTWgoiIvyA7w2xIkdk-B1pS2atPA", 0.417, "12 epochs"),
    ),
    "dn-dab-detr-r101": Variant(Config(backbone="resnet101"), RECIPE),
    "dn-dab-detr-r101-dc5": Variant(Config(backbone="resnet101-dc5"), RECIPE),
    "dn-dab-detr-r101-dc5-3patterns": Variant(
        Config(backbone="resnet101-dc5", **_PATTERNS),
        RECIPE_12,
        weights=_published("1elPn06gs8mNxR3jtE53zi4cK5qLGH0AV", 0.428, "12 epochs"),
    ),
    # Like DAB-DETR's, with few rows for small memories.
    "dn-dab-detr-compact": Variant(
        Config(**conditional_detr.COMPACT, least_side=0.01, normed_references=True, denoising=100),
        conditional_detr.COMPACT_RECIPE,
        conditional_detr.COMPACT_PREPROCESSING,
    ),
}
