"""Batches, their padding and their order; samples that depend on (seed, epoch, image) and on nothing else."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from detrkit.cards import Preprocessing
from detrkit.data import (
    Augmentation,
    DetectionDataset,
    EvaluationData,
    EvaluationTransform,
    Sample,
    TrainingData,
    TrainingTransform,
    collate,
    epoch_order,
    equal_size_batches,
    open_dataset,
    pad_images,
    read_digits,
)
from detrkit.structures import ImageBatch, Target


@pytest.fixture(scope="module")
def dataset() -> DetectionDataset:
    return read_digits("train", images=9, size=64)


def training_data(dataset: DetectionDataset, seed: int = 5) -> TrainingData:
    transform = TrainingTransform(Augmentation.for_sizes(64, 107), Preprocessing())
    return TrainingData(dataset, transform, seed)


def empty_target() -> Target:
    return Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))


def test_images_of_one_size_are_not_padded() -> None:
    images = [torch.full((3, 2, 4), float(value)) for value in (1, 2)]
    pixels, padding = pad_images(images)
    assert padding is None
    assert pixels.shape == (2, 3, 2, 4)
    assert pixels[1, 2, 1, 3] == 2


def test_padding_lies_right_and_below() -> None:
    pixels, padding = pad_images([torch.ones(3, 2, 4), torch.ones(3, 3, 1)])
    assert pixels.shape == (2, 3, 3, 4)
    assert padding is not None
    assert padding.tolist() == [
        [[False] * 4, [False] * 4, [True] * 4],
        [[False, True, True, True]] * 3,
    ]
    assert torch.equal(pixels, (~padding)[:, None].expand(2, 3, 3, 4).float())  # ones inside, zeros behind


def test_collate() -> None:
    target = Target(torch.tensor([3]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    samples = [(torch.ones(3, 64, 80), target, 2**40, (20, 40)), (torch.ones(3, 64, 80), empty_target(), 7, (30, 60))]
    batch, targets = collate(samples, smallest_side=64)
    assert isinstance(batch, ImageBatch)
    assert batch.image_ids is not None
    assert batch.original_sizes is not None
    assert batch.padding is None
    assert batch.image_ids.tolist() == [2**40, 7]
    assert batch.original_sizes.tolist() == [[20, 40], [30, 60]]
    assert targets[0] is target
    assert len(targets[1].labels) == 0


@pytest.mark.parametrize(("smallest_side", "height", "width"), [(1, 20, 100), (64, 64, 100), (128, 128, 128)])
def test_thin_images_are_padded_to_the_smallest_side(smallest_side: int, height: int, width: int) -> None:
    batch, _ = collate([(torch.ones(3, 20, 100), empty_target(), 1, (40, 200))], smallest_side=smallest_side)
    assert batch.pixels.shape == (1, 3, height, width)
    assert torch.equal(batch.pixels[0, 0, :20, :100], torch.ones(20, 100))
    assert batch.pixels.sum() == 3 * 20 * 100
    padded = 0 if batch.padding is None else int(batch.padding.sum())
    assert padded == height * width - 20 * 100


def test_a_sample_names_its_image(dataset: DetectionDataset) -> None:
    sample = training_data(dataset)[4]
    assert (sample.image_id, sample.original_size) == (5, (64, 64))


def test_chance_depends_on_seed_epoch_and_image(dataset: DetectionDataset) -> None:
    data = training_data(dataset)
    first = [data[index].pixels for index in range(9)]
    backwards = [data[index].pixels for index in reversed(range(9))][::-1]
    assert all(torch.equal(one, other) for one, other in zip(first, backwards, strict=True))
    data.set_epoch(1)
    changed = [data[index].pixels for index in range(9)]
    others = [training_data(dataset, seed=6)[index].pixels for index in range(9)]
    for different in (changed, others):
        assert (
            sum(one.shape == two.shape and torch.equal(one, two) for one, two in zip(first, different, strict=True))
            <= 1
        )
    data.set_epoch(0)
    assert torch.equal(data[3].pixels, first[3])


def test_one_seed_serves_every_image_differently(dataset: DetectionDataset) -> None:
    """The same picture at two places of the data set is augmented in two ways."""
    data = training_data(dataset.subset([0] * 12))
    assert len({(data[index].pixels.shape, float(data[index].pixels.sum())) for index in range(12)}) > 4


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing(dataset: DetectionDataset, persistent: bool) -> None:
    def epochs(workers: int) -> list[tuple[torch.Tensor, list[float]]]:
        data, order = training_data(dataset), [0] * len(dataset)
        loader = DataLoader(
            data,
            batch_size=2,
            sampler=order,
            num_workers=workers,
            collate_fn=partial(collate, smallest_side=64),
            persistent_workers=persistent and workers > 0,
            multiprocessing_context="fork" if workers else None,
        )
        seen = []
        for epoch in range(2):
            data.set_epoch(epoch)
            order[:] = epoch_order(len(dataset), 5, epoch)
            for batch, targets in loader:
                boxes = [round(value, 6) for target in targets for value in target.boxes_cxcywh.flatten().tolist()]
                seen.append((batch.pixels.clone(), boxes))
        return seen

    alone, shared_out = epochs(0), epochs(2)
    assert len(alone) == len(shared_out) == 10
    for (pixels, boxes), (other_pixels, other_boxes) in zip(alone, shared_out, strict=True):
        assert torch.equal(pixels, other_pixels)
        assert boxes == other_boxes


def test_evaluation_data_leaves_nothing_to_chance(dataset: DetectionDataset) -> None:
    data = EvaluationData(dataset, EvaluationTransform(Preprocessing(short_side=96)))
    assert len(data) == 9
    sample, objects = data[2], dataset.objects(2)
    assert sample.pixels.shape == (3, 96, 96)
    assert torch.equal(sample.pixels, data[2].pixels)
    assert (sample.image_id, sample.original_size) == (3, (64, 64))
    assert sample.target.labels.tolist() == objects.labels.tolist()
    left, top, right, bottom = objects.boxes_xyxy[0] / 64
    expected = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    assert sample.target.boxes_cxcywh[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_epoch_order() -> None:
    assert sorted(epoch_order(50, seed=1, epoch=0)) == list(range(50))
    assert epoch_order(50, seed=1, epoch=0) == epoch_order(50, seed=1, epoch=0)
    orders = [epoch_order(50, seed, epoch) for seed, epoch in ((1, 0), (1, 1), (2, 0), (0, 1))]
    assert all(orders[one] != orders[two] for one in range(4) for two in range(one))
    assert epoch_order(50, seed=1, epoch=0) != list(range(50))


def test_equal_size_batches() -> None:
    sizes = [(10, 20), (20, 20), (10, 20), (20, 10), (10, 20), (20, 20)]
    assert equal_size_batches(sizes, 2) == [[1, 5], [3], [0, 2], [4]]
    assert equal_size_batches(sizes, 8) == [[1, 5], [3], [0, 2, 4]]
    assert equal_size_batches([], 4) == []


def test_real_images_in_equal_size_batches_are_never_padded(shared: Path) -> None:
    dataset = open_dataset(shared / "data/coco", "val").subset(range(24))
    transform = EvaluationTransform(Preprocessing(short_side=96, long_side=160))
    sizes = [transform.output_size(height, width) for height, width in dataset.sizes.tolist()]
    batches = equal_size_batches(sizes, 4)
    assert sorted(index for batch in batches for index in batch) == list(range(24))
    assert max(map(len, batches)) == 4
    loader = DataLoader(
        EvaluationData(dataset, transform), batch_sampler=batches, collate_fn=partial(collate, smallest_side=1)
    )
    for batch, targets in loader:
        assert batch.padding is None
        assert len(targets) == len(batch.pixels)


def test_a_batch_is_the_same_as_its_samples_one_by_one_and_is_not_copied(shared: Path) -> None:
    dataset = open_dataset(shared / "data/coco", "train")
    preprocessing = Preprocessing(100, 170)
    training = TrainingData(dataset, TrainingTransform(Augmentation.for_sizes(100, 170), preprocessing), seed=5)
    for data in (training, EvaluationData(dataset, EvaluationTransform(preprocessing))):
        together = data.__getitems__([4, 0, 7])
        batch, targets = collate(together, smallest_side=64)
        expected, expected_targets = collate([data[index] for index in (4, 0, 7)], smallest_side=64)
        assert torch.equal(batch.pixels, expected.pixels)
        assert batch.padding is not None
        assert expected.padding is not None
        assert torch.equal(batch.padding, expected.padding)
        assert [sample.image_id for sample in together] == [data[index].image_id for index in (4, 0, 7)]
        for target, other in zip(targets, expected_targets, strict=True):
            assert torch.equal(target.boxes_cxcywh, other.boxes_cxcywh)
            assert torch.equal(target.labels, other.labels)
        assert batch.pixels.data_ptr() == together[0].pixels.data_ptr()
        wider, _ = collate(together, smallest_side=300)
        assert wider.pixels.shape == (3, 3, 300, 300)
        assert torch.equal(wider.pixels[:, :, : batch.pixels.shape[2], : batch.pixels.shape[3]], batch.pixels)
        assert float(wider.pixels[:, :, batch.pixels.shape[2] :].abs().sum()) == 0


class Darker(EvaluationTransform):
    def __call__(self, image: Image.Image) -> torch.Tensor:
        return super().__call__(image) - 1


class Renumbered(TrainingData):
    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index)._replace(image_id=100 + index)


def test_classes_of_ones_own_are_asked_one_by_one() -> None:
    dataset, preprocessing = read_digits("train", images=3, size=64), Preprocessing(64, 64)
    plain, _ = collate(
        EvaluationData(dataset, EvaluationTransform(preprocessing)).__getitems__([0, 1]), smallest_side=64
    )
    darker, _ = collate(EvaluationData(dataset, Darker(preprocessing)).__getitems__([0, 1]), smallest_side=64)
    assert torch.equal(darker.pixels, plain.pixels - 1)
    transform = TrainingTransform(Augmentation.for_sizes(64, 64), preprocessing)
    samples = Renumbered(dataset, transform, seed=1).__getitems__([2, 0])
    assert [sample.image_id for sample in samples] == [102, 100]
