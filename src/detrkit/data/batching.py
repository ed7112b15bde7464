"""From samples to batches, in an order and with an augmentation that depend on (seed, epoch, image) and on nothing else.

So neither the number of workers, nor the place of an image in its batch, nor a run that was interrupted and resumed changes what is learned
from. `TrainingData.set_epoch` says which epoch it is; the data keeps the number in shared memory, so that worker processes that outlive an
epoch see the new one as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from detrkit.cards import Preprocessing
from detrkit.data.dataset import DetectionDataset, Objects
from detrkit.data.transforms import EvaluationTransform, TrainingTransform, normalise, relative_target
from detrkit.structures import ImageBatch, Target

_ORDER, _AUGMENTATION, REPEATS = 0, 1, 2  # keep the uses of one seed apart
_TRAINING, _EVALUATION = TrainingTransform.__call__, EvaluationTransform.__call__


class Sample(NamedTuple):
    """One prepared image.

    Attributes:
        pixels: (3, H, W) normalised float32.
        target: its objects.
        image_id: its id in the data set.
        original_size: height and width of the picture before any resizing.
    """

    pixels: Tensor
    target: Target
    image_id: int
    original_size: tuple[int, int]


class Samples(list[Sample]):
    """Samples of one batch whose pixels lie in its padded tensor already, so that `collate` need not copy them.

    Attributes:
        pixels: (B, 3, H, W), of which the samples' pixels are views.
        padding: as from `pad_images`.
    """

    def __init__(self, samples: Iterable[Sample], pixels: Tensor, padding: Tensor | None) -> None:
        super().__init__(samples)
        self.pixels = pixels
        self.padding = padding


def pad_images(images: Sequence[Tensor], *, smallest_side: int = 1) -> tuple[Tensor, Tensor | None]:
    """Puts images of different sizes into one tensor, padded with zeros at the right and below.

    Args:
        images: each (3, h, w).
        smallest_side: pixels that height and width have at least.

    Returns:
        Pixels (B, 3, H, W), and padding (B, H, W) bool that is True where padded, or None where no image is.
    """
    pixels, places, padding = _padded(images, smallest_side, like=images[0])
    for place, image in zip(places, images, strict=True):
        place.copy_(image)
    return pixels, padding


def _padded(
    images: Sequence[Tensor], smallest_side: int, *, like: Tensor
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """A batch as of `pad_images`, of the type of `like`, still to be filled at the images' places (3, h, w); the places; the padding."""
    height, width = _padded_size(images, smallest_side)
    pixels = like.new_empty(len(images), images[0].shape[0], height, width)
    places = [whole[:, : image.shape[1], : image.shape[2]] for whole, image in zip(pixels, images, strict=True)]
    if all(place.shape[1:] == (height, width) for place in places):
        return pixels, places, None
    padding = torch.ones(len(images), height, width, dtype=torch.bool)
    # Every place is written once, since a batch is too large for the processor's caches.
    for whole, padded, image in zip(pixels, padding, images, strict=True):
        own_height, own_width = image.shape[1:]
        whole[:, :own_height, own_width:] = 0
        whole[:, own_height:] = 0
        padded[:own_height, :own_width] = False
    return pixels, places, padding


def _padded_size(images: Sequence[Tensor], smallest_side: int) -> tuple[int, int]:
    height, width = (max(smallest_side, *(image.shape[axis] for image in images)) for axis in (1, 2))
    return height, width


def collate(
    samples: Sequence[Sample | tuple[Tensor, Target, int, tuple[int, int]]], *, smallest_side: int
) -> tuple[ImageBatch, list[Target]]:
    """Makes one batch of samples, padded to the largest height and width among them.

    Args:
        samples: one for each image. The pixels of `Samples` are not copied.
        smallest_side: pixels that height and width of the batch have at least, from the model's preprocessing, so that a thin picture does
            not end a run.
    """
    images, targets, image_ids, original_sizes = zip(*samples, strict=True)
    if isinstance(samples, Samples) and samples.pixels.shape[2:] == _padded_size(images, smallest_side):
        pixels, padding = samples.pixels, samples.padding
    else:
        pixels, padding = pad_images(images, smallest_side=smallest_side)
    batch = ImageBatch(
        pixels=pixels,
        padding=padding,
        image_ids=torch.tensor(image_ids, dtype=torch.int64),
        original_sizes=torch.tensor(original_sizes, dtype=torch.int64),
    )
    return batch, list(targets)


class RandomImages:
    """The images of a data set that take part in others, drawn at random; see `OtherImages`."""

    def __init__(self, dataset: DetectionDataset) -> None:
        """Keeps the data set.

        Args:
            dataset: has at least one image.
        """
        self._dataset = dataset

    @property
    def stuff(self) -> Collection[int]:
        """Labels that are one segment of an image."""
        return [category.index for category in self._dataset.categories if not category.thing]

    def draw(self, generator: torch.Generator) -> tuple[Image.Image, Objects]:
        """One image with its objects.

        Raises:
            DataError: it cannot be read.
        """
        index = int(torch.randint(len(self._dataset), (), generator=generator))
        return self._dataset.image(index), self._dataset.objects(index)


class TrainingData(Dataset[Sample]):
    """A data set as it is trained on: augmented by (seed, epoch, image).

    The index i + I · k, for I images, is copy k of image i, which is augmented in a way of its own: an epoch may have an image several times.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        transform: TrainingTransform,
        seed: int,
        *,
        mixed_epochs: int | None = None,
    ) -> None:
        """Begins with epoch 0.

        Args:
            dataset: images and objects.
            transform: what is done to each of them.
            seed: of everything random, 0 or more.
            mixed_epochs: the first epochs, in which other images take part in an image where the policy says so; None means all.
        """
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.mixed_epochs = mixed_epochs
        self._epoch: Tensor = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch follows; call it before iterating over the data."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """The sample of one image.

        Raises:
            DataError: the image cannot be read.
        """
        place = index % len(self.dataset)
        image, objects = self.dataset.image(place), self.dataset.objects(place)
        return _sample(self.dataset, place, *self.transform(image, objects, self._generator(index), *self._others()))

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Sample]:
        """The same samples as one by one, together for a batch: a `DataLoader` asks for them so.

        Raises:
            DataError: an image cannot be read.
        """
        if type(self).__getitem__ is not TrainingData.__getitem__ or type(self.transform).__call__ is not _TRAINING:
            return [self[index] for index in indices]  # somebody's own class
        others, places = self._others(), [index % len(self.dataset) for index in indices]
        varied = [
            self.transform.varied(
                self.dataset.image(place), self.dataset.objects(place), self._generator(index), *others
            )
            for place, index in zip(places, indices, strict=True)
        ]
        return _together(self.dataset, places, varied, self.transform.preprocessing)

    def _others(self) -> tuple[RandomImages, ...]:
        """The images that may take part in others in this epoch, if any may: an argument that transforms of one's own need not take."""
        over = self.mixed_epochs is not None and int(self._epoch) >= self.mixed_epochs
        return () if over or not self.transform.augmentation.mixes else (RandomImages(self.dataset),)

    def _generator(self, index: int) -> torch.Generator:
        return torch.Generator().manual_seed(_seed(self.seed, _AUGMENTATION, int(self._epoch), index))


class EvaluationData(Dataset[Sample]):
    """A data set as it is evaluated: nothing is random; the targets serve for computing a loss."""

    def __init__(self, dataset: DetectionDataset, transform: EvaluationTransform) -> None:
        """Combines data and transform.

        Args:
            dataset: images and objects.
            transform: what is done to each image.
        """
        self.dataset = dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """The sample of one image.

        Raises:
            DataError: the image cannot be read.
        """
        image = self.dataset.image(index)
        pixels = self.transform(image)
        return _sample(self.dataset, index, pixels, self._target(image, index, pixels))

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Sample]:
        """The same samples as one by one, together for a batch: a `DataLoader` asks for them so.

        Raises:
            DataError: an image cannot be read.
        """
        if type(self).__getitem__ is not EvaluationData.__getitem__ or type(self.transform).__call__ is not _EVALUATION:
            return [self[index] for index in indices]  # somebody's own class
        resized = []
        for index in indices:
            image = self.dataset.image(index)
            levels = self.transform.resized(image)
            resized.append((levels, self._target(image, index, levels)))
        return _together(self.dataset, indices, resized, self.transform.preprocessing)

    def _target(self, image: Image.Image, index: int, pixels: Tensor) -> Target:
        height, width = pixels.shape[1:]
        return relative_target(self.dataset.objects(index), image.height, image.width, (height, width))


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The order of `count` images in an epoch: a permutation that depends on seed and epoch alone."""
    order: list[int] = np.random.default_rng((seed, _ORDER, epoch)).permutation(count).tolist()
    return order


def equal_size_batches(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Batches of images of equal size, so that none is padded and no figure can depend on the batching.

    Args:
        sizes: height and width of each image as the model gets it.
        batch_size: largest number of images in a batch.

    Returns:
        Positions of the images, batch by batch, largest images first (a lack of memory shows at once); every image occurs once.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for position, (height, width) in enumerate(sizes):
        groups.setdefault((height, width), []).append(position)
    largest_first = sorted(groups, key=lambda size: (size[0] * size[1], size), reverse=True)
    return [
        groups[size][start : start + batch_size]
        for size in largest_first
        for start in range(0, len(groups[size]), batch_size)
    ]


def _seed(*numbers: int) -> int:
    """64 well-mixed bits from a few numbers: neighbouring epochs and images get unrelated random numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _sample(dataset: DetectionDataset, index: int, pixels: Tensor, target: Target) -> Sample:
    height, width = dataset.sizes[index].tolist()
    return Sample(pixels, target, int(dataset.image_ids[index]), (height, width))


def _together(
    dataset: DetectionDataset,
    indices: Sequence[int],
    prepared: Sequence[tuple[Tensor, Target]],
    preprocessing: Preprocessing,
) -> Samples:
    """Samples whose levels (3, H, W) are normalised straight into the batch."""
    images = [levels for levels, _ in prepared]
    pixels, places, padding = _padded(images, preprocessing.smallest_side, like=torch.empty(0))
    samples = [
        _sample(dataset, index, normalise(levels, preprocessing, into=place), target)
        for index, (levels, target), place in zip(indices, prepared, places, strict=True)
    ]
    return Samples(samples, pixels, padding)
