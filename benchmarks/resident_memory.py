"""Whether a long run keeps taking memory: resident memory of the training process and its workers, and what of it is in use, over time.

    python benchmarks/resident_memory.py --minutes 30 --workers 2

Trains `light-detr-compact` on the built-in digits unless another variant or data set is given (Linux with glibc). Every ten seconds it reads the
resident memory of this process and of its workers, and the least that the allocator had given out within them, which is what is left between two
steps. Memory that is freed stays with the process, as in `detrkit train`, so what is resident grows for as long as images of other sizes leave gaps;
a leak would show in what is in use. Slopes are medians of those between any two readings of each third of the time (Theil and Sen), which a short
evaluation does not move. Workers begin anew with every epoch, and pages that they share with the process that started them count in each.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import threading
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import theilslopes

from detrkit.allocation import keep_freed_memory
from detrkit.files import write_json
from detrkit.training import train

EVERY, LOOKS = 10.0, 50  # seconds between readings, and looks at the allocator in between
PARTS = 3  # of the time
FEWEST = 3  # readings in each
MEGABYTE = 1e6
NAMES = {"resident": "process that trains", "in use": "in use between its steps", "workers": "its workers together"}


class _Given(ctypes.Structure):
    """What glibc's `mallinfo2` returns; `uordblks` is what is given out."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def in_use() -> float:
    """MB that the allocator has given out and not got back."""
    library = ctypes.CDLL("libc.so.6")
    library.mallinfo2.restype = _Given
    return float(library.mallinfo2().uordblks) / MEGABYTE


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


def watch(table: dict[str, list[float]], ended: threading.Event) -> None:
    """Fills a table until training has ended."""
    begun, own = time.perf_counter(), os.getpid()
    while True:
        least = in_use()
        for _ in range(LOOKS):
            if ended.wait(EVERY / LOOKS):
                return
            least = min(least, in_use())
        table["minutes"].append((time.perf_counter() - begun) / 60)
        table["resident"].append(resident(own))
        table["in use"].append(least)
        table["workers"].append(sum(resident(each) for each in descendants(own)))


def slopes(minutes: np.ndarray, values: np.ndarray) -> list[float]:
    """MB an hour in each third of the time."""
    parts = zip(np.array_split(minutes, PARTS), np.array_split(values, PARTS), strict=True)
    return [float(theilslopes(value, time).slope * 60) for time, value in parts]


def report(table: dict[str, list[float]], folder: Path) -> None:
    """Prints the course of each kind of memory and draws it."""
    minutes = np.array(table["minutes"])
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for key, name in NAMES.items():
        values = np.array(table[key])
        course = ", ".join(
            f"{values[place]:.0f} MB after {minutes[place]:.1f} minutes" for place in (1, len(minutes) // 2, -1)
        )
        rises = ", ".join(f"{each:+.0f}" for each in slopes(minutes, values))
        print(f"{name}: {course}; MB an hour in the thirds of the time: {rises}")
        axes.plot(minutes, values, label=name)
    axes.set(xlabel="minutes", ylabel="MB", ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(NAMES), frameon=False)
    figure.savefig(folder / "memory.png", dpi=150)


def main() -> None:
    """Trains, prints the slopes and draws the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="light-detr-compact")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--evaluate-every", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("runs/resident_memory"))
    options = parser.parse_args()
    keep_freed_memory()
    table: dict[str, list[float]] = {name: [] for name in ("minutes", *NAMES)}
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(table, ended))
    watcher.start()
    try:
        train(
            options.variant,
            options.data,
            output=options.output / "run",
            minutes=options.minutes,
            workers=options.workers,
            evaluate_every=options.evaluate_every,
        )
    finally:
        ended.set()
        watcher.join()
    write_json(options.output / "memory.json", table)
    if len(table["minutes"]) < PARTS * FEWEST:
        shortest = PARTS * FEWEST * EVERY / 60
        raise SystemExit(
            f"training ended after {len(table['minutes'])} readings: give --minutes of at least {shortest:.1f}"
        )
    report(table, options.output)


if __name__ == "__main__":
    main()
