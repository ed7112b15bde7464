"""Named policies and what single options change in them; steps, chance and the epochs with mixed images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from data.augmented_pictures import PLAIN, Pictures, generator, picture
from torch.utils.data import DataLoader

from detrkit.cards import PolicyName, Preprocessing
from detrkit.data import (
    Augmentation,
    DetectionDataset,
    TrainingData,
    TrainingTransform,
    collate,
    open_dataset,
    read_digits,
)
from detrkit.data.augmentation import POLICIES, ColourJitter, mixed_epochs
from detrkit.data.colours import with_other_colours
from detrkit.errors import ConfigurationError

STILL = Augmentation((48,), 1000, 0.0, False, (48,), (24, 30))


class TestPolicies:
    @pytest.mark.parametrize("sizes", [(800, 1333), (640, 1066), (128, 128), (320, 430), (64, 107), (85, 95)])
    def test_detr_is_the_policy_in_proportion(self, sizes: tuple[int, int]) -> None:
        assert Augmentation.named("detr", *sizes) == Augmentation.for_sizes(*sizes)

    def test_detr_at_its_own_size_is_the_default(self) -> None:
        assert Augmentation.named("detr", 800, 1333) == Augmentation()

    def test_there_is_one_for_each_name(self) -> None:
        assert tuple(POLICIES) == get_args(PolicyName)
        with pytest.raises(
            ConfigurationError, match="no augmentation 'hard': choose one of detr, sizes, light, strong, none"
        ):
            Augmentation.named("hard", 800, 1333)  # type: ignore[arg-type]

    def test_none_resizes_to_the_largest_size_alone(self) -> None:
        policy = Augmentation.named("none", 320, 430)
        assert (policy.flip, policy.vertical_flip, policy.crop, policy.short_sides) == (0.0, 0.0, False, (320,))
        transform = TrainingTransform(policy, PLAIN)
        image, objects = picture((60, 80), [(10, 20, 30, 40)], masks=False)
        assert [name for name, _ in transform.steps(image, objects, generator(0))] == ["as annotated", "resized"]

    def test_light_keeps_sizes_near_the_largest(self) -> None:
        assert Augmentation.named("light", 800, 1333).short_sides == (640, 672, 704, 736, 768, 800)

    def test_only_strong_mixes_images(self) -> None:
        assert [name for name in POLICIES if Augmentation.named(name, 320, 430).mixes] == ["strong"]

    @pytest.mark.parametrize("name", get_args(PolicyName))
    @pytest.mark.parametrize(
        ("option", "expected"),
        [
            ({"flip": 0.25}, {"flip": 0.25}),
            ({"vertical_flip": 0.75}, {"vertical_flip": 0.75}),
            ({"crop": True}, {"crop": True}),
            ({"crop": False}, {"crop": False}),
            ({"multi_scale": False}, {"short_sides": (320,)}),
        ],
        ids=str,
    )
    def test_single_options_change_one_thing(
        self, name: PolicyName, option: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        assert Augmentation.named(name, 320, 430, **option) == replace(Augmentation.named(name, 320, 430), **expected)

    def test_several_sizes_can_be_asked_for(self) -> None:
        assert Augmentation.named("none", 320, 430, multi_scale=True).short_sides == (192, 224, 256, 288, 320)

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"zoom": (2.0, 1.0)}, r"zoom=\(2.0, 1.0\) must be two factors above 0 that do not fall"),
            ({"zoom": (0.0, 1.0)}, "must be two factors above 0"),
            ({"mosaic": 1.5}, r"mosaic=1\.5 is not within 0\.\.1"),
            ({"copy_paste": -0.5}, r"copy_paste=-0\.5 is not within 0\.\.1"),
        ],
    )
    def test_impossible_numbers_are_refused(self, values: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ConfigurationError, match=sentence):
            Augmentation(**values)


def test_detr_draws_the_same_numbers_as_ever() -> None:
    """Sizes and boxes of digits, as versions without named policies gave them."""
    data = TrainingData(
        read_digits("train", images=4, size=64),
        TrainingTransform(Augmentation.named("detr", 64, 107), Preprocessing()),
        seed=5,
    )
    seen = [
        (tuple(data[index].pixels.shape[1:]), data[index].target.boxes_cxcywh[0].mul(1e4).round().int().tolist())
        for index in range(4)
    ]
    assert seen == BEFORE


BEFORE: list[Any] = [
    ((40, 40), [8125, 5312, 3125, 4062]),
    ((40, 40), [3828, 5312, 1094, 1875]),
    ((40, 40), [6797, 3828, 1406, 2031]),
    ((64, 64), [1797, 6641, 2656, 3906]),
]


class TestColours:
    levels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    def test_chance_comes_from_the_generator_alone(self) -> None:
        jitter = ColourJitter(0.4, 0.4, 0.4, 0.05)
        torch.manual_seed(1)
        first = with_other_colours(self.levels, jitter, generator(3))
        torch.manual_seed(2)
        state = torch.get_rng_state()
        assert torch.equal(with_other_colours(self.levels, jitter, generator(3)), first)
        assert torch.equal(torch.get_rng_state(), state)
        assert (first.dtype, first.shape) == (torch.uint8, self.levels.shape)
        results = {with_other_colours(self.levels, jitter, generator(seed)).sum().item() for seed in range(20)}
        assert len(results) > 10

    def test_brightness_stays_within_its_share(self) -> None:
        grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
        seen = [int(with_other_colours(grey, ColourJitter(0.3, 0, 0), generator(seed))[0, 0, 0]) for seed in range(200)]
        assert 60 < seen.count(100) < 140  # half of the images stay as they are
        assert 69 <= min(seen) < 75
        assert 125 < max(seen) <= 130

    def test_nothing_changes_without_a_share(self) -> None:
        assert torch.equal(with_other_colours(self.levels, ColourJitter(0, 0, 0), generator(0)), self.levels)


class TestZoom:
    def test_smaller_images_lie_on_the_mean_colour(self) -> None:
        transform = TrainingTransform(replace(STILL, zoom=(0.5, 0.5)), replace(PLAIN, mean=(0.5, 0.25, 0.75)))
        image, objects = picture((48, 64), [(0, 0, 64, 48)], masks=True)
        levels, target = transform.varied(image, objects, generator(0))
        assert levels.shape == (3, 48, 64)
        assert target.masks is not None
        assert int(target.masks.sum()) == 24 * 32
        outside = levels[:, ~target.masks[0]]
        assert [set(channel.tolist()) for channel in outside] == [{128}, {64}, {191}]
        assert target.boxes_cxcywh[0, 2:].tolist() == [0.5, 0.5]

    def test_larger_images_are_cut(self) -> None:
        transform = TrainingTransform(replace(STILL, zoom=(2.0, 2.0)), PLAIN)
        image, objects = picture((48, 64), [(0, 0, 64, 48)], masks=False)
        steps = dict(transform.steps(image, objects, generator(0)))
        assert list(steps) == ["as annotated", "made larger"]
        assert steps["made larger"].size == (48, 64)
        assert steps["made larger"].objects.boxes_xyxy.tolist() == [[0, 0, 64, 48]]  # clipped to what is seen

    def test_objects_of_which_little_is_left_are_not_counted(self) -> None:
        transform = TrainingTransform(replace(STILL, zoom=(1.6, 1.6), least_visible=0.5), PLAIN)
        everything = TrainingTransform(replace(STILL, zoom=(1.6, 1.6)), PLAIN)
        image, objects = picture((48, 64), [(8, 8, 28, 28), (30, 30, 62, 46)], masks=False)
        counts = []
        for seed in range(40):
            _, target = transform.varied(image, objects, generator(seed))
            _, complete = everything.varied(image, objects, generator(seed))
            parts = dict(zip(complete.labels.tolist(), complete.boxes_cxcywh, strict=True))
            expected = [
                label
                for label, area in ((0, 20 * 20), (1, 32 * 16))
                if label in parts and parts[label][2:].prod() * 40 * 30 >= 0.5 * area  # the window is 40 × 30
            ]
            assert target.labels.tolist() == expected
            counts.append(len(complete.labels) - len(expected))
        assert sum(counts) > 5


def test_steps_end_in_what_the_model_gets() -> None:
    policy = replace(Augmentation.named("strong", 64, 96), flip=1.0, mosaic=1.0, copy_paste=1.0)
    transform = TrainingTransform(policy, PLAIN)
    image, objects = picture((60, 80), [(10, 20, 30, 40)], masks=True)
    others = partial(Pictures, picture((70, 50), [(5, 5, 45, 65)], first_label=3, masks=True))
    steps = list(transform.steps(image, objects, generator(0), others()))
    names = ["as annotated", "mirrored", "four images in one", "objects of another image pasted", "colours changed"]
    assert [name for name, _ in steps] == names
    levels, target = transform.varied(image, objects, generator(0), others())
    assert torch.equal(steps[-1][1].levels, levels)
    last = steps[-1][1].target()
    assert torch.equal(last.boxes_cxcywh, target.boxes_cxcywh)
    assert last.masks is not None
    assert target.masks is not None
    assert torch.equal(last.masks, target.masks)


@pytest.mark.parametrize(("epochs", "mixed"), [(1, 1), (9, 9), (10, 9), (19, 18), (50, 45), (300, 270)])
def test_the_last_tenth_of_a_run_is_of_single_images(epochs: int, mixed: int) -> None:
    assert mixed_epochs(epochs) == mixed


@pytest.fixture(scope="module")
def dataset() -> DetectionDataset:
    return read_digits("train", images=7, size=64)


class TestTrainingData:
    def data(self, dataset: DetectionDataset, **options: Any) -> TrainingData:
        transform = TrainingTransform(Augmentation.named("strong", 64, 107), Preprocessing())
        return TrainingData(dataset, transform, 5, **options)

    def test_partners_follow_from_seed_epoch_and_image(self, dataset: DetectionDataset) -> None:
        data = self.data(dataset)
        first = [data[index] for index in range(7)]
        data.set_epoch(1)
        changed = [data[index] for index in range(7)]
        data.set_epoch(0)
        for index in (6, 3, 0):
            again = data[index]
            assert torch.equal(again.pixels, first[index].pixels)
            assert torch.equal(again.target.boxes_cxcywh, first[index].target.boxes_cxcywh)
        equal = [
            one.pixels.shape == two.pixels.shape and torch.equal(one.pixels, two.pixels)
            for one, two in zip(first, changed, strict=True)
        ]
        assert sum(equal) <= 1

    def test_workers_change_nothing(self, dataset: DetectionDataset) -> None:
        def batches(workers: int) -> list[tuple[torch.Tensor, list[list[float]]]]:
            data = self.data(dataset, mixed_epochs=1)
            loader = DataLoader(
                data,
                batch_size=3,
                num_workers=workers,
                collate_fn=partial(collate, smallest_side=64),
                multiprocessing_context="fork" if workers else None,
            )
            seen = []
            for epoch in (0, 1):
                data.set_epoch(epoch)
                for batch, targets in loader:
                    seen.append((batch.pixels.clone(), [target.boxes_cxcywh.tolist() for target in targets]))
            return seen

        for (pixels, boxes), (other_pixels, other_boxes) in zip(batches(0), batches(2), strict=True):
            assert torch.equal(pixels, other_pixels)
            assert boxes == other_boxes

    def test_images_are_mixed_in_the_first_epochs_alone(self, dataset: DetectionDataset) -> None:
        data = self.data(dataset, mixed_epochs=2)
        always = replace(data.transform.augmentation, mosaic=1.0, copy_paste=0.0, zoom=None, least_visible=0.0)
        data.transform = TrainingTransform(always, Preprocessing())
        own = [dataset.objects(index).labels.tolist() for index in range(7)]
        seen = []
        for epoch in range(4):
            data.set_epoch(epoch)
            seen.append([data[index].target.labels.tolist() for index in range(7)] == own)
        assert seen == [False, False, True, True]

    def test_a_batch_is_the_same_as_its_samples_one_by_one(self, shared: Path) -> None:
        dataset = open_dataset(shared / "data/coco", "train", masks="instances").subset(range(6))
        transform = TrainingTransform(Augmentation.named("strong", 100, 170), Preprocessing())
        data = TrainingData(dataset, transform, seed=2)
        for together, index in zip(data.__getitems__([4, 0, 2]), (4, 0, 2), strict=True):
            alone = data[index]
            assert torch.equal(together.pixels, alone.pixels)
            assert torch.equal(together.target.boxes_cxcywh, alone.target.boxes_cxcywh)
            assert together.target.masks is not None
            assert alone.target.masks is not None
            assert torch.equal(together.target.masks, alone.target.masks)
