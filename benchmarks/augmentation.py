"""Seconds that an epoch's data take with each policy of augmentation, with and without worker processes.

    python benchmarks/augmentation.py --data bccd --variant light-detr-mobilenetv2 --workers 0 2

Images are read, varied, normalised and put into batches as in training; no model is built. Of several epochs the median is printed, and the
images a second. The first epoch of each line warms up and does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from typing import get_args

from detrkit.cards import PolicyName
from detrkit.data import (
    Augmentation,
    DetectionDataset,
    TrainingData,
    TrainingTransform,
    collate,
    epoch_order,
    open_dataset,
)
from detrkit.data.opening import Masks
from detrkit.data.workers import BatchLoader, for_workers
from detrkit.models.catalog import find_variant

BATCH = 8


def epoch_seconds(dataset: DetectionDataset, variant: str, policy: PolicyName, workers: int, epochs: int) -> float:
    """Median seconds of an epoch's data, after one epoch that does not count.

    Args:
        dataset: the images.
        variant: whose image sizes are used.
        policy: of the augmentation.
        workers: processes that read images.
        epochs: that are measured.
    """
    preprocessing = find_variant(variant).preprocessing
    augmentation = Augmentation.named(policy, preprocessing.short_side, preprocessing.long_side)
    data = TrainingData(dataset, TrainingTransform(augmentation, preprocessing), seed=0)
    source, seconds = for_workers(data, workers), []
    for epoch in range(epochs + 1):
        data.set_epoch(epoch)
        began = time.perf_counter()
        loader = BatchLoader(
            source,
            workers=workers,
            collate_fn=partial(collate, smallest_side=preprocessing.smallest_side),
            batch_size=BATCH,
            sampler=epoch_order(len(data), 0, epoch),
        )
        for _ in loader:
            pass
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def main() -> None:
    """Prints a line for each policy and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set")
    parser.add_argument("--split", default="train")
    parser.add_argument("--masks", choices=get_args(Masks), help="decode masks, too")
    parser.add_argument("--variant", default="light-detr-mobilenetv2", help="whose image sizes are used")
    parser.add_argument("--policies", nargs="+", choices=get_args(PolicyName), default=get_args(PolicyName))
    parser.add_argument("--workers", nargs="+", type=int, default=(0, 2))
    parser.add_argument("--images", type=int, help="the first so many images; by default all")
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    dataset = open_dataset(given.data, given.split, masks=given.masks)
    dataset = dataset.subset(range(len(dataset))[: given.images])
    print(f"{dataset.description()}; sizes of {given.variant}, batches of {BATCH}")
    print(f"{'policy':10}{'workers':>8}{'seconds':>10}{'images/s':>10}")
    for workers in given.workers:
        for policy in given.policies:
            seconds = epoch_seconds(dataset, given.variant, policy, workers, given.epochs)
            print(f"{policy:10}{workers:8}{seconds:10.2f}{len(dataset) / seconds:10.1f}", flush=True)


if __name__ == "__main__":
    main()
