"""What SAM-DETR's re-sampling costs, as a share of the decoder layer that it is in.

    python benchmarks/resampling.py
    python benchmarks/resampling.py --sizes 25x42 --rounds 20 --threads 1

A map of 25 × 42 cells is an image of 800 × 1333 at stride 32, 50 × 84 the same dilated (DC5), and 100 × 167 the finest level of the multi-scale
model. Re-sampling finds the salient points and takes what lies there; the aligner also makes position codes of them and weighs both by what the
query was before. One image, 300 queries, the paper's sizes, forward pass; layer and parts in alternation, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from detrkit.models.sam_detr import AlignedDecoderLayer, Config, decoder
from detrkit.structures import Memory

PARTS = ("re-sampling", "aligner")


def seconds_of(work: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@torch.inference_mode()
def measure(height: int, width: int, *, gaussian: bool, rounds: int) -> dict[str, float]:
    """Median seconds of the layer and of its parts."""
    torch.manual_seed(0)
    config = Config(gaussian=gaussian)
    layer = decoder(config).eval().layers[1]
    assert isinstance(layer, AlignedDecoderLayer)
    tokens, positions = torch.randn(2, 1, height * width, config.width)
    memory = Memory.of(tokens, positions, None, ((height, width),), image_sizes=torch.tensor([[1333.0, 800.0]]))
    content, boxes = torch.randn(1, config.queries, config.width), torch.randn(1, config.queries, 4).sigmoid()
    work: dict[str, Callable[[], object]] = {
        "layer": lambda: layer(content, boxes, memory),
        "aligner": lambda: layer.aligner(content, boxes, memory),
        "re-sampling": lambda: layer.aligner.resample(boxes, memory),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):  # the first round warms up
        for name in work if number % 2 == 0 else reversed(work):
            seconds[name].append(seconds_of(work[name]))
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


def main() -> None:
    """Prints a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["25x42", "50x84", "100x167"], metavar="HEIGHTxWIDTH")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, float32; milliseconds of a forward pass")
    for size in options.sizes:
        height, width = (int(number) for number in size.split("x"))
        for gaussian in (False, True):
            found = measure(height, width, gaussian=gaussian, rounds=options.rounds)
            layer, kind = found["layer"], "with a Gaussian" if gaussian else "plain"
            parts = "".join(f"   {name} {1000 * found[name]:6.1f}, {found[name] / layer:.2f}" for name in PARTS)
            print(f"{size:8} {kind:16} layer {1000 * layer:7.1f}{parts}")


if __name__ == "__main__":
    main()
