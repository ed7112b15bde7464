"""Memory of preparing one training sample with masks: photos of two sizes, the same final image, 30 objects.

    python benchmarks/mask_memory.py

Measured is by how much the resident memory of a process of its own rises at most (Linux) while one sample is prepared, and while its masks
alone are, after those of a small photo have been. Objects are ellipses, as polygons, run lengths or a panoptic PNG file. The final image is the
whole photo with a shorter side of 800 pixels, mirrored.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detrkit.cards import Preprocessing
from detrkit.data import Augmentation, DetectionDataset, TrainingTransform, open_dataset, resized_size
from detrkit.data.opening import Masks
from detrkit.data.transforms import relative_target

OBJECTS, POINTS = 30, 40
SMALL, SIDES = 64, (1333, 5332)
KINDS = ("without masks", "polygons", "run lengths", "panoptic")


def main() -> None:
    """Prints a line for every kind of masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.alone:
        print(json.dumps(rises(Path(options.alone[0]), options.alone[1])))
        return
    print(f"{'masks':16}" + "".join(f"{f'photo of {side}':>16}{'masks alone':>16}" for side in SIDES))
    with tempfile.TemporaryDirectory() as folder:
        for side in (SMALL, *SIDES):
            write(Path(folder) / str(side), side)
        for kind in KINDS:
            figures = [in_its_own_process(Path(folder) / str(side), kind) for side in SIDES]
            print(f"{kind:16}" + "".join(f"{sample:13.0f} MB{masks:13.0f} MB" for sample, masks in figures), flush=True)
    print(f"The target's masks are {OBJECTS * 800 * 1066 / 1e6:.0f} MB.")
    for side in SIDES:
        pixels = side * round(side * 0.75) / 1e6
        print(f"A mask of the photo of {side} is {pixels:.1f} MB, {OBJECTS} of them are {OBJECTS * pixels:.0f} MB.")


def write(folder: Path, side: int) -> None:
    """A data set of one photo, `side` pixels wide and three quarters of that high."""
    height = round(side * 0.75)
    (folder / "annotations").mkdir(parents=True)
    for name in ("train", "panoptic_train"):
        (folder / name).mkdir()
    patches = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(patches).resize((side, height), Image.Resampling.BICUBIC).save(folder / "train/1.jpg")
    colours = np.zeros((height, side, 3), np.uint8)
    rows, columns = np.ogrid[:height, :side]
    outlines, runs, segments = [], [], []
    for number in range(OBJECTS):
        x, y = (0.5 + number % 6) / 6 * side, (0.5 + number // 6) / 5 * height
        width, tall = 0.07 * side, 0.07 * height
        angles = [2 * math.pi * place / POINTS for place in range(POINTS)]
        polygon = [
            round(value, 2) for angle in angles for value in (x + width * math.cos(angle), y + tall * math.sin(angle))
        ]
        mask = ((columns - x) / width) ** 2 + ((rows - y) / tall) ** 2 < 1
        colours[mask] = (number + 1, 0, 0)
        box = [x - width, y - tall, 2 * width, 2 * tall]
        entry = {"id": number + 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": box, "area": int(mask.sum())}
        outlines.append({**entry, "segmentation": [polygon]})
        edges = np.flatnonzero(np.diff(mask.T.ravel())) + 1
        counts = np.diff([0, *edges.tolist(), mask.size]).tolist()
        runs.append({**entry, "segmentation": {"size": [height, side], "counts": counts}})
        segments.append({"id": number + 1, "category_id": 1, "iscrowd": 0})
    Image.fromarray(colours).save(folder / "panoptic_train/1.png")
    image = {"id": 1, "file_name": "1.jpg", "height": height, "width": side}
    categories = [{"id": 1, "name": "ellipse", "isthing": 1}]
    whole = [{"image_id": 1, "file_name": "1.png", "segments_info": segments}]
    files = {"instances_train": outlines, "runs_train": runs, "panoptic_train": whole}
    for name, entries in files.items():
        contents = {"images": [image], "annotations": entries, "categories": categories}
        (folder / f"annotations/{name}.json").write_text(json.dumps(contents))


def in_its_own_process(folder: Path, kind: str) -> tuple[float, float]:
    """`rises` in a fresh process."""
    command = [sys.executable, __file__, "--alone", str(folder), kind]
    given_back = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # so that nothing that was freed is counted or used again
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=given_back).stdout
    sample, masks = json.loads(printed.splitlines()[-1])
    return sample, masks


def rises(folder: Path, kind: str) -> tuple[float, float]:
    """By how many MB this process grows at most while a sample is prepared, and while its masks alone are."""
    small, dataset = opened(folder.parent / str(SMALL), kind), opened(folder, kind)
    prepare(small)  # loads what is needed
    prepare_masks(small)
    masks = rise(lambda: prepare_masks(dataset))
    return rise(lambda: prepare(dataset)), masks


def rise(work: Callable[[], None]) -> float:
    """By how many MB this process grows at most while it does something."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def opened(folder: Path, kind: str) -> DetectionDataset:
    """A data set of one photo."""
    name = {"run lengths": "runs_train", "panoptic": "panoptic_train"}.get(kind, "instances_train")
    masks: Masks | None = None if kind == KINDS[0] else "panoptic" if kind == "panoptic" else "instances"
    return open_dataset(folder / f"annotations/{name}.json", "train", masks=masks)


def prepare(dataset: DetectionDataset) -> None:
    """One sample."""
    transform = TrainingTransform(Augmentation((800,), 1333, flip=1.0, crop=False), Preprocessing())
    _, target = transform(dataset.image(0), dataset.objects(0), torch.Generator().manual_seed(0))
    assert target.masks is None or len(target.masks) == OBJECTS


def prepare_masks(dataset: DetectionDataset) -> None:
    """Its masks, without the photo."""
    height, width = dataset.sizes[0].tolist()
    relative_target(dataset.objects(0), height, width, resized_size(height, width, 800, 1333))


def status(name: str) -> float:
    """A figure of this process in MB, as Linux gives it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
