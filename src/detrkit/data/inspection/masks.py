"""Masks decoded one image after another: whether segments and pixels agree, and whether outlines are where their boxes are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from detrkit.data.id_maps import MapMasks, segments_of
from detrkit.data.inspection.finding import Finding, Split, finding, places
from detrkit.data.wording import agreeing, are, have, some_of
from detrkit.errors import DataError

_NEAR = 2.0  # pixels that a mask may end from its box: outlines run between pixels, and boxes are rounded
_LEAST_OVERLAP = 0.5  # IoU of the two boxes below which a mask is not where its box is
_THREADS = 8


@dataclass(frozen=True)
class _Fault:
    """One thing about one object, or about an id that is no object's.

    Attributes:
        kind: a key of `KINDS`.
        index: of the image.
        shown: what a message says of it.
    """

    kind: str
    index: int
    shown: str


def mask_findings(splits: Sequence[Split], progress: Callable[[], None] = lambda: None) -> list[Finding]:
    """What decoding all masks shows; nothing for splits without masks.

    Args:
        splits: all that were opened.
        progress: called after each image.
    """
    return [each for split in splits if split.dataset.masks is not None for each in _of_split(split, progress)]


def _of_split(split: Split, progress: Callable[[], None]) -> list[Finding]:
    found: dict[str, list[_Fault]] = defaultdict(list)
    with ThreadPoolExecutor(_THREADS) as pool:
        for faults in pool.map(lambda index: _of_image(split, index), range(len(split.dataset))):
            for fault in faults:
                found[fault.kind].append(fault)
            progress()
    return [_finding(split, kind, faults) for kind, faults in found.items()]


def _of_image(split: Split, index: int) -> list[_Fault]:
    masks = split.dataset.masks
    try:
        if isinstance(masks, MapMasks):
            return _segments(split, masks, index)
        return _outlines(split, index)
    except DataError as problem:
        return [_Fault("damaged-masks", index, str(problem))]


def _segments(split: Split, masks: MapMasks, index: int) -> list[_Fault]:
    """Segments that the map lacks or has beside those that are listed, and boxes and areas that are not those of the pixels."""
    dataset, name = split.dataset, split.dataset.image_name(index)
    rows = slice(int(dataset.offsets[index]), int(dataset.offsets[index + 1]))
    ids, seen = segments_of(masks.maps.read(index), masks.ids[rows])
    others = seen.others if masks.whole else {}
    faults = [_Fault("segments-differ", index, f"id {identifier} of {name} is not listed") for identifier in others]
    for identifier, area, box, stated_area, stated_box in zip(
        ids.tolist(), seen.areas, seen.boxes_xyxy, dataset.areas[rows], dataset.boxes_xyxy[rows], strict=True
    ):
        if not area:
            faults.append(_Fault("segments-differ", index, f"segment {identifier} of {name} has no pixel"))
        elif area != stated_area or not np.array_equal(box, stated_box):
            faults.append(_Fault("segments-unlike-pixels", index, f"segment {identifier} of {name}"))
    return faults


def _outlines(split: Split, index: int) -> list[_Fault]:
    """Masks without pixels, and masks that are not where their boxes are; one mask at a time."""
    dataset, name = split.dataset, split.dataset.image_name(index)
    objects, (height, width) = dataset.objects(index), dataset.sizes[index].tolist()
    assert objects.masks is not None
    identifiers = dataset.annotation_ids[dataset.offsets[index] : dataset.offsets[index + 1]].tolist()
    everywhere = np.arange(height), np.arange(width)
    faults = []
    for row, (identifier, box) in enumerate(zip(identifiers, objects.boxes_xyxy, strict=True)):
        (mask,) = objects.masks.subset(np.array([row])).picked(*everywhere)
        (_, seen), shown = (
            segments_of(mask.astype(np.int32), np.ones(1, np.int32)),
            f"annotation {identifier} of {name}",
        )
        if not seen.areas[0]:
            faults.append(_Fault("masks-without-pixels", index, shown))
        elif not _is_there(seen.boxes_xyxy[0], box.clip(0, [width, height, width, height])):
            faults.append(_Fault("masks-beside-boxes", index, shown))
    return faults


def _is_there(own: np.ndarray, box: np.ndarray) -> bool:
    """Whether the box of a mask is the annotated one, as far as thin ends of outlines allow."""
    if np.abs(own - box).max() <= _NEAR:
        return True
    sides = np.minimum(own[2:], box[2:]) - np.maximum(own[:2], box[:2])
    common = np.prod(sides.clip(0))
    union = np.prod(own[2:] - own[:2]) + np.prod(box[2:] - box[:2]) - common
    return bool(common >= _LEAST_OVERLAP * union)


def _finding(split: Split, kind: str, faults: Sequence[_Fault]) -> Finding:
    count, dataset = len(faults), split.dataset
    objects = some_of(count, len(dataset.labels), "object")
    segments = some_of(count, len(dataset.labels), "segment")
    sentence = {
        "damaged-masks": f"{some_of(count, len(dataset), 'mask')} cannot be decoded",
        "segments-differ": f"{count} {agreeing(count, 'id', 'ids')} {are(count)} only in the pixels or only in the list",
        "segments-unlike-pixels": f"{segments} {have(count)} another box or area than the pixels",
        "masks-without-pixels": f"{objects} {have(count)} an outline that covers no pixel",
        "masks-beside-boxes": f"{objects} {have(count)} a mask that is not where the box is",
    }[kind]
    message = f"{sentence} {places([fault.shown for fault in faults])}."
    return finding(kind, split.name, message, count=count, files=split.files([fault.index for fault in faults]))
