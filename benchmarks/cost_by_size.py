"""Time and memory of DETR and Deformable DETR (R50) against the size of the image: encoder alone and whole model, forward, batch 1.

    python benchmarks/cost_by_size.py

Times are medians; memory is what the process asked for beyond what it held before, from a process of its own. The last lines give the power of
the number of pixels that each figure grows with between the two largest sizes: 1 is linear.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import detrkit
from detrkit.files import write_json
from detrkit.models.detector import Detector, EncoderDecoder, flatten_levels
from detrkit.structures import ImageBatch

VARIANTS = {"DETR": "detr-r50", "Deformable DETR": "deformable-detr-r50"}
SIZES = (320, 480, 640, 800, 1024)
PARTS = ("encoder", "whole model")


def main() -> None:
    """Measures, prints a table, draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("runs/cost_by_size"))
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        variant, part, size = options.alone
        print(json.dumps({"megabytes": peak(variant, part, int(size))}))
        return
    seconds = times(options.rounds)
    memory = {
        name: {part: [in_its_own_process(variant, part, size, options.threads) for size in SIZES] for part in PARTS}
        for name, variant in VARIANTS.items()
    }
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "figures.json", {"sizes": SIZES, "seconds": seconds, "megabytes": memory})
    show(seconds, memory)
    draw(seconds, memory, options.output / "cost_by_size.png")


def prepared(variant: str) -> Detector:
    """The model in eval mode, with norms that keep random weights from overflowing."""
    torch.manual_seed(0)
    model = detrkit.build(variant).eval()
    for name, buffer in model.backbone.named_buffers():
        if name.endswith("weight"):
            buffer.fill_(0.5)
    return model


def work(model: Detector, part: str, size: int) -> Any:
    """What is timed: a function without arguments."""
    batch = ImageBatch(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)))
    if part == "whole model":
        return lambda: model(batch)
    assert isinstance(model, EncoderDecoder)
    with torch.inference_mode():
        memory = flatten_levels(model.neck(model.backbone(batch), None), batch.image_sizes())
    return lambda: model.encoder(memory)


@torch.inference_mode()
def times(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Median seconds by model, part and size; the models take turns."""
    models = {name: prepared(variant) for name, variant in VARIANTS.items()}
    found: dict[str, dict[str, list[float]]] = {name: {part: [] for part in PARTS} for name in models}
    for size in SIZES:
        for part in PARTS:
            runs = {name: work(model, part, size) for name, model in models.items()}
            measured: dict[str, list[float]] = {name: [] for name in runs}
            for number in range(rounds + 1):
                for name, run in runs.items():
                    began = time.perf_counter()
                    run()
                    if number:  # the first round warms up
                        measured[name].append(time.perf_counter() - began)
            for name, values in measured.items():
                found[name][part].append(statistics.median(values))
    return found


@torch.inference_mode()
def peak(variant: str, part: str, size: int) -> float:
    """Megabytes that the work needs beyond what was there before it."""
    model = prepared(variant)
    work(model, part, 96)()  # loads what is loaded at the first use
    run = work(model, part, size)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed on the way here must not be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(name: str) -> float:
    """A line of the process's status in megabytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def in_its_own_process(variant: str, part: str, size: int, threads: int) -> float:
    """`peak` in a fresh process, so that nothing freed earlier is used again."""
    command = [sys.executable, __file__, "--threads", str(threads), "--alone", variant, part, str(size)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(printed.splitlines()[-1])["megabytes"])


def growth(values: list[float]) -> float:
    """The power of the number of pixels that the last two sizes differ by."""
    return math.log(values[-1] / values[-2]) / math.log(SIZES[-1] ** 2 / SIZES[-2] ** 2)


def show(seconds: dict[str, dict[str, list[float]]], memory: dict[str, dict[str, list[float]]]) -> None:
    """Prints all figures."""
    print(f"{'':34}" + "".join(f"{size:>9}" for size in SIZES) + "   grows with pixels to the power")
    for title, table, form in (("seconds", seconds, "{:9.3f}"), ("MB", memory, "{:9.0f}")):
        for name, parts in table.items():
            for part, values in parts.items():
                cells = "".join(form.format(value) for value in values)
                print(f"{name + ', ' + part + ', ' + title:34}{cells}   {growth(values):.2f}")


def draw(seconds: dict[str, dict[str, list[float]]], memory: dict[str, dict[str, list[float]]], target: Path) -> None:
    """Time on the left, memory on the right; encoder dashed, whole model solid."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, (title, table) in zip(figure.subplots(1, 2), (("seconds", seconds), ("MB", memory)), strict=True):
        for place, (name, parts) in enumerate(table.items()):
            for part, style in zip(PARTS, ("--", "-"), strict=True):
                axes.plot(SIZES, parts[part], f"C{place}{style}o", markersize=3, label=f"{name}, {part}")
        axes.set(xlabel="side of the image in pixels", ylabel=title, ylim=(0, None), xticks=SIZES)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    figure.suptitle("Forward of one image, ResNet-50")
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    main()
