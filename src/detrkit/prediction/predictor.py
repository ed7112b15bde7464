"""A detector with everything that prediction needs: pictures in, detections in pixels of the original picture out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import cast, overload

import numpy as np
import torch
from torch import nn

from detrkit.checkpoints.loading import as_detector
from detrkit.data.batching import pad_images
from detrkit.data.images import to_pil
from detrkit.data.transforms import EvaluationTransform
from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.models.catalog import Selection, selection_for
from detrkit.models.detector import Detector
from detrkit.prediction.quiet_supervision import sv
from detrkit.prediction.streaming import Found, Picture, Prediction, Prepared, refuse_single_picture, stream
from detrkit.structures import Detections, ImageBatch


class Predictor:
    """Finds objects in pictures. It keeps no state between calls, so threads may share one predictor.

    The model is put in eval mode here (and moved, if a device is given). If it is put back in training mode later, calls raise an error.

    Args:
        model: built or loaded, also compiled or otherwise wrapped by PyTorch, or the path of a checkpoint.
        threshold: score in [0, 1] from which a detection of any class is reported; None means the model's own thresholds: that of the class
            where the model's card has one, otherwise the card's general one.
        device: where to run; None leaves the model where it is.
        batch_size: pictures that go through the model together. They must have the same size after resizing, so nothing is padded and
            results do not depend on it.
        stretch_16bit: whether the values of 16-bit grey files and PIL images are stretched from their darkest to their brightest.

    Attributes:
        threshold: score from which a detection is reported, unless its class has a threshold of its own.
        class_thresholds: those, by category id; empty where a threshold was given.

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
        stretch_16bit: bool = False,
    ) -> None:
        detector = as_detector(model)
        self.threshold = detector.card.threshold if threshold is None else threshold
        if not 0 <= self.threshold <= 1:
            raise ConfigurationError(f"The threshold {self.threshold} is not a score: choose one from 0 to 1.")
        if batch_size < 1:
            raise ConfigurationError(f"The batch size {batch_size} is too small: choose 1 or more.")
        self.batch_size = batch_size
        self.stretch_16bit = stretch_16bit
        self.model = (detector if device is None else detector.to(device)).eval()
        self._transform = EvaluationTransform(detector.card.preprocessing)
        self._select = selection_for(detector)
        self._categories = {category.index: category for category in detector.card.categories}
        own = detector.card.class_thresholds if threshold is None else {}
        self.class_thresholds = {
            category.id: own[category.index] for category in detector.card.categories if category.index in own
        }

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

        Raises:
            DataError: a picture cannot be read, or a single one was given.
        """
        refuse_single_picture(images)
        results: dict[int, sv.Detections] = {}
        waiting: dict[tuple[int, ...], dict[int, Prepared]] = defaultdict(dict)
        for index, image in enumerate(images):
            prepared = self.prepare(image)
            group = waiting[prepared.shape]
            group[index] = prepared
            if len(group) == self.batch_size:
                results |= zip(group, self._run(list(group.values())), strict=True)
                group.clear()
        for group in waiting.values():
            if group:
                results |= zip(group, self._run(list(group.values())), strict=True)
        return [results[index] for index in range(len(results))]

    def stream(self, images: Iterable[Picture], *, skip_unreadable: bool = False) -> Generator[Prediction, None, None]:
        """Predictions one after another, for more pictures than fit in memory; threads read the next pictures while the model works.

        On a CPU the model works on several batches at once, up to four, in threads that share out those of PyTorch; hooks on the model then run
        in these threads, and ahead of the loop. Two pictures more than there are such threads are on their way at once, or a batch more if
        the batch size is above 1. Close the iterator (or leave its `for` loop) to stop early.

        Args:
            images: any iterable of pictures as for calling the predictor.
            skip_unreadable: whether a picture that cannot be read gives a prediction with a `problem`, rather than an error that ends the
                stream.

        Yields:
            A prediction for each picture, in their order.

        Raises:
            DataError: a picture cannot be read, or a single one was given in place of several.
            NonFiniteError: the model produces NaN or infinity.
        """
        refuse_single_picture(images)
        return stream(self, images, skip_unreadable=skip_unreadable)

    @property
    def may_run_in_threads(self) -> bool:
        """Whether threads other than the caller's give the same results, and more of them in a second.

        A GPU does its work in one queue; a caller's autocast does not reach other threads; and compiling is not made for several at once.
        """
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        return on_cpu and not torch.is_autocast_enabled("cpu") and not any(map(_is_compiled, self.model.modules()))

    def prepare(self, image: Picture) -> Prepared:
        """Reads a picture and resizes it for the model, which a stream does in threads of its own.

        Raises:
            DataError: it cannot be read.
        """
        picture = to_pil(image, stretch_16bit=self.stretch_16bit)
        return Prepared(picture, self._transform(picture))

    def detect(self, group: Sequence[Prepared]) -> list[Found]:
        """What is found in prepared pictures, which must have one shape."""
        return [Found(self._above_threshold(each), best_score(each)) for each in self._run(group)]

    def _above_threshold(self, detections: sv.Detections) -> sv.Detections:
        ids = [] if detections.class_id is None else detections.class_id.tolist()
        limits = [self.class_thresholds.get(category_id, self.threshold) for category_id in ids]
        return cast(sv.Detections, detections[np.asarray(detections.confidence) >= np.array(limits, dtype=np.float32)])

    def _run(self, group: Sequence[Prepared]) -> list[sv.Detections]:
        """All detections of pictures of one shape."""
        if self.model.training:
            raise ConfigurationError(
                "The model was put in training mode after its predictor was created: call model.eval() first."
            )
        pixels, padding = pad_images(
            [each.pixels for each in group if each.pixels is not None],
            smallest_side=self.model.card.preprocessing.smallest_side,
        )
        sizes = torch.tensor([(each.picture.height, each.picture.width) for each in group])
        batch = ImageBatch(pixels, padding, original_sizes=sizes)
        return [self._named(each) for each in detect_batch(self.model, self._select, batch)]

    def _named(self, detections: Detections) -> sv.Detections:
        categories = [self._categories[label] for label in detections.labels.tolist()]
        return sv.Detections(
            xyxy=detections.boxes_xyxy.float().numpy(),
            confidence=detections.scores.float().numpy(),
            class_id=np.array([category.id for category in categories], dtype=np.int64),
            data={"class_name": np.array([category.name for category in categories], dtype=str)},
        )


def _is_compiled(part: nn.Module) -> bool:
    """By `torch.compile(part)`, which wraps it, or by `part.compile()`."""
    return hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None


def best_score(detections: sv.Detections) -> float:
    """The highest score, 0 where there is none."""
    return 0.0 if detections.confidence is None else float(max(detections.confidence, default=0.0))


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
