"""A detector with everything that prediction needs: pictures in, detections in pixels of the original picture out."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack, overload

import numpy as np
import torch
from torch import Tensor, nn

from detrkit.checkpoints.loading import as_detector
from detrkit.data.batching import pad_images
from detrkit.data.images import to_pil
from detrkit.data.transforms import EvaluationTransform
from detrkit.data.wording import counted
from detrkit.errors import ConfigurationError
from detrkit.layers.mask_selection import MaskSelection
from detrkit.models.catalog import selection_for
from detrkit.models.detector import Detector
from detrkit.panoptic import PanopticSegmentation
from detrkit.prediction.choosing import Choice, ChoiceOptions
from detrkit.prediction.devices import choose_device
from detrkit.prediction.looking import detect_batch, knows_stuff, look
from detrkit.prediction.picture_detections import DetectionsOfPictures, PictureDetections
from detrkit.prediction.quiet_supervision import sv
from detrkit.prediction.streaming import (
    Found,
    Picture,
    PictureFile,
    Prediction,
    Prepared,
    listed,
    refuse_single_picture,
    stream,
)
from detrkit.structures import Detections, ImageBatch


class Predictor:
    """Finds objects in pictures. It keeps no state between calls, so threads may share one predictor.

    The model is put in eval mode here (and moved, if a device is given). If it is put back in training mode later, calls raise an error.

    Args:
        model: built or loaded, also compiled or otherwise wrapped by PyTorch, or the path of a checkpoint or of a run's folder.
        threshold: score in [0, 1] from which a detection of any class is reported; None means the model's own thresholds: that of the class
            where the model's card has one, otherwise the card's general one.
        nms: IoU in (0, 1] above which a detection that overlaps a better one of its class is left out; 1 leaves none out. None means the
            value of the model's card, which has one if an evaluation showed that the model repeats objects.
        classes: names of the classes to report; None reports all.
        device: where to run; None leaves the model where it is.
        batch_size: pictures that go through the model together. They must have the same size after resizing, so nothing is padded and
            results do not depend on it.
        stretch_16bit: whether the values of 16-bit grey files and PIL images are stretched from their darkest to their brightest.

    Attributes:
        choice: which detections are reported.

    Raises:
        ConfigurationError: a threshold outside [0, 1], an NMS value outside (0, 1], an unknown class, a batch size below 1, a device that this
            machine does not have, or a model that is no detector.
        CheckpointError: the checkpoint cannot be read.
    """

    def __init__(
        self,
        model: Detector | nn.Module | str | Path,
        *,
        threshold: float | None = None,
        nms: float | None = None,
        classes: Sequence[str] | None = None,
        device: torch.device | str | None = None,
        batch_size: int = 1,
        stretch_16bit: bool = False,
    ) -> None:
        detector = as_detector(model)
        categories = detector.card.categories
        self.choice = Choice.of_card(detector.card).changed(categories, threshold=threshold, nms=nms, classes=classes)
        if batch_size < 1:
            raise ConfigurationError(f"The batch size {batch_size} is too small: choose 1 or more")
        self.batch_size = batch_size
        self.stretch_16bit = stretch_16bit
        self.model = (detector if device is None else detector.to(choose_device(str(device)))).eval()
        self._transform = EvaluationTransform(detector.card.preprocessing)
        self._select = selection_for(detector)
        self._categories = {category.index: category for category in detector.card.categories}

    @property
    def threshold(self) -> float:
        """Score from which a detection is reported, unless its class has a threshold of its own."""
        return self.choice.threshold

    @property
    def class_thresholds(self) -> Mapping[int, float]:
        """Those, by category id; empty where a threshold was given."""
        return self.choice.class_thresholds

    @property
    def nms(self) -> float | None:
        """IoU above which a detection that repeats a better one of its class is left out; None leaves none out."""
        return self.choice.nms

    def __repr__(self) -> str:
        card, nms = self.model.card, "" if self.nms is None else f", nms={self.nms:g}"
        return f"Predictor({card.variant}, {counted(len(card.categories), 'class', 'classes')}, threshold={self.threshold:.3f}{nms})"

    def changed(
        self, *, threshold: float | None = None, nms: float | None = None, classes: Sequence[str] | None = None
    ) -> Self:
        """A predictor with the same model that reports other detections; what is None stays as it is.

        Args:
            threshold: score in [0, 1] from which a detection of any class is reported.
            nms: as for the predictor.
            classes: as for the predictor.

        Raises:
            ConfigurationError: a value is out of range, or the model has no such class.
        """
        other = copy.copy(self)
        categories = self.model.card.categories
        other.choice = self.choice.changed(categories, threshold=threshold, nms=nms, classes=classes)
        return other

    @overload
    def __call__(self, images: PictureFile, **choice: Unpack[ChoiceOptions]) -> PictureDetections: ...
    @overload
    def __call__(
        self, images: list[Picture] | tuple[Picture, ...], **choice: Unpack[ChoiceOptions]
    ) -> DetectionsOfPictures: ...
    @overload
    def __call__(self, images: np.ndarray | Tensor, **choice: Unpack[ChoiceOptions]) -> Any: ...

    def __call__(
        self,
        images: Picture | list[Picture] | tuple[Picture, ...],
        *,
        threshold: float | None = None,
        nms: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> PictureDetections | DetectionsOfPictures:
        """The detections that count, best first.

        Args:
            images: one picture or several: a file name, a PIL image, or an array or tensor (H, W, 3) or (3, H, W) in RGB, also grey or with
                opacity, uint8 in 0..255 or floats in 0..1; a list of these,
                or a batch of pictures (N, H, W, 3) or (N, 3, H, W).
            threshold: score in [0, 1] from which a detection of any class counts in this call; None as for the predictor.
            nms: for this call, as for the predictor.
            classes: for this call, as for the predictor.

        Returns:
            The detections of the one picture, or a list of them in the order of the pictures: `xyxy` in pixels of the picture (boxes may
            extend slightly beyond it), `confidence`, `class_id` with the categories' ids, `data["class_name"]`, and from models with masks
            `mask` (N, H, W) at the size of the picture. They are `supervision.Detections` that notebooks show with their picture, which they
            keep unless it was given by its file name; see `PictureDetections`.

        Raises:
            DataError: a file cannot be read, or an array has the wrong type, shape or values.
            ConfigurationError: as for `changed`.
        """
        chosen = self.changed(threshold=threshold, nms=nms, classes=classes)
        pictures, several = listed(images)
        results = DetectionsOfPictures(
            PictureDetections.in_picture(detections, picture, stretch_16bit=self.stretch_16bit)
            for picture, detections in zip(pictures, chosen._in_batches(pictures, chosen._reported), strict=True)
        )
        return results if several else results[0]

    def raw(self, images: Iterable[Picture]) -> list[sv.Detections]:
        """All detections that the model's paper selects, without a threshold or suppression, best first, as evaluation needs them.

        Args:
            images: as for calling the predictor, but always several.

        Raises:
            DataError: a picture cannot be read, or a single one was given.
        """
        refuse_single_picture(images)
        return self._in_batches(images, self._run)

    def _in_batches(
        self, images: Iterable[Picture], of_group: Callable[[Sequence[Prepared]], list[sv.Detections]]
    ) -> list[sv.Detections]:
        """The detections in each picture, in their order.

        Args:
            images: of any sizes.
            of_group: gives those of prepared pictures of one shape.
        """
        results: dict[int, sv.Detections] = {}
        waiting: dict[tuple[int, ...], dict[int, Prepared]] = defaultdict(dict)
        for index, image in enumerate(images):
            prepared = self.prepare(image)
            group = waiting[prepared.shape]
            group[index] = prepared
            if len(group) == self.batch_size:
                results |= zip(group, of_group(list(group.values())), strict=True)
                group.clear()
        for group in waiting.values():
            if group:
                results |= zip(group, of_group(list(group.values())), strict=True)
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
        batch = self.batch(group)
        looked = look(
            self.model,
            self._select,
            batch,
            least_score=self.choice.lowest,
            segments_from=self.choice.threshold if knows_stuff(self.model.card) else None,
        )
        named = [self.named(each) for each in looked.detections]
        segmentations: Sequence[PanopticSegmentation | None] = [None] * len(named)
        if looked.segmentations is not None:
            segmentations = [self.choice.of_segments(each) for each in looked.segmentations]
        return [
            Found(self.choice.of(each), best_score(each), segmentation)
            for each, segmentation in zip(named, segmentations, strict=True)
        ]

    @overload
    def panoptic(self, images: PictureFile, *, threshold: float | None = None) -> PanopticSegmentation: ...
    @overload
    def panoptic(
        self, images: list[Picture] | tuple[Picture, ...], *, threshold: float | None = None
    ) -> list[PanopticSegmentation]: ...
    @overload
    def panoptic(self, images: np.ndarray | Tensor, *, threshold: float | None = None) -> Any: ...

    def panoptic(
        self, images: Picture | list[Picture] | tuple[Picture, ...], *, threshold: float | None = None
    ) -> PanopticSegmentation | list[PanopticSegmentation]:
        """The segments of pictures: every pixel belongs to one of them or to none, objects and stuff alike (DETR, section 4.4).

        Args:
            images: as for calling the predictor.
            threshold: score above which a query becomes a segment, of any class; None means the predictor's. The authors of panoptic DETR
                take 0.85. Segments of classes that the predictor leaves out are void.

        Returns:
            The segments of the one picture, or a list of them in the order of the pictures.

        Raises:
            DataError: as for calling the predictor.
            ConfigurationError: the model has no masks, or the threshold is out of range.
        """
        if not isinstance(self._select, MaskSelection):
            raise ConfigurationError(
                f"A {self.model.card.variant} has no masks, so it gives no segments: use a model with masks, such as detr-r50-panoptic"
            )
        least = self.changed(threshold=threshold).choice.threshold
        pictures, several = listed(images)
        results = []
        for picture in pictures:
            looked = look(
                self.model, self._select, self.batch([self.prepare(picture)]), segments_from=least, masks=False
            )
            results += [self.choice.of_segments(each) for each in looked.segmentations or []]
        return results if several else results[0]

    @property
    def has_segments(self) -> bool:
        """Whether streams have segmentations: those of models with masks that know stuff."""
        return isinstance(self._select, MaskSelection) and knows_stuff(self.model.card)

    def _reported(self, group: Sequence[Prepared]) -> list[sv.Detections]:
        """The detections that are reported in pictures of one shape; only these get masks, which take time and memory."""
        looked = look(self.model, self._select, self.batch(group), least_score=self.choice.lowest)
        return [self.choice.of(self.named(each)) for each in looked.detections]

    def _run(self, group: Sequence[Prepared]) -> list[sv.Detections]:
        """All detections of pictures of one shape."""
        return [self.named(each) for each in detect_batch(self.model, self._select, self.batch(group))]

    def batch(self, group: Sequence[Prepared]) -> ImageBatch:
        """Prepared pictures of one shape as the model gets them.

        Raises:
            ConfigurationError: the model was put in training mode.
        """
        if self.model.training:
            raise ConfigurationError(
                "The model was put in training mode after its predictor was created: call model.eval() first"
            )
        pixels, padding = pad_images(
            [each.pixels for each in group if each.pixels is not None],
            smallest_side=self.model.card.preprocessing.smallest_side,
        )
        sizes = torch.tensor([(each.picture.height, each.picture.width) for each in group])
        return ImageBatch(pixels, padding, original_sizes=sizes)

    def named(self, detections: Detections) -> sv.Detections:
        """A model's detections of one picture with ids and names of its categories."""
        categories = [self._categories[label] for label in detections.labels.tolist()]
        return PictureDetections(
            xyxy=detections.boxes_xyxy.float().numpy(),
            mask=None if detections.masks is None else detections.masks.numpy(),
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
