"""Pictures whose objects can be told by their colour, so that every box and mask can be checked against the pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.cards import Preprocessing
from detrkit.data import Objects
from detrkit.data.masks import ArrayMasks
from detrkit.structures import Target

PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0))
Box = tuple[int, int, int, int]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shade(label: int) -> int:
    """The level of an object's colour: distinct for labels up to 11, and not that of the background, which is 0."""
    return 20 + 20 * label


def picture(
    size: tuple[int, int], boxes: Sequence[Box], *, first_label: int = 0, masks: bool, crowd: int = -1
) -> tuple[Image.Image, Objects]:
    """A black picture with rectangles, each in the shade of its label.

    Args:
        size: height and width.
        boxes: xyxy in whole pixels; they do not overlap.
        first_label: of the first rectangle; the others count on.
        masks: whether the objects have masks.
        crowd: position of a rectangle that is a crowd region.
    """
    levels, shapes = np.zeros((*size, 3), np.uint8), np.zeros((len(boxes), *size), np.bool_)
    for place, (left, top, right, bottom) in enumerate(boxes):
        levels[top:bottom, left:right] = shade(first_label + place)
        shapes[place, top:bottom, left:right] = True
    objects = Objects(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.arange(first_label, first_label + len(boxes)),
        np.arange(len(boxes)) == crowd,
        np.ones(len(boxes)),
        ArrayMasks(shapes) if masks else None,
    )
    return Image.fromarray(levels), objects


class Pictures:
    """Other images, in turn."""

    def __init__(self, *pictures: tuple[Image.Image, Objects], stuff: Sequence[int] = ()) -> None:
        self.pictures = pictures
        self.stuff = stuff
        self.drawn = 0

    def draw(self, generator: torch.Generator) -> tuple[Image.Image, Objects]:
        self.drawn += 1
        return self.pictures[(self.drawn - 1) % len(self.pictures)]


def pixel_boxes(levels: torch.Tensor, target: Target) -> torch.Tensor:
    """The target's boxes (N, 4) as corners in pixels."""
    height, width = levels.shape[1:]
    return cxcywh_to_xyxy(target.boxes_cxcywh) * torch.tensor([width, height, width, height])


def boxes_of(masks: torch.Tensor) -> torch.Tensor:
    """The smallest boxes (N, 4) around masks (N, H, W); right and bottom are past the last pixels."""
    boxes = []
    for mask in masks:
        rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
        boxes.append([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1])
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
