"""Pictures with their boxes and masks as they were annotated, beside what training makes of them, also step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.cards import Category, PolicyName, Preprocessing
from detrkit.data.augmentation import Augmentation
from detrkit.data.batching import RandomImages
from detrkit.data.dataset import DetectionDataset
from detrkit.data.masks import Axis
from detrkit.data.scenes import Scene
from detrkit.data.transforms import TrainingTransform, normalise
from detrkit.data.wording import counted
from detrkit.models.catalog import find_variant
from detrkit.prediction.drawing import BACKGROUND, captioned, contact_sheet, draw, truth_at
from detrkit.prediction.quiet_supervision import sv
from detrkit.prediction.results import save_image
from detrkit.structures import Target

_CELL = (480, 400)  # width and height in pixels
_DRAWS = 6  # of which the one with most steps that no picture has shown yet is drawn
_COLUMNS = 3


def transform_for(variant: str | None, policy: PolicyName | None) -> TrainingTransform:
    """What training does to images.

    Args:
        variant: name in the catalog whose image sizes are used; by default DETR's.
        policy: name of the augmentation; by default that of the variant's recipe.

    Raises:
        ConfigurationError: an unknown variant or policy.
    """
    preprocessing, usual = Preprocessing(), policy or "detr"
    if variant is not None:
        found = find_variant(variant)
        preprocessing, usual = found.preprocessing, policy or found.recipe.augmentation
    augmentation = Augmentation.named(usual, preprocessing.short_side, preprocessing.long_side)
    return TrainingTransform(augmentation, preprocessing)


def before_and_after(
    dataset: DetectionDataset,
    variant: str | None = None,
    *,
    policy: PolicyName | None = None,
    count: int = 8,
    seed: int = 0,
) -> Image.Image:
    """One sheet: each picture with its boxes, and masks where the data were opened with some, as annotated, and at its right as training gets it, cut, mirrored and resized at random.

    Shown are the pictures with most objects, with the smallest and largest boxes and with most classes, and others drawn at random.

    Args:
        dataset: has at least one image.
        variant: as for `transform_for`.
        policy: likewise.
        count: largest number of pictures.
        seed: of the choice and of the augmentation.

    Raises:
        DataError: a picture cannot be read.
        ConfigurationError: an unknown variant or policy.
    """
    transform, others = transform_for(variant, policy), RandomImages(dataset)
    generator = torch.Generator().manual_seed(seed)
    halves = []
    for index in various_images(dataset, count, seed):
        picture = dataset.image(index)
        pixels, target = transform(picture, dataset.objects(index), generator, others)
        shown = _input(pixels, target, dataset.categories, transform.preprocessing)
        fitted = ImageOps.contain(picture, _CELL)
        halves.append(_cell(fitted, truth_at(dataset, index, fitted.size), dataset.image_name(index)))
        halves.append(_cell(*shown, f"in training: {counted(len(target.labels), 'object')}"))
    return contact_sheet(halves, width=_CELL[0], columns=min(4, len(halves)))


def draw_steps(
    dataset: DetectionDataset,
    folder: Path,
    variant: str | None = None,
    *,
    policy: PolicyName | None = None,
    count: int = 4,
    seed: int = 0,
) -> list[Path]:
    """A PNG file for each of some pictures: as annotated, after each step of the augmentation, and as the model gets it.

    Of a few random draws, the one is shown that has most steps which the files so far do not show.

    Args:
        dataset: has at least one image.
        folder: gets the files; it exists.
        variant: as for `transform_for`.
        policy: likewise.
        count: largest number of pictures.
        seed: of the choice and of the augmentation.

    Returns:
        The files.

    Raises:
        DataError: a picture cannot be read.
        ConfigurationError: an unknown variant or policy.
        OutputError: a file cannot be written.
    """
    transform, shown, files = transform_for(variant, policy), set[str](), []
    for number, index in enumerate(various_images(dataset, count, seed), start=1):
        names = [{name for name, _ in _steps(dataset, index, transform, (seed, index, draw))} for draw in range(_DRAWS)]
        best = max(range(_DRAWS), key=lambda draw: (len(names[draw] - shown), -draw))
        shown |= names[best]
        steps = list(_steps(dataset, index, transform, (seed, index, best)))
        file = folder / f"{number:02d}_{Path(dataset.image_name(index)).stem}.png"
        save_image(file, _sheet_of_steps(steps, dataset, transform.preprocessing))
        files.append(file)
    return files


def various_images(dataset: DetectionDataset, count: int, seed: int) -> list[int]:
    """Positions of images that differ: extreme ones first, then others at random.

    Args:
        dataset: the images.
        count: largest number of positions.
        seed: of the random ones.
    """
    objects = np.diff(dataset.offsets)
    chosen = [int(objects.argmax())]
    owner = np.repeat(np.arange(len(dataset)), objects)
    if owner.size:
        sides = np.prod(dataset.boxes_xyxy[:, 2:] - dataset.boxes_xyxy[:, :2], axis=1)
        kinds = np.unique(owner * len(dataset.categories) + dataset.labels) // len(dataset.categories)
        most_kinds = np.bincount(kinds, minlength=len(dataset)).argmax()
        chosen += [int(owner[sides.argmin()]), int(owner[sides.argmax()]), int(most_kinds)]
    others = np.random.default_rng(seed).permutation(np.flatnonzero(objects)).tolist()
    return list(dict.fromkeys([*chosen, *others]))[:count]


def _steps(
    dataset: DetectionDataset, index: int, transform: TrainingTransform, numbers: tuple[int, ...]
) -> Iterator[tuple[str, Scene]]:
    """What happens to an image, by a draw that depends on these numbers."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
    return transform.steps(dataset.image(index), dataset.objects(index), generator, RandomImages(dataset))


def _sheet_of_steps(
    steps: Sequence[tuple[str, Scene]], dataset: DetectionDataset, preprocessing: Preprocessing
) -> Image.Image:
    cells = []
    for name, scene in steps:
        picture = Image.fromarray(scene.levels.permute(1, 2, 0).contiguous().numpy())
        found = _detections(scene.objects.boxes_xyxy, scene.objects.labels, scene.masks(), dataset.categories)
        cells.append(_cell(picture, found, _caption(name, picture, found)))
    levels, target = steps[-1][1].levels, steps[-1][1].target()
    picture, found = _input(normalise(levels, preprocessing), target, dataset.categories, preprocessing)
    cells.append(_cell(picture, found, _caption("what the model gets", picture, found)))
    return contact_sheet(cells, width=_CELL[0], columns=min(_COLUMNS, len(cells)))


def _caption(name: str, picture: Image.Image, found: sv.Detections) -> str:
    return f"{name}: {counted(len(found), 'object')}, {picture.width} x {picture.height}"  # the font has no ×


def _input(
    pixels: Tensor, target: Target, categories: Sequence[Category], preprocessing: Preprocessing
) -> tuple[Image.Image, sv.Detections]:
    """What training gets, as a picture and boxes in its pixels."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.deviation))
    pixels = pixels if preprocessing.channels == "rgb" else pixels.flip(0)
    colours = ((pixels * deviation + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    picture = Image.fromarray(colours.permute(1, 2, 0).contiguous().numpy())
    scale = torch.tensor([picture.width, picture.height] * 2)
    boxes = (cxcywh_to_xyxy(target.boxes_cxcywh) * scale).numpy().reshape(-1, 4)
    masks = None if target.masks is None else target.masks.numpy()
    return picture, _detections(boxes, target.labels.numpy(), masks, categories)


def _detections(
    boxes: np.ndarray, labels: np.ndarray, masks: np.ndarray | None, categories: Sequence[Category]
) -> sv.Detections:
    """Objects as they are drawn; those of which nothing is visible are left out."""
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    own = [categories[label] for label in labels[visible].tolist()]
    return sv.Detections(
        xyxy=boxes[visible],
        mask=None if masks is None else masks[visible],
        class_id=np.array([category.id for category in own], dtype=np.int64),
        data={"class_name": np.array([category.name for category in own], dtype=str)},
    )


def _cell(picture: Image.Image, detections: sv.Detections, caption: str) -> Image.Image:
    """A picture with its boxes, and masks where there are some, fitted into a cell, below its caption."""
    fitted = ImageOps.contain(picture, _CELL)
    scale = np.array([fitted.width / picture.width, fitted.height / picture.height] * 2)
    boxes = sv.Detections(xyxy=detections.xyxy * scale, class_id=detections.class_id, data=dict(detections.data))
    if detections.mask is not None:
        rows = Axis.whole(picture.height).resized(fitted.height).picked()
        columns = Axis.whole(picture.width).resized(fitted.width).picked()
        fitted = draw(
            fitted, dataclasses.replace(boxes, mask=np.asarray(detections.mask, np.bool_)[:, rows[:, None], columns])
        )
    return captioned(ImageOps.pad(draw(fitted, boxes), _CELL, color=BACKGROUND), caption)
