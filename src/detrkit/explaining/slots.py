"""What each query of a model is for: where over a data set its boxes lie, how large they are, and which classes it finds (DETR, figure 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detrkit.cards import Category
from detrkit.data.dataset import DetectionDataset
from detrkit.errors import DataError
from detrkit.explaining.geometry import Places
from detrkit.explaining.recording import reported
from detrkit.explaining.records import Floats, Numbers
from detrkit.models.catalog import selection_for
from detrkit.models.detector import Detector
from detrkit.prediction.looking import check_finite
from detrkit.prediction.predictor import Predictor
from detrkit.progress import Follow, watched
from detrkit.structures import Output


@dataclass(frozen=True, eq=False, repr=False)
class QueryUses:
    """What the Q queries of a model did in the I images of a data set.

    Attributes:
        variant: the model's name in the catalog.
        data: name of the data set and split.
        categories: the model's K classes.
        boxes_cxcywh: (I, Q, 4) the last box of each query in [0, 1] of its image; NaN where an image has fewer queries.
        found: (I, Q) bool, whether a detection is reported that comes from the query.
        classes: (Q, K) int64, how many detections of each class are reported that come from the query.
        ranks: whether queries start from the image, so that query 0 is the best proposal of each image rather than always the same.
    """

    variant: str
    data: str
    categories: tuple[Category, ...]
    boxes_cxcywh: Floats
    found: NDArray[np.bool_]
    classes: Numbers
    ranks: bool

    def __repr__(self) -> str:
        return f"<QueryUses of a {self.variant}: {self.sentence()}>"

    @property
    def counts(self) -> Numbers:
        """(Q,) in how many images each query found something."""
        return np.asarray(self.found.sum(0), dtype=np.int64)

    @property
    def used_share(self) -> float:
        """Share of the queries that found something at least once, in [0, 1]."""
        return float((self.counts > 0).mean())

    @property
    def evenness(self) -> float | None:
        """Entropy of what queries find, divided by its largest value: 1 if all find equally much, 0 if one finds everything; None if none finds anything."""
        counts = self.counts
        if counts.sum() == 0:
            return None
        if len(counts) == 1:
            return 1.0
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum() / np.log(len(counts))) + 0.0

    def sentence(self) -> str:
        """How the queries are used, for people."""
        used = int((self.counts > 0).sum())
        evenness = "" if self.evenness is None else f"; evenness {self.evenness:.2f} (1: all find equally much)"
        kind = "ranks of proposals" if self.ranks else "queries"
        return (
            f"{used} of {len(self.counts)} {kind} found something in {len(self.found)} images of {self.data}{evenness}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file, without the boxes of each image."""
        return {
            "variant": self.variant,
            "data": self.data,
            "images": len(self.found),
            "ranks": self.ranks,
            "used_share": self.used_share,
            "evenness": self.evenness,
            "queries": [self._of_query(query) for query in range(len(self.counts))],
        }

    def _of_query(self, query: int) -> dict[str, Any]:
        boxes = self.boxes_cxcywh[:, query]
        boxes = boxes[~np.isnan(boxes[:, 0])]
        names = [category.name for category in self.categories]
        return {
            "query": query,
            "found_in_images": int(self.counts[query]),
            "classes": {
                name: number for name, number in zip(names, self.classes[query].tolist(), strict=True) if number
            },
            "mean_box_cxcywh": boxes.mean(0).tolist() if len(boxes) else None,
            "deviation_cxcywh": boxes.std(0).tolist() if len(boxes) else None,
        }


def query_uses(
    model: Detector | nn.Module | str | Path | Predictor,
    dataset: DetectionDataset,
    *,
    images: Sequence[int] | None = None,
    progress: bool | Follow = False,
) -> QueryUses:
    """Where each query finds objects over a data set, of which sizes and classes.

    Args:
        model: as for `explain`; a predictor's thresholds say what is reported.
        dataset: its images are looked at; annotations do not matter.
        images: positions of the images; None means all.
        progress: whether to show on the error stream how far it is, or what shows it instead.

    Raises:
        DataError: there are no images, or one cannot be read.
        NonFiniteError: the model produces NaN or infinity.
    """
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    positions = range(len(dataset)) if images is None else images
    if not len(positions):
        raise DataError(f"{dataset.name} has no images to look at: choose another split.")
    card = predictor.model.card
    with watched(progress) as follow:
        followed = follow(positions, "looking", unit="image", total=len(positions))
        of_images = [_of_image(predictor, dataset, position) for position in followed]
    boxes, pairs, ranks = zip(*of_images, strict=True)
    queries = max(map(len, boxes))
    padded = np.full((len(boxes), queries, 4), np.nan, dtype=np.float32)
    found, classes = np.zeros(padded.shape[:2], dtype=np.bool_), np.zeros((queries, len(card.categories)), np.int64)
    for row, (own, of_image) in enumerate(zip(boxes, pairs, strict=True)):
        padded[row, : len(own)] = own
        for query, label in of_image:
            found[row, query] = True
            classes[query, label] += 1
    return QueryUses(card.variant, dataset.name, card.categories, padded, found, classes, ranks[0])


@torch.inference_mode()
def _of_image(
    predictor: Predictor, dataset: DetectionDataset, position: int
) -> tuple[Floats, list[tuple[int, int]], bool]:
    """Boxes (Q, 4), the reported pairs of query and place of the class, and whether queries start from the image."""
    parameter = next(predictor.model.parameters())
    batch = predictor.batch([predictor.prepare(dataset.image(position))]).to(parameter.device, parameter.dtype)
    output: Output = predictor.model(batch)
    assert batch.original_sizes is not None
    detections = selection_for(predictor.model)(output, batch.original_sizes)[0].to("cpu")
    check_finite([detections])
    rows = list(reported(predictor, detections))
    places = {category.index: place for place, category in enumerate(predictor.model.card.categories)}
    labels = [places[index] for index in detections.labels[rows].tolist()]
    pairs = list(zip(detections.queries[rows].tolist(), labels, strict=True))
    proposes = output.proposals is not None and output.proposals.rows is not None
    ranks = proposes or Places.of_chosen(output) is not None
    return output.boxes_cxcywh[-1, 0].float().cpu().numpy(), pairs, ranks
