"""Runs a model on every image of a data set and compares its detections with the annotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detrkit.cards import ModelCard
from detrkit.checkpoints.loading import as_detector
from detrkit.coco_limits import MAX_DETECTIONS
from detrkit.data.batching import EvaluationData, collate, equal_size_batches
from detrkit.data.dataset import DetectionDataset
from detrkit.data.opening import Masks, open_dataset
from detrkit.data.transforms import EvaluationTransform
from detrkit.data.wording import counted
from detrkit.data.workers import BatchLoader, for_workers
from detrkit.errors import ConfigurationError
from detrkit.evaluation.analysis import Analysis, evaluate_in_detail
from detrkit.evaluation.classes import MatchBy, match_categories
from detrkit.evaluation.coco import evaluate_detections
from detrkit.evaluation.figures import Evaluation, check_max_detections
from detrkit.evaluation.repeats import Suppression
from detrkit.evaluation.result_files import is_annotation_file, is_result_file, pair
from detrkit.layers.selection import TopKSelection
from detrkit.models.catalog import selection_for
from detrkit.models.detector import Detector
from detrkit.prediction.looking import look
from detrkit.prediction.mask_encoding import encoded_mask
from detrkit.prediction.results import result_entry
from detrkit.prediction.suppression import KEEP_ALL, check_nms, kept_by_nms
from detrkit.progress import Follow, watched
from detrkit.structures import Detections


def evaluate(
    model: Detector | nn.Module | str | Path,
    dataset: DetectionDataset | str | Path,
    *,
    split: str | None = None,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    workers: int = 0,
    progress: bool | Follow = False,
    max_detections: int = MAX_DETECTIONS,
    match_by: MatchBy = "auto",
    nms: float | None = None,
) -> Evaluation:
    """COCO's figures for a model on a data set, or for a result file.

    Masks are compared besides boxes if the model has masks and the data set was opened with them.

    Args:
        model: runs in eval mode; afterwards it has its previous mode again. It may be compiled or otherwise wrapped by PyTorch, the path of a
            checkpoint or of a run's folder, or of a JSON file with results, for which the next arguments but `max_detections` are not meant.
        dataset: images and ground truth, as `open_dataset` returns them, or what `open_dataset` takes.
        split: the split of a data set that is given by its path; by default "val". An annotation file that results are compared with is
            taken as a whole.
        batch_size: images that go through the model together. They must have the same size after resizing, so nothing is padded and the
            figures do not depend on it.
        device: where the model is moved to; None leaves it where it is.
        workers: processes that read images; 0 reads them in this process.
        progress: whether to show on the error stream how far it is, or what shows it instead.
        max_detections: number of the best detections that are kept of each image and count.
        match_by: how the model's classes find those of the data set: "name", "id", or "auto", which matches by name and refuses a model that
            knows less than half of the classes that have objects. Classes without a partner count as never found.
        nms: IoU above which a detection that repeats a better one of its class is left out, in (0, 1]; None leaves none out, also where the
            model's card has a value, so that figures are those of the model itself.

    Raises:
        ConfigurationError: the model is no detector, the data are no data set, `max_detections` is below 1, `nms` is out of range, or an
            argument has no effect.
        CheckpointError: the checkpoint cannot be read.
        DataError: the data cannot be read, or the classes or results do not fit them.
        NonFiniteError: the model produces NaN or infinity.
        WorkerError: the system ended a worker.
    """
    check_max_detections(max_detections)
    if isinstance(model, str | Path) and is_result_file(model):
        if (batch_size, device, workers, match_by, nms) != (1, None, 0, "auto", None):
            raise ConfigurationError(
                f"batch_size, device, workers, match_by and nms are for models, and {model} is a result file: leave them out"
            )
        return _of_results(model, dataset, split, max_detections)
    model = as_detector(model)
    dataset = opened(dataset, split)
    entries = detect(
        model,
        dataset,
        batch_size=batch_size,
        device=device,
        workers=workers,
        progress=progress,
        max_detections=max_detections,
        match_by=match_by,
        nms=nms,
    )
    return compare(model, dataset, entries, max_detections=max_detections, match_by=match_by)


def _of_results(
    results: str | Path, data: DetectionDataset | str | Path, split: str | None, max_detections: int
) -> Evaluation:
    """The figures of a result file."""
    if isinstance(data, str | Path) and is_annotation_file(data):
        if split is not None:
            raise ConfigurationError(f"{data} is an annotation file, taken as a whole: leave `split` out")
        paired = pair(results, data)
    else:
        paired = pair(results, opened(data, split))
    return evaluate_detections(
        paired.ground_truth, paired.entries, name=paired.name, notes=paired.notes, max_detections=max_detections
    )


def opened(data: DetectionDataset | str | Path, split: str | None, *, masks: Masks | None = None) -> DetectionDataset:
    """The data set, opened if it is given by its path.

    Args:
        data: a data set or its path.
        split: of a path.
        masks: likewise.
    """
    if isinstance(data, DetectionDataset):
        if split is not None:
            raise ConfigurationError(f"the data set is opened already, as {data.name}: leave `split` out")
        return data
    if not isinstance(data, str | Path):
        raise ConfigurationError(
            f"evaluate needs a data set, not {data!r}: give its path, or detrkit.open_dataset(..., split)"
        )
    return open_dataset(data, split or "val", masks=masks)


def compare(
    model: Detector,
    dataset: DetectionDataset,
    entries: Sequence[dict[str, Any]],
    *,
    max_detections: int = MAX_DETECTIONS,
    match_by: MatchBy = "auto",
) -> Evaluation:
    """COCO's figures for the entries that `detect` returned, with notes about the data set and its classes.

    Args:
        model: the one that produced the entries; only its card is used.
        dataset: the one that the entries belong to.
        entries: as `detect` returns them.
        max_detections: as for `detect`.
        match_by: as for `evaluate`.

    Raises:
        ConfigurationError: `max_detections` is below 1.
    """
    notes = _notes(model, dataset, max_detections, match_by)
    return evaluate_detections(
        _truth_of(dataset, entries), entries, name=dataset.name, notes=notes, max_detections=max_detections
    )


def compare_in_detail(
    model: Detector,
    dataset: DetectionDataset,
    entries: Sequence[dict[str, Any]],
    *,
    max_detections: int = MAX_DETECTIONS,
    match_by: MatchBy = "auto",
) -> tuple[Evaluation, Analysis]:
    """What `compare` returns, and the analysis of the same entries; arguments as for `compare`."""
    notes = _notes(model, dataset, max_detections, match_by)
    truth = _truth_of(dataset, entries)
    return evaluate_in_detail(truth, entries, name=dataset.name, notes=notes, max_detections=max_detections)


def _truth_of(dataset: DetectionDataset, entries: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The ground truth in COCO's format, with masks if detections have some to compare with them."""
    truth = dataset.to_coco()
    if dataset.masks is None or not entries or "segmentation" not in entries[0]:
        return truth
    places = iter(truth["annotations"])
    for index, (height, width) in enumerate(dataset.sizes.tolist()):
        masks = dataset.objects(index).masks
        if masks is not None and len(masks):
            for mask in masks.picked(np.arange(height), np.arange(width)):
                next(places)["segmentation"] = encoded_mask(mask)
    return truth


def with_best_thresholds(
    card: ModelCard,
    dataset: DetectionDataset,
    evaluation: Evaluation,
    match_by: MatchBy = "auto",
    *,
    nms: float | None = None,
) -> ModelCard:
    """A card with the thresholds that an evaluation found best; without a correct detection the card is left as it is.

    The card also gets an NMS value if suppression helps (`Suppression.helps`), and then the thresholds of the detections that it leaves.

    Args:
        card: of the model that was evaluated.
        dataset: what it was evaluated on.
        evaluation: the result.
        match_by: as for `evaluate`.
        nms: the value that the detections were evaluated with, which the card gets in any case.
    """
    if evaluation.best_threshold is None:
        return card
    chosen: Evaluation | Suppression = evaluation
    if nms is None and evaluation.suppression is not None and evaluation.suppression.helps:
        chosen, nms = evaluation.suppression, evaluation.suppression.iou
    thresholds = chosen.class_thresholds
    own = {
        index: thresholds[category_id]
        for index, category_id in match_categories(card.categories, dataset, match_by).ids.items()
        if category_id in thresholds
    }
    threshold = card.threshold if chosen.best_threshold is None else chosen.best_threshold
    return replace(card, threshold=threshold, class_thresholds=own, nms=None if nms == KEEP_ALL else nms)


def _notes(model: Detector, dataset: DetectionDataset, max_detections: int, match_by: MatchBy) -> tuple[str, ...]:
    """What to know about the data set, about its classes, and about images with more objects than the model can find."""
    notes = [*dataset.notes, *match_categories(model.card.categories, dataset, match_by).notes]
    queries = model.card.config["queries"]
    places = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    objects = np.bincount(places[~dataset.crowd], minlength=len(dataset))
    crowded = np.flatnonzero(objects > min(queries, max_detections))
    if crowded.size:
        first = int(crowded[0])
        where = f"{counted(len(crowded), 'image')} (the first: {dataset.image_name(first)} with {objects[first]})"
        if queries <= max_detections:
            notes.append(
                f"The model has {counted(queries, 'query', 'queries')}, and more objects are annotated in {where}: it cannot find all of "
                "them; train a model with more --settings.queries."
            )
        else:
            notes.append(
                f"--max-detections keeps {counted(max_detections, 'detection')} of each image, and more objects are annotated in {where}: "
                "choose a higher number."
            )
    return tuple(notes)


def detect(
    model: Detector,
    dataset: DetectionDataset,
    *,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    workers: int = 0,
    progress: bool | Follow = False,
    max_detections: int = MAX_DETECTIONS,
    match_by: MatchBy = "auto",
    nms: float | None = None,
    images: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """The detections of a model in a data set, as COCO result entries with the data set's ids: the best of each image, without a threshold.

    Args:
        model: as for `evaluate`, like all other arguments.
        dataset: only its images and categories are used.
        batch_size: images that go through the model together.
        device: where the model is moved to.
        workers: processes that read images.
        progress: as for `evaluate`.
        max_detections: number of detections of each image, at most; the model's paper may select fewer.
        match_by: as for `evaluate`.
        nms: as for `evaluate`.
        images: positions of the images to look at; None means all.

    Returns:
        Entries image by image in the order of the data set, best first.
    """
    model = as_detector(model)
    check_max_detections(max_detections)
    check_nms(nms)
    category_ids = match_categories(model.card.categories, dataset, match_by).ids
    positions = range(len(dataset)) if images is None else images
    loader = loader_of(model, dataset, batch_size=batch_size, workers=workers, images=positions)
    select = selection_for(model if device is None else model.to(device))
    boxes = getattr(select, "boxes", select)  # of a selection with masks
    if isinstance(boxes, TopKSelection):  # the papers' 100 are a choice for COCO, not a limit of the models
        boxes.limit = max(boxes.limit, max_detections)
    entries: dict[int, list[dict[str, Any]]] = {}
    with eval_mode(model), watched(progress) as follow:
        loaded = follow(
            loader, "evaluating", unit="image", total=len(positions), size=lambda each: len(each[0].image_ids)
        )
        for batch, _ in loaded:
            # Masks take time, so they are computed only where there is something to compare them with.
            detections_of_images = look(model, select, batch, masks=dataset.masks is not None).detections
            for image_id, detections in zip(batch.image_ids.tolist(), detections_of_images, strict=True):
                kept = detections if nms is None else _without_repeats(detections, nms)
                entries[image_id] = _entries(kept, image_id, category_ids, max_detections)
    return [entry for image_id in dataset.image_ids[list(positions)].tolist() for entry in entries[image_id]]


def loader_of(
    model: Detector,
    dataset: DetectionDataset,
    *,
    batch_size: int,
    workers: int,
    images: Sequence[int] | None = None,
) -> BatchLoader:
    """The images of a data set as a model needs them, in batches of equal size.

    Args:
        model: its card says how images are prepared.
        dataset: the images.
        batch_size: images of a batch, at most.
        workers: processes that read images.
        images: positions of those that are wanted; None means all.
    """
    preprocessing = model.card.preprocessing
    transform = EvaluationTransform(preprocessing)
    without_masks = replace(dataset, masks=None)  # which take time, and nobody looks at the targets
    positions = range(len(dataset)) if images is None else images
    sizes = [transform.output_size(*dataset.sizes[position].tolist()) for position in positions]
    return BatchLoader(
        for_workers(EvaluationData(without_masks, transform), workers),
        workers=workers,
        batch_sampler=[[positions[place] for place in batch] for batch in equal_size_batches(sizes, batch_size)],
        collate_fn=partial(collate, smallest_side=preprocessing.smallest_side),
    )


def _without_repeats(detections: Detections, nms: float) -> Detections:
    """Those of a picture's detections that stay after suppression."""
    kept = torch.from_numpy(kept_by_nms(detections.boxes_xyxy.float().numpy(), detections.labels.numpy(), nms))
    return Detections(
        scores=detections.scores[kept],
        labels=detections.labels[kept],
        boxes_xyxy=detections.boxes_xyxy[kept],
        queries=detections.queries[kept],
        masks=None if detections.masks is None else detections.masks[kept],
    )


def _entries(detections: Detections, image_id: int, category_ids: dict[int, int], limit: int) -> list[dict[str, Any]]:
    """The best detections of classes that the data set has."""
    known = [row for row, label in enumerate(detections.labels.tolist()) if label in category_ids][:limit]
    labels, boxes, scores = (
        column[known].tolist() for column in (detections.labels, detections.boxes_xyxy, detections.scores)
    )
    masks = [None] * len(known) if detections.masks is None else [detections.masks[row].numpy() for row in known]
    return [
        result_entry(image_id, category_ids[label], box, score, mask)
        for label, box, score, mask in zip(labels, boxes, scores, masks, strict=True)
    ]


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every module has its previous mode again, even if modes differed."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
