"""Small Pascal VOC folders for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from detrkit.data.dataset import DetectionDataset

Box = Sequence[object]


def thing(name: str, box: Box, difficult: str = "0") -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def write_annotation(folder: Path, name: str, *objects: str, size: str = "<width>8</width><height>6</height>") -> None:
    """An image of 8 × 6 pixels and its annotation."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    text = f"<annotation><filename>other.jpg</filename><size>{size}</size>{''.join(objects)}</annotation>"
    (folder / f"Annotations/{name}.xml").write_text(text)
    Image.new("RGB", (8, 6)).save(folder / f"JPEGImages/{name}.png")


def write_split(folder: Path, split: str, *names: str) -> None:
    (folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))


def voc_folder(folder: Path, *objects: str) -> Path:
    write_annotation(folder, "a", *objects)
    write_split(folder, "train", "a")
    return folder


def write_xml(file: Path, left: int = 1, *, filename: str = "", name: str = "thing") -> None:
    """An annotation with one box whose left edge tells which file it comes from."""
    file.parent.mkdir(parents=True, exist_ok=True)
    box = f"<xmin>{left + 1}</xmin><ymin>2</ymin><xmax>{left + 4}</xmax><ymax>5</ymax>"
    text = f"<filename>{filename}</filename><object><name>{name}</name><bndbox>{box}</bndbox></object>"
    file.write_text(f"<annotation>{text}</annotation>", encoding="utf-8")


def write_picture(file: Path, red: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (80, 60), (red, 0, 0)).save(file, quality=95)


def write_pair(annotation: Path, picture: Path, number: int) -> None:
    write_xml(annotation, number)
    write_picture(picture, 10 * number)


def write_text(file: Path, text: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())


def contents(dataset: DetectionDataset) -> list[tuple[str, list[float]]]:
    """The name of each picture and the left edges of its boxes; a picture must have the colour that belongs to the edge."""
    found = []
    for index in range(len(dataset)):
        lefts = dataset.objects(index).boxes_xyxy[:, 0].tolist()
        red = dataset.image(index).getpixel((0, 0))[0]
        assert not lefts or abs(red - 10 * lefts[0]) <= 2
        found.append((dataset.image_name(index), lefts))
    return found
