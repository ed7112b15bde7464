"""The interface of every detector, and the skeleton of most papers of the family: six parts, in the order in which data flow.

    ImageBatch -> backbone -> neck -> encoder -> query source -> decoder -> heads -> Output

A paper contributes parts, which are passed in here; nothing below depends on the paper.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from detrkit.backbones import Backbone
from detrkit.cards import ModelCard
from detrkit.errors import ConfigurationError
from detrkit.notebooks import paragraph
from detrkit.structures import GroupOutput, ImageBatch, Levels, Memory, Output, Queries, Stages, Target


class Detector(nn.Module, ABC):
    """All that the rest of detrkit knows about a model. A paper with steps other than those of `EncoderDecoder` subclasses this.

    Every module is registered once, by the part that owns it; other parts get it as an argument. If one tensor had two names, the model
    could not be saved.

    Args:
        backbone: ImageBatch to a tuple of FeatureMap.
        card: what the model is besides its weights.
    """

    stage_names: ClassVar[Mapping[str, str]] = {}  # from a part's name to the name of its result, where the two differ

    def __init__(self, *, backbone: Backbone, card: ModelCard) -> None:
        super().__init__()
        self.backbone, self.card = backbone, card
        self.supervision: nn.Module | None = None  # what `detrkit.models.supervision.supervise` adds in training

    def __repr__(self) -> str:
        return f"<Detector {self.card.summary()}, {self._size()}>"

    def __str__(self) -> str:
        """All modules with their names, as PyTorch prints them."""
        return super().__repr__()

    def _repr_html_(self) -> str:
        """What notebooks show: the number of parameters, and the card."""
        return f"{paragraph(f'A detector with {self._size()}:')}{self.card._repr_html_()}"

    def _size(self) -> str:
        return f"{sum(parameter.numel() for parameter in self.parameters()) / 1e6:.1f} million parameters"

    @abstractmethod
    def forward(self, batch: ImageBatch, targets: Sequence[Target] | None = None) -> Output:
        """Class scores and boxes of every query, from every decoder layer.

        Args:
            batch: normalised images, padded at the right and bottom.
            targets: the objects of each image; only some papers use them, and only in training.

        Returns:
            Predictions of all layers, also in eval mode; those of the last layer are the result.
        """

    def stages(self, batch: ImageBatch, targets: Sequence[Target] | None = None) -> Stages:
        """Runs `forward` and keeps what every part of the model returned.

        Args:
            batch: as in `forward`.
            targets: as in `forward`.

        Returns:
            The last result of each part by the part's name (or the one that `stage_names` gives it), and `output`.
        """
        with _recorded(self) as results:
            output = self(batch, targets)
        named = {self.stage_names.get(part, part): result for part, result in results.items()}
        return Stages(**named | {"output": output})

    @property
    def coarsest_stride(self) -> int:
        """Pixels per cell of the coarsest level. An image must have at least one such cell."""
        return self.backbone.strides[-1]


def unwrapped(model: nn.Module) -> Detector:
    """The detector in a module that wraps it, such as torch.compile, DataParallel, DistributedDataParallel and AveragedModel do.

    Raises:
        ConfigurationError: it is no module, or holds no detector or several.
    """
    if isinstance(model, Detector):
        return model
    if not isinstance(model, nn.Module):
        raise ConfigurationError(
            f"{model!r} is not a detector: give a model that detrkit.build or detrkit.load has returned"
        )
    found = [module for module in model.modules() if isinstance(module, Detector)]
    if len(found) != 1:
        raise ConfigurationError(
            f"the {type(model).__name__} holds {len(found) or 'no'} detectors: give one that detrkit.build or detrkit.load has returned"
        )
    return found[0]


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, Any]]:
    """What the direct parts of a model return while the context is open, by their names."""
    results: dict[str, Any] = {}
    thread = threading.get_ident()  # others may run the same model meanwhile

    def keep(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, result: Any) -> None:  # noqa: ARG001 - torch requires these parameters
            if threading.get_ident() == thread:
                results[name] = result

        return hook

    handles = [part.register_forward_hook(keep(name)) for name, part in model.named_children()]
    try:
        yield results
    finally:
        for handle in handles:
            handle.remove()


class EncoderDecoder(Detector):
    """A detector made of six parts.

    Args:
        backbone: ImageBatch to a tuple of FeatureMap.
        neck: FeatureMaps (and the images' padding, for levels that the neck adds) to Levels.
        encoder: Memory to Memory.
        query_source: Memory (and the targets, for papers that make training queries from them) to Queries.
        decoder: Queries, Memory and the heads to Decoded; it gets the heads because some papers predict boxes between layers.
        heads: Decoded to Output.
        card: what the model is besides its weights.
    """

    stage_names = {"encoder": "memory", "query_source": "queries", "decoder": "decoded"}  # noqa: RUF012 - declared in the base class

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: nn.Module,
        encoder: nn.Module,
        query_source: nn.Module,
        decoder: nn.Module,
        heads: nn.Module,
        card: ModelCard,
    ) -> None:
        super().__init__(backbone=backbone, card=card)
        self.neck, self.encoder = neck, encoder
        self.query_source, self.decoder, self.heads = query_source, decoder, heads

    def forward(self, batch: ImageBatch, targets: Sequence[Target] | None = None) -> Output:
        """See `Detector.forward`."""
        # Features and levels get no name, so that they are freed early: Deformable DETR at 800 x 1066 has 47 MB and 36 MB of them, which the
        # encoder no longer needs.
        memory = self.encoder(
            flatten_levels(self.neck(self.backbone(without_padding(batch)), batch.padding), batch.image_sizes())
        )
        queries = self.make_queries(memory, targets)
        if self.training and self.supervision is not None:
            queries = self.supervision(queries, memory, targets, self.query_source)
        return with_queries(self.heads(self.decoder(queries, memory, self.heads)), queries)

    def make_queries(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:
        """What goes into the decoder; papers whose query source needs another part override this and hand it over.

        Args:
            memory: the encoded image.
            targets: as in `forward`.
        """
        return self.query_source(memory, targets)  # type: ignore[no-any-return]

    @property
    def coarsest_stride(self) -> int:
        """See `Detector.coarsest_stride`; the neck may add levels coarser than the backbone's."""
        stride: int = getattr(self.neck, "coarsest_stride", self.backbone.strides[-1])
        return stride


def with_queries(output: Output, queries: Queries) -> Output:
    """Adds the proposals to the heads' predictions, and separates training groups from the model's own queries."""
    if not queries.training_groups:
        return replace(output, proposals=queries.proposals)
    counts = [group.rows for group in queries.training_groups]
    counts.insert(0, output.logits.shape[2] - sum(counts))
    model_output, *group_outputs = output.split(counts)
    groups = zip(queries.training_groups, group_outputs, strict=True)
    return replace(
        model_output,
        proposals=queries.proposals,
        training_groups=tuple(GroupOutput(group, group_output) for group, group_output in groups),
    )


def without_padding(batch: ImageBatch) -> ImageBatch:
    """The batch with its padded pixels set to zero, so that their values cannot matter."""
    if batch.padding is None:
        return batch
    return replace(batch, pixels=batch.pixels.masked_fill(batch.padding[:, None], 0.0))


def flatten_levels(levels: Levels, image_sizes: Tensor) -> Memory:
    """The cells of all levels as tokens, row by row, level after level.

    Args:
        levels: each (B, D, h, w).
        image_sizes: (B, 2) float32 width and height in pixels of each image without its padding.
    """

    def tokens(maps: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)  # (B, S, D)

    paddings = [padding.flatten(1) for padding in levels.paddings if padding is not None]
    return Memory.of(
        tokens=tokens(levels.maps),
        positions=None if levels.positions is None else tokens(levels.positions),
        padding=torch.cat(paddings, dim=1) if paddings else None,
        level_sizes=tuple((level.shape[-2], level.shape[-1]) for level in levels.maps),
        image_sizes=image_sizes,
    )
