"""Mosaics and pasted objects: boxes, masks and pixels of every object stay together, and what is hidden is gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data.augmented_pictures import PLAIN, Box, Pictures, boxes_of, generator, picture, pixel_boxes, shade

from detrkit.data import Augmentation, Objects, TrainingData, TrainingTransform, open_dataset
from detrkit.data.mixing import mosaic, pasted, quadrants, with_merged_stuff
from detrkit.data.scenes import Scene, scene_of

MIXED = replace(Augmentation.named("strong", 96, 150, vertical_flip=0.3), colours=None, mosaic=0.6, copy_paste=0.7)
OWN: list[Box] = [(10, 20, 30, 40), (50, 5, 80, 60)]
OTHERS: list[list[Box]] = [[(5, 5, 45, 65)], [(0, 0, 30, 30), (40, 40, 90, 59)], []]


def others(*, masks: bool) -> Pictures:
    """Pictures of several shapes whose objects have the labels 2, and 4 and 5; one has none."""
    sizes = ((70, 50), (60, 90), (40, 120))
    return Pictures(
        *(
            picture(size, boxes, first_label=first, masks=masks)
            for size, boxes, first in zip(sizes, OTHERS, (2, 4, 0), strict=True)
        )
    )


def scene(boxes: list[Box], size: tuple[int, int] = (40, 60), first_label: int = 0, *, masks: bool) -> Scene:
    return scene_of(*picture(size, boxes, first_label=first_label, masks=masks))


class TestTogether:
    def test_masks_end_where_their_boxes_do(self) -> None:
        transform, hidden = TrainingTransform(MIXED, PLAIN), 0
        for seed in range(60):
            image, objects = picture((60, 80), OWN, masks=True)
            levels, target = transform.varied(image, objects, generator(seed), others(masks=True))
            assert target.masks is not None
            assert target.masks.shape == (len(target.labels), *levels.shape[1:])
            difference = (boxes_of(target.masks) - pixel_boxes(levels, target)).abs()
            assert (difference <= 0.501).all()
            assert target.masks.sum(0).max() <= 1  # what is below a pasted object has lost its pixels
            areas = pixel_boxes(levels, target)
            full = (areas[:, 2:] - areas[:, :2]).prod(1)
            hidden += int((target.masks.sum((1, 2)) < 0.8 * full).sum())
        assert hidden > 3  # some are partly hidden, and their boxes are still right

    @pytest.mark.parametrize("masks", [True, False])
    def test_objects_are_where_their_colours_are(self, masks: bool) -> None:
        transform, checked = TrainingTransform(MIXED, PLAIN), 0
        for seed in range(40):
            image, objects = picture((60, 80), OWN, masks=masks)
            levels, target = transform.varied(image, objects, generator(seed), others(masks=masks))
            boxes = pixel_boxes(levels, target)
            for place, (label, box) in enumerate(zip(target.labels.tolist(), boxes, strict=True)):
                left, top, right, bottom = box.round().int().tolist()
                if right - left < 6 or bottom - top < 6:
                    continue
                if target.masks is not None:
                    inner = levels[0][eroded(target.masks[place])]
                else:
                    inner = levels[0, top + 2 : bottom - 2, left + 2 : right - 2].flatten()
                if not len(inner):
                    continue
                right_colour = (inner.int() - shade(label)).abs() <= 3
                assert right_colour.float().mean() > (0.95 if masks else 0.25), (seed, label)
                checked += 1
        assert checked > 60

    def test_boxes_keep_their_precision_where_nothing_hides_them(self) -> None:
        """Against the same draw without pasting."""
        policy = replace(MIXED, mosaic=0.0, zoom=(0.5, 1.9), copy_paste=1.0)
        unmoved = 0
        for seed in range(60):
            image, objects = picture((60, 80), OWN, masks=True)
            steps = dict(TrainingTransform(policy, PLAIN).steps(image, objects, generator(seed), others(masks=True)))
            if "objects of another image pasted" not in steps:
                continue
            last = steps.pop("objects of another image pasted").objects
            before = list(steps.values())[-1].objects
            known = {tuple(box) for box in before.boxes_xyxy.tolist()}
            unmoved += sum(tuple(box) in known for box in last.boxes_xyxy.tolist())
        assert unmoved > 5

    def test_nothing_is_needed_of_images_without_objects(self) -> None:
        transform = TrainingTransform(replace(MIXED, mosaic=1.0, copy_paste=1.0), PLAIN)
        for masks in (True, False):
            empty = picture((60, 80), [], masks=masks)
            levels, target = transform.varied(*empty, generator(0), Pictures(picture((30, 50), [], masks=masks)))
            assert target.boxes_cxcywh.shape == (0, 4)
            assert (target.masks is None) == (not masks)
            assert target.masks is None or target.masks.shape == (0, *levels.shape[1:])

    def test_crowds_are_never_objects(self) -> None:
        transform = TrainingTransform(replace(MIXED, mosaic=0.5, copy_paste=1.0), PLAIN)
        for seed in range(20):
            image, objects = picture((60, 80), OWN, masks=True, crowd=0)
            partner = Pictures(
                picture((70, 50), [(5, 5, 20, 20), (30, 30, 45, 65)], first_label=6, masks=True, crowd=1)
            )
            _, target = transform.varied(image, objects, generator(seed), partner)
            assert set(target.labels.tolist()) <= {1, 6}

    @pytest.mark.parametrize("size", [(1, 300), (300, 1), (2, 200)])
    def test_thin_images_are_fine(self, size: tuple[int, int]) -> None:
        transform = TrainingTransform(replace(MIXED, mosaic=1.0, copy_paste=1.0), PLAIN)
        for seed in range(6):
            image, objects = picture(size, [(0, 0, size[1], size[0])], masks=True)
            levels, target = transform.varied(image, objects, generator(seed), others(masks=True))
            assert target.masks is not None
            assert min(levels.shape[1:]) >= 1


class TestMosaic:
    def test_four_scenes_fill_the_picture(self) -> None:
        parts = [
            scene([(2, 3, 10, 9)], (height, width), place, masks=True)
            for place, (_, _, height, width) in enumerate(quadrants((40, 60), (15, 35)))
        ]
        joined = mosaic(parts, (40, 60), (15, 35), ())
        assert joined.objects.labels.tolist() == [0, 1, 2, 3]
        expected = [[2, 3, 10, 9], [37, 3, 45, 9], [2, 18, 10, 24], [37, 18, 45, 24]]
        assert joined.objects.boxes_xyxy.tolist() == expected
        masks = joined.masks()
        assert masks is not None
        assert boxes_of(torch.from_numpy(masks)).tolist() == expected
        for label, mask in enumerate(masks):
            assert set(joined.levels[0][torch.from_numpy(mask)].tolist()) == {shade(label)}
        assert int((joined.levels[0] > 0).sum()) == 4 * 48

    @pytest.mark.parametrize("masks", [True, False])
    def test_stuff_of_several_images_is_one_segment(self, masks: bool) -> None:
        several = scene([(0, 0, 20, 10), (25, 0, 30, 9), (30, 20, 60, 40)], masks=masks)
        several = replace(several, objects=replace(several.objects, labels=np.array([7, 1, 7])))
        merged = with_merged_stuff(several, [7, 8])
        assert merged.objects.labels.tolist() == [7, 1]
        assert merged.objects.boxes_xyxy.tolist() == [[0, 0, 60, 40], [25, 0, 30, 9]]
        shapes = merged.masks()
        assert (shapes is None) == (not masks)
        if shapes is not None:
            assert shapes.sum((1, 2)).tolist() == [20 * 10 + 30 * 20, 45]


class TestPasted:
    def test_what_lies_below_loses_its_pixels_and_ends_earlier(self) -> None:
        below = scene([(5, 5, 25, 25), (40, 5, 50, 15)], masks=True)
        result = pasted(below, scene([(15, 0, 35, 30)], first_label=5, masks=True), np.array([0]), least_visible=0.1)
        assert result.objects.labels.tolist() == [0, 1, 5]
        assert result.objects.boxes_xyxy.tolist() == [[5, 5, 15, 25], [40, 5, 50, 15], [15, 0, 35, 30]]
        masks = result.masks()
        assert masks is not None
        assert masks.sum((1, 2)).tolist() == [200, 100, 600]
        assert result.levels[0, 10, [10, 20, 45, 55]].tolist() == [shade(0), shade(5), shade(1), 0]

    def test_a_hole_leaves_the_box_alone(self) -> None:
        below = scene([(5, 5, 25, 25)], masks=True)
        result = pasted(below, scene([(10, 10, 20, 20)], first_label=5, masks=True), np.array([0]), least_visible=0.1)
        assert result.objects.boxes_xyxy[0].tolist() == [5, 5, 25, 25]
        masks = result.masks()
        assert masks is not None
        assert masks.sum((1, 2)).tolist() == [300, 100]

    def test_hidden_objects_are_gone(self) -> None:
        below = scene([(5, 5, 25, 25), (30, 5, 50, 25)], masks=True)
        result = pasted(below, scene([(4, 5, 24, 25)], first_label=5, masks=True), np.array([0]), least_visible=0.1)
        assert result.objects.labels.tolist() == [1, 5]  # of the first, 5 % are left

    def test_nothing_is_chosen(self) -> None:
        below = scene([(5, 5, 25, 25)], masks=True)
        chosen = np.zeros(0, np.int64)
        assert pasted(below, scene([(15, 0, 35, 30)], masks=True), chosen, least_visible=0.1) is below
        unmasked = scene([(5, 5, 25, 25)], masks=False)
        assert pasted(unmasked, scene([(15, 0, 35, 30)], masks=False), chosen, least_visible=0.1) is unmasked

    def test_boxes_are_pasted_whole_and_bring_what_lies_in_them(self) -> None:
        source = scene([(15, 0, 35, 30), (50, 30, 58, 38)], first_label=5, masks=False)
        inside = np.array([[20.0, 5.0, 30.0, 12.0], [34.0, 10.0, 50.0, 20.0]])  # the second lies in it by a sixteenth
        source = replace(
            source,
            objects=Objects(
                np.concatenate([source.objects.boxes_xyxy, inside]),
                np.array([5, 6, 7, 8]),
                np.zeros(4, np.bool_),
                np.ones(4),
            ),
        )
        result = pasted(scene([(36, 1, 39, 39)], masks=False), source, np.array([0]), least_visible=0.1)
        assert result.objects.labels.tolist() == [0, 5, 7]
        assert result.objects.boxes_xyxy.tolist() == [[36, 1, 39, 39], [15, 0, 35, 30], [20, 5, 30, 12]]
        assert torch.equal(result.levels[:, :30, 15:35], source.levels[:, :30, 15:35])
        assert not result.levels[:, 31:, :35].any()

    def test_boxes_below_end_earlier_or_go_with_less_than_a_third(self) -> None:
        below = scene([(5, 5, 25, 25), (30, 5, 40, 25), (16, 26, 26, 29)], masks=False)
        result = pasted(below, scene([(15, 0, 38, 30)], first_label=5, masks=False), np.array([0]), least_visible=0.1)
        assert result.objects.labels.tolist() == [0, 5]  # a fifth of the second is left, and nothing of the third
        assert result.objects.boxes_xyxy[0].tolist() == [5, 5, 15, 25]

    def test_fractions_of_pixels_stay(self) -> None:
        below = scene([(5, 5, 25, 25)], masks=False)
        below = replace(below, objects=replace(below.objects, boxes_xyxy=np.array([[5.25, 5.5, 24.75, 24.5]])))
        result = pasted(below, scene([(15, 0, 35, 30)], first_label=5, masks=False), np.array([0]), least_visible=0.1)
        assert result.objects.boxes_xyxy[0].tolist() == [5.25, 5.5, 15, 24.5]


@pytest.mark.parametrize("kind", ["instances", "panoptic"])
def test_photos(kind: str, shared: Path) -> None:
    """Real masks under the whole policy: each lies in its box, and stuff is one segment."""
    dataset = open_dataset(shared / "data/coco", "train", masks=kind).subset(range(8))  # type: ignore[arg-type]
    policy = replace(Augmentation.named("strong", 160, 266), mosaic=0.5, copy_paste=1.0)
    data = TrainingData(dataset, TrainingTransform(policy, PLAIN), seed=3)
    stuff = {category.index for category in dataset.categories if not category.thing}
    assert bool(stuff) == (kind == "panoptic")
    objects = 0
    for index in range(8):
        pixels, target, *_ = data[index]
        assert target.masks is not None
        found, boxes = boxes_of(target.masks), pixel_boxes(pixels, target)
        assert (found[:, :2] > boxes[:, :2] - 2).all()
        assert (found[:, 2:] < boxes[:, 2:] + 2).all()
        labels = [label for label in target.labels.tolist() if label in stuff]
        assert len(labels) == len(set(labels))
        objects += len(target.labels)
    assert objects > 20


def eroded(mask: torch.Tensor) -> torch.Tensor:
    """A mask without its edge, where colours blend."""
    outside = torch.nn.functional.max_pool2d((~mask)[None, None].float(), 5, 1, 2)[0, 0] > 0
    padded = torch.zeros_like(mask)
    padded[2:-2, 2:-2] = True
    return mask & ~outside & padded
