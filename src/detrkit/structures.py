"""Everything that flows through a detector: typed values, shapes in the docstrings, nothing else.

Symbols, here and in every other file: B images in a batch, (H, W) size of the padded batch, (h, w) size of a feature map, C channels of a
backbone level, D width of the transformer, S tokens of memory, Q queries, L decoder layers, K outputs of the class head, N objects of an image.

Boxes say their format in their name: `boxes_cxcywh` are centre x, centre y, width, height in [0, 1] of the image without its padding;
`boxes_xyxy` are corners in pixels. What goes into a model and comes out of it is registered as a pytree, so `torch.export` takes it as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor


class TensorRecord:
    """Moves every tensor of a dataclass at once: `.to(...)` and `.pin_memory()`, as for a single tensor."""

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        def visit(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, TensorRecord):
                return value._map(change)
            if isinstance(value, tuple):
                return tuple(visit(item) for item in value)
            if isinstance(value, dict):
                return {name: visit(item) for name, item in value.items()}
            return value

        values = {part.name: visit(getattr(self, part.name)) for part in dataclasses.fields(self)}  # type: ignore[arg-type]
        return type(self)(**values)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> Self:
        """A copy whose tensors are moved to a device; a dtype applies to floating-point tensors only."""

        def move(tensor: Tensor) -> Tensor:
            wanted = dtype if tensor.is_floating_point() else None
            return tensor.to(device=device, dtype=wanted, non_blocking=non_blocking)

        return self._map(move)

    def pin_memory(self) -> Self:
        """A copy whose tensors lie in page-locked memory, from which copies to a GPU can overlap with work."""
        return self._map(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class ImageBatch(TensorRecord):
    """Images of one batch, padded to a common size at the right and below.

    Attributes:
        pixels: (B, 3, H, W) normalised floats. Values behind padding may be anything: the detector zeroes them.
        padding: (B, H, W) bool, True where padded; None where no image is padded (then no mask reaches attention).
        image_ids: (B,) int64 identifiers of the images in their data set, or None.
        original_sizes: (B, 2) int64 height and width of the image files before any resizing, or None.
    """

    pixels: Tensor
    padding: Tensor | None = None
    image_ids: Tensor | None = None
    original_sizes: Tensor | None = None


@dataclass(frozen=True)
class Target(TensorRecord):
    """The objects of one image; none at all is normal.

    Attributes:
        labels: (N,) int64 indices of the class head's outputs.
        boxes_cxcywh: (N, 4) in [0, 1] of the image without its padding.
    """

    labels: Tensor
    boxes_cxcywh: Tensor


@dataclass(frozen=True)
class FeatureMap(TensorRecord):
    """One level of a backbone.

    Attributes:
        features: (B, C, h, w).
        padding: (B, h, w) bool, True where padded, or None where nothing is.
        stride: pixels of the image for one cell.
    """

    features: Tensor
    padding: Tensor | None
    stride: int


@dataclass(frozen=True)
class Levels(TensorRecord):
    """Backbone levels brought to the transformer's width, with their position codes.

    Attributes:
        maps: each (B, D, h, w).
        positions: each (B, D, h, w), computed in float32 and cast to the maps' type.
        paddings: each (B, h, w) bool or None.
    """

    maps: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]
    paddings: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Memory(TensorRecord):
    """What the decoder looks at: the tokens of all levels, row by row, level after level.

    Attributes:
        tokens: (B, S, D).
        positions: (B, S, D) position codes of the tokens.
        padding: (B, S) bool, True where padded, or None where nothing is.
        level_sizes: (h, w) of each level; the sum of h · w is S.
    """

    tokens: Tensor
    positions: Tensor
    padding: Tensor | None
    level_sizes: tuple[tuple[int, int], ...]

    def maps(self) -> tuple[Tensor, ...]:
        """The levels again as images, each (B, D, h, w)."""
        parts = torch.split(self.tokens, [height * width for height, width in self.level_sizes], dim=1)
        return tuple(
            torch.unflatten(part.transpose(1, 2), 2, size) for part, size in zip(parts, self.level_sizes, strict=True)
        )

    def sizes(self) -> Tensor:
        """(levels, 2) float32 width and height of each level in cells, padding included."""
        return torch.stack([self._cells(width, height) for height, width in self.level_sizes])

    def valid_sizes(self) -> Tensor:
        """(B, levels, 2) float32 width and height in cells of what is image, not padding, from the first row and column."""
        if self.padding is None:
            return self.sizes().expand(self.tokens.shape[0], -1, -1)
        parts = torch.split(~self.padding, [height * width for height, width in self.level_sizes], dim=1)
        inside = [torch.unflatten(part, 1, size) for part, size in zip(parts, self.level_sizes, strict=True)]
        counts = [torch.stack([image[:, 0].sum(1), image[:, :, 0].sum(1)], dim=-1) for image in inside]
        return torch.stack(counts, dim=1).to(torch.float32)

    def valid_ratios(self) -> Tensor:
        """(B, levels, 2) float32 share of each level's width and height that is image: brings image fractions to map fractions."""
        return self.valid_sizes() / self.sizes()

    def _cells(self, width: int, height: int) -> Tensor:
        return torch.stack(
            [torch.full((), side, dtype=torch.float32, device=self.tokens.device) for side in (width, height)]
        )


@dataclass(frozen=True)
class LayerOutput(TensorRecord):
    """The predictions of one decoder layer, or an encoder's proposals.

    Attributes:
        logits: (B, Q, K) raw class scores.
        boxes_cxcywh: (B, Q, 4) in [0, 1] of the image without its padding.
    """

    logits: Tensor
    boxes_cxcywh: Tensor


@dataclass(frozen=True)
class QueryGroup(TensorRecord):
    """Queries that exist in training only, beside the model's own.

    Attributes:
        name: beginning of the names of their losses.
        objects: (B, R) int64, the object of its image that each of them answers for, -1 for none.
        repeats: how many of them answer for each object, by which their losses are divided.
    """

    name: str
    objects: Tensor
    repeats: int


@dataclass(frozen=True)
class Queries(TensorRecord):
    """What each query carries into the decoder.

    Attributes:
        content: (B, Q, D) what it starts with.
        position: (B, Q, D) where it looks, as a code.
        references: (B, Q, 2) points or (B, Q, 4) boxes cxcywh in [0, 1] of the image without its padding, where the first layer
            looks; None in a paper without references.
        proposals: of a two-stage model: what every token of memory proposes, (B, S, ...); the queries are the best of them.
        training_groups: the last rows of the above that are not the model's own queries, group after group.
        attention_mask: (B, Q, Q) bool, True where a query (row) may see another; None where all see all.
    """

    content: Tensor
    position: Tensor
    references: Tensor | None = None
    proposals: LayerOutput | None = None
    training_groups: tuple[QueryGroup, ...] = ()
    attention_mask: Tensor | None = None


@dataclass(frozen=True)
class Decoded(TensorRecord):
    """What the decoder found.

    Attributes:
        states: (L, B, Q, D) of every layer, as the heads take them.
        base_logits: (L, B, Q, 4) box logits that the box head's output is added to; None in a paper without references.
        references: what each layer started from, as in `Queries`; empty in a paper without references.
    """

    states: Tensor
    base_logits: Tensor | None = None
    references: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class GroupOutput(TensorRecord):
    """The predictions of one training group.

    Attributes:
        group: which.
        logits: (L, B, R, K) raw class scores.
        boxes_cxcywh: (L, B, R, 4) in [0, 1] of the image without its padding.
    """

    group: QueryGroup
    logits: Tensor
    boxes_cxcywh: Tensor


@dataclass(frozen=True)
class Output(TensorRecord):
    """The predictions of all decoder layers, stacked; the last layer is the result.

    Attributes:
        logits: (L, B, Q, K) raw class scores.
        boxes_cxcywh: (L, B, Q, 4) in [0, 1] of the image without its padding.
        proposals: of a two-stage model: what every token of memory proposes, (B, S, K) and (B, S, 4).
        training_groups: what queries found that are there in training only.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    proposals: LayerOutput | None = None
    training_groups: tuple[GroupOutput, ...] = ()

    @property
    def layers(self) -> tuple[LayerOutput, ...]:
        """One view for each decoder layer, first to last."""
        return tuple(
            LayerOutput(logits, boxes)
            for logits, boxes in zip(self.logits.unbind(0), self.boxes_cxcywh.unbind(0), strict=True)
        )


@dataclass(frozen=True)
class Stages(TensorRecord):
    """Every intermediate result of a detector, by the name of the part that made it."""

    backbone: tuple[FeatureMap, ...]
    neck: Levels
    memory: Memory
    queries: Queries
    decoded: Decoded
    output: Output


@dataclass(frozen=True)
class Losses:
    """What a criterion returns.

    Attributes:
        total: scalar with gradient, the sum of `criterion.weights[name] * terms[name]`.
        terms: unweighted scalars with gradient by name: `layers.<i>.class`, `layers.<i>.l1`, `layers.<i>.giou`; of a two-stage model also
            `proposals.class` and so on, and of training groups `<group>.layers.<i>.class` and so on.
        statistics: numbers of the last layer without gradient, for showing how learning goes: `objects` in the batch, `matched` of them,
            and how many of these were given the right class (`correct`).
    """

    total: Tensor
    terms: dict[str, Tensor]
    statistics: dict[str, Tensor]


@dataclass(frozen=True)
class Detections(TensorRecord):
    """The best detections of one image, sorted by falling score, still as tensors.

    Attributes:
        scores: (N,) in [0, 1].
        labels: (N,) int64 indices of the class head's outputs.
        boxes_xyxy: (N, 4) corners in pixels of the original image.
        queries: (N,) int64, the query that each came from.
    """

    scores: Tensor
    labels: Tensor
    boxes_xyxy: Tensor
    queries: Tensor


@dataclass(frozen=True)
class Category:
    """One class of objects.

    Attributes:
        id: the number that annotation and result files use for it.
        name: what people call it.
        index: the output of the class head that stands for it.
    """

    id: int
    name: str
    index: int


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes pixels of a batch when nothing is left to chance (evaluation, prediction).

    Attributes:
        short_side: pixels that the shorter side is resized to.
        long_side: limit of the longer side in pixels; it wins over `short_side`.
        mean: of the red, green and blue channel, for values in [0, 1].
        deviation: standard deviation of the same.
    """

    short_side: int = 800
    long_side: int = 1333
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Recipe:
    """How a variant is trained; the defaults are DETR's.

    Attributes:
        learning_rate: of everything but the backbone.
        backbone_learning_rate: of the backbone.
        weight_decay: of all parameters, norms and embeddings too, as the authors do.
        gradient_clip: largest norm of the gradient over all parameters.
        epochs: passes over the training images.
        batch_size: images in a step, over all devices and accumulated batches together.
        schedule: "step" (one drop to a tenth) or "cosine" (down to zero).
        drop_after: share of the epochs after which a step schedule drops.
        warmup_steps: steps over which the learning rate rises from zero.
        slow_parts: parts of parameter names, between dots, that learn at a tenth of the others' rate.
    """

    learning_rate: float = 1e-4
    backbone_learning_rate: float = 1e-5
    weight_decay: float = 1e-4
    gradient_clip: float = 0.1
    epochs: int = 500
    batch_size: int = 64
    schedule: Literal["step", "cosine"] = "step"
    drop_after: float = 0.8
    warmup_steps: int = 0
    slow_parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelCard:
    """What a detector is, beside its weights: all that a checkpoint keeps so that nothing has to be told twice.

    Attributes:
        family: the paper's model file, such as `detr`.
        variant: the catalog's name that it was built from.
        config: the fields of the family's configuration.
        categories: the classes that it can report; outputs of the class head without one are never reported.
        preprocessing: how images have to be prepared.
        threshold: score from which a detection is worth showing.
        metrics: figures measured with these weights, by name.
    """

    family: str
    variant: str
    config: Mapping[str, Any]
    categories: tuple[Category, ...]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    threshold: float = 0.5
    metrics: Mapping[str, float] = field(default_factory=dict)


for _type in (
    ImageBatch,
    Target,
    FeatureMap,
    Levels,
    Memory,
    QueryGroup,
    Queries,
    Decoded,
    LayerOutput,
    GroupOutput,
    Output,
    Stages,
    Detections,
):
    torch.export.register_dataclass(_type, serialized_type_name=f"detrkit.{_type.__name__}")
