"""One picture through a model, with all that an explanation needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrkit.cards import Category
from detrkit.explaining.attention import (
    CROSS,
    ENCODER,
    DenseLook,
    Look,
    SampledLook,
    layers_of,
    recorded_looks,
    recorded_results,
)
from detrkit.explaining.geometry import Places, corners_in_pixels, in_pixels, tokens_at
from detrkit.explaining.records import Floats
from detrkit.layers.nms_selection import SuppressedSelection
from detrkit.layers.precision import at_least_float32
from detrkit.models.catalog import selection_for
from detrkit.models.detector import Detector, unwrapped
from detrkit.prediction.looking import check_finite
from detrkit.prediction.predictor import Predictor
from detrkit.prediction.streaming import Prepared
from detrkit.structures import Detections, Output, Stages


@dataclass(frozen=True)
class Recording:
    """What a model did with one picture, the only one of its batch.

    Attributes:
        model: the model.
        picture: the original, in RGB.
        stages: what its parts returned.
        cross: where each decoder layer looked; empty for models without a decoder, and without attention to the image.
        encoder: where each encoder layer looked. Dense attention to the cells of a map has rows only for the tokens at the place that was asked for,
            finest level first.
        gaussians: of each decoder layer of SMCA-DETR, logarithms (1, M, Q, S), or a list of such for each level; otherwise empty.
        aligned: of each decoder layer of SAM-DETR an `Aligned`; otherwise empty.
        detections: all that the model's paper selects, best first.
        reported: numbers of those that the predictor reports, best first.
    """

    model: Detector
    picture: Image.Image
    stages: Stages
    cross: tuple[Look, ...]
    encoder: tuple[Look, ...]
    gaussians: tuple[Any, ...]
    aligned: tuple[Any, ...]
    detections: Detections
    reported: tuple[int, ...]

    @property
    def output(self) -> Output:
        """The model's predictions."""
        output: Output = self.stages.output
        return output

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.picture.size

    @property
    def categories(self) -> tuple[Category, ...]:
        """The model's classes."""
        return self.model.card.categories

    @cached_property
    def scores(self) -> Tensor:
        """(L, Q, K) what would be reported for each category after each layer."""
        of_outputs = self._selection.class_scores(at_least_float32(self.output.logits[:, 0]))
        columns = [category.index for category in self.categories]
        return of_outputs[..., columns].cpu()  # type: ignore[no-any-return]

    def boxes_xyxy(self, label: int) -> Floats:
        """(L, Q, 4) in pixels, what would be reported as the box of each query after each layer.

        Args:
            label: place of the category that would be reported: TSP-RCNN has a box for each.
        """
        select = self._selection
        if not isinstance(select, SuppressedSelection):
            return corners_in_pixels(self.output.boxes_cxcywh[:, 0], self.size)
        index = torch.tensor([self.categories[label].index], device=self.output.logits.device)
        corners = corners_in_pixels(select.boxes_cxcywh(self.output, index)[:1, :, 0], self.size)
        limits = np.array(self.size * 2, dtype=np.float32)
        return np.clip(corners, 0, limits)  # as its detections are

    @property
    def _selection(self) -> Any:
        """What makes detections of boxes and scores."""
        select: Any = selection_for(self.model)
        return getattr(select, "boxes", select)  # of a selection with masks

    @property
    def chosen(self) -> Places | None:
        """Where the tokens of TSP lie; None for models whose tokens are cells."""
        return Places.of_chosen(self.output)

    @property
    def queries(self) -> int:
        """Q."""
        return self.output.logits.shape[2]

    @property
    def looked_in(self) -> str:
        """The part whose layers a query goes through."""
        return "decoder" if hasattr(self.model, "decoder") else "encoder"


@torch.inference_mode()
def record(predictor: Predictor, prepared: Prepared, *, at: tuple[float, float] | None = None) -> Recording:
    """Runs the model of a predictor on a picture and keeps what it did; afterwards the model is as before.

    Args:
        predictor: its model is in eval mode.
        prepared: the picture.
        at: the place whose tokens of the encoder matter, as fractions of the image; None where the encoder does not matter.

    Raises:
        NonFiniteError: scores or boxes are NaN or infinite.
        ConfigurationError: the model is in training mode.
    """
    model = unwrapped(predictor.model)
    parameter = next(model.parameters())
    batch = predictor.batch([prepared]).to(parameter.device, parameter.dtype)
    with ExitStack() as contexts:
        cross = contexts.enter_context(recorded_looks(model, CROSS))
        encoder: list[list[Look]] = []
        if at is not None or not hasattr(model, "decoder"):
            encoder = contexts.enter_context(recorded_looks(model, ENCODER, keep=lambda look: _rows_at(look, at)))
        gaussians = contexts.enter_context(recorded_results(model, "decoder", "gaussian"))
        aligned = contexts.enter_context(recorded_results(model, "decoder", "aligner"))
        stages = model.stages(batch)
    assert batch.original_sizes is not None
    detections = selection_for(model)(stages.output, batch.original_sizes)[0].to("cpu")
    check_finite([detections])
    return Recording(
        model=model,
        picture=prepared.picture,
        stages=stages,
        cross=tuple(each[0] for each in cross),
        encoder=tuple(_joined(each, at) for each in encoder),
        gaussians=tuple(each[0] for each in gaussians),
        aligned=tuple(each[0] for each in aligned),
        detections=detections,
        reported=reported(predictor, detections),
    )


def has_encoder_attention(model: Detector) -> bool:
    """Whether tokens of a model look at each other in its encoder."""
    return bool(layers_of(model, ENCODER))


def _rows_at(look: Look, at: tuple[float, float] | None) -> Look:
    """Of dense attention among the cells of a map only the rows of the cells at a place, since all rows may be too many to keep."""
    if at is None or isinstance(look, SampledLook) or look.memory is None:
        return look
    return replace(look, weights=look.weights[:, :, tokens_at(look.memory, at)])


def _joined(pieces: Sequence[Look], at: tuple[float, float] | None) -> Look:
    """The whole look of a layer, which a CPU may have computed in pieces; of a place only the rows there."""
    first = pieces[0]
    if isinstance(first, DenseLook):
        return first
    sampled = [each for each in pieces if isinstance(each, SampledLook)]
    locations, weights = (
        torch.cat([getattr(each, name) for each in sampled], dim=1) for name in ("locations", "weights")
    )
    rows = slice(None) if at is None else tokens_at(first.memory, at)
    return SampledLook(locations[:, rows], weights[:, rows], first.memory)


def reported(predictor: Predictor, detections: Detections) -> tuple[int, ...]:
    """The numbers of the detections of a picture that a predictor reports, best first.

    Args:
        predictor: its choice counts.
        detections: all that its model selects.
    """
    named = predictor.named(detections)
    named.data["number"] = np.arange(len(named))
    return tuple(int(number) for number in predictor.choice.of(named).data["number"])


def place_in_pixels(places: Places, row: int, size: tuple[int, int]) -> tuple[Any, int | None]:
    """Centre (2,) of a token in pixels, and the number of its level."""
    return in_pixels(places.xy[row], size), None if places.levels is None else int(places.levels[row])


def cell_in_pixels(places: Places, row: int, size: tuple[int, int]) -> Floats | None:
    """(4,) corners of the cell that a token is; None for regions."""
    if places.sides is None:
        return None
    return corners_in_pixels(torch.cat([places.xy[row], places.sides[row].to(places.xy)]), size)
