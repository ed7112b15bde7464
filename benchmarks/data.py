"""Images a second and core from files to batches, beside `transformers`' image processors; and memory with 200,000 annotations.

    python benchmarks/data.py --data coco --rounds 5
    python benchmarks/data.py --memory

Both sides decode the same photos of COCO's val split, resize them to a short side of 800 and a long side of at most 1333 pixels, scale,
normalise, clip or take over boxes as fractions of the image, and pad pairs of images with a mask. There is no flip and no cut on either
side, since the processors of `transformers` have none; detrkit's own training, with both, is a line of its own. "processor" is
`DetrImageProcessor` on PIL images, "processor, decoded by torchvision" the same on tensors, "PIL processor" `DetrImageProcessorPil`. The
seconds are those that the processor spent (one process, one thread), so what else the machine does counts little.

Memory: every process's share (PSS: what n processes share counts 1/n for each) of 200,000 synthetic objects in 20,000 images, after each of
three epochs. Pictures are small, so what could grow is what describes them.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from detrkit.cards import Preprocessing
from detrkit.data import (
    Augmentation,
    DetectionDataset,
    EvaluationData,
    EvaluationTransform,
    Sample,
    TrainingData,
    TrainingTransform,
    collate,
    open_dataset,
    read_digits,
)
from detrkit.data.workers import BatchLoader, for_workers

BATCH = 2
IMAGES, OBJECTS_EACH = 20_000, 10
EPOCHS = 3

Work = Callable[[], Any]


def ours(data: EvaluationData | TrainingData, count: int) -> None:
    """Batches of the first images by detrkit, as training and evaluation take them."""
    for _ in BatchLoader(
        data, workers=0, collate_fn=partial(collate, smallest_side=1), batch_size=BATCH, sampler=range(count)
    ):
        pass


def theirs(processor: Any, folder: Path, entries: list[dict[str, Any]], *, decode: Callable[[Path], Any]) -> None:
    """The same by `transformers`."""
    for start in range(0, len(entries), BATCH):
        pair = entries[start : start + BATCH]
        processor(
            images=[decode(folder / entry["file_name"]) for entry in pair],
            annotations=[{"image_id": entry["image_id"], "annotations": entry["annotations"]} for entry in pair],
            return_tensors="pt",
        )


def as_picture(file: Path) -> Image.Image:
    """A PIL image, as `transformers`' examples open it."""
    return Image.open(file).convert("RGB")


def as_tensor(file: Path) -> torch.Tensor:
    """A tensor (3, H, W) uint8."""
    pixels: torch.Tensor = decode_image(str(file), mode=ImageReadMode.RGB)
    return pixels


def sides(data: Path, count: int) -> dict[str, Work]:
    """All that is measured."""
    transformers: Any = importlib.import_module("transformers")  # a development extra without types of its own
    dataset = open_dataset(data, "val")
    file = json.loads((data / "annotations" / "instances_val.json").read_text())
    annotations: dict[int, list[dict[str, Any]]] = {}
    for annotation in file["annotations"]:
        annotations.setdefault(annotation["image_id"], []).append(annotation)
    entries = [
        {"file_name": image["file_name"], "image_id": image["id"], "annotations": annotations.get(image["id"], [])}
        for image in file["images"][:count]
    ]
    fast, slow = transformers.DetrImageProcessor(), transformers.DetrImageProcessorPil()
    evaluation = EvaluationData(dataset, EvaluationTransform(Preprocessing()))
    training = TrainingData(dataset, TrainingTransform(Augmentation(), Preprocessing()), seed=0)
    folder = data / "val"
    return {
        "detrkit": partial(ours, evaluation, count),
        "processor": partial(theirs, fast, folder, entries, decode=as_picture),
        "processor, decoded by torchvision": partial(theirs, fast, folder, entries, decode=as_tensor),
        "PIL processor": partial(theirs, slow, folder, entries, decode=as_picture),
        "detrkit in training, with flips and cuts": partial(ours, training, count),
    }


def speed(data: Path, count: int, rounds: int) -> None:
    """Prints images a second and core of every side, and how many times as fast detrkit is."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, transformers {importlib.metadata.version('transformers')}, {count} photos")
    work = sides(data, count)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):  # the first round warms up
        for name in work if number % 2 == 0 else reversed(work):
            began = time.process_time()
            work[name]()
            seconds[name].append(time.process_time() - began)
    for name, each in seconds.items():
        ratios = [other / own for own, other in zip(seconds["detrkit"][1:], each[1:], strict=True)]
        print(
            f"{name:42}{count / statistics.median(each[1:]):7.1f} images/s   detrkit is {statistics.median(ratios):.2f} x as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def many_objects() -> DetectionDataset:
    """Synthetic objects; the images' ids are texts, as in some files."""
    small, rows = read_digits("train", images=1, size=64), IMAGES * OBJECTS_EACH
    corners = np.random.default_rng(0).random((rows, 2)) * 16
    return replace(
        small,
        images=small.images.subset(np.zeros(IMAGES, np.int64)),
        image_ids=np.arange(IMAGES),
        sizes=np.full((IMAGES, 2), 64),
        offsets=np.arange(IMAGES + 1) * OBJECTS_EACH,
        boxes_xyxy=np.concatenate([corners, corners + 12], axis=1),
        labels=np.zeros(rows, np.int64),
        crowd=np.zeros(rows, bool),
        areas=np.full(rows, 144.0),
        annotation_ids=np.arange(rows),
        file_image_ids=np.array([f"image {number}" for number in range(IMAGES)], dtype=object),
    )


def share() -> float:
    """The share of memory (PSS) of the process that asks, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def measured(samples: list[Sample]) -> tuple[int, float]:
    """The process that makes this batch, and its share of memory; takes the place of `collate`, which it calls."""
    collate(samples, smallest_side=1)
    process = os.getpid()
    return process, share() if samples[0].image_id % 100 == 0 else 0.0


def memory(workers: int) -> None:
    """Prints the shares of the main process and of its workers, epoch by epoch."""
    data = EvaluationData(many_objects(), EvaluationTransform(Preprocessing(64, 64)))
    loader = BatchLoader(for_workers(data, workers), workers=workers, collate_fn=measured, batch_size=4)
    for epoch in range(EPOCHS):
        last: dict[int, float] = {}
        for process, megabytes in loader:
            last[process] = megabytes or last.get(process, 0.0)
        of_workers = sorted(megabytes for process, megabytes in last.items() if process != os.getpid())
        shown = ", ".join(f"{megabytes:.0f}" for megabytes in of_workers) or "none"
        print(f"{workers} workers, epoch {epoch + 1}: main {share():.0f} MB, workers {shown}", flush=True)


def main() -> None:
    """Prints speed or memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="COCO's folder, with annotations for val")
    parser.add_argument("--images", type=int, default=60, help="photos of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    options = parser.parse_args()
    if options.memory:
        for workers in (0, 2, 4):
            memory(workers)
    elif options.data is None:
        parser.error("--data is needed")
    else:
        speed(options.data, options.images, options.rounds)


if __name__ == "__main__":
    main()
