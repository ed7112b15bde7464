"""Masks, instance results and panoptic results against values that the authors' code computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity import cases
from parity.cases import Golden, Run
from torch import Tensor

from detrkit.cards import Category
from detrkit.layers.mask_selection import MaskSelection
from detrkit.layers.selection import SoftmaxSelection

CASE = "detr_r50_panoptic"


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    found = cases.shared_golden(CASE, shared)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def run(golden: Golden) -> Run:
    return Run(CASE, golden.manifest)


def test_masks_of_all_queries(run: Run, golden: Golden) -> None:
    masks = run.masks(run.output)
    assert list(masks.shape) == golden.manifest["sampled"]["masks"]["shape"]
    found = masks.detach().reshape(-1)[:: golden.steps["masks"]].numpy()
    np.testing.assert_allclose(found, golden.arrays["masks"], atol=1e-9, rtol=0)


def test_masks_of_some_queries_are_those_of_all(run: Run) -> None:
    images, queries = torch.tensor([1, 0, 1]), torch.tensor([39, 7, 0])
    found = run.model.mask_logits(run.output.mask_inputs, images, queries)
    torch.testing.assert_close(found, run.masks(run.output)[images, queries], atol=1e-12, rtol=0)


def test_masks_in_float32(run: Run, golden: Golden) -> None:
    run.model.to(torch.float32)
    with torch.no_grad():
        masks = run.masks(run.model(run.batch(torch.float32)))
    run.model.to(torch.float64)
    found = masks.reshape(-1)[:: golden.steps["masks"]].numpy()
    np.testing.assert_allclose(found, golden.arrays["masks"], atol=1e-4, rtol=0)


def sizes(run: Run, golden: Golden) -> tuple[Tensor, Tensor]:
    """Width and height of the images, height and width of the pictures."""
    return run.batch().image_sizes(), torch.tensor(golden.manifest["postprocess"]["target_sizes"])


@torch.no_grad()
def test_instance_masks(run: Run, golden: Golden) -> None:
    image_sizes, original_sizes = sizes(run, golden)
    selection = selection_of(run, last_thing=249)
    found = selection.with_masks(run.output, selection(run.output, original_sizes), image_sizes, original_sizes)
    for image, detections in enumerate(found):
        assert detections.masks is not None
        masks = detections.masks[detections.queries.argsort()]  # in the order of queries
        wanted = golden.manifest["segm"][image]
        assert masks.sum((1, 2)).tolist() == wanted["areas"]
        name = f"segm.{image}.masks"
        np.testing.assert_array_equal(masks.reshape(-1)[:: golden.steps[name]].numpy(), golden.arrays[name])


class AuthorsSelection(MaskSelection):
    """What the authors do otherwise: they squeeze the masks of a padded batch into the image, and merge stuff in the first round only."""

    def on_image(self, logits: Tensor, batch_size: tuple[int, int], own_size: tuple[int, int]) -> Tensor:
        return F.interpolate(logits[:, None], own_size, mode="bilinear")[:, 0]

    def groups(self, labels: Sequence[int], *, first: bool) -> list[int]:
        return super().groups(labels, first=first) if first else list(range(len(labels)))

    def areas_of_queries(self, areas: Tensor, segments: Tensor) -> Tensor:
        return areas


def selection_of(run: Run, *, last_thing: int, kind: type[MaskSelection] = MaskSelection) -> MaskSelection:
    """A selection for which all outputs of the class head have a name, as for the authors."""
    categories = [Category(number, str(number), number, thing=number <= last_thing) for number in range(250)]
    return kind(SoftmaxSelection(), categories, mask_logits=run.model.mask_logits)


@pytest.mark.parametrize("entry", [0, 1, 2])
@torch.no_grad()
def test_panoptic_results(run: Run, golden: Golden, entry: int) -> None:
    wanted = golden.manifest["panoptic"][entry]
    selection = selection_of(run, last_thing=wanted["last_thing"], kind=AuthorsSelection)
    results = selection.panoptic(run.output, *sizes(run, golden), threshold=wanted["threshold"])
    for image, (found, expected) in enumerate(zip(results, wanted["images"], strict=True)):
        assert list(found.ids.shape) == expected["shape"]
        segments = [(each.id - 1, each.category.thing, each.category.id, each.area) for each in found.segments]
        assert segments == [
            tuple(each[name] for name in ("id", "isthing", "category_id", "area")) for each in expected["segments_info"]
        ]
        name = f"panoptic.{entry}.{image}.ids"
        authors = np.where(found.ids == 0, 0, found.ids - 1)  # their ids begin with 0, also where there is no segment
        np.testing.assert_array_equal(authors.reshape(-1)[:: golden.steps[name]], golden.arrays[name])


@torch.no_grad()
def test_sound_panoptic_results_cover_every_pixel(run: Run, golden: Golden) -> None:
    """Merged stuff stays one segment of the whole area, whatever was left out besides."""
    selection: Any = selection_of(run, last_thing=90)
    image_sizes, original_sizes = sizes(run, golden)
    for found in selection.panoptic(run.output, image_sizes, original_sizes, threshold=0.05):
        assert sum(segment.area for segment in found.segments) == found.ids.size
        labels = [segment.category.id for segment in found.segments]
        assert len(set(labels)) == len(labels)  # all of it is stuff
        assert [int((found.ids == segment.id).sum()) for segment in found.segments] == [
            segment.area for segment in found.segments
        ]
