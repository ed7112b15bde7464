"""Speed of TSP-FCOS and TSP-RCNN (R50) beside torchvision's FCOS and Faster R-CNN, on one image of 800 x 1066, in alternation.

    python benchmarks/beside_torchvision.py --rounds 5 --threads 2

Each side turns a normalised image into detections, with its own choice of the best and non-maximum suppression. Random weights; torchvision keeps
every score above 0, as detrkit does, so that both have as many boxes as they ever have. Medians over the rounds; what counts is the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from rich.console import Console
from torch import Tensor

import detrkit
from detrkit.models.catalog import selection_for
from detrkit.structures import ImageBatch

HEIGHT, WIDTH = 800, 1066
PAIRS = {"tsp-fcos-r50": "fcos_resnet50_fpn", "tsp-rcnn-r50": "fasterrcnn_resnet50_fpn"}
CLASSES = 91


def ours(variant: str) -> Callable[[Tensor], object]:
    """Detections of a variant of detrkit."""
    model = detrkit.build(variant).eval()
    select = selection_for(model)
    size = torch.tensor([[HEIGHT, WIDTH]])

    def run(image: Tensor) -> object:
        return select(model(ImageBatch(image[None])), size)

    return run


def theirs(name: str) -> Callable[[Tensor], object]:
    """Detections of torchvision's model, which is given the image as it is: no resizing, no other mean and deviation."""
    options = {"score_thresh": 0.0} if name.startswith("fcos") else {"box_score_thresh": 0.0}
    model = getattr(torchvision.models.detection, name)(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES,
        min_size=HEIGHT,
        max_size=1333,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
        **options,
    ).eval()
    return lambda image: model([image])


def seconds_of(run: Callable[[Tensor], object], image: Tensor) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    run(image)
    return time.perf_counter() - began


@torch.inference_mode()
def main() -> None:
    """Times each pair and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    image = torch.randn(3, HEIGHT, WIDTH)
    for variant in options.variants:
        sides = {"detrkit": ours(variant), "torchvision": theirs(PAIRS[variant])}
        for run in sides.values():
            run(image)
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, run in sides.items():
                times[name].append(seconds_of(run, image))
        medians = {name: statistics.median(values) for name, values in times.items()}
        ratios = [own / other for own, other in zip(*times.values(), strict=True)]
        Console().print(
            f"{variant}: {medians['detrkit']:.2f} s; torchvision's {PAIRS[variant]}: {medians['torchvision']:.2f} s; "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    main()
