"""Sizes by the authors' arithmetic, boxes that follow their pixels, and chance that comes from the generator alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.cards import Preprocessing
from detrkit.data import Augmentation, EvaluationTransform, Objects, TrainingTransform, open_dataset, resized_size
from detrkit.data.transforms import relative_target
from detrkit.errors import ConfigurationError
from detrkit.structures import Target

PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
STILL = Augmentation(
    short_sides=(40,), long_side=1000, flip=0.0, crop=False, crop_short_sides=(40,), crop_range=(20, 30)
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def objects_of(*boxes: tuple[float, ...], labels: tuple[int, ...] | None = None, crowd: int | None = None) -> Objects:
    count = len(boxes)
    return Objects(
        boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        labels=np.array(labels if labels is not None else range(count), dtype=np.int64),
        crowd=np.arange(count) == (-1 if crowd is None else crowd),
        areas=np.ones(count),
    )


def pixel_boxes(pixels: torch.Tensor, target: Target) -> torch.Tensor:
    """The target's boxes (N, 4) as corners in pixels."""
    height, width = pixels.shape[1:]
    return cxcywh_to_xyxy(target.boxes_cxcywh) * torch.tensor([width, height, width, height])


@pytest.mark.parametrize(
    ("height", "width", "short_side", "long_side", "expected"),
    [
        (480, 640, 800, 1333, (800, 1066)),  # 800 · 640 / 480 = 1066.67, cut off
        (640, 480, 800, 1333, (1066, 800)),
        (426, 640, 800, 1333, (800, 1201)),
        (800, 1000, 800, 1333, (800, 1000)),  # it is so already
        (500, 500, 800, 1333, (800, 800)),
        (400, 1000, 800, 1333, (533, 1332)),  # 2000 is beyond the limit: 1333 · 400 / 1000 = 533.2
        (1000, 400, 800, 1333, (1332, 533)),
        (500, 1000, 800, 1333, (666, 1332)),  # 666.5 is rounded to the even number
        (155, 1000, 800, 1333, (207, 1335)),  # 206.6 is rounded up, so the longer side passes the limit
        (400, 1000, 500, None, (500, 1250)),
        (1, 3000, 800, 1333, (1, 3000)),  # never nothing
    ],
)
def test_resized_size(
    height: int, width: int, short_side: int, long_side: int | None, expected: tuple[int, int]
) -> None:
    assert resized_size(height, width, short_side, long_side) == expected


def test_default_policy_is_detrs() -> None:
    policy = Augmentation()
    assert policy.short_sides == tuple(range(480, 801, 32))
    assert (policy.long_side, policy.flip, policy.crop) == (1333, 0.5, True)
    assert (policy.crop_short_sides, policy.crop_range) == ((400, 500, 600), (384, 600))


@pytest.mark.parametrize(
    ("short_side", "long_side", "short_sides", "crop_short_sides", "crop_range"),
    [
        (800, 1333, tuple(range(480, 801, 32)), (400, 500, 600), (384, 600)),
        (640, 1066, tuple(range(384, 641, 32)), (320, 400, 480), (307, 480)),
        (400, 640, (256, 288, 320, 352, 384, 400), (200, 250, 300), (192, 300)),
        (128, 128, (80, 96, 112, 128), (64, 80, 96), (61, 96)),
        (64, 100, (40, 48, 56, 64), (32, 40, 48), (31, 48)),
    ],
)
def test_policy_in_proportion(
    short_side: int,
    long_side: int,
    short_sides: tuple[int, ...],
    crop_short_sides: tuple[int, ...],
    crop_range: tuple[int, int],
) -> None:
    policy = Augmentation.for_sizes(short_side, long_side)
    assert policy == Augmentation(short_sides, long_side, 0.5, True, crop_short_sides, crop_range)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"short_sides": ()}, "needs sides of at least 1 pixel, and one or more short sides"),
        ({"long_side": 0}, "needs sides of at least 1 pixel"),
        ({"flip": 1.5}, r"The probability flip=1\.5 is not within 0\.\.1: choose one that is"),
        ({"crop_range": (384, 300)}, r"crop_range=\(384, 300\) must rise"),
        ({"crop_range": (450, 600)}, r"begin no higher than the smallest of crop_short_sides=\(400, 500, 600\)"),
    ],
)
def test_impossible_policies_are_refused(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Augmentation(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="Training needs 16 ≤ short side ≤ long side, not 800 and 600 pixels"):
        Augmentation.for_sizes(800, 600)


def test_evaluation_is_pil_resizing_and_normalising(shared: Path) -> None:
    preprocessing = Preprocessing(short_side=300, long_side=400)
    image = open_dataset(shared / "data/coco", "val").image(0)
    transform = EvaluationTransform(preprocessing)
    assert transform.output_size(image.height, image.width) == (266, 399)
    resized = np.asarray(image.resize((399, 266), Image.Resampling.BILINEAR), dtype=np.float64) / 255
    expected = (resized - preprocessing.mean) / preprocessing.deviation
    pixels = transform(image)
    assert pixels.dtype == torch.float32
    levels = np.abs(pixels.permute(1, 2, 0).numpy() - expected) * preprocessing.deviation * 255
    assert levels.max() < 1.01  # PyTorch resizes, by PIL's arithmetic
    assert (levels > 0.01).mean() < 0.1


def test_boxes_become_relative_and_nothing_else_without_chance() -> None:
    image = Image.new("RGB", (80, 40), (255, 0, 51))
    objects = objects_of((8, 10, 24, 30), (0, 0, 80, 40), labels=(5, 2))
    pixels, target = TrainingTransform(STILL, PLAIN)(image, objects, generator(0))
    assert pixels.shape == (3, 40, 80)
    np.testing.assert_allclose(pixels[:, 0, 0].numpy(), [1, 0, 0.2], atol=1e-6)
    assert target.labels.tolist() == [5, 2]
    np.testing.assert_allclose(target.boxes_cxcywh.numpy(), [[0.2, 0.5, 0.2, 0.5], [0.5, 0.5, 1, 1]], atol=1e-6)
    assert target.boxes_cxcywh.dtype == torch.float32


def test_crowds_and_empty_boxes_go_and_others_are_clipped() -> None:
    objects = objects_of((-20, 10, 20, 50), (8, 8, 8, 20), (1, 1, 9, 9), (90, 5, 120, 15), (70, 30, 99, 99), crowd=2)
    before = objects.boxes_xyxy.copy()
    _, target = TrainingTransform(STILL, PLAIN)(Image.new("RGB", (80, 40)), objects, generator(0))
    assert target.labels.tolist() == [0, 4]
    corners = cxcywh_to_xyxy(target.boxes_cxcywh) * torch.tensor([80, 40, 80, 40])
    np.testing.assert_allclose(corners.numpy(), [[0, 10, 20, 40], [70, 30, 80, 40]], atol=1e-4)
    np.testing.assert_array_equal(objects.boxes_xyxy, before)  # the data set is shared and stays as it is
    again = relative_target(objects, 40, 80)
    assert torch.equal(again.boxes_cxcywh, target.boxes_cxcywh)
    assert torch.equal(again.labels, target.labels)


def test_an_image_without_objects_gives_an_empty_target() -> None:
    policy = replace(STILL, flip=0.5, crop=True)
    for seed in range(8):
        _, target = TrainingTransform(policy, PLAIN)(Image.new("RGB", (80, 40)), objects_of(), generator(seed))
        assert target.boxes_cxcywh.shape == (0, 4)
        assert (target.labels.shape, target.labels.dtype) == ((0,), torch.int64)


def test_flipping_mirrors_pixels_and_boxes_and_twice_is_nothing() -> None:
    image = Image.new("RGB", (80, 40))
    image.paste((255, 255, 255), (8, 10, 24, 30))
    flip = TrainingTransform(replace(STILL, flip=1.0), PLAIN)
    pixels, target = flip(image, objects_of((8, 10, 24, 30)), generator(0))
    np.testing.assert_allclose(target.boxes_cxcywh.numpy(), [[0.8, 0.5, 0.2, 0.5]], atol=1e-6)
    assert torch.equal(pixels[0, 10:30, 56:72], torch.ones(20, 16))
    assert float(pixels.sum()) == 3 * 20 * 16
    mirrored = Image.fromarray((pixels.permute(1, 2, 0) * 255).byte().numpy())
    corners = pixel_boxes(pixels, target).double().numpy()
    pixels, target = flip(mirrored, objects_of(*map(tuple, corners)), generator(1))
    np.testing.assert_allclose(target.boxes_cxcywh.numpy(), [[0.2, 0.5, 0.2, 0.5]], atol=1e-6)
    assert torch.equal(pixels[0, 10:30, 8:24], torch.ones(20, 16))


@pytest.mark.parametrize("size", [(120, 90), (90, 120), (300, 100)])
def test_boxes_follow_their_pixels_through_everything(size: tuple[int, int]) -> None:
    """A white rectangle on black: after any augmentation its box is where the white pixels are."""
    policy = Augmentation((60, 77, 96), 150, 0.5, True, (50, 63, 80), (45, 80))
    image = Image.new("RGB", size)
    left, top, right, bottom = size[0] // 5, size[1] // 4, size[0] * 3 // 5, size[1] * 2 // 3
    image.paste((255, 255, 255), (left, top, right, bottom))
    transform, seen = TrainingTransform(policy, PLAIN), 0
    for seed in range(150):
        pixels, target = transform(image, objects_of((left, top, right, bottom)), generator(seed))
        white = pixels[0] > 0.5
        if len(target.labels) == 0:
            assert white.float().mean() < 0.02
            continue
        seen += 1
        rows, columns = torch.nonzero(white.any(dim=1)).flatten(), torch.nonzero(white.any(dim=0)).flatten()
        box = pixel_boxes(pixels, target)[0]
        if (box[2:] - box[:2]).min() > 3:
            found = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert (box - found).abs().max() <= 1.5
    assert seen > 100


def test_chance_comes_from_the_generator_alone(shared: Path) -> None:
    dataset = open_dataset(shared / "data/coco", "train")
    transform = TrainingTransform(Augmentation.for_sizes(128, 213), Preprocessing())
    image, objects = dataset.image(0), dataset.objects(0)
    first_pixels, first_target = transform(image, objects, generator(3))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    again_pixels, again_target = transform(image, objects, generator(3))
    assert torch.equal(first_pixels, again_pixels)
    assert torch.equal(first_target.boxes_cxcywh, again_target.boxes_cxcywh)
    shapes = {transform(image, objects, generator(seed))[0].shape for seed in range(20)}
    assert len(shapes) > 5


def test_turning_upside_down_takes_boxes_along() -> None:
    image = Image.fromarray(np.arange(4800, dtype=np.uint8).reshape(40, 40, 3))
    policy = replace(STILL, vertical_flip=1.0)
    pixels, target = TrainingTransform(policy, PLAIN)(image, objects_of((8, 10, 24, 30)), generator(0))
    plain, as_annotated = TrainingTransform(STILL, PLAIN)(image, objects_of((8, 10, 24, 30)), generator(0))
    assert torch.equal(pixels, plain.flip(1))
    expected = as_annotated.boxes_cxcywh * torch.tensor([1.0, -1.0, 1.0, 1.0]) + torch.tensor([0.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(target.boxes_cxcywh, expected)


def test_shares_of_flips_crops_and_sizes() -> None:
    """600 draws: within 4 standard deviations of the policy."""
    image, objects = Image.new("RGB", (40, 40)), objects_of((4, 10, 12, 30))
    flips = [
        bool(
            TrainingTransform(replace(STILL, flip=0.5), PLAIN)(image, objects, generator(seed))[1].boxes_cxcywh[0, 0]
            > 0.5
        )
        for seed in range(600)
    ]
    assert abs(sum(flips) / 600 - 0.5) < 0.08
    cutting = TrainingTransform(replace(STILL, crop=True, short_sides=(40, 50, 60, 70)), PLAIN)
    whole = objects_of((0, 0, 40, 40), (10, 10, 30, 30))
    cuts, short_sides = 0, []
    for seed in range(600):
        pixels, target = cutting(image, whole, generator(seed))
        cuts += not torch.allclose(target.boxes_cxcywh[-1], torch.tensor([0.5, 0.5, 0.5, 0.5]))
        short_sides.append(min(pixels.shape[1:]))
    assert abs(cuts / 600 - 0.5) < 0.08
    counts = {side: short_sides.count(side) / 600 for side in set(short_sides)}
    assert set(counts) == {40, 50, 60, 70}
    assert all(abs(share - 0.25) < 0.07 for share in counts.values())


def test_windows_have_the_sides_and_places_of_the_policy() -> None:
    """Each pixel's colours are its own coordinates, so the window can be read off the result."""
    size = 40
    grid = np.zeros((size, size, 3), dtype=np.uint8)
    grid[:, :, 0], grid[:, :, 1] = np.arange(size), np.arange(size)[:, None]
    policy = replace(STILL, crop=True, crop_short_sides=(size,), crop_range=(20, 500))
    transform = TrainingTransform(policy, PLAIN)
    windows = set()
    for seed in range(600):
        pixels, _ = transform(Image.fromarray(grid), objects_of(), generator(seed))
        colours = (pixels[:2] * 255).round().int().flatten(1)
        windows.add((*colours.amin(dim=1).tolist(), *colours.amax(dim=1).tolist()))
    windows.remove((0, 0, size - 1, size - 1))  # not cut
    left, top, right, bottom = np.array(sorted(windows)).T
    widths, heights = right - left + 1, bottom - top + 1
    assert (widths.min(), widths.max()) == (heights.min(), heights.max()) == (20, 40)  # the image's side is the limit
    assert left.min() == top.min() == 0
    assert min(left.max(), top.max()) >= 18
    assert len(set(zip(widths, heights, strict=True))) > 150  # drawn independently


def test_real_images_under_the_default_policy(shared: Path) -> None:
    dataset = open_dataset(shared / "data/coco", "train")
    transform = TrainingTransform(Augmentation(), Preprocessing())
    for index in range(6):
        pixels, target = transform(dataset.image(index), dataset.objects(index), generator(index))
        assert min(pixels.shape[1:]) in range(300, 801)
        assert max(pixels.shape[1:]) <= 1336
        assert set(target.labels.tolist()) <= set(dataset.objects(index).labels.tolist())
        corners = cxcywh_to_xyxy(target.boxes_cxcywh)
        assert corners.min() >= -1e-6
        assert corners.max() <= 1 + 1e-6
        assert (target.boxes_cxcywh[:, 2:] > 0).all()
        assert abs(float(pixels.mean())) < 2  # normalised, not 0..255
