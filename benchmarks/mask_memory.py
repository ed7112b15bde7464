"""Memory of preparing one training sample with masks: photos of two sizes, the same final image, 30 objects.

    python benchmarks/mask_memory.py

Measured is by how much the resident memory of a process of its own rises at most while one sample is prepared, after one of a small photo
has been (Linux); the photo without its masks is measured likewise. Photos are noise under soft patches; objects are ellipses, as polygons, run lengths
or a panoptic PNG file. The final image is the whole photo at 800 pixels, at most 1,333.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detrkit.cards import Preprocessing
from detrkit.data import Augmentation, TrainingTransform, open_dataset

OBJECTS, POINTS = 30, 40
SIDES = (1333, 5332)
KINDS = ("without masks", "polygons", "run lengths", "panoptic")


def main() -> None:
    """Prints a line for every kind of masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.alone:
        print(json.dumps({"megabytes": rise(Path(options.alone[0]), options.alone[1])}))
        return
    print(f"{'masks':16}" + "".join(f"{f'photo of {side}':>16}{'masks alone':>14}" for side in SIDES))
    with tempfile.TemporaryDirectory() as folder:
        for side in (64, *SIDES):
            write(Path(folder) / str(side), side)
        plain: dict[int, float] = {}
        for kind in KINDS:
            cells = ""
            for side in SIDES:
                megabytes = in_its_own_process(Path(folder) / str(side), kind)
                plain.setdefault(side, megabytes)
                cells += f"{megabytes:13.0f} MB{megabytes - plain[side]:11.0f} MB"
            print(f"{kind:16}{cells}", flush=True)
    final = OBJECTS * 800 * 1066 / 1e6
    sizes = ", ".join(f"{side * round(side * 0.75) / 1e6:.1f} MB" for side in SIDES)
    print(
        f"The target's masks alone are {final:.0f} MB; one mask of the photo is {sizes} in bytes, 30 of them {OBJECTS} times as much."
    )


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


def in_its_own_process(folder: Path, kind: str) -> float:
    """`rise` in a fresh process."""
    command = [sys.executable, __file__, "--alone", str(folder), kind]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(printed.splitlines()[-1])["megabytes"])


def rise(folder: Path, kind: str) -> float:
    """By how many MB this process grows at most while a sample is prepared."""
    prepare(folder.parent / "64", kind)  # loads what is needed
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = status("VmRSS")
    prepare(folder, kind)
    return status("VmHWM") - before


def prepare(folder: Path, kind: str) -> None:
    """Opens a data set of one photo, and prepares its sample."""
    name = {"run lengths": "runs_train", "panoptic": "panoptic_train"}.get(kind, "instances_train")
    masks = {"without masks": None, "panoptic": "panoptic"}.get(kind, "instances")
    dataset = open_dataset(folder / f"annotations/{name}.json", "train", masks=masks)  # type: ignore[arg-type]
    policy = Augmentation((800,), 1333, flip=1.0, crop=False)
    transform = TrainingTransform(policy, Preprocessing())
    _, target = transform(dataset.image(0), dataset.objects(0), torch.Generator().manual_seed(0))
    assert target.masks is None or len(target.masks) == OBJECTS


def status(name: str) -> float:
    """A figure of this process in MB, as Linux gives it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
