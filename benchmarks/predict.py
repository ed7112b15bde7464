"""How close `detrkit predict` comes to the speed of its model: images per second of the whole, and of the model alone, in alternation.

    python benchmarks/predict.py --data COCO/val2017
    python benchmarks/predict.py --data COCO/val2017 --model runs/mine/best.safetensors --format json --batch-size 4

The whole reads, resizes, detects, draws and writes; the model alone takes the same photos, read and resized before. Both use the same number
of threads for the model. An untrained model (a variant's name) gets the threshold that leaves as many detections an image as COCO has
objects, so that there is something to draw. The ratio is that of each pair, since the machine's speed drifts. The exit code is 1 where the
median ratio is below 0.9.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import detrkit
from detrkit.models.catalog import CATALOG
from detrkit.prediction import find_images, predict_files
from detrkit.prediction.streaming import Prepared

OBJECTS = 7  # COCO's mean number of objects an image
FORMATS = ("json", "csv", "yolo", "images")
WANTED = 0.9


def open_predictor(model: str, photos: list[Path], device: str, batch_size: int) -> detrkit.Predictor:
    """A predictor that reports about as many detections as real photos have objects."""
    torch.manual_seed(0)
    if model not in CATALOG:
        return detrkit.Predictor(detrkit.load(model), device=device, batch_size=batch_size)
    built = detrkit.build(model)
    found = detrkit.Predictor(built, device=device).raw(list(photos[:8]))
    scores = np.concatenate([np.asarray(each.confidence) for each in found])
    threshold = float(np.sort(scores)[-OBJECTS * len(found)])
    return detrkit.Predictor(built, threshold=threshold, device=device, batch_size=batch_size)


def batches(predictor: detrkit.Predictor, photos: list[Path]) -> list[list[Prepared]]:
    """All photos, ready for the model, in batches of equal size."""
    by_shape: dict[tuple[int, ...], list[Prepared]] = {}
    for photo in photos:
        prepared = predictor.prepare(photo)
        by_shape.setdefault(prepared.shape, []).append(prepared)
    size = predictor.batch_size
    return [group[start : start + size] for group in by_shape.values() for start in range(0, len(group), size)]


def model_alone(predictor: detrkit.Predictor, prepared: list[list[Prepared]]) -> float:
    """Seconds for all photos without reading and writing."""
    began = time.perf_counter()
    for batch in prepared:
        predictor.detect(batch)
    return time.perf_counter() - began


def whole(predictor: detrkit.Predictor, photos: list[Path], formats: list[str]) -> float:
    """Seconds for all photos, from files to files."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        outcome = predict_files(predictor, photos, Path(folder), formats=formats)  # type: ignore[arg-type]  # checked by argparse
        seconds = time.perf_counter() - began
    if outcome.done != len(photos):
        raise SystemExit(f"only {outcome.done} of {len(photos)} photos were done: {outcome.unreadable()}")
    return seconds


def main() -> None:
    """Prints images per second of both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder with photos")
    parser.add_argument("--model", default="light-detr-mobilenetv2", help="a variant, or a checkpoint")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=["json", "images"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    photos = find_images([options.data])[: options.images]
    predictor = open_predictor(options.model, photos, options.device, options.batch_size)
    prepared = batches(predictor, photos)
    found = sum(len(each.detections) for batch in prepared for each in predictor.detect(batch))  # warms up as well
    print(
        f"{options.model}, {len(photos)} photos, {found / len(photos):.1f} detections each, batches of {options.batch_size}, "
        f"{options.threads} threads, {options.device}, torch {torch.__version__}; writing {', '.join(options.format)}"
    )
    seconds: dict[str, list[float]] = {"model alone": [], "whole": []}
    for number in range(options.rounds):
        for name in seconds if number % 2 == 0 else reversed(seconds):
            took = (
                model_alone(predictor, prepared) if name == "model alone" else whole(predictor, photos, options.format)
            )
            seconds[name].append(took)
    for name, each in seconds.items():
        print(f"{name:12} {len(photos) / statistics.median(each):8.2f} images/s")
    ratios = [alone / all_of_it for alone, all_of_it in zip(seconds["model alone"], seconds["whole"], strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if statistics.median(ratios) < WANTED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
