"""A detector with everything that prediction needs: pictures in, detections in pixels of the original picture out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, cast, overload

import numpy as np
import supervision as sv
import torch
from PIL import Image
from torch import Tensor, nn

from detrkit.checkpoints.loading import as_detector
from detrkit.data.batching import pad_images
from detrkit.data.images import to_pil
from detrkit.data.transforms import EvaluationTransform
from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.models.catalog import Selection, selection_for
from detrkit.models.detector import Detector
from detrkit.structures import Detections, ImageBatch

Picture: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor


class Predictor:
    """Finds objects in pictures. It keeps no state between calls, so threads may share one predictor.

    The model is put in eval mode here (and moved, if a device is given). If it is put back in training mode later, calls raise an error.

    Args:
        model: built or loaded, also compiled or otherwise wrapped by PyTorch, or the path of a checkpoint.
        threshold: score in [0, 1] from which a detection is reported; None means the model's own threshold.
        device: where to run; None leaves the model where it is.
        batch_size: pictures that go through the model together. They must have the same size after resizing, so nothing is padded and
            results do not depend on it.

    Raises:
        ConfigurationError: a threshold outside [0, 1], a batch size below 1, or a model that is no detector.
        CheckpointError: the checkpoint cannot be read.
    """

    def __init__(
        self,
        model: Detector | nn.Module | str | Path,
        *,
        threshold: float | None = None,
        device: torch.device | str | None = None,
        batch_size: int = 1,
    ) -> None:
        detector = as_detector(model)
        self.threshold = detector.card.threshold if threshold is None else threshold
        if not 0 <= self.threshold <= 1:
            raise ConfigurationError(f"The threshold {self.threshold} is not a score: choose one from 0 to 1.")
        if batch_size < 1:
            raise ConfigurationError(f"The batch size {batch_size} is too small: choose 1 or more.")
        self.batch_size = batch_size
        self.model = (detector if device is None else detector.to(device)).eval()
        self._transform = EvaluationTransform(detector.card.preprocessing)
        self._select = selection_for(detector)
        self._categories = {category.index: category for category in detector.card.categories}

    @overload
    def __call__(self, images: Picture) -> sv.Detections: ...
    @overload
    def __call__(self, images: list[Picture] | tuple[Picture, ...]) -> list[sv.Detections]: ...

    def __call__(self, images: Picture | list[Picture] | tuple[Picture, ...]) -> sv.Detections | list[sv.Detections]:
        """Detections with at least the threshold's score, best first.

        Args:
            images: one picture or a list of them: a file name, a PIL image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W), in RGB.

        Returns:
            The detections of the one picture, or a list of them in the order of the pictures: `xyxy` in pixels of the picture (boxes may
            extend slightly beyond it), `confidence`, `class_id` with the categories' ids, `data["class_name"]`.

        Raises:
            DataError: a file cannot be read, or an array has the wrong type or shape.
        """
        if isinstance(images, list | tuple):
            return [self._above_threshold(detections) for detections in self.raw(images)]
        return self._above_threshold(self.raw([images])[0])

    def raw(self, images: Sequence[Picture]) -> list[sv.Detections]:
        """All detections that the model's paper selects, without a threshold, best first, as evaluation needs them.

        Args:
            images: as for calling the predictor, but always a list.
        """
        results: dict[int, sv.Detections] = {}
        waiting: dict[tuple[int, ...], dict[int, tuple[Tensor, tuple[int, int]]]] = defaultdict(dict)
        for index, image in enumerate(images):
            picture = to_pil(image)
            pixels = self._transform(picture)
            group = waiting[tuple(pixels.shape)]
            group[index] = (pixels, (picture.height, picture.width))
            if len(group) == self.batch_size:
                results |= self._run(group)
                group.clear()
        for group in waiting.values():
            if group:
                results |= self._run(group)
        return [results[index] for index in range(len(results))]

    def _above_threshold(self, detections: sv.Detections) -> sv.Detections:
        return cast(sv.Detections, detections[np.asarray(detections.confidence) >= self.threshold])

    def _run(self, group: dict[int, tuple[Tensor, tuple[int, int]]]) -> dict[int, sv.Detections]:
        """Detections of pictures of one size, keyed by their indices in the list."""
        if self.model.training:
            raise ConfigurationError(
                "The model was put in training mode after its predictor was created: call model.eval() first."
            )
        pixels, padding = pad_images(
            [pixels for pixels, _ in group.values()], smallest_side=self.model.card.preprocessing.smallest_side
        )
        sizes = torch.tensor([size for _, size in group.values()])
        batch = ImageBatch(pixels, padding, original_sizes=sizes)
        detections = detect_batch(self.model, self._select, batch)
        return {index: self._named(each) for index, each in zip(group, detections, strict=True)}

    def _named(self, detections: Detections) -> sv.Detections:
        categories = [self._categories[label] for label in detections.labels.tolist()]
        return sv.Detections(
            xyxy=detections.boxes_xyxy.float().numpy(),
            confidence=detections.scores.float().numpy(),
            class_id=np.array([category.id for category in categories], dtype=np.int64),
            data={"class_name": np.array([category.name for category in categories], dtype=str)},
        )


@torch.inference_mode()
def detect_batch(model: Detector, select: Selection, batch: ImageBatch) -> list[Detections]:
    """Runs a model on a batch, on whichever device the model is, and returns the detections on the CPU.

    Args:
        model: runs in its current mode.
        select: the model's selection.
        batch: must have `original_sizes`.

    Raises:
        NonFiniteError: scores or boxes are NaN or infinite.
    """
    parameter = next(model.parameters())
    batch = batch.to(parameter.device, parameter.dtype)
    if batch.original_sizes is None:
        raise ValueError("boxes in pixels need the images' original sizes")
    detections = [each.to("cpu") for each in select(model(batch), batch.original_sizes)]
    if not all(each.scores.isfinite().all() and each.boxes_xyxy.isfinite().all() for each in detections):
        raise NonFiniteError(
            "The model produces scores or boxes that are NaN or infinite: its weights are damaged; load others."
        )
    return detections
