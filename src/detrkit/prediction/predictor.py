"""A detector with everything around it: pictures in, detections in pixels of the original picture out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, cast, overload

import numpy as np
import supervision as sv
import torch
from PIL import Image
from torch import Tensor

from detrkit.data.batching import LEAST_SIDE, pad_images
from detrkit.data.images import to_pil
from detrkit.data.transforms import EvaluationTransform
from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.models.catalog import Selection, selection_for
from detrkit.models.detector import Detector
from detrkit.structures import Detections, ImageBatch

Picture: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor


class Predictor:
    """Finds objects in pictures. It keeps nothing between calls, so threads may share one.

    The model is put in eval mode once, here (and moved, if a device is given); a predictor whose model is put back in training mode
    afterwards refuses to work.

    Args:
        model: built or loaded.
        threshold: score in [0, 1] from which a detection is reported; None takes the model's own.
        device: where to run; None leaves the model where it is.
        batch_size: pictures that go through the model together. Only pictures that are equally large after resizing do, so nothing is
            padded and results do not depend on it.

    Raises:
        ConfigurationError: a threshold outside of [0, 1] or a batch size below 1.
    """

    def __init__(
        self,
        model: Detector,
        *,
        threshold: float | None = None,
        device: torch.device | str | None = None,
        batch_size: int = 1,
    ) -> None:
        self.threshold = model.card.threshold if threshold is None else threshold
        if not 0 <= self.threshold <= 1:
            raise ConfigurationError(f"The threshold {self.threshold} is no score: choose one from 0 to 1.")
        if batch_size < 1:
            raise ConfigurationError(f"The batch size {batch_size} is too small: choose 1 or more.")
        self.batch_size = batch_size
        self.model = (model if device is None else model.to(device)).eval()
        self._transform = EvaluationTransform(model.card.preprocessing)
        self._select = selection_for(model)
        self._categories = {category.index: category for category in model.card.categories}

    @overload
    def __call__(self, images: Picture) -> sv.Detections: ...
    @overload
    def __call__(self, images: list[Picture] | tuple[Picture, ...]) -> list[sv.Detections]: ...

    def __call__(self, images: Picture | list[Picture] | tuple[Picture, ...]) -> sv.Detections | list[sv.Detections]:
        """Detections from the threshold on, best first.

        Args:
            images: one picture or a list of them: a file name, a PIL image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W), in RGB.

        Returns:
            For one picture its detections, for a list a list in the same order: `xyxy` in pixels of the picture (they may reach a little over
            its edge), `confidence`, `class_id` with the categories' ids, `data["class_name"]`.

        Raises:
            DataError: a file that cannot be read, or an array of another type or shape.
        """
        if isinstance(images, list | tuple):
            return [self._worth_showing(found) for found in self.raw(images)]
        return self._worth_showing(self.raw([images])[0])

    def raw(self, images: Sequence[Picture]) -> list[sv.Detections]:
        """All that the model's paper selects, without a threshold, best first: what evaluation needs.

        Args:
            images: as for calling the predictor, always a list.
        """
        results: dict[int, sv.Detections] = {}
        waiting: dict[tuple[int, ...], dict[int, tuple[Tensor, tuple[int, int]]]] = defaultdict(dict)
        for place, image in enumerate(images):
            picture = to_pil(image)
            pixels = self._transform(picture)
            group = waiting[tuple(pixels.shape)]
            group[place] = (pixels, (picture.height, picture.width))
            if len(group) == self.batch_size:
                results |= self._run(group)
                group.clear()
        for group in waiting.values():
            if group:
                results |= self._run(group)
        return [results[place] for place in range(len(results))]

    def _worth_showing(self, found: sv.Detections) -> sv.Detections:
        return cast(sv.Detections, found[np.asarray(found.confidence) >= self.threshold])

    def _run(self, group: dict[int, tuple[Tensor, tuple[int, int]]]) -> dict[int, sv.Detections]:
        """Detections of pictures of one size, by their places in the list."""
        if self.model.training:
            raise ConfigurationError(
                "The model was put in training mode after its predictor was made: call model.eval() first."
            )
        pixels, padding = pad_images([pixels for pixels, _ in group.values()], least_side=LEAST_SIDE)
        sizes = torch.tensor([size for _, size in group.values()])
        found = detect(self.model, self._select, ImageBatch(pixels, padding, original_sizes=sizes))
        return {place: self._named(detections) for place, detections in zip(group, found, strict=True)}

    def _named(self, found: Detections) -> sv.Detections:
        categories = [self._categories[label] for label in found.labels.tolist()]
        return sv.Detections(
            xyxy=found.boxes_xyxy.float().numpy(),
            confidence=found.scores.float().numpy(),
            class_id=np.array([category.id for category in categories], dtype=np.int64),
            data={"class_name": np.array([category.name for category in categories], dtype=str)},
        )


@torch.inference_mode()
def detect(model: Detector, select: Selection, batch: ImageBatch) -> list[Detections]:
    """Runs a model on a batch, wherever the model is, and brings the detections back to the CPU.

    Args:
        model: in the mode that is wanted.
        select: the model's selection.
        batch: with `original_sizes`.

    Raises:
        NonFiniteError: where scores or boxes are NaN or infinite.
    """
    parameter = next(model.parameters())
    batch = batch.to(parameter.device, parameter.dtype)
    if batch.original_sizes is None:
        raise ValueError("boxes in pixels need the images' original sizes")
    found = [detections.to("cpu") for detections in select(model(batch), batch.original_sizes)]
    if not all(detections.scores.isfinite().all() and detections.boxes_xyxy.isfinite().all() for detections in found):
        raise NonFiniteError(
            "The model gives scores or boxes that are NaN or infinite: its weights are damaged; load others."
        )
    return found
