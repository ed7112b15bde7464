"""Row-column attention beside plain attention: time and peak memory of Anchor DETR's encoder and decoder at several sizes of images.

    python benchmarks/row_column.py --plot docs/images/row_column.png
    python benchmarks/row_column.py --stride 32 --longest 640 --rounds 1 --threads 1

Three ways with equal layers and 900 queries, without the backbone: row-column attention; plain attention on PyTorch's fused kernel, as detrkit computes
it; and plain attention whose maps of weights are kept, as the authors' code has them. Times alternate between the three. Memory is the peak of
a process of its own above what it held before, for one image.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from detrkit.layers import attention
from detrkit.layers.heads import DetectionHeads
from detrkit.models import anchor_detr
from detrkit.structures import Levels, Memory

WAYS = ("row-column", "plain, fused", "plain, whole maps")
SIZES = ((320, 427), (480, 640), (640, 853), (800, 1066), (800, 1333))
COLORS = dict(zip(WAYS, ("#0072B2", "#D55E00", "#555555"), strict=True))


def whole_maps(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, drop: float = 0.0) -> Tensor:  # noqa: ARG001
    """Attention with its whole map of weights, as it is written down."""
    return attention.attention_weights(query, key, mask=mask) @ value


class Transformer(nn.Module):
    """Encoder and decoder of Anchor DETR."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = anchor_detr.Config(row_column=way == WAYS[0])
        kind = anchor_detr.RowColumnCodes if config.row_column else anchor_detr.PointCodes
        self.codes = kind(width=config.width)
        self.encoder, self.decoder = anchor_detr.encoder(config), anchor_detr.decoder(config)
        self.points = anchor_detr.AnchorPoints(
            points=config.queries // config.patterns, patterns=config.patterns, width=config.width
        )
        self.heads = DetectionHeads(width=config.width, outputs=config.class_count)
        self.patch = whole_maps if way == WAYS[2] else None

    def forward(self, features: Tensor) -> Tensor:
        """(1, D, h, w) to the boxes of all layers."""
        from detrkit.models.detector import flatten_levels

        context = nullcontext() if self.patch is None else mock.patch.object(attention, "attend_heads", self.patch)
        with context:
            levels = Levels((features,), (self.codes(features, None),), (None,))
            memory: Memory = self.encoder(flatten_levels(levels, torch.ones(1, 2)))
            queries = self.points(memory, self.codes)
            boxes: Tensor = self.heads(self.decoder(queries, memory, self.heads)).boxes_cxcywh
        return boxes


def run(model: Transformer, features: Tensor, *, training: bool) -> None:
    """A forward pass without gradients, or forward and backward."""
    if training:
        model.zero_grad()
        model(features).sum().backward()
        return
    with torch.inference_mode():
        model(features)


def features_of(size: tuple[int, int], stride: int) -> Tensor:
    """What a backbone of this stride and the projection give."""
    return torch.randn(1, 256, *(-(-side // stride) for side in size))


def peak(way: str, size: tuple[int, int], stride: int, *, training: bool) -> float:
    """GB that this process needs above what it held before."""
    model, features = Transformer(way).train(training), features_of(size, stride)
    run(model, features_of((64, 64), stride), training=training)  # gradients and libraries are there
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    run(model, features, training=training)
    return resident("VmHWM") - before


def resident(figure: str) -> float:
    """Memory of this process in GB: `VmRSS` now, `VmHWM` at its peak. Not getrusage, whose peak is handed down from the parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(figure))
    return int(line.split()[1]) * 1024 / 1e9


def peak_in_its_own_process(way: str, size: tuple[int, int], stride: int, threads: int, *, training: bool) -> float:
    """The same in a new process."""
    alone = json.dumps([way, size, stride, training])
    command = [sys.executable, __file__, "--alone", alone, "--threads", str(threads)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def seconds_of(models: dict[str, Transformer], features: Tensor, rounds: int, *, training: bool) -> dict[str, float]:
    """Median seconds of each way, in alternation."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):  # the first round warms up
        for way in WAYS if number % 2 == 0 else reversed(WAYS):
            began = time.perf_counter()
            run(models[way].train(training), features, training=training)
            seconds[way].append(time.perf_counter() - began)
    return {way: statistics.median(each[1:]) for way, each in seconds.items()}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each stride, size, pass and way."""
    kept = {} if options.keep is None or not options.keep.is_file() else json.loads(options.keep.read_text())
    rows = []
    models = {way: Transformer(way) for way in WAYS}
    for stride, size, training in itertools.product(options.stride, SIZES, (False, True)):
        if max(size) > options.longest:
            continue
        name = f"stride {stride}, {size[0]} x {size[1]}, {'training step' if training else 'forward'}"
        found = kept.setdefault(name, {})
        if "seconds" not in found:
            found["seconds"] = seconds_of(models, features_of(size, stride), options.rounds, training=training)
        if "gigabytes" not in found:
            found["gigabytes"] = {
                way: peak_in_its_own_process(way, size, stride, options.threads, training=training) for way in WAYS
            }
        if options.keep is not None:
            options.keep.write_text(json.dumps(kept, indent=1))
        for way in WAYS:
            seconds, gigabytes = found["seconds"][way], found["gigabytes"][way]
            print(f"{name:40}{way:20}{seconds:8.2f} s{gigabytes:8.2f} GB", flush=True)
            rows.append(
                {
                    "stride": stride,
                    "size": size,
                    "training": training,
                    "way": way,
                    "seconds": seconds,
                    "gigabytes": gigabytes,
                }
            )
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds above, memory below; one column for each stride and pass."""
    columns = sorted({(row["stride"], row["training"]) for row in rows}, reverse=True)
    figure = Figure(figsize=(3.4 * len(columns), 5.6), layout="constrained")
    for row_number, quantity in enumerate(("seconds", "gigabytes")):
        for column, (stride, training) in enumerate(columns):
            axes = figure.add_subplot(2, len(columns), row_number * len(columns) + column + 1)
            for way, marker in zip(WAYS, "o^s", strict=True):
                chosen = [
                    row for row in rows if (row["stride"], row["training"], row["way"]) == (stride, training, way)
                ]
                cells = [row["size"][0] * row["size"][1] / stride**2 for row in chosen]
                axes.plot(cells, [row[quantity] for row in chosen], marker=marker, color=COLORS[way], label=way)
            if row_number == 0:
                axes.set_title(f"stride {stride}, {'training step' if training else 'forward'}", fontsize=10)
            axes.set_xlabel("cells of the map", fontsize=9)
            axes.set_ylabel("seconds" if quantity == "seconds" else "GB", fontsize=9)
            axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
            if row_number == column == 0:
                axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Prints a line for each measurement, and draws them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, nargs="+", choices=(32, 16), default=[32, 16])
    parser.add_argument("--longest", type=int, default=1333, help="longest side of an image in pixels")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--keep", type=Path, help="JSON file for the figures; what it holds is not measured again")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        way, size, stride, training = json.loads(options.alone)
        print(peak(way, tuple(size), stride, training=training))
        return
    rows = measure(options)
    if options.plot is not None:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
