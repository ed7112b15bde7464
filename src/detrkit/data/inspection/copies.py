"""Pictures that are there twice, in one split or in two, also under another name, in another size or compression.

Two pictures are taken for the same if their shapes and small grey versions agree. Means of 4 × 4 cells give candidates among all pictures; in
24 × 24 cells the mean difference must be small beside the picture's contrast; and then, read once more, in 48 × 48 cells the largest one, where
a cell may also be what its neighbours in the other picture are: re-encoding and resizing pass, but something that came, went or moved in front
of a camera that stands still makes another picture. A picture without contrast looks like any other, so these are only the same if their files
are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.spatial import KDTree

from detrkit.data.dataset import ImageFiles
from detrkit.data.inspection.finding import Finding, Split, finding, places
from detrkit.data.inspection.pictures import THUMBNAIL, Look, cells, small_grey
from detrkit.data.wording import agreeing, are, counted

_COARSE, _FINE = 4, 48  # cells on each side by which candidates are found and confirmed
_NEIGHBOURS = 8  # candidates of each picture
_COARSE_DISTANCE = 12.0  # grey levels, over all coarse cells: a mean difference of 3
_LEAST_CONTRAST = 3.0  # grey levels, standard deviation of the cells
_MEAN_DIFFERENCE = 0.12  # root mean square over the cells, as a share of the contrast
_LARGEST_DIFFERENCE = 0.5  # of a fine cell, as a share of the contrast
_SHAPE_TOLERANCE = 0.02  # ratio of the shapes
_KEPT = 512  # pictures that are kept in fine cells


@dataclass(frozen=True, order=True)
class Place:
    """A picture's place among several splits.

    Attributes:
        split: position of the split.
        image: position of the picture in it.
    """

    split: int
    image: int


def copies_found(splits: Sequence[Split], looks: Sequence[Look]) -> list[Finding]:
    """Pictures that are there twice, from what decoding all of them showed."""
    if not splits:
        return []
    places_of = [Place(number, image) for number, look in enumerate(looks) for image in range(len(look))]
    thumbnails = np.concatenate([look.thumbnails for look in looks]).astype(np.float32) / np.float32(256)
    sizes = np.concatenate([split.dataset.sizes for split in splits]).astype(np.float64)
    usable = np.concatenate([~look.blank for look in looks])
    for index, place in enumerate(places_of):
        usable[index] &= place.image not in looks[place.split].problems
    digests = np.concatenate([look.digests for look in looks])
    equal = _equal(digests, usable)

    @lru_cache(_KEPT)
    def fine(index: int) -> NDArray[np.float32]:
        place = places_of[index]
        return cells(small_grey(splits[place.split], place.image, None), _FINE)

    candidates = _alike(thumbnails, sizes[:, 1] / sizes[:, 0], usable)
    alike = [pair for pair in candidates if digests[pair[0]] != digests[pair[1]] and _same(*map(fine, pair))]
    return _findings(splits, [(places_of[first], places_of[second]) for first, second in sorted([*equal, *alike])])


def files_in_two_splits(splits: Sequence[Split]) -> list[Finding]:
    """Files that are in two splits, by path, or by name, size and content: without decoding any."""
    first_of_name: dict[str, dict[int, Place]] = {}
    pairs = []
    for number, split in enumerate(splits):
        images = split.dataset.images
        if not isinstance(images, ImageFiles):
            continue
        for index in range(len(images)):
            same_name = first_of_name.setdefault(os.path.basename(images.name(index)), {})  # noqa: PTH119 - fast
            place = Place(number, index)
            earlier = (other for other in same_name.values() if other.split != number)
            same = next((other for other in earlier if _same_file(splits, other, place)), None)
            if same is not None:
                pairs.append((same, place))
            same_name.setdefault(number, place)
    return _findings(splits, pairs)


def _same_file(splits: Sequence[Split], *places_of: Place) -> bool:
    paths = []
    for place in places_of:
        images = splits[place.split].dataset.images
        if not isinstance(images, ImageFiles):
            return False
        paths.append(images[place.image])
    first, second = paths
    if first.stat().st_size != second.stat().st_size:
        return False
    return first.samefile(second) or first.read_bytes() == second.read_bytes()


def _equal(digests: NDArray[np.object_], usable: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Pairs of equal files: each with the first that is equal to it."""
    first: dict[bytes, int] = {}
    return [
        (first[digests[index]], index)
        for index in np.flatnonzero(usable).tolist()
        if first.setdefault(digests[index], index) != index
    ]


def _alike(
    thumbnails: NDArray[np.float32], shapes: NDArray[np.float64], usable: NDArray[np.bool_]
) -> list[tuple[int, int]]:
    """Pairs of pictures that look the same.

    Args:
        thumbnails: (I, 24, 24) grey levels.
        shapes: (I,) width / height.
        usable: (I,) which pictures to compare.
    """
    contrast = thumbnails.std(axis=(1, 2))
    chosen = np.flatnonzero(usable & (contrast >= _LEAST_CONTRAST))
    if len(chosen) < 2:
        return []
    cell = THUMBNAIL // _COARSE
    coarse = thumbnails[chosen].reshape(-1, _COARSE, cell, _COARSE, cell).mean(axis=(2, 4)).reshape(len(chosen), -1)
    _, neighbours = KDTree(coarse).query(
        coarse, k=min(_NEIGHBOURS + 1, len(chosen)), distance_upper_bound=_COARSE_DISTANCE
    )
    rows, columns = np.nonzero(neighbours < len(chosen))
    first, second = chosen[rows], chosen[neighbours[rows, columns]]
    first, second = first[first < second], second[first < second]
    same_shape = np.abs(shapes[first] / shapes[second] - 1) < _SHAPE_TOLERANCE
    first, second = first[same_shape], second[same_shape]
    difference = np.sqrt(((thumbnails[first] - thumbnails[second]) ** 2).mean(axis=(1, 2)))
    same = difference < _MEAN_DIFFERENCE * np.minimum(contrast[first], contrast[second])
    return list(zip(first[same].tolist(), second[same].tolist(), strict=True))


def _same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether no cell is far from what the other picture has there or just beside it."""
    largest = max(_beyond_neighbours(one, other), _beyond_neighbours(other, one))
    return bool(largest < _LARGEST_DIFFERENCE * min(one.std(), other.std()))


def _beyond_neighbours(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    highest, lowest = maximum_filter(other, 3), minimum_filter(other, 3)
    return float(np.maximum(one - highest, lowest - one).max())


def _findings(splits: Sequence[Split], pairs: Sequence[tuple[Place, Place]]) -> list[Finding]:
    """One finding for each two splits, and one for each split with pictures that are twice in it."""
    found = []
    for one in range(len(splits)):
        for other in range(one, len(splits)):
            some = [(first, second) for first, second in pairs if (first.split, second.split) == (one, other)]
            if some:
                found.append(_finding(splits[one], splits[other], some))
    return found


def _finding(one: Split, other: Split, pairs: Sequence[tuple[Place, Place]]) -> Finding:
    repeated = list(dict.fromkeys(second.image for _, second in pairs))
    count = len(repeated)
    named = {
        second.image: (one.dataset.image_name(first.image), other.dataset.image_name(second.image))
        for first, second in reversed(pairs)
    }
    shown = [_pair(*named[image]) for image in repeated]
    files = dict.fromkeys(name for image in repeated for name in named[image])
    if one is other:
        message = f"{count} of {counted(len(one.dataset), 'picture')} of '{one.name}' {agreeing(count, 'repeats', 'repeat')} another of them {places(shown)}."
        return finding("same-picture-twice", one.name, message, count=count, files=files)
    message = f"{counted(count, 'picture')} of '{other.name}' {are(count)} also in '{one.name}' {places(shown)}."
    return finding("same-picture-in-splits", f"{one.name}, {other.name}", message, count=count, files=files)


def _pair(first: str, second: str) -> str:
    return first if first == second else f"{second} is {first}"
