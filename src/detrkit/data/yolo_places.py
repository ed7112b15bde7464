"""Where a place that a YOLO data set's YAML file names lies on this computer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from detrkit.data.pictures import PICTURE_SUFFIXES
from detrkit.files import expanded


@dataclass(frozen=True)
class Places:
    """Finds folders and text files by what is written in a YAML file.

    Attributes:
        folder: contains the YAML file.
        root: what its `path` says, or None.
    """

    folder: Path
    root: str | None = None

    def find(self, written: str) -> Path | None:
        """The first folder or text file that exists: where the YAML file says, otherwise beside it."""
        for place in (*self.literal(written), *self.others(written)):
            if place.is_dir() or (place.is_file() and place.suffix.lower() not in PICTURE_SUFFIXES):
                return place
        return None

    def literal(self, written: str) -> list[Path]:
        """Where the YAML file says that a place is."""
        return [joined(root, written) for root in self.roots()]

    def roots(self) -> list[Path]:
        """The folders that places may be relative to, as the YAML file says."""
        if self.root is None:
            return [self.folder, Path.cwd()]
        return [joined(root, self.root) for root in (self.folder, Path.cwd())]

    def others(self, written: str) -> Iterator[Path]:
        """Where a place may be on this computer, although the YAML file says otherwise: beside that file."""
        roots = [self.folder]
        if self.root is not None:
            moved = [joined(self.folder, tail) for tail in tails(self.root)]
            roots = [joined(self.folder.parent, self.root), *moved, self.folder]
        plain = _without_steps_up(written)
        for root in roots:
            yield joined(root, plain)
        for tail in tails(written):
            if tail.lower() != "images":  # it would be the pictures of all splits
                yield joined(self.folder, tail)


def tails(written: str) -> list[str]:
    """The ends of a path, the longest first: of `/home/me/set/train` `home/me/set/train`, `me/set/train`, `set/train`, `train`."""
    parts = PurePosixPath(_without_steps_up(written).lstrip("/")).parts
    return ["/".join(parts[start:]) for start in range(len(parts))]


def joined(root: Path, written: str) -> Path:
    """A written path, relative to a folder unless it is absolute."""
    path = Path(written.replace("\\", "/"))
    # Pictures get their names below a common folder, so `..` must not remain.
    return Path(os.path.normpath(root / (expanded(path) if written.startswith("~") else path)))


def _without_steps_up(written: str) -> str:
    path = written.replace("\\", "/")
    while path.startswith(("../", "./")):
        path = path.partition("/")[2]
    return path
