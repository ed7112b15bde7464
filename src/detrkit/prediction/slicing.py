"""Very large pictures: cut into overlapping slices, each of which goes through the model as a picture of its own."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Literal, Self, Unpack, cast, overload

import numpy as np
from PIL import Image
from torch import Tensor

from detrkit.data.images import to_pil
from detrkit.errors import ConfigurationError
from detrkit.prediction.choosing import ChoiceOptions
from detrkit.prediction.picture_detections import DetectionsOfPictures, PictureDetections
from detrkit.prediction.predictor import Predictor
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

Merging = Literal["nms", "nmm"]

_FILTERS = {"nms": sv.OverlapFilter.NON_MAX_SUPPRESSION, "nmm": sv.OverlapFilter.NON_MAX_MERGE}
_SAME_OBJECT = 0.5  # overlap from which two detections of a class are one


class SlicedPredictor:
    """Finds objects that are small in large pictures: a picture larger than a slice is cut, every other one is taken as by the predictor.

    There are boxes alone, also from models with masks: those of all slices would each be as large as the picture.

    `supervision.InferenceSlicer` cuts and merges. Where two detections of a class overlap by half of the smaller one or more, they count as one
    object that two slices show, in whole or in part.

    Args:
        predictor: what looks at each slice; its thresholds, batch size and device apply.
        slice_size: width and height of a slice in pixels of the picture; those at the edge end there.
        overlap: of neighbouring slices, as a share of their size (below 1) or in pixels. It should be as large as the largest object that
            matters, so that one slice shows all of it.
        merge: what becomes of several detections of one object: "nms" keeps the one with the highest score, "nmm" also extends its box to
            all of them.

    Raises:
        ConfigurationError: a slice without pixels, or an overlap that leaves no step from slice to slice.
    """

    def __init__(self, predictor: Predictor, slice_size: int, *, overlap: float = 0.2, merge: Merging = "nms") -> None:
        if slice_size < 1:
            raise ConfigurationError(f"A slice of {slice_size} pixels is too small: choose 1 or more")
        if not 0 <= overlap < slice_size:
            raise ConfigurationError(
                f"The overlap {overlap:g} does not fit slices of {slice_size} pixels: choose a share from 0 to below 1, "
                f"or less than {slice_size} pixels"
            )
        if merge not in _FILTERS:
            raise ConfigurationError(f"Detections cannot be merged by '{merge}': choose 'nms' or 'nmm'")
        self.predictor = predictor
        self.slice_size = slice_size
        self.overlap_pixels = int(overlap * slice_size if overlap < 1 else overlap)
        self.merge = merge

    @property
    def batch_size(self) -> int:
        """Slices, or pictures of equal size, that go through the model together."""
        return self.predictor.batch_size

    @property
    def may_run_in_threads(self) -> bool:
        """As of the predictor."""
        return self.predictor.may_run_in_threads

    def changed(self, **choice: Unpack[ChoiceOptions]) -> Self:
        """A predictor that reports other detections; see `Predictor.changed`."""
        other = copy.copy(self)
        other.predictor = self.predictor.changed(**choice)
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
        self, images: Picture | list[Picture] | tuple[Picture, ...], **choice: Unpack[ChoiceOptions]
    ) -> PictureDetections | DetectionsOfPictures:
        """The detections that count, best first; see `Predictor.__call__` for what is taken."""
        chosen = self.changed(**choice)
        pictures, several = listed(images)
        found = ((picture, chosen.detect([self.prepare(picture)])[0].detections) for picture in pictures)
        results = DetectionsOfPictures(
            PictureDetections.in_picture(detections, picture, stretch_16bit=self.predictor.stretch_16bit)
            for picture, detections in found
        )
        return results if several else results[0]

    def stream(self, images: Iterable[Picture], *, skip_unreadable: bool = False) -> Generator[Prediction, None, None]:
        """Predictions one after another; see `Predictor.stream`."""
        refuse_single_picture(images)
        return stream(self, images, skip_unreadable=skip_unreadable)

    def prepare(self, image: Picture) -> Prepared:
        """Reads a picture, and resizes it for the model unless it will be cut.

        Raises:
            DataError: it cannot be read.
        """
        picture = to_pil(image, stretch_16bit=self.predictor.stretch_16bit)
        return Prepared(picture, None) if max(picture.size) > self.slice_size else self.predictor.prepare(picture)

    def detect(self, group: Sequence[Prepared]) -> list[Found]:
        """What is found in prepared pictures, which must have one shape."""
        if group and group[0].pixels is None:
            return [self._sliced(each.picture) for each in group]
        return self._boxes(group)

    def _boxes(self, group: Sequence[Prepared]) -> list[Found]:
        """What the model finds in pictures or slices of one shape, without masks and segments."""
        found = self.predictor.detect(group)
        return [Found(dataclasses.replace(each.detections, mask=None), each.best_score) for each in found]

    def _sliced(self, picture: Image.Image) -> Found:
        """What is found in the slices of a picture, each object once."""
        seen: list[Found] = []

        def look(slices: list[np.ndarray]) -> list[sv.Detections]:
            found = self._of_slices([self.predictor.prepare(each) for each in slices])
            seen.extend(found)
            return [_clipped(each.detections, part) for each, part in zip(found, slices, strict=True)]

        slicer = sv.InferenceSlicer(
            look,
            slice_wh=self.slice_size,
            overlap_wh=self.overlap_pixels,
            overlap_filter=_FILTERS[self.merge],
            iou_threshold=_SAME_OBJECT,
            overlap_metric=sv.OverlapMetric.IOS,
            batch_size=max(2, self.batch_size),  # with 1 it would call with a slice instead of a list
        )
        merged = slicer(np.asarray(picture))  # a PIL image would be converted as a whole for every slice
        # Where no slice shows anything, supervision gives detections without classes.
        detections = _best_first(merged) if len(merged) else seen[0].detections
        return Found(detections, max(each.best_score for each in seen))

    def _of_slices(self, prepared: Sequence[Prepared]) -> list[Found]:
        """What is found in each slice; those at the edge may be smaller than the others."""
        results: dict[int, Found] = {}
        for shape in {each.shape for each in prepared}:
            places = [place for place, each in enumerate(prepared) if each.shape == shape]
            for start in range(0, len(places), self.batch_size):
                batch = places[start : start + self.batch_size]
                results |= zip(batch, self._boxes([prepared[place] for place in batch]), strict=True)
        return [results[place] for place in range(len(prepared))]


def _clipped(detections: sv.Detections, part: np.ndarray) -> sv.Detections:
    """Boxes that end where the slice does; supervision takes others for a mistake."""
    height, width = part.shape[:2]
    limits = np.array([width, height, width, height], dtype=detections.xyxy.dtype)
    return dataclasses.replace(detections, xyxy=np.clip(detections.xyxy, 0, limits))


def _best_first(detections: sv.Detections) -> sv.Detections:
    """Detections in the order and precision in which a predictor gives them."""
    confidence = np.asarray(detections.confidence, dtype=np.float32)
    single = dataclasses.replace(detections, xyxy=detections.xyxy.astype(np.float32), confidence=confidence)
    return PictureDetections.of(cast(sv.Detections, single[np.argsort(-confidence, kind="stable")]))
