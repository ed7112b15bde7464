"""Whether a long run keeps taking memory: resident memory of a training process and its workers over time, and its slope.

    python benchmarks/resident_memory.py --minutes 30 --workers 2

Trains `light-detr-compact` on the built-in digits unless another variant or data set is given. Every ten seconds the resident memory of the process
that trains, and of each of its workers, is read from /proc (Linux). Slopes are medians of those between any two readings of each third of the
time (Theil and Sen), which a short evaluation does not move; heaps have their size in the last. Workers begin anew with every epoch, and pages that
they share with the process that started them count in each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import theilslopes

EVERY = 10.0  # seconds
PARTS = 3  # of the time
FEWEST = 3  # readings in each
MEGABYTE = 1e6


def resident(process: int) -> float:
    """Resident memory of a process in MB; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def descendants(process: int) -> list[int]:
    """The processes that this one has started, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def watch(command: list[str]) -> dict[str, list[float]]:
    """Runs a command and reads its memory until it ends."""
    begun = time.perf_counter()
    table: dict[str, list[float]] = {"minutes": [], "trainer": [], "workers": []}
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            time.sleep(EVERY)
            workers = sum(resident(each) for each in descendants(process.pid))
            own = resident(process.pid)
            if own:
                for name, value in (
                    ("minutes", (time.perf_counter() - begun) / 60),
                    ("trainer", own),
                    ("workers", workers),
                ):
                    table[name].append(value)
    if process.returncode:
        raise SystemExit(process.returncode)
    return table


def slopes(minutes: np.ndarray, values: np.ndarray) -> list[float]:
    """MB an hour in each third of the time."""
    parts = zip(np.array_split(minutes, PARTS), np.array_split(values, PARTS), strict=True)
    return [float(theilslopes(value, time).slope * 60) for time, value in parts]


def main() -> None:
    """Trains, prints the slopes and draws the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="light-detr-compact")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--evaluate-every", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("runs/resident_memory"))
    options, further = parser.parse_known_args()
    options.output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "detrkit", "train", options.variant, options.data]
    command += ["--minutes", str(options.minutes), "--workers", str(options.workers)]
    command += ["--evaluate-every", str(options.evaluate_every), "--output", str(options.output / "run"), *further]
    table = watch(command)
    (options.output / "memory.json").write_text(json.dumps(table))
    if len(table["minutes"]) < PARTS * FEWEST:
        raise SystemExit(
            f"the run ended after {len(table['minutes'])} readings: give more --minutes, at least {PARTS * FEWEST * EVERY / 60:.1f}"
        )
    minutes, trainer = (np.array(table[name]) for name in ("minutes", "trainer"))
    workers, half = np.array(table["workers"]), len(minutes) // 2
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, values in (("process that trains", trainer), (f"its {options.workers} workers together", workers)):
        course = ", ".join(f"{values[place]:.0f} MB after {minutes[place]:.1f} minutes" for place in (1, half, -2))
        rises = ", ".join(f"{each:+.0f}" for each in slopes(minutes, values))
        print(f"{name}: {course}; MB an hour in the thirds of the time: {rises}")
        axes.plot(minutes, values, label=name)
    axes.set(xlabel="minutes", ylabel="resident memory, MB", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(options.output / "memory.png", dpi=150)


if __name__ == "__main__":
    main()
