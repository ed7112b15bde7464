"""Masks go where their boxes go: mirrored, cut and resized together, dropped together, and shared by worker processes."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from data.augmented_pictures import boxes_of
from PIL import Image
from pycocotools import mask as reference

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.cards import Preprocessing
from detrkit.data import Augmentation, DetectionDataset, EvaluationTransform, Objects, TrainingTransform, open_dataset
from detrkit.data.batching import EvaluationData, TrainingData, collate
from detrkit.data.id_maps import SegmentMasks
from detrkit.data.masks import Axis
from detrkit.data.transforms import relative_target
from detrkit.data.workers import BatchLoader, for_workers
from detrkit.structures import Target

PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
STILL = Augmentation(
    short_sides=(40,), long_side=1000, flip=0.0, crop=False, crop_short_sides=(40,), crop_range=(20, 30)
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixel_boxes(pixels: torch.Tensor, target: Target) -> torch.Tensor:
    """The target's boxes (N, 4) as corners in pixels."""
    height, width = pixels.shape[1:]
    return cxcywh_to_xyxy(target.boxes_cxcywh) * torch.tensor([width, height, width, height])


class OneMap:
    """An id map that is held in memory."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self.reads = 0

    def read(self, index: int, rows: np.ndarray | None = None, columns: np.ndarray | None = None) -> np.ndarray:
        self.reads += 1
        return self.ids if rows is None or columns is None else self.ids[rows][:, columns]

    def subset(self, images: np.ndarray) -> OneMap:
        return self


def painted(*boxes: tuple[int, int, int, int], height: int = 60, width: int = 80, crowd: int = -1) -> Objects:
    """Rectangles of whole pixels, each with itself as its mask."""
    ids = np.zeros((height, width), np.int32)
    for number, (left, top, right, bottom) in enumerate(boxes, start=1):
        ids[top:bottom, left:right] = number
    count = len(boxes)
    return Objects(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.arange(count),
        np.arange(count) == crowd,
        np.ones(count),
        SegmentMasks(OneMap(ids), 0, np.arange(1, count + 1, dtype=np.int32)),
    )


def masks_of(target: Target) -> torch.Tensor:
    assert target.masks is not None
    assert target.masks.dtype == torch.bool
    return target.masks


class TestAxis:
    def test_is_the_photo_where_nothing_happened(self) -> None:
        assert Axis.whole(5).picked().tolist() == [0, 1, 2, 3, 4]

    def test_mirrored(self) -> None:
        assert Axis.whole(5).mirrored().picked().tolist() == [4, 3, 2, 1, 0]

    def test_cut_counts_from_what_was_there(self) -> None:
        assert Axis.whole(9).cut(2, 5).cut(1, 3).picked().tolist() == [3, 4, 5]
        assert Axis.whole(9).mirrored().cut(2, 3).picked().tolist() == [6, 5, 4]

    @pytest.mark.parametrize(("old", "new"), [(7, 3), (3, 7), (480, 800), (640, 427), (1333, 1000), (1, 4), (4, 1)])
    def test_resized_picks_what_is_nearest_to_the_centres(self, old: int, new: int) -> None:
        expected = torch.nn.functional.interpolate(
            torch.arange(old, dtype=torch.float64)[None, None], new, mode="nearest-exact"
        )
        assert Axis.whole(old).resized(new).picked().tolist() == expected.flatten().long().tolist()

    def test_steps_do_not_add_up_rounding(self) -> None:
        axis = Axis.whole(647).resized(213).cut(50, 100).resized(800)
        centres = (50 + (np.arange(800) + 0.5) * 100 / 800) * 647 / 213
        assert axis.picked().tolist() == np.floor(centres).astype(int).tolist()


class TestRectangles:
    def test_stay_exactly_in_their_boxes_without_resizing(self) -> None:
        objects = painted((10, 20, 30, 40), (50, 5, 80, 60))
        picture = Image.new("RGB", (80, 60))
        for flip, upside_down in itertools.product((0.0, 1.0), repeat=2):
            policy = Augmentation((60,), 1000, flip, False, (60,), (20, 30), upside_down)
            pixels, target = TrainingTransform(policy, PLAIN)(picture, objects, generator(0))
            assert torch.equal(boxes_of(masks_of(target)), pixel_boxes(pixels, target).round())
            assert masks_of(target).sum((1, 2)).tolist() == [400, 30 * 55]  # full rectangles

    def test_are_doubled_exactly(self) -> None:
        policy = Augmentation((120,), 1000, 0.0, False, (60,), (20, 30))
        objects = painted((10, 20, 30, 40))
        _, target = TrainingTransform(policy, PLAIN)(Image.new("RGB", (80, 60)), objects, generator(0))
        expected = torch.zeros(1, 120, 160, dtype=torch.bool)
        expected[:, 40:80, 20:60] = True
        assert torch.equal(masks_of(target), expected)

    def test_end_where_their_boxes_do_whatever_happens(self) -> None:
        policy = Augmentation((37, 90, 131), 500, 0.5, True, (41, 57, 100), (30, 41), 0.5)
        objects, transform = painted((10, 20, 30, 40), (50, 5, 80, 60), (0, 0, 9, 9)), TrainingTransform(policy, PLAIN)
        kept = 0
        for seed in range(60):
            pixels, target = transform(Image.new("RGB", (80, 60)), objects, generator(seed))
            assert masks_of(target).shape[1:] == pixels.shape[1:]
            difference = (boxes_of(masks_of(target)) - pixel_boxes(pixels, target)).abs()
            assert (difference <= 0.5001).all()
            kept += len(target.labels)
        assert 60 < kept < 180  # crops lose some

    def test_colours_and_masks_agree(self) -> None:
        """The picture is white where the mask is; resized, both have their edge at the same place."""
        ids = np.zeros((60, 80), np.int32)
        ids[20:40, 10:30] = 1
        picture = Image.fromarray((ids * 255).astype(np.uint8)).convert("RGB")
        policy = Augmentation((37, 90, 131), 500, 0.5, True, (41, 57, 100), (30, 41))
        for seed in range(20):
            pixels, target = TrainingTransform(policy, PLAIN)(picture, painted((10, 20, 30, 40)), generator(seed))
            if len(target.labels):
                white = pixels[0] > 0.5
                assert (white != masks_of(target)[0]).float().mean() < 0.03

    def test_crowds_have_no_mask(self) -> None:
        _, target = TrainingTransform(STILL, PLAIN)(
            Image.new("RGB", (80, 60)), painted((10, 20, 30, 40), (50, 5, 80, 60), crowd=0), generator(0)
        )
        assert target.labels.tolist() == [1]
        assert len(masks_of(target)) == 1

    def test_the_map_is_read_once_for_all_objects(self) -> None:
        objects = painted((10, 20, 30, 40), (50, 5, 80, 60))
        TrainingTransform(STILL, PLAIN)(Image.new("RGB", (80, 60)), objects, generator(0))
        assert objects.masks.maps.reads == 1

    def test_without_objects_there_is_an_empty_stack(self) -> None:
        pixels, target = TrainingTransform(STILL, PLAIN)(Image.new("RGB", (80, 60)), painted(), generator(0))
        assert masks_of(target).shape == (0, *pixels.shape[1:])

    def test_an_object_without_a_pixel_goes_with_its_mask(self) -> None:
        objects = painted((10, 20, 30, 40), (50, 5, 80, 60))
        objects.masks.maps.ids[objects.masks.maps.ids == 1] = 0  # its box stays
        _, target = TrainingTransform(STILL, PLAIN)(Image.new("RGB", (80, 60)), objects, generator(0))
        assert target.labels.tolist() == [1]
        assert len(target.boxes_cxcywh) == len(masks_of(target)) == 1


@pytest.fixture(scope="module", params=["instances", "panoptic"])
def photos(request: pytest.FixtureRequest, shared: Path) -> DetectionDataset:
    return open_dataset(shared / "data/coco", "val", masks=request.param)


class TestPhotos:
    @pytest.mark.parametrize(
        ("flip", "upside_down", "crop", "short_side"),
        [*itertools.product((0.0, 1.0), (0.0, 1.0), (False, True), (500, 700))],
    )
    def test_masks_are_where_their_boxes_are(
        self, photos: DetectionDataset, flip: float, upside_down: float, crop: bool, short_side: int
    ) -> None:
        """Against the mask's own box in the photo, taken through the transform as a box."""
        dataset = photos.subset([0, 4, 9])
        policy = Augmentation((short_side,), 1333, flip, crop, (400, 500), (300, 400), upside_down)
        transform, compared = TrainingTransform(policy, PLAIN), 0
        for index in range(len(dataset)):
            picture, objects = dataset.image(index), dataset.objects(index)
            whole = objects.masks.picked(np.arange(picture.height), np.arange(picture.width))
            tight = Objects(
                boxes_of(torch.from_numpy(whole)).double().numpy(),
                np.arange(len(whole)),
                objects.crowd,
                objects.areas,
                objects.masks,
            )
            pixels, target = transform(picture, tight, generator(index))
            boxes, found = pixel_boxes(pixels, target), boxes_of(masks_of(target))
            inside = (boxes[:, :2] > 0.01).all(1) & (boxes[:, 2:] < torch.tensor(pixels.shape[:0:-1]) - 0.01).all(1)
            assert ((found - boxes).abs().amax(1) <= 1)[inside].all()
            assert (found[:, :2] > boxes[:, :2] - 1).all()
            assert (found[:, 2:] < boxes[:, 2:] + 1).all()
            compared += int(inside.sum())
            plain = TrainingTransform(policy, PLAIN)(picture, without_masks(tight), generator(index))
            assert torch.equal(plain[0], pixels)  # the same random numbers
            assert plain[1].masks is None
        assert compared > 0

    def test_boxes_of_the_file_are_those_of_the_outlines(self, shared: Path) -> None:
        dataset = open_dataset(shared / "data/coco", "train", masks="instances")
        differences, drawn = [], 0
        for index in range(0, len(dataset), 4):
            objects = dataset.objects(index)
            height, width = dataset.sizes[index]
            masks = objects.masks.picked(np.arange(height), np.arange(width))
            differences.append(boxes_of(torch.from_numpy(masks)).numpy() - objects.boxes_xyxy)
            drawn += masks.sum() - round(objects.areas.sum())
        assert (np.abs(np.concatenate(differences)) <= 1).mean() > 0.95  # thin tips contain no pixel's centre
        assert abs(drawn) < 0.01 * dataset.areas[::4].sum()

    def test_evaluation_resizes_masks_as_the_picture(self, photos: DetectionDataset) -> None:
        dataset = photos.subset([0, 1])
        samples = EvaluationData(dataset, EvaluationTransform(Preprocessing(300, 500)))
        for one, together in zip([samples[0], samples[1]], samples.__getitems__([0, 1]), strict=True):
            assert masks_of(one.target).shape == (len(one.target.labels), *one.pixels.shape[1:])
            assert torch.equal(masks_of(one.target), masks_of(together.target))
            boxes = pixel_boxes(one.pixels, one.target)
            assert ((boxes_of(masks_of(one.target)) - boxes).abs() <= 1).float().mean() > 0.95  # thin tips go

    def test_reduced_masks_stay_inside_their_boxes(self, photos: DetectionDataset) -> None:
        """Thin ends may fall between the pixels that are left, so a mask may end before its box."""
        policy = Augmentation((100,), 1333, 0.0, False, (400,), (300, 400))
        pixels, target = TrainingTransform(policy, PLAIN)(photos.image(1), photos.objects(1), generator(0))
        boxes, found = pixel_boxes(pixels, target), boxes_of(masks_of(target))
        assert (found[:, :2] > boxes[:, :2] - 1).all()
        assert (found[:, 2:] < boxes[:, 2:] + 1).all()
        assert ((found - boxes).abs().amax(1) <= 1).float().mean() > 0.7

    def test_a_loss_of_boxes_needs_no_masks(self, photos: DetectionDataset) -> None:
        assert relative_target(photos.objects(0), *photos.sizes[0].tolist()).masks is None

    def test_workers_give_the_same(self, photos: DetectionDataset) -> None:
        dataset = photos.subset(range(4))
        policy = Augmentation.for_sizes(200, 300)
        data = TrainingData(dataset, TrainingTransform(policy, PLAIN), seed=0)
        together = partial(collate, smallest_side=64)
        loader = BatchLoader(for_workers(data, 1), workers=1, batch_size=2, collate_fn=together)
        targets = [target for _, batch in loader for target in batch]
        for index, target in enumerate(targets):
            assert torch.equal(masks_of(target), masks_of(data[index].target))

    def test_run_lengths_are_the_same_masks(self, photos: DetectionDataset) -> None:
        masks, (height, width) = photos.objects(0).masks, photos.sizes[0]
        decoded = [reference.decode(runs) for runs in masks.run_lengths()]
        assert np.array_equal(decoded, masks.picked(np.arange(height), np.arange(width)))
        assert photos.objects(0).masks.subset(np.zeros(0, np.int64)).run_lengths() == []

    def test_a_subset_keeps_masks_with_their_objects(self, photos: DetectionDataset) -> None:
        part = photos.subset([5, 2]).subset([1, 0, 0])
        for index, whole in enumerate((2, 5, 5)):
            height, width = photos.sizes[whole]
            rows, columns = np.arange(height), np.arange(width)
            one, other = part.objects(index), photos.objects(whole)
            assert np.array_equal(one.boxes_xyxy, other.boxes_xyxy)
            assert np.array_equal(one.masks.picked(rows, columns), other.masks.picked(rows, columns))


def without_masks(objects: Objects) -> Objects:
    return Objects(objects.boxes_xyxy, objects.labels, objects.crowd, objects.areas)
