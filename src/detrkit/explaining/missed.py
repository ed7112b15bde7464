"""Why an object was missed: the query that came nearest to it, layer by layer, and what that query answered for instead."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from detrkit.boxes import iou_and_union_xyxy
from detrkit.cards import Category
from detrkit.data.dataset import DetectionDataset
from detrkit.errors import DataError
from detrkit.evaluation.classes import MatchBy, match_categories
from detrkit.explaining.explaining import explained_query
from detrkit.explaining.geometry import as_floats
from detrkit.explaining.recording import Recording, record
from detrkit.explaining.records import ExplainedQuery, Floats, Numbers
from detrkit.models.detector import Detector
from detrkit.prediction.predictor import Predictor

Reason = Literal[
    "found", "unknown class", "other object", "duplicate", "wrong class", "poor box", "suppressed", "low score", "background"
]  # fmt: skip
LEAST_IOU = 0.5  # from which a box has an object
NEAR_IOU = 0.1  # from which a box is about an object at all


@dataclass(frozen=True, eq=False)
class Reports:
    """What a model reports of a picture, best first.

    Attributes:
        queries: (N,) int64, which query each detection comes from.
        labels: (N,) int64 places of the model's categories.
        boxes_xyxy: (N, 4) in pixels.
    """

    queries: Numbers
    labels: Numbers
    boxes_xyxy: Floats


@dataclass(frozen=True)
class Verdict:
    """What became of an object.

    Attributes:
        reason: "found", or why not.
        query: the one that found it, or came nearest; None where the model does not know the class.
        other: place of another object that this query answered for.
        label: place of the class that it answered with.
    """

    reason: Reason
    query: int | None = None
    other: int | None = None
    label: int | None = None


@dataclass(frozen=True, eq=False)
class ObjectAnswer:
    """An annotated object, and what the model made of it.

    Attributes:
        category: name of its class.
        box_xyxy: (4,) in pixels.
        verdict: whether it was found, and why not.
        sentence: the same for people.
        scores: (L,) of the nearest query for the object's class after each layer; empty where the model does not know the class.
        ious: (L,) of its boxes with the object's box.
        explained: that query; None where the model does not know the class.
    """

    category: str
    box_xyxy: Floats
    verdict: Verdict
    sentence: str
    scores: Floats
    ious: Floats
    explained: ExplainedQuery | None


@dataclass(frozen=True, eq=False, repr=False)
class Answers:
    """What a model made of the objects of one picture; crowd regions are left out.

    Attributes:
        variant: the model's name in the catalog.
        categories: the model's classes.
        image: name of the picture.
        picture: the original, in RGB.
        objects: one answer for each.
    """

    variant: str
    categories: tuple[Category, ...]
    image: str
    picture: Image.Image
    objects: tuple[ObjectAnswer, ...]

    def __repr__(self) -> str:
        found = sum(each.verdict.reason == "found" for each in self.objects)
        return f"<Answers of a {self.variant} to {self.image}: {found} of {len(self.objects)} found>"


def why_missed(
    model: Detector | nn.Module | str | Path | Predictor,
    dataset: DetectionDataset,
    image: int | str,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    match_by: MatchBy = "name",
) -> Answers:
    """Whether the objects of an image were found, and why not.

    Args:
        model: as for `explain`; a predictor's thresholds say what is reported.
        dataset: has the image and its objects.
        image: position in the data set, or name.
        layers: as for `explain`.
        heads: as for `explain`.
        match_by: how the model's classes find those of the data, as for `evaluate`; with "name" the model may lack most of them.

    Raises:
        DataError: there is no such image, it cannot be read, or the model has none of the data's classes.
        ConfigurationError: there is no such layer or head.
        NonFiniteError: the model produces NaN or infinity.
    """
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    index = _position(dataset, image)
    seen = record(predictor, predictor.prepare(dataset.image(index)))
    objects = dataset.objects(index)
    real = np.flatnonzero(~objects.crowd)
    boxes_xyxy, labels = objects.boxes_xyxy[real].astype(np.float32), objects.labels[real]
    places = _places(seen.categories, dataset, match_by)
    wanted = np.array([places.get(int(label), -1) for label in labels], dtype=np.int64)
    scores, limits = as_floats(seen.scores), _limits(predictor, seen.categories)
    of_layers = np.zeros((*scores.shape[:2], len(real)), dtype=np.float32)  # (L, Q, N) IoU
    for row in np.flatnonzero(wanted >= 0).tolist():
        of_layers[..., row] = _ious(seen.boxes_xyxy(int(wanted[row])), boxes_xyxy[[row]])[..., 0]
    verdicts = judged(of_layers[-1], scores[-1], _reports(seen), boxes_xyxy, wanted, limits)
    answers = []
    for row, verdict in enumerate(verdicts):
        name = dataset.categories[int(labels[row])].name
        query, place = verdict.query, int(wanted[row])
        if query is None:
            sentence = f"{name}: the model does not know this class"
            none = np.zeros(0, dtype=np.float32)
            answers.append(ObjectAnswer(name, boxes_xyxy[row], verdict, sentence, none, none, None))
            continue
        own_scores, ious = scores[:, query, place], of_layers[:, query, row]
        sentence = _sentence(name, verdict, float(own_scores[-1]), float(ious[-1]), limits[place], seen.categories)
        explained = explained_query(seen, query, label=place, layers=layers, heads=heads)
        answers.append(ObjectAnswer(name, boxes_xyxy[row], verdict, sentence, own_scores, ious, explained))
    name = dataset.image_name(index)
    return Answers(seen.model.card.variant, seen.categories, name, seen.picture, tuple(answers))


def judged(
    ious: Floats, scores: Floats, reports: Reports, objects_xyxy: Floats, labels: Numbers, limits: Floats
) -> list[Verdict]:
    """What became of each object.

    A detection finds the object of its class that it overlaps most, from an IoU of 0.5 on, unless a better detection has found it: COCO's
    matching. For an object that nothing found, the nearest query is looked at: the one with the highest score for its class among those
    whose box has it, or else among those whose box is near it, and rather one that found no other object.

    Args:
        ious: (Q, N) of the last boxes of all queries with the objects; where a model has a box for each class, of that for the object's.
        scores: (Q, K) of all queries.
        reports: what is reported.
        objects_xyxy: (N, 4) boxes of the objects.
        labels: (N,) places of their classes among the K; -1 for a class that the model does not know.
        limits: (K,) score from which each class is reported.
    """
    finders = _matched(reports, objects_xyxy, labels)
    busy = np.isin(np.arange(len(scores)), reports.queries[list(finders)])
    verdicts = []
    for row, label in enumerate(labels.tolist()):
        if label < 0:
            verdicts.append(Verdict("unknown class"))
        elif row in finders.values():
            finder = next(number for number, found in finders.items() if found == row)
            verdicts.append(Verdict("found", int(reports.queries[finder]), label=label))
        else:
            query = _nearest(ious[:, row], scores[:, label], busy)
            verdicts.append(_missed(query, row, label, ious, scores, reports, finders, objects_xyxy, limits))
    return verdicts


def _matched(reports: Reports, objects_xyxy: Floats, labels: Numbers) -> dict[int, int]:
    """For each detection that finds an object the object's place."""
    ious = _ious(reports.boxes_xyxy, objects_xyxy)
    finders: dict[int, int] = {}
    for number, label in enumerate(reports.labels.tolist()):
        free = (labels == label) & ~np.isin(np.arange(len(labels)), list(finders.values()))
        of_free = np.where(free, ious[number], 0.0)
        if len(of_free) and of_free.max() >= LEAST_IOU:
            finders[number] = int(of_free.argmax())
    return finders


def _nearest(ious: Floats, scores: Floats, busy: NDArray[np.bool_]) -> int:
    """The query with the highest score among those that have the object, or else are near it; or the one with the best box.

    Args:
        ious: (Q,) of all queries with the object.
        scores: (Q,) for its class.
        busy: (Q,) whether each found another object; it is taken only if no other query is as near.
    """
    for least in (LEAST_IOU, NEAR_IOU):
        for near in ((ious >= least) & ~busy, ious >= least):
            if near.any():
                return int(np.where(near, scores, -1.0).argmax())
    return int(ious.argmax())


def _missed(
    query: int,
    row: int,
    label: int,
    ious: Floats,
    scores: Floats,
    reports: Reports,
    finders: dict[int, int],
    objects_xyxy: Floats,
    limits: Floats,
) -> Verdict:
    """Why the nearest query did not find an object; arguments as for `judged`."""
    if ious[query, row] < NEAR_IOU:
        return Verdict("background", query)
    own = np.flatnonzero(reports.queries == query).tolist()
    right = [number for number in own if reports.labels[number] == label]
    if own:
        number = (right or own)[0]
        answered = int(reports.labels[number])
        if number in finders:
            return Verdict("other object", query, finders[number], answered)
        others = _ious(reports.boxes_xyxy[[number]], objects_xyxy)[0]
        least = max(LEAST_IOU, float(others[row]))  # what it has rather than this object
        taken = [other for other in finders.values() if other != row and others[other] >= least]
        if taken:
            return Verdict("duplicate", query, max(taken, key=lambda other: others[other]), answered)
        return Verdict("poor box" if right else "wrong class", query, label=answered)
    if scores[query, label] >= limits[label]:
        return Verdict("suppressed", query, label=label)
    return Verdict("low score" if ious[query, row] >= LEAST_IOU else "background", query)


def _sentence(
    name: str, verdict: Verdict, score: float, iou: float, limit: float, categories: Sequence[Category]
) -> str:
    """A verdict for people."""
    numbers = f"query {verdict.query} (score {score:.2f}, IoU {iou:.2f})"
    answered = "" if verdict.label is None else categories[verdict.label].name
    said = {
        "found": f"found by {numbers}",
        "other object": f"{numbers} answered for object {verdict.other} instead",
        "duplicate": f"{numbers} repeats object {verdict.other}, which another query found",
        "wrong class": f"{numbers} calls it {answered}",
        "poor box": f"{numbers} has the class, but too poor a box",
        "suppressed": f"{numbers} was left out, since it overlaps a better detection or too many are better",
        "low score": f"{numbers} has its box, but {limit:.2f} is needed to be reported",
        "background": f"no query took it for an object; nearest is {numbers}",
    }
    return f"{name}: {said[verdict.reason]}"


def _reports(seen: Recording) -> Reports:
    """What the predictor reports of a picture."""
    rows = list(seen.reported)
    places = {category.index: place for place, category in enumerate(seen.categories)}
    labels = [places[int(index)] for index in seen.detections.labels[rows]]
    return Reports(
        seen.detections.queries[rows].numpy(),
        np.array(labels, dtype=np.int64),
        as_floats(seen.detections.boxes_xyxy[rows]),
    )


def _places(categories: Sequence[Category], dataset: DetectionDataset, match_by: MatchBy) -> dict[int, int]:
    """From the classes of the data set to places of the model's, for those that both know."""
    ids = match_categories(categories, dataset, match_by).ids
    by_id = {category.id: category.index for category in dataset.categories}
    return {by_id[ids[category.index]]: place for place, category in enumerate(categories) if category.index in ids}


def _limits(predictor: Predictor, categories: Sequence[Category]) -> NDArray[np.float32]:
    """(K,) score from which each class is reported."""
    choice = predictor.choice
    limits = [choice.class_thresholds.get(category.id, choice.threshold) for category in categories]
    return np.array(limits, dtype=np.float32)


def _ious(first_xyxy: Floats, second_xyxy: Floats) -> Floats:
    """(..., M) of all pairs of boxes (..., 4) and (M, 4)."""
    first, second = torch.from_numpy(first_xyxy), torch.from_numpy(second_xyxy)
    return as_floats(iou_and_union_xyxy(first[..., None, :], second, epsilon=1e-9)[0])


def _position(dataset: DetectionDataset, image: int | str) -> int:
    """Where an image lies in a data set."""
    if isinstance(image, int):
        if not 0 <= image < len(dataset):
            raise DataError(f"{dataset.name} has the images 0 to {len(dataset) - 1}, and not {image}.")
        return image
    names = [dataset.image_name(index) for index in range(len(dataset))]
    for found in (names, [Path(name).name for name in names], [Path(name).stem for name in names]):
        if found.count(image) == 1:
            return found.index(image)
        if found.count(image) > 1:
            raise DataError(
                f"{dataset.name} has {found.count(image)} images named {image}: give the path of one, such as {names[found.index(image)]}."
            )
    similar = difflib.get_close_matches(image, names, n=1, cutoff=0.0)
    raise DataError(
        f"{dataset.name} has no image '{image}': its names are such as {similar[0] if similar else names[0]}."
    )
