"""Small data sets in COCO's layout for tests of inspections: photos that all look different, and boxes as a test wants them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrkit.data.inspection import Finding, Split
from detrkit.data.opening import open_dataset
from detrkit.evaluation import inspect_data

WIDTH, HEIGHT = 160, 120
CAT, DOG = "cat", "dog"
Thing = tuple[Any, ...]  # the class, [left, top, width, height], and True for a crowd region
ONE: list[Thing] = [(CAT, [20, 20, 60, 50])]
GOOD: list[list[Thing]] = [[(CAT, [20, 20, 60, 50]), (DOG, [90, 30, 40, 60])]] * 10


def photo(name: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """A picture with soft patches, which depend on the name."""
    patches = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


def write_split(
    folder: Path,
    split: str,
    images: Sequence[Sequence[Thing]],
    *,
    classes: Sequence[str] = (CAT, DOG),
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Path:
    """A split with these things in its images, which are called `train_0.jpg`, `train_1.jpg` and so on."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir(exist_ok=True)
    records, annotations = [], []
    for number, things in enumerate(images):
        name = f"{split}_{number}.jpg"
        photo(name, size).save(folder / split / name, quality=90)
        records.append({"id": number + 1, "file_name": name, "width": size[0], "height": size[1]})
        for label, box, *crowd in things:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": list(classes).index(label) + 1,
                    "bbox": list(box),
                    "area": box[2] * box[3],
                    "iscrowd": int(bool(crowd)),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    contents = {"images": records, "annotations": annotations, "categories": categories}
    (folder / f"annotations/instances_{split}.json").write_text(json.dumps(contents))
    return folder


def opened(folder: Path, name: str = "train") -> Split:
    return Split(name, open_dataset(folder, name), for_training=name == "train")


def found(folder: Path, kind: str, **options: Any) -> list[Finding]:
    """What an inspection finds of one kind."""
    return [each for each in inspect_data(folder, **options).findings if each.kind == kind]


def only(folder: Path, kind: str, **options: Any) -> Finding:
    """The one finding of this kind."""
    (one,) = found(folder, kind, **options)
    return one
