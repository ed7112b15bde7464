"""What is known about a model besides its weights: plain values that models, checkpoints, data and training share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from detrkit.notebooks import paragraph, shown, table

PolicyName = Literal["detr", "sizes", "light", "strong", "none"]  # of augmentation


@dataclass(frozen=True)
class Category:
    """One class of objects.

    Attributes:
        id: the number that annotation and result files use for it.
        name: what people call it.
        index: the output of the class head that stands for it.
        thing: True for objects that can be counted, False for stuff such as sky or grass, which is one segment of an image.
    """

    id: int
    name: str
    index: int
    thing: bool = True


class Colours(NamedTuple):
    """Which colours a network expects in the pixels of its images.

    Attributes:
        mean: means of the channels, for values in [0, 1].
        deviation: standard deviations of the same channels.
        channels: their order, "rgb" or "bgr"; mean and deviation are of red, green and blue all the same.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: Literal["rgb", "bgr"] = "rgb"


IMAGENET_COLOURS = Colours()
# Of the networks that were trained with Caffe, as detectron2 has them: values from 0 to 255, which are not scaled.
CAFFE_COLOURS = Colours((123.675 / 255, 116.28 / 255, 103.53 / 255), (1 / 255,) * 3, "bgr")


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes pixels of a batch when nothing is random (evaluation, prediction).

    Attributes:
        short_side: pixels that the shorter side is resized to.
        long_side: limit of the longer side in pixels; it takes precedence over `short_side`.
        mean: means of the red, green and blue channels, for values in [0, 1].
        deviation: standard deviations of the same channels.
        smallest_side: least height and width of a batch in pixels; smaller images are padded to it. It must be at least one cell of the
            model's coarsest level.
        channels: the order of the colours in the pixels: "rgb", or "bgr" as OpenCV reads images and Caffe's networks expect them.
    """

    short_side: int = 800
    long_side: int = 1333
    mean: tuple[float, float, float] = IMAGENET_COLOURS.mean
    deviation: tuple[float, float, float] = IMAGENET_COLOURS.deviation
    smallest_side: int = 64
    channels: Literal["rgb", "bgr"] = IMAGENET_COLOURS.channels

    @property
    def colours(self) -> Colours:
        """What is alike for all images of a network, whatever their size."""
        return Colours(self.mean, self.deviation, self.channels)

    def with_colours(self, colours: Colours) -> Preprocessing:
        """The same, with other colours."""
        return replace(self, **colours._asdict())


@dataclass(frozen=True)
class Recipe:
    """How a variant is trained; rates, decay and clipping are DETR's unless a paper says otherwise.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per optimizer step, counting all pieces that a batch is split into.
        learning_rate: AdamW's learning rate for everything but the backbone.
        backbone_learning_rate: learning rate of the backbone; 0 leaves it unchanged.
        weight_decay: decay of all parameters, including embeddings, as in the authors' code; see `decay_norms`.
        gradient_clip: largest norm of the gradient over all parameters; larger gradients are scaled down to this norm.
        schedule: "step" (rates drop to a tenth, usually once), "cosine" (rates fall to zero along half a wave), or "flat-cosine" (likewise, after a flat part).
        drop_after: share of the run, above 0 and at most 1, after which the rates of "step" drop and those of "flat-cosine" fall.
        warmup_steps: optimizer steps over which the rates rise from zero.
        slow_parts: components of parameter names (the text between dots) whose parameters learn at a tenth of `learning_rate`.
        adamw_parts: components of parameter names whose parameters AdamW trains, with the clipping, while SGD with a momentum of 0.9 trains all
            others, without it. Empty where AdamW trains everything.
        sgd_factor: factor of `learning_rate` for what SGD trains, except for the backbone, which has a rate of its own.
        decay_norms: whether the decay also applies to norms.
        second_drop_after: share of the run after which the rates of "step" drop once more; None for a single drop.
        augmentation: name of the policy by which training images vary.
    """

    epochs: int
    batch_size: int
    learning_rate: float = 1e-4
    backbone_learning_rate: float = 1e-5
    weight_decay: float = 1e-4
    gradient_clip: float = 0.1
    schedule: Literal["step", "cosine", "flat-cosine"] = "step"
    drop_after: float = 0.8
    warmup_steps: int = 0
    slow_parts: tuple[str, ...] = ()
    adamw_parts: tuple[str, ...] = ()
    sgd_factor: float = 1.0
    decay_norms: bool = True
    second_drop_after: float | None = None
    augmentation: PolicyName = "detr"


@dataclass(frozen=True)
class ModelCard:
    """What a detector is besides its weights: all that a checkpoint stores so that users need not repeat it.

    Attributes:
        family: the paper's model file, such as `detr`.
        variant: the name in the catalog that it was built from.
        config: the fields of the family's configuration.
        categories: the classes that it can report; an output of the class head without a category is never reported.
        preprocessing: how images must be prepared.
        threshold: the lowest score at which a detection is worth showing.
        class_thresholds: the same for single classes, by `Category.index`; `threshold` applies to the others.
        nms: IoU above which a detection that repeats a better one of its class is not worth showing; None for a model that reports each
            object once.
        metrics: figures measured with these weights, by name.
    """

    family: str
    variant: str
    config: Mapping[str, Any]
    categories: tuple[Category, ...]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    threshold: float = 0.5
    class_thresholds: Mapping[int, float] = field(default_factory=dict)
    nms: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<ModelCard {self.summary()}>"

    def summary(self) -> str:
        """The card in one line of text."""
        number = len(self.categories)
        figures = "".join(
            f", {name} {value:.3f}" for name in ("AP", "AP50") if (value := self.metrics.get(name)) is not None
        )
        return (
            f"{self.variant}: {number} {'class' if number == 1 else 'classes'}, threshold {self.threshold:.3f}{figures}"
        )

    def _repr_html_(self) -> str:
        """What notebooks show: the variant, its figures, and its classes with their thresholds."""
        size = self.preprocessing
        text = (
            f"Images are resized to {size.short_side} × {size.long_side} pixels at most; threshold {self.threshold:.3f}"
        )
        text += "." if self.nms is None else f", NMS from IoU {self.nms:.2f}."
        rows = [
            (each.name, each.id, float(self.class_thresholds.get(each.index, self.threshold)))
            for each in self.categories
        ]
        figures = table(("figure", "value"), [(name, float(value)) for name, value in self.metrics.items()])
        classes = table(("class", "id", "threshold"), rows)
        return shown(f"{self.variant} ({self.family})", paragraph(text), figures if self.metrics else "", classes)


@dataclass(frozen=True)
class Source:
    """The authors' own code, which a paper's file was written from and is compared with.

    Attributes:
        repository: its owner and name on GitHub.
        commit: the state that was read.
        licence: SPDX name of its licence; None where the authors state none.
        paper: number of the paper at arXiv.
    """

    repository: str
    commit: str
    licence: str | None
    paper: str


@dataclass(frozen=True)
class PublishedResult:
    """Figures that the authors published of a model whose weights they do not offer.

    Attributes:
        ap: AP on COCO val2017, in [0, 1].
        tag: what distinguishes it from other results of the same variant, such as "50 epochs"; empty where it is the only one.
    """

    ap: float
    tag: str = ""


@dataclass(frozen=True)
class PublishedWeights:
    """A file of trained weights that the authors offer.

    Attributes:
        address: where the file is offered.
        ap: the published AP on COCO val2017, in [0, 1].
        licence: SPDX name of its licence.
        sha256_prefix: first digits of its SHA-256, as the authors publish them in its name; None where they publish none.
        tag: what distinguishes it from other files of the same variant, such as "50 epochs"; empty where it is the only one.
        mask_ap: the published AP of masks, likewise; None for models without masks.
        panoptic_quality: the published PQ, in [0, 1], likewise.
    """

    address: str
    ap: float
    licence: str
    sha256_prefix: str | None = None
    tag: str = ""
    mask_ap: float | None = None
    panoptic_quality: float | None = None


@dataclass(frozen=True)
class Variant:
    """A model that can be built by name: what a paper's file lists.

    Attributes:
        config: the configuration of the paper's family.
        recipe: how it is trained.
        preprocessing: how images are prepared for it.
        weights: what the authors published for it, best AP last.
        results: what the authors published about it without weights, best AP last.
        source: the authors' code, which the catalog takes from the paper's file; None for detrkit's own models.
        exceptions: what holds for other variants but by design not for this one: from the name of a check to a sentence for users.
    """

    config: Any
    recipe: Recipe
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    weights: tuple[PublishedWeights, ...] = ()
    results: tuple[PublishedResult, ...] = ()
    source: Source | None = None
    exceptions: Mapping[str, str] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """Name of the paper's model file, where the configuration is defined."""
        return type(self.config).__module__.rpartition(".")[2]

    @property
    def ap(self) -> float | None:
        """The best AP on COCO val2017 that the authors published; None where they published none."""
        figures = [weights.ap for weights in self.weights] + [result.ap for result in self.results]
        return max(figures, default=None)
