"""Small COCO data sets for tests: three pictures with two objects each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from detrkit.data import DetectionDataset

Contents = dict[str, Any]
WIDTH, HEIGHT = 96, 72
BOXES = [[15, 31, 18, 16], [26, 6, 28, 29], [46, 53, 15, 16], [27, 38, 19, 23], [60, 40, 21, 18], [60, 16, 32, 16]]


def coco(boxes: list[list[float]] | None = None, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Contents:
    """Three images with two objects each, whose areas are stated."""
    boxes = BOXES if boxes is None else boxes
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]} for number in (1, 2, 3)
        ],
        "annotations": [
            {
                "id": number + 1,
                "image_id": number // 2 % 3 + 1,
                "category_id": number % 2 + 1,
                "bbox": box,
                "area": BOXES[number % 6][2] * BOXES[number % 6][3],
                "iscrowd": 0,
            }
            for number, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "square"}, {"id": 2, "name": "bar"}],
    }


def write_pictures(
    folder: Path, names: list[str], size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1
) -> None:
    for red, name in enumerate(names, start=1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if orientation != 1:
            exif[0x0112] = orientation
        Image.new("RGB", size, (red, 0, 0)).save(folder / name, exif=exif)


def boxes_xywh(dataset: DetectionDataset) -> list[list[float]]:
    return [entry["bbox"] for entry in dataset.to_coco()["annotations"]]
