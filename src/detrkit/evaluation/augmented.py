"""Pictures with their boxes as they were annotated, beside what training makes of them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.cards import Preprocessing
from detrkit.data.dataset import DetectionDataset
from detrkit.data.transforms import Augmentation, TrainingTransform
from detrkit.data.wording import counted
from detrkit.models.catalog import find_variant
from detrkit.prediction.drawing import BACKGROUND, captioned, contact_sheet, draw, truth_of
from detrkit.prediction.quiet_supervision import sv
from detrkit.structures import Target

_CELL = (480, 400)  # width and height in pixels


def before_and_after(
    dataset: DetectionDataset, variant: str | None = None, *, count: int = 8, seed: int = 0
) -> Image.Image:
    """One sheet: each picture with its boxes as annotated, and at its right as training gets it, cut, mirrored and resized at random.

    Shown are the pictures with most objects, with the smallest and largest boxes and with most classes, and others drawn at random.

    Args:
        dataset: has at least one image.
        variant: name in the catalog whose image sizes are used; by default DETR's.
        count: largest number of pictures.
        seed: of the choice and of the augmentation.

    Raises:
        DataError: a picture cannot be read.
        ConfigurationError: an unknown variant.
    """
    preprocessing = Preprocessing() if variant is None else find_variant(variant).preprocessing
    augmentation = Augmentation.for_sizes(preprocessing.short_side, preprocessing.long_side)
    transform = TrainingTransform(augmentation, preprocessing)
    generator = torch.Generator().manual_seed(seed)
    halves = []
    for index in various_images(dataset, count, seed):
        picture, truth = dataset.image(index), truth_of(dataset, index)
        pixels, target = transform(picture, dataset.objects(index), generator)
        halves.append(_cell(picture, truth, dataset.image_name(index)))
        halves.append(
            _cell(
                *_shown(pixels, target, dataset, preprocessing), f"in training: {counted(len(target.labels), 'object')}"
            )
        )
    return contact_sheet(halves, width=_CELL[0], columns=min(4, len(halves)))


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


def _shown(
    pixels: Tensor, target: Target, dataset: DetectionDataset, preprocessing: Preprocessing
) -> tuple[Image.Image, sv.Detections]:
    """What training gets, as a picture and boxes in its pixels."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.deviation))
    colours = ((pixels * deviation + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    picture = Image.fromarray(colours.permute(1, 2, 0).contiguous().numpy())
    categories = [dataset.categories[label] for label in target.labels.tolist()]
    scale = torch.tensor([picture.width, picture.height] * 2)
    detections = sv.Detections(
        xyxy=(cxcywh_to_xyxy(target.boxes_cxcywh) * scale).numpy().reshape(-1, 4),
        class_id=np.array([category.id for category in categories], dtype=np.int64),
        data={"class_name": np.array([category.name for category in categories], dtype=str)},
    )
    return picture, detections


def _cell(picture: Image.Image, detections: sv.Detections, caption: str) -> Image.Image:
    """A picture with its boxes, fitted into a cell, below its caption."""
    fitted = ImageOps.contain(picture, _CELL)
    scale = np.array([fitted.width / picture.width, fitted.height / picture.height] * 2)
    scaled = sv.Detections(xyxy=detections.xyxy * scale, class_id=detections.class_id, data=dict(detections.data))
    return captioned(ImageOps.pad(draw(fitted, scaled), _CELL, color=BACKGROUND), caption)
