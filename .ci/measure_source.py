"""Keeps the source easy to read: few repeated lines, and a short way through the whole idea. Part of `make check`."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "detrkit"
RUN = 6  # lines
MOST_REPEATED = 0.03  # of all lines with text
MOST_TO_READ = 1500
# What README and docs/tour.md name as the way in.
READING_ORDER = (
    "structures.py",
    "models/detector.py",
    "models/settings.py",
    "models/detr.py",
    "layers/attention.py",
    "losses/criterion.py",
)


def lines_with_text(path: Path) -> list[str]:
    """Lines without indentation; empty ones left out."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def repeated_lines(files: dict[str, list[str]]) -> dict[str, set[int]]:
    """For each file the positions of lines that stand in a run of `RUN` lines which occurs elsewhere, too."""
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, lines in files.items():
        for first in range(len(lines) - RUN + 1):
            places[tuple(lines[first : first + RUN])].append((name, first))
    repeated: dict[str, set[int]] = defaultdict(set)
    for occurrences in places.values():
        if len(occurrences) > 1:
            for name, first in occurrences:
                repeated[name].update(range(first, first + RUN))
    return repeated


def main() -> int:
    """Prints both figures; 1 where one is too high."""
    files = {str(path.relative_to(SOURCE)): lines_with_text(path) for path in sorted(SOURCE.rglob("*.py"))}
    repeated, total = repeated_lines(files), sum(map(len, files.values()))
    share = sum(map(len, repeated.values())) / total
    print(f"lines in runs of {RUN} equal ones: {share:.1%} of {total} (at most {MOST_REPEATED:.0%})")
    to_read = sum(len((SOURCE / name).read_text(encoding="utf-8").splitlines()) for name in READING_ORDER)
    print(f"the whole idea: {to_read} lines in {len(READING_ORDER)} files (at most {MOST_TO_READ})")
    if share > MOST_REPEATED:
        for name, places in sorted(repeated.items(), key=lambda entry: -len(entry[1])):
            print(f"  {name}: {len(places)} lines, such as '{files[name][min(places)]}'")
    return int(share > MOST_REPEATED or to_read > MOST_TO_READ)


if __name__ == "__main__":
    sys.exit(main())
