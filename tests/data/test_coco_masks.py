"""Polygons and run lengths of COCO files: the pixels that COCO's own code draws, and one sentence for each thing that is no mask."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import HEIGHT, WIDTH, Contents, coco
from pycocotools import mask as reference

from detrkit.data import DetectionDataset, open_dataset
from detrkit.data.coco_masks import pixels_of_runs
from detrkit.errors import DataError

Read = Callable[..., DetectionDataset]


def with_outlines() -> Contents:
    """The boxes as polygons."""
    contents = coco()
    for annotation in contents["annotations"]:
        left, top, width, height = annotation["bbox"]
        right, bottom = left + width, top + height
        annotation["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
    return contents


def decoded(dataset: DetectionDataset, index: int) -> np.ndarray:
    height, width = dataset.sizes[index]
    masks: np.ndarray = dataset.objects(index).masks.picked(np.arange(height), np.arange(width))
    return masks


def square_as_runs(*, compressed: bool) -> dict[str, Any]:
    """The first annotation's box in run lengths."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[31:47, 15:33] = 1
    if compressed:
        runs = reference.encode(np.asfortranarray(mask))
        return {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()}
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, flat.size]).tolist()}


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_are_those_of_cocos_own_code(shared: Path, split: str) -> None:
    dataset = open_dataset(shared / "data/coco", split, masks="instances")
    contents = json.loads((shared / f"data/coco/annotations/instances_{split}.json").read_text())
    records = {record["id"]: record for record in contents["annotations"]}
    compared = 0
    for index in range(0, len(dataset), 3):
        masks, rows = decoded(dataset, index), slice(dataset.offsets[index], dataset.offsets[index + 1])
        for identifier, mask in zip(dataset.annotation_ids[rows].tolist(), masks, strict=True):
            outline = records[identifier]["segmentation"]
            runs = reference.frPyObjects(outline, *mask.shape)
            expected = reference.decode(runs if isinstance(runs, dict) else reference.merge(runs))
            assert np.array_equal(mask, expected)
            compared += 1
    assert compared > 200


def test_boxes_alone_are_read_as_ever(shared: Path) -> None:
    plain = open_dataset(shared / "data/coco", "val")
    assert plain.masks is None
    assert plain.objects(0).masks is None
    masks = open_dataset(shared / "data/coco", "val", masks="instances")
    assert np.array_equal(plain.boxes_xyxy, masks.boxes_xyxy)
    assert np.array_equal(plain.annotation_ids, masks.annotation_ids)
    assert plain.categories == masks.categories


class TestKinds:
    @pytest.mark.parametrize("compressed", [True, False])
    def test_run_lengths(self, read: Read, compressed: bool) -> None:
        contents = with_outlines()
        contents["annotations"][0]["segmentation"] = square_as_runs(compressed=compressed)
        contents["annotations"][0]["iscrowd"] = 1
        dataset = read(contents, masks=True)
        rows, columns = np.nonzero(decoded(dataset, 0)[0])
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (15, 31, 33, 47)
        assert decoded(dataset, 0)[0].sum() == 18 * 16

    def test_several_polygons_are_one_mask(self, read: Read) -> None:
        contents = with_outlines()
        contents["annotations"][0]["segmentation"].append([50, 50, 60, 50, 60, 60, 50, 60])
        assert decoded(read(contents, masks=True), 0)[0].sum() == 18 * 16 + 100

    def test_a_polygon_without_its_list(self, read: Read) -> None:
        contents = with_outlines()
        contents["annotations"][0]["segmentation"] = contents["annotations"][0]["segmentation"][0]
        assert decoded(read(contents, masks=True), 0)[0].sum() == 18 * 16

    def test_a_short_polygon_beside_others_is_left_out(self, read: Read) -> None:
        contents = with_outlines()
        contents["annotations"][0]["segmentation"].insert(0, [50, 50, 60, 50])
        dataset = read(contents, masks=True)
        assert decoded(dataset, 0)[0].sum() == 18 * 16
        assert dataset.notes == (
            "1 polygon of fewer than 3 points was left out of an object that has others (the first: annotation 1 of 1.png).",
        )

    def test_dropped_boxes_take_their_masks_with_them(self, read: Read) -> None:
        """An annotation without area goes first, and images are listed in another order than their annotations."""
        contents = with_outlines()
        contents["annotations"][0] |= {"bbox": [5, 5, 0, 0], "segmentation": [[5, 5, 5, 5, 5, 5]]}
        contents["images"].reverse()
        contents["annotations"][3] |= {"bbox": [500, 500, 4, 4]}  # wholly outside
        dataset = read(contents, masks=True)
        assert len(dataset.labels) == 4
        for index in range(3):
            for box, mask in zip(dataset.objects(index).boxes_xyxy.tolist(), decoded(dataset, index), strict=True):
                rows, columns = np.nonzero(mask)
                assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box


def refused(read: Read, segmentation: Any, numbers: tuple[int, ...] = (1,)) -> str:
    contents = with_outlines()
    for number in numbers:
        contents["annotations"][number - 1]["segmentation"] = segmentation
    with pytest.raises(DataError) as caught:
        read(contents, masks=True)
    return str(caught.value).partition("truth.json: ")[2]


class TestRefused:
    @pytest.mark.parametrize("segmentation", [None, [], {}, "", 3])
    def test_without_an_outline(self, read: Read, segmentation: object) -> None:
        message = refused(read, segmentation, (1, 4))
        if segmentation == {}:
            assert message.startswith(
                "annotation 1 of 1.png has run lengths (RLE) of the size None, but its picture has [72, 96] (a size is"
            )
        else:
            assert message == (
                "annotation 1 of 1.png has no outline: draw one, export the outlines, too, or read the data without masks. "
                "(2 of this kind, also in annotation 4 of 2.png.)"
            )

    @pytest.mark.parametrize(("polygon", "points"), [([1, 1, 5, 5], "2 points"), ([1, 1], "1 point"), ([], "0 points")])
    def test_too_few_points(self, read: Read, polygon: list[int], points: str) -> None:
        assert refused(read, [polygon]) == (
            f"annotation 1 of 1.png has a polygon of {points}, and it takes 3: draw it again, or remove the annotation."
        )

    @pytest.mark.parametrize(
        "polygon",
        [[1, 1, 5, 1, 5], [1, 1, 5, 1, 5, float("nan")], [1, 1, 5, 1, 5, float("inf")], [1, 1, 5, 1, 5, 1e300], [1, 1, 5, 1, 5, "x"],
         [1, 1, 5, 1, 5, None], [1, 1, 5, 1, 5, [5]]],
    )  # fmt: skip
    def test_no_pairs_of_numbers(self, read: Read, polygon: list[Any]) -> None:
        assert refused(read, [polygon]) == (
            f"annotation 1 of 1.png has a polygon {polygon!r}, which is not finite numbers, x and y in turn: export it again."
        )

    @pytest.mark.parametrize("compressed", [True, False])
    def test_run_lengths_of_another_size(self, read: Read, compressed: bool) -> None:
        runs = square_as_runs(compressed=compressed) | {"size": [WIDTH, HEIGHT]}
        assert refused(read, runs) == (
            "annotation 1 of 1.png has run lengths (RLE) of the size [96, 72], but its picture has [72, 96] (a size is [height, width]): "
            "export it again, with the pictures that were annotated."
        )

    @pytest.mark.parametrize("change", [-1, 1, 1000])
    def test_run_lengths_that_do_not_add_up(self, read: Read, change: int) -> None:
        runs = square_as_runs(compressed=False)
        runs["counts"][-1] += change
        assert refused(read, runs).startswith(
            f"annotation 1 of 1.png has run lengths (RLE) of {6912 + change:,} pixels in all, but its picture has 6,912: export it again"
        )

    def test_compressed_run_lengths_that_do_not_add_up(self, read: Read) -> None:
        runs = {"size": [HEIGHT, WIDTH], "counts": square_as_runs(compressed=True)["counts"][:-3]}
        assert "of 4,8" not in refused(read, runs)
        assert "has run lengths (RLE)" in refused(read, runs)

    @pytest.mark.parametrize(
        "counts", ["abc\n", "zzz", "", None, [], [1, -1, 6912], [1.5, 6910.5], ["a"], "PPPPPPPPPP", "é"]
    )
    def test_run_lengths_that_make_no_sense(self, read: Read, counts: object) -> None:
        message = refused(read, {"size": [HEIGHT, WIDTH], "counts": counts})
        assert message.startswith(
            f"annotation 1 of 1.png has run lengths (RLE) that cannot be read ({counts!r}): export it again"
        )

    def test_outlines_are_not_looked_at_for_boxes(self, read: Read) -> None:
        contents = with_outlines()
        contents["annotations"][0]["segmentation"] = [[1, 1]]
        assert len(read(contents).labels) == 6


@pytest.mark.parametrize("seed", range(20))
def test_the_sum_of_compressed_run_lengths(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = np.asfortranarray(random.random((int(random.integers(1, 300)), 70)) < random.random())
    assert pixels_of_runs(reference.encode(mask.astype(np.uint8))["counts"]) == mask.size
