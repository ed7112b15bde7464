"""From samples to batches, in an order and with an augmentation that depend on (seed, epoch, image) and on nothing else.

So neither the number of workers, nor the place of an image in its batch, nor a run that was interrupted and resumed changes what is learned
from. Training data and the sampler are told the epoch by `set_epoch`; the data keeps it in shared memory, so that worker processes that
outlive an epoch see the new one as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from detrkit.data.dataset import DetectionDataset
from detrkit.data.transforms import EvaluationTransform, TrainingTransform, relative_target
from detrkit.structures import ImageBatch, Target

_ORDER, _AUGMENTATION = 0, 1  # keep the two uses of one seed apart


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


def pad_images(images: Sequence[Tensor], *, least_side: int = 1) -> tuple[Tensor, Tensor | None]:
    """Puts images of different sizes into one tensor, padded with zeros at the right and below.

    Args:
        images: each (3, h, w).
        least_side: pixels that height and width get at least.

    Returns:
        Pixels (B, 3, H, W), and padding (B, H, W) bool that is True where padded, or None where no image is.
    """
    height, width = (max(least_side, *(image.shape[axis] for image in images)) for axis in (1, 2))
    if all(image.shape[1:] == (height, width) for image in images):
        return torch.stack(list(images)), None
    pixels = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    padding = torch.ones(len(images), height, width, dtype=torch.bool)
    for position, image in enumerate(images):
        pixels[position, :, : image.shape[1], : image.shape[2]] = image
        padding[position, : image.shape[1], : image.shape[2]] = False
    return pixels, padding


# One cell of the coarsest level that published variants have: a thin picture must not end a run.
LEAST_SIDE = 64


def collate(samples: Sequence[Sample | tuple[Tensor, Target, int, tuple[int, int]]]) -> tuple[ImageBatch, list[Target]]:
    """Makes one batch of samples, padded to the largest height and width among them, at least `LEAST_SIDE` pixels."""
    images, targets, image_ids, original_sizes = zip(*samples, strict=True)
    pixels, padding = pad_images(images, least_side=LEAST_SIDE)
    batch = ImageBatch(
        pixels=pixels,
        padding=padding,
        image_ids=torch.tensor(image_ids, dtype=torch.int64),
        original_sizes=torch.tensor(original_sizes, dtype=torch.int64),
    )
    return batch, list(targets)


class TrainingData(Dataset[Sample]):
    """A data set as it is trained on: augmented by (seed, epoch, image)."""

    def __init__(
        self, dataset: DetectionDataset, transform: TrainingTransform, seed: int, label_map: Tensor | None = None
    ) -> None:
        """Begins with epoch 0.

        Args:
            dataset: images and objects.
            transform: what is done to each of them.
            seed: of all chance, 0 or more.
            label_map: (number of categories,) int64, the output of the class head for each category; None where they are the same.
        """
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.label_map = label_map
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
        generator = torch.Generator().manual_seed(_seed(self.seed, _AUGMENTATION, int(self._epoch), index))
        image = self.dataset.image(index)
        pixels, target = self.transform(image, self.dataset.objects(index), generator)
        return _sample(self.dataset, index, pixels, _mapped(target, self.label_map))


class EvaluationData(Dataset[Sample]):
    """A data set as it is evaluated: nothing is left to chance; the targets serve for a loss."""

    def __init__(
        self, dataset: DetectionDataset, transform: EvaluationTransform, label_map: Tensor | None = None
    ) -> None:
        """Joins data and transform.

        Args:
            dataset: images and objects.
            transform: what is done to each image.
            label_map: (number of categories,) int64, the output of the class head for each category; None where they are the same.
        """
        self.dataset = dataset
        self.transform = transform
        self.label_map = label_map

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """The sample of one image.

        Raises:
            DataError: the image cannot be read.
        """
        image = self.dataset.image(index)
        target = relative_target(self.dataset.objects(index), image.height, image.width)
        return _sample(self.dataset, index, self.transform(image), _mapped(target, self.label_map))


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The order of `count` images in an epoch: a permutation that seed and epoch alone decide."""
    order: list[int] = np.random.default_rng((seed, _ORDER, epoch)).permutation(count).tolist()
    return order


class EpochSampler(Sampler[int]):
    """Goes through all images in the order of the epoch; several processes share them.

    Each process takes every `world_size`-th image. The first images of the order come again where the number does not divide, so that all
    processes take equally many steps.
    """

    def __init__(self, count: int, seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        """Begins with epoch 0.

        Args:
            count: images of the data set.
            seed: of the order, 0 or more.
            rank: number of this process, from 0.
            world_size: number of processes.
        """
        self.count = count
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch follows; call it before iterating."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.world_size)

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.count, self.seed, self.epoch)
        for place in range(self.rank, len(self) * self.world_size, self.world_size):
            yield order[place % self.count]


def equal_size_batches(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Batches of images that are equally large, so that none is padded and a figure cannot depend on the batching.

    Args:
        sizes: height and width of each image as the model gets it.
        batch_size: at most so many images in a batch.

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
    """64 well-mixed bits from a few numbers: neighbouring epochs and images get unrelated chance."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _mapped(target: Target, label_map: Tensor | None) -> Target:
    return target if label_map is None else Target(label_map[target.labels], target.boxes_cxcywh)


def _sample(dataset: DetectionDataset, index: int, pixels: Tensor, target: Target) -> Sample:
    height, width = dataset.sizes[index].tolist()
    return Sample(pixels, target, int(dataset.image_ids[index]), (height, width))
