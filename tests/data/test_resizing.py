"""PyTorch's resizing beside PIL's, levels beside every kind of processor, and everything else beside torchvision's transforms."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from detrkit.boxes import xyxy_to_cxcywh
from detrkit.cards import Preprocessing
from detrkit.data import Augmentation, EvaluationTransform, Objects, TrainingTransform, open_dataset, resized_size
from detrkit.data.transforms import normalise

# In these pixels are levels: mean 0 and deviation 1 / 255 undo the scaling.
LEVELS = Preprocessing(mean=(0.0, 0.0, 0.0), deviation=(1 / 255, 1 / 255, 1 / 255))
SMALL = Augmentation((60, 77, 96), 150, 0.5, True, (50, 63, 80), (45, 80), 0.3)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def ramp(height: int, width: int) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns % 256, rows % 256, (rows + columns) // 2 % 256], axis=2).astype(np.uint8))


def levels_of(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) int, resized as evaluation resizes."""
    transform = EvaluationTransform(Preprocessing())
    transform.output_size = lambda height, width: size  # type: ignore[method-assign]
    return transform.resized(image).permute(1, 2, 0).numpy().astype(int)


def by_pil(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        ((480, 640), (800, 1066), 0.005),  # as most photos are enlarged
        ((37, 53), (80, 114), 0.01),
        ((301, 203), (75, 51), 0.01),
        ((999, 1501), (333, 500), 0.01),
        ((64, 64), (64, 65), 0.02),  # one axis only
        ((100, 101), (1000, 99), 0.01),
        ((200, 300), (100, 150), 0.3),  # halved: many values lie between two levels
        ((2, 3), (5, 2), 0.3),
    ],
)
def test_resizing_is_within_a_level_of_pils(before: tuple[int, int], after: tuple[int, int], share: float) -> None:
    for image in (noise(*before), noise(*before).convert("L").convert("RGB"), ramp(*before)):
        difference = np.abs(levels_of(image, after) - by_pil(image, after))
        assert difference.max() <= 1
        assert (difference > 0).mean() <= share


@pytest.mark.parametrize(
    ("before", "after"),
    [((400, 3), (50, 1)), ((400, 1), (800, 1)), ((7, 1), (90, 12)), ((1, 9), (13, 117)), ((1, 1), (5, 7)),
     ((50, 50), (1, 1)), ((31, 2000), (1, 40)), ((1, 1), (1, 3))],
)  # fmt: skip
def test_pictures_one_pixel_wide_or_high_are_pils(before: tuple[int, int], after: tuple[int, int]) -> None:
    np.testing.assert_array_equal(levels_of(noise(*before), after), by_pil(noise(*before), after))


def test_a_picture_of_the_right_size_keeps_its_levels() -> None:
    np.testing.assert_array_equal(levels_of(noise(40, 60), (40, 60)), np.asarray(noise(40, 60)))


def test_real_photos_hardly_differ_from_pils(shared: Path) -> None:
    dataset = open_dataset(shared / "data/coco", "val")
    shares = []
    for index in range(10):
        image = dataset.image(index)
        enlarged, reduced = ((side, side * image.width // image.height) for side in (800, 300))
        for size in (enlarged, reduced):
            difference = np.abs(levels_of(image, size) - by_pil(image, size))
            assert difference.max() <= 1
            shares.append((difference > 0).mean())
    assert np.mean(shares[::2]) < 0.001
    assert np.mean(shares[1::2]) < 0.1


def test_every_processor_gives_the_same_levels() -> None:
    """PyTorch has code of its own for AVX2; without, it runs other code."""
    script = """
import hashlib
import numpy as np, torch
from PIL import Image
from detrkit.cards import Preprocessing
from detrkit.data import EvaluationTransform
random, digest = np.random.default_rng(0), hashlib.sha256()
for height, width, short, long in [(48, 64, 80, 133), (99, 31, 20, 300), (3, 400, 30, 50), (400, 3, 2, 50), (50, 50, 1, 1), (5, 1, 9, 99)]:
    image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    digest.update(EvaluationTransform(Preprocessing(short, long))(image).numpy().tobytes())
print(torch.backends.cpu.get_cpu_capability(), digest.hexdigest())
"""
    outcomes = []
    for capability in (None, "default"):
        environment = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
        environment |= {} if capability is None else {"ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        outcomes.append(done.stdout.split())
    assert outcomes[1][0] == "DEFAULT"
    assert outcomes[0][1] == outcomes[1][1]


def test_normalising_is_the_same_arithmetic_for_every_order_in_memory() -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(3, 2, 1)
    preprocessing = Preprocessing()
    means, deviations = (torch.tensor(each)[:, None, None] for each in (preprocessing.mean, preprocessing.deviation))
    expected = (levels.float() * (1 / 255) - means) / deviations  # bit for bit
    assert torch.equal(normalise(levels, preprocessing), expected)
    by_pixel = levels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(normalise(by_pixel, preprocessing), expected)
    place = torch.zeros(3, 4, 300)[:, :2, :256]
    assert normalise(by_pixel, preprocessing, into=place) is place
    assert torch.equal(place, expected)


def by_torchvision(
    image: Image.Image, objects: Objects, policy: Augmentation, generator: torch.Generator
) -> tuple[np.ndarray, torch.Tensor, list[int]]:
    """DETR's augmentation by PIL and torchvision: levels (H, W, 3), relative boxes (N, 4), labels."""

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    def happens(probability: float) -> bool:
        return float(torch.rand((), generator=generator)) < probability

    single = ~objects.crowd
    corners = torch.from_numpy(objects.boxes_xyxy[single])
    boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(image.height, image.width))
    both = (image, F.clamp_bounding_boxes(boxes))
    if happens(policy.flip):
        both = tuple(map(F.horizontal_flip, both))
    if policy.vertical_flip and happens(policy.vertical_flip):
        both = tuple(map(F.vertical_flip, both))
    if policy.crop and happens(0.5):
        side = policy.crop_short_sides[integer(0, len(policy.crop_short_sides) - 1)]
        size = resized_size(both[0].height, both[0].width, side)
        both = tuple(F.resize(each, list(size)) for each in both)
        width = integer(policy.crop_range[0], min(size[1], policy.crop_range[1]))
        height = integer(policy.crop_range[0], min(size[0], policy.crop_range[1]))
        top, left = integer(0, size[0] - height), integer(0, size[1] - width)
        both = tuple(F.crop(each, top, left, height, width) for each in both)
    side = policy.short_sides[integer(0, len(policy.short_sides) - 1)]
    height, width = resized_size(both[0].height, both[0].width, side, policy.long_side)
    image, boxes = (F.resize(each, [height, width]) for each in both)
    corners = boxes.as_subclass(torch.Tensor)
    visible = (corners[:, 2:] > corners[:, :2]).all(dim=1)
    relative = xyxy_to_cxcywh(corners[visible] / corners.new_tensor([width, height, width, height])).float()
    return np.asarray(image).astype(int), relative, objects.labels[single][visible.numpy()].tolist()


def random_objects(height: int, width: int, seed: int) -> Objects:
    """Objects of all sizes, some partly or wholly outside, one without width, one crowd."""
    random = np.random.default_rng(seed)
    corners = random.uniform(-0.2, 1.0, (20, 2)) * (width, height)
    boxes = np.concatenate([corners, corners + random.exponential(0.2, (20, 2)) * (width, height)], axis=1)
    boxes[3, 2] = boxes[3, 0]
    return Objects(boxes, np.arange(20), np.arange(20) == 7, np.ones(20))


def test_chance_boxes_and_pixels_are_those_of_pil_and_torchvision() -> None:
    transform = TrainingTransform(SMALL, LEVELS)
    sizes = set()
    for seed in range(200):
        height, width = (90, 121) if seed % 2 else (130, 57)
        image, objects = noise(height, width, seed), random_objects(height, width, seed)
        before = objects.boxes_xyxy.copy()
        wanted, boxes, labels = by_torchvision(image, objects, SMALL, torch.Generator().manual_seed(seed))
        pixels, target = transform(image, objects, torch.Generator().manual_seed(seed))
        assert pixels.shape[1:] == wanted.shape[:2]
        assert torch.equal(target.boxes_cxcywh, boxes)  # bit for bit
        assert target.labels.tolist() == labels
        assert np.abs(pixels.permute(1, 2, 0).numpy() - wanted).max() < 2.01  # a cut image is resized twice
        np.testing.assert_array_equal(objects.boxes_xyxy, before)
        sizes.add(tuple(wanted.shape))
    assert len(sizes) > 50


def test_real_images_under_the_default_policy_are_those_of_pil_and_torchvision(shared: Path) -> None:
    dataset, policy = open_dataset(shared / "data/coco", "train"), Augmentation(vertical_flip=0.5)
    transform = TrainingTransform(policy, LEVELS)
    for index in range(8):
        image, objects = dataset.image(index), dataset.objects(index)
        wanted, boxes, labels = by_torchvision(image, objects, policy, torch.Generator().manual_seed(index))
        pixels, target = transform(image, objects, torch.Generator().manual_seed(index))
        assert torch.equal(target.boxes_cxcywh, boxes)
        assert target.labels.tolist() == labels
        difference = np.abs(pixels.permute(1, 2, 0).numpy() - wanted)
        assert difference.max() < 2.01
        assert (difference > 0.5).mean() < 0.05


@pytest.mark.parametrize(
    ("seed", "size", "labels", "first"),
    [
        (0, (77, 102), [3, 1], [0.603125, 0.456597, 0.4125, 0.434028]),
        (1, (96, 108), [3], [0.694231, 0.485507, 0.611538, 0.724638]),
        (2, (60, 80), [3, 1], [0.4, 0.458333, 0.4, 0.416667]),
        (3, (77, 87), [3], [0.678431, 0.601852, 0.517647, 0.462963]),
        (4, (70, 60), [3], [0.254545, 0.437229, 0.509091, 0.4329]),
        (5, (60, 80), [3, 1], [0.4, 0.541667, 0.4, 0.416667]),
    ],
)
def test_a_seed_draws_what_it_always_drew(
    seed: int, size: tuple[int, int], labels: list[int], first: list[float]
) -> None:
    """The figures are those of the time when PIL resized; with other ones, no run could be repeated."""
    boxes = np.array([[24, 22.5, 72, 60], [1, 80, 15, 88]])
    objects = Objects(boxes, np.array([3, 1]), np.zeros(2, dtype=bool), np.ones(2))
    pixels, target = TrainingTransform(SMALL, LEVELS)(noise(90, 120), objects, torch.Generator().manual_seed(seed))
    assert pixels.shape[1:] == size
    assert target.labels.tolist() == labels
    np.testing.assert_allclose(target.boxes_cxcywh[0].numpy(), first, atol=1e-6)


def test_the_order_of_colours_is_the_models() -> None:
    levels = torch.randint(256, (3, 4, 5), dtype=torch.uint8)
    preprocessing = Preprocessing(mean=(0.1, 0.2, 0.3), deviation=(0.5, 0.6, 0.7))
    turned = normalise(levels, dataclasses.replace(preprocessing, channels="bgr"))
    assert torch.equal(turned, normalise(levels, preprocessing).flip(0))
