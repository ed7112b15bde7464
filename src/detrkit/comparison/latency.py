"""How long each model takes for an image: all in turn in one process, so that what else the machine does meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from detrkit.checkpoints import load
from detrkit.data import DetectionDataset
from detrkit.prediction.predictor import Predictor

_IMAGES = 24
_WARMUP = 3  # images, of which kernels are compiled and memory is taken
_LEAST_TIMES = 12  # of each model, also where there are fewer images


def latencies(
    models: Mapping[str, Path | str],
    dataset: DetectionDataset,
    device: str,
    *,
    images: int = _IMAGES,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median time from a picture in memory to its detections, one picture at a time, in milliseconds, by name.

    That is resizing, the model and the choice of detections: what `detrkit predict` does, without reading files.

    Args:
        models: weight files.
        dataset: images, of which some are taken that are evenly spaced.
        device: where the models run, as PyTorch calls it.
        images: number of images, at most.
        clock: in seconds.

    Raises:
        DetrkitError: a file or an image cannot be read.
    """
    if not models:
        return {}
    predictors = {name: Predictor(load(Path(path)), device=device) for name, path in models.items()}
    places = np.unique(np.linspace(0, len(dataset) - 1, images).round().astype(int)).tolist()
    pictures = [dataset.image(place) for place in places]
    for predictor in predictors.values():
        for picture in (pictures * _WARMUP)[:_WARMUP]:
            predictor.detect([predictor.prepare(picture)])
    times: dict[str, list[float]] = {name: [] for name in predictors}
    for _ in range(-(-_LEAST_TIMES // len(pictures))):
        for picture in pictures:
            for name, predictor in predictors.items():
                began = clock()
                predictor.detect([predictor.prepare(picture)])  # detections lie on the CPU, so a GPU has finished, too
                times[name].append(clock() - began)
    return {name: 1000 * statistics.median(values) for name, values in times.items()}
