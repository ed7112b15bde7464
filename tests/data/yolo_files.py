"""Writes small YOLO data sets for tests."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def write_picture(file: Path, size: tuple[int, int] = (40, 20), red: int = 0, orientation: int = 1) -> None:
    """A picture of this width and height."""
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (red, 0, 0)).save(file, exif=exif)


def write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())


def write_yolo_set(folder: Path, labels: dict[str, str], description: str = "names: [cat, dog]") -> Path:
    """`train` with a picture of 40 × 20 pixels for each label file, and `data.yaml`."""
    for name, text in labels.items():
        write_picture(folder / f"images/train/{name}.png")
        write_text(folder / f"labels/train/{name}.txt", text)
    write_text(folder / "data.yaml", f"train: images/train\n{description}\n")
    return folder
