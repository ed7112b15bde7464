"""What `detrkit.explain` costs a model that is not being explained: nothing.

    python benchmarks/explaining.py

Two processes have the same model. One of them has explained a picture before; the other never imported `detrkit.explaining`. They take turns
with forward passes on the same image, so that whatever else the machine does meets both, and the quickest passes stand beside each other.
"""

from __future__ import annotations

import argparse
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch

import detrkit

_WARMUP = 5


def work(connection: Connection, variant: str, side: int, *, explains: bool) -> None:
    """Times forward passes, each when it is asked to, until it is asked for the last.

    Args:
        connection: gets True for another pass, and gives its seconds.
        variant: of the model.
        side: of the square image in pixels.
        explains: whether a picture is explained before.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = detrkit.build(variant).eval()
    image = torch.rand(1, 3, side, side)
    if explains:
        from PIL import Image

        from detrkit.explaining import explain

        explain(model, Image.new("RGB", (side, side)), query=0)
    batch = detrkit.ImageBatch(image)
    with torch.inference_mode():
        for _ in range(_WARMUP):
            model(batch)
        while connection.recv():
            began = time.perf_counter()
            model(batch)
            connection.send(time.perf_counter() - began)


def main() -> None:
    """Prints the quickest passes of each variant and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["detr-compact", "deformable-detr-compact-two-stage"])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    context = get_context("spawn")
    for variant in options.variants:
        sides = []
        for explains in (False, True):
            ours, theirs = context.Pipe()
            arguments = (theirs, variant, options.side)
            context.Process(target=work, args=arguments, kwargs={"explains": explains}, daemon=True).start()
            sides.append(ours)
        times: list[list[float]] = [[], []]
        for _ in range(options.rounds):
            for side, own in zip(sides, times, strict=True):
                side.send(True)
                own.append(side.recv())
        for side in sides:
            side.send(False)
        plain, explained = (min(own) * 1000 for own in times)
        print(f"{variant}: {plain:.2f} ms, after explaining {explained:.2f} ms: {explained / plain:.3f} ×")


if __name__ == "__main__":
    main()
