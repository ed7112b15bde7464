"""Which of a model's detections are reported: thresholds, suppression and classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np

from detrkit.cards import Category, ModelCard
from detrkit.errors import ConfigurationError, closest
from detrkit.panoptic import PanopticSegmentation
from detrkit.prediction.suppression import check_nms, kept_by_nms

if TYPE_CHECKING:
    import supervision as sv


class ChoiceOptions(TypedDict, total=False):
    """What a call may choose; see `Choice.changed`."""

    threshold: float | None
    nms: float | None
    classes: Sequence[str] | None


@dataclass(frozen=True)
class Choice:
    """Which detections are reported.

    Attributes:
        threshold: score from which a detection counts, unless its class has a threshold of its own.
        class_thresholds: those, by category id.
        nms: IoU above which a detection that repeats a better one of its class is left out; None leaves none out.
        class_ids: the categories that are reported; None reports all.
    """

    threshold: float
    class_thresholds: Mapping[int, float] = field(default_factory=dict)
    nms: float | None = None
    class_ids: frozenset[int] | None = None

    @property
    def lowest(self) -> float:
        """No detection with a lower score is reported."""
        return min((self.threshold, *self.class_thresholds.values()))

    @classmethod
    def of_card(cls, card: ModelCard) -> Choice:
        """What a model's card says."""
        own = {
            each.id: card.class_thresholds[each.index]
            for each in card.categories
            if each.index in card.class_thresholds
        }
        return cls(card.threshold, own, card.nms)

    def changed(
        self,
        categories: Sequence[Category],
        *,
        threshold: float | None = None,
        nms: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> Choice:
        """The same with what is given; a threshold is then that of all classes.

        Args:
            categories: of the model.
            threshold: score in [0, 1].
            nms: IoU in (0, 1]; 1 leaves no detection out.
            classes: names of the classes to report.

        Raises:
            ConfigurationError: a value is out of range, or the model has no such class.
        """
        choice = self
        if threshold is not None:
            if not 0 <= threshold <= 1:
                raise ConfigurationError(f"The threshold {threshold} is not a score: choose one from 0 to 1")
            choice = dataclasses.replace(choice, threshold=threshold, class_thresholds={})
        if nms is not None:
            choice = dataclasses.replace(choice, nms=check_nms(nms))
        if classes is not None:
            choice = dataclasses.replace(choice, class_ids=_ids_of(classes, categories))
        return choice

    def of(self, detections: sv.Detections) -> sv.Detections:
        """The detections that are reported.

        Args:
            detections: of one picture, best first.
        """
        ids = np.zeros(0, dtype=np.int64) if detections.class_id is None else detections.class_id
        limits = [self.class_thresholds.get(category_id, self.threshold) for category_id in ids.tolist()]
        stays = np.asarray(detections.confidence) >= np.array(limits, dtype=np.float32)
        if self.class_ids is not None:
            stays &= np.isin(ids, list(self.class_ids))
        if self.nms is not None:
            # Suppression is within classes, so what thresholds and classes leave out suppresses nothing that stays.
            stays[stays] = kept_by_nms(detections.xyxy[stays], ids[stays], self.nms)
        return cast("sv.Detections", detections[stays])

    def of_segments(self, segmentation: PanopticSegmentation) -> PanopticSegmentation:
        """The segments of the classes that are reported."""
        return segmentation if self.class_ids is None else segmentation.of_classes(self.class_ids)


def _ids_of(classes: Sequence[str], categories: Sequence[Category]) -> frozenset[int]:
    """The ids of classes by their names, in any case."""
    names = [classes] if isinstance(classes, str) else classes
    if not names:
        raise ConfigurationError("No classes were chosen: name at least one, or leave the choice out for all of them")
    known = {category.name.casefold(): category.id for category in categories}
    for name in names:
        if name.casefold() not in known:
            every = [category.name for category in categories]
            raise ConfigurationError(f"The model knows no class '{name}': {closest(name, every)}")
    return frozenset(known[name.casefold()] for name in names)
