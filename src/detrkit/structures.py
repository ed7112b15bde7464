"""Everything that flows through a detector: typed values, shapes in the docstrings, nothing else.

Symbols, here and in every other file: B images in a batch, (H, W) size of the padded batch, (h, w) size of a feature map, C channels of a
backbone level, D width of the transformer, S tokens of memory, Q queries, L decoder layers, K outputs of the class head, N objects in an image.

Boxes say their format in their name: `boxes_cxcywh` are centre x, centre y, width, height in [0, 1] of the image without its padding;
`boxes_xyxy` are corners in pixels. Inputs and outputs of models are registered as pytrees, so `torch.export` accepts them as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Self, TypeVar, dataclass_transform

import torch
from torch import Tensor

_Type = TypeVar("_Type")


@dataclass_transform(frozen_default=True)
def record(cls: type[_Type]) -> type[_Type]:
    """Turns a class into a frozen dataclass and a pytree, so that `torch.export` accepts it as a model's input or output."""
    frozen = dataclass(frozen=True, repr=False)(cls)
    torch.export.register_dataclass(frozen, serialized_type_name=f"detrkit.{cls.__name__}")
    return frozen


class TensorRecord:
    """Moves every tensor of a dataclass at once: `.to(...)` and `.pin_memory()`, as for a single tensor. Its `repr` is a line with shapes."""

    def __repr__(self) -> str:
        values = ((part.name, getattr(self, part.name)) for part in dataclasses.fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={_in_short(value)}' for name, value in values)})"

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
        return replace(self, **values)  # type: ignore[type-var]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> Self:
        """A copy whose tensors are moved to a device; a dtype applies to floating-point tensors only."""

        def move(tensor: Tensor) -> Tensor:
            new_dtype = dtype if tensor.is_floating_point() else None
            return tensor.to(device=device, dtype=new_dtype, non_blocking=non_blocking)

        return self._map(move)

    def pin_memory(self) -> Self:
        """A copy whose tensors lie in page-locked memory, from which copies to a GPU can overlap with computation."""
        return self._map(lambda tensor: tensor.pin_memory())


def _in_short(value: Any) -> str:
    """A value of a record in a line: of tensors only shape and type."""
    if isinstance(value, Tensor):
        where = "" if value.device.type == "cpu" else f" {value.device}"
        return f"<{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}{where}>"
    if isinstance(value, tuple):
        return f"({', '.join(map(_in_short, value))})"
    return repr(value)


@record
class ImageBatch(TensorRecord):
    """The images of one batch, padded at the right and bottom to a common size.

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

    def image_sizes(self) -> Tensor:
        """(B, 2) float32 width and height in pixels of each image without its padding."""
        batch, _, height, width = self.pixels.shape
        if self.padding is None:
            return _filled(width, height, like=self.pixels).expand(batch, -1)
        return _extent(~self.padding)


@record
class Target(TensorRecord):
    """The objects in one image; an image without objects is normal.

    Attributes:
        labels: (N,) int64 indices of the class head's outputs.
        boxes_cxcywh: (N, 4) in [0, 1] of the image without its padding.
        masks: (N, H, W) bool, the pixels of each object, at the size of the image without its padding; None for data without masks.
    """

    labels: Tensor
    boxes_cxcywh: Tensor
    masks: Tensor | None = None


@record
class FeatureMap(TensorRecord):
    """One level of a backbone.

    Attributes:
        features: (B, C, h, w).
        padding: (B, h, w) bool, True where padded, or None where nothing is padded.
        stride: image pixels per cell.
    """

    features: Tensor
    padding: Tensor | None
    stride: int


@record
class Levels(TensorRecord):
    """Backbone levels brought to the transformer's width, with their position codes.

    Attributes:
        maps: each (B, D, h, w).
        positions: each (B, D, h, w), computed in float32 and cast to the maps' type; None for papers that add none to memory.
        paddings: each (B, h, w) bool or None.
    """

    maps: tuple[Tensor, ...]
    positions: tuple[Tensor, ...] | None
    paddings: tuple[Tensor | None, ...]


@record
class Memory(TensorRecord):
    """What the decoder looks at: the tokens of all levels, row by row, level after level. Built by `Memory.of`.

    Attributes:
        tokens: (B, S, D).
        positions: (B, S, D) position codes of the tokens; None for papers that add none to memory.
        padding: (B, S) bool, True where padded, or None where nothing is padded.
        level_sizes: (h, w) of each level; the sum of h · w is S.
        image_sizes: (B, 2) float32 width and height in pixels of each image without its padding.
        sizes: (levels, 2) float32 width and height of each level in cells, padding included.
        valid_sizes: (B, levels, 2) float32 width and height in cells of each level's part without padding, counted in its first row and column.
    """

    tokens: Tensor
    positions: Tensor | None
    padding: Tensor | None
    level_sizes: tuple[tuple[int, int], ...]
    image_sizes: Tensor
    sizes: Tensor
    valid_sizes: Tensor

    @classmethod
    def of(
        cls,
        tokens: Tensor,
        positions: Tensor | None,
        padding: Tensor | None,
        level_sizes: tuple[tuple[int, int], ...],
        image_sizes: Tensor,
    ) -> Self:
        """Builds memory and computes its sizes in cells from levels and padding; the arguments are the attributes of the same names."""
        sizes = torch.cat([_filled(width, height, like=tokens) for height, width in level_sizes])
        valid_sizes = sizes.expand(tokens.shape[0], -1, -1)
        if padding is not None:
            visible = _as_images(~padding, level_sizes)
            valid_sizes = torch.stack([_extent(level) for level in visible], dim=1)
        return cls(tokens, positions, padding, level_sizes, image_sizes, sizes, valid_sizes)

    def maps(self) -> tuple[Tensor, ...]:
        """The levels as images again, each (B, D, h, w)."""
        return tuple(level.movedim(-1, 1) for level in _as_images(self.tokens, self.level_sizes))

    def padding_maps(self) -> tuple[Tensor | None, ...]:
        """The padding of each level, (B, h, w) bool, or None for each where nothing is padded."""
        if self.padding is None:
            return (None,) * len(self.level_sizes)
        return _as_images(self.padding, self.level_sizes)

    def level(self, index: int) -> Self:
        """The memory of one level alone.

        Args:
            index: 0 for the finest level.
        """
        counts = [height * width for height, width in self.level_sizes]
        index = range(len(counts))[index]  # also from the end
        rows = slice(sum(counts[:index]), sum(counts[: index + 1]))
        return replace(
            self,
            tokens=self.tokens[:, rows],
            positions=None if self.positions is None else self.positions[:, rows],
            padding=None if self.padding is None else self.padding[:, rows],
            level_sizes=(self.level_sizes[index],),
            sizes=self.sizes[index : index + 1],
            valid_sizes=self.valid_sizes[:, index : index + 1],
        )

    def valid_ratios(self) -> Tensor:
        """(B, levels, 2) float32 share of each level's width and height that is not padding: times this, a fraction of the image is a fraction of the map."""
        return self.valid_sizes / self.sizes


def _as_images(values: Tensor, level_sizes: tuple[tuple[int, int], ...]) -> tuple[Tensor, ...]:
    """Splits (B, S, ...) rows of all levels into one (B, h, w, ...) per level."""
    parts = torch.split(values, [height * width for height, width in level_sizes], dim=1)
    return tuple(torch.unflatten(part, 1, size) for part, size in zip(parts, level_sizes, strict=True))


def _extent(visible: Tensor) -> Tensor:
    """(B, h, w) bool to (B, 2) float32: how many cells of the first row and of the first column are True."""
    return torch.stack([visible[:, 0].sum(1), visible[:, :, 0].sum(1)], dim=-1).to(torch.float32)


def _filled(*numbers: int, like: Tensor) -> Tensor:
    """(1, len(numbers)) float32 on the device of `like`; sizes stay symbols when a graph is exported."""
    return torch.stack([torch.full((), number, dtype=torch.float32, device=like.device) for number in numbers])[None]


@record
class LayerOutput(TensorRecord):
    """The predictions of one decoder layer, or the proposals of an encoder.

    Attributes:
        logits: (B, Q, K) raw class scores.
        boxes_cxcywh: (B, Q, 4) in [0, 1] of the image without its padding.
    """

    logits: Tensor
    boxes_cxcywh: Tensor


@record
class Proposals(TensorRecord):
    """What a two-stage model's encoder proposes; papers train all proposals or only those that became queries.

    Attributes:
        all: the proposals of all memory tokens, (B, S, ...), or None where they are not computed.
        chosen: the proposals that became queries, (B, Q, ...), or None where the criterion does not use them.
        rows: (B, Q) int64, the row of memory that each query came from, or None where queries come from elsewhere.
    """

    all: LayerOutput | None = None
    chosen: LayerOutput | None = None
    rows: Tensor | None = None


@record
class QueryGroup(TensorRecord):
    """Queries that exist in training only, in addition to the model's own.

    Attributes:
        name: what the names of their losses begin with.
        rows: R, the number of these queries per image.
        objects: (B, R) int64, the index of the object that each query has to restore, among the objects of its image; -1 for none. None
            for a group that is matched by the Hungarian method, against targets that are repeated `repeats` times.
        repeats: how many of these queries are trained on each object; losses are divided by it.
        counted: (B, R) bool, the rows that count in the class loss; None where all do.
    """

    name: str
    rows: int
    objects: Tensor | None = None
    repeats: int = 1
    counted: Tensor | None = None


@record
class Queries(TensorRecord):
    """What each query carries into the decoder.

    Attributes:
        content: (B, Q, D) what the query starts with.
        position: (B, Q, D) position code of where it looks; None for papers that compute it anew in every layer.
        references: (B, Q, 2) points or (B, Q, 4) boxes cxcywh in [0, 1] of the image without its padding, where the first layer
            looks; None for papers without references.
        proposals: in a two-stage model, what the encoder proposes; the queries are the best of these proposals.
        training_groups: the groups of training queries, whose rows follow those of the model's own queries, group after group.
        mask: for attention among queries, bool, True where a query (row) may see another; broadcastable to (B, M, Q, Q). None where every
            query may see every other.
    """

    content: Tensor
    position: Tensor | None
    references: Tensor | None = None
    proposals: Proposals | None = None
    training_groups: tuple[QueryGroup, ...] = ()
    mask: Tensor | None = None


@record
class Decoded(TensorRecord):
    """What the decoder returns.

    Attributes:
        states: (L, B, Q, D) the queries' states after every layer, ready for the heads.
        base_logits: (L, B, Q, 4) box logits that the box head's output is added to; None for papers without references.
        references: where each layer looked, as in `Queries`; empty for papers without references.
    """

    states: Tensor
    base_logits: Tensor | None = None
    references: tuple[Tensor, ...] = ()


@record
class GroupOutput(TensorRecord):
    """The predictions of one training group.

    Attributes:
        group: the group that they belong to.
        output: predictions of its R queries, in every decoder layer.
    """

    group: QueryGroup
    output: Output


@record
class Output(TensorRecord):
    """The predictions of all decoder layers, stacked; the last layer is the result.

    Attributes:
        logits: (L, B, Q, K) raw class scores.
        boxes_cxcywh: (L, B, Q, 4) in [0, 1] of the image without its padding.
        proposals: in a two-stage model, what the encoder proposes.
        training_groups: the predictions of queries that exist in training only.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    proposals: Proposals | None = None
    training_groups: tuple[GroupOutput, ...] = ()

    def split(self, counts: Sequence[int]) -> tuple[Self, ...]:
        """The predictions of several kinds of queries, each as an output of its own; a paper whose output holds more splits that, too.

        Args:
            counts: how many queries there are of each kind; they lie one kind after the other.
        """
        parts = zip(
            *(torch.split(values, list(counts), dim=2) for values in (self.logits, self.boxes_cxcywh)), strict=True
        )
        return tuple(replace(self, logits=logits, boxes_cxcywh=boxes) for logits, boxes in parts)

    @property
    def layers(self) -> tuple[LayerOutput, ...]:
        """The predictions of each decoder layer, first to last; these are views."""
        return tuple(
            LayerOutput(logits, boxes)
            for logits, boxes in zip(self.logits.unbind(0), self.boxes_cxcywh.unbind(0), strict=True)
        )


class Stages(SimpleNamespace):
    """Every intermediate result of a detector, by name; `output` is the last. See `Detector.stages` for the names."""


@dataclass(frozen=True)
class Shown:
    """A number for people who watch a model learn, as a sum and a count, so that means over many steps are exact.

    Attributes:
        sum: scalar without gradient.
        count: what the sum is divided by; 0 where there was nothing to count.
        percentage: whether the mean is a share, to be written as a percentage.
    """

    sum: Tensor
    count: float | Tensor
    percentage: bool = False


@dataclass(frozen=True)
class Losses:
    """What a criterion returns.

    Attributes:
        total: scalar with gradient, the sum of `criterion.weights[name] * terms[name]`.
        terms: unweighted scalars with gradient by name: `layers.<i>.class`, `layers.<i>.l1`, `layers.<i>.giou`. A two-stage model adds
            `proposals.class` and so on, a training group `<group>.layers.<i>.class` and so on.
        shown: numbers that show how training is going, by name and in display order. Names of losses end in "loss".
    """

    total: Tensor
    terms: dict[str, Tensor]
    shown: dict[str, Shown]

    def __repr__(self) -> str:
        return f"<Losses total {self.total.item():.3f}, {len(self.terms)} terms>"


@record
class Detections(TensorRecord):
    """The best detections of one image, sorted by descending score, still as tensors.

    Attributes:
        scores: (N,) in [0, 1].
        labels: (N,) int64 indices of the class head's outputs.
        boxes_xyxy: (N, 4) corners in pixels of the original image.
        queries: (N,) int64, the query that each came from.
        masks: (N, H, W) bool, the pixels of each, at the size of the original image; None for models without masks.
    """

    scores: Tensor
    labels: Tensor
    boxes_xyxy: Tensor
    queries: Tensor
    masks: Tensor | None = None
