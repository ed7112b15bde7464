"""Where a place that a YOLO data set's YAML file names lies on this computer."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from detrkit.data.pictures import PICTURE_SUFFIXES, is_picture
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

    def every(self, written: str) -> list[Path]:
        """The place that `find` finds, or else whatever a pattern such as `images/*.jpg` or `parts/*/images` stands for."""
        place = self.find(written)
        return [place] if place is not None else self.matching(written) or self.matching(written, moved=True)

    def matching(self, pattern: str, *, moved: bool = False) -> list[Path]:
        """The folders, pictures and text files that a pattern stands for, sorted; empty where it is none.

        Args:
            pattern: as the YAML file writes it.
            moved: whether to look beside the YAML file instead of where it says.
        """
        if not glob.has_magic(pattern):
            return []
        escaped = Places(Path(glob.escape(str(self.folder))), None if self.root is None else glob.escape(self.root))
        for place in escaped.others(pattern) if moved else escaped.literal(pattern):
            found = [Path(name) for name in glob.iglob(str(place), recursive=True)]  # noqa: PTH207 - it takes absolute patterns
            kept = [each for each in found if each.is_dir() or is_picture(each.name) or each.suffix.lower() == ".txt"]
            if kept:
                return sorted(kept)
        return []

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
            if not _is_every_split(tail):
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


def _is_every_split(tail: str) -> bool:
    """Whether the end of a path would be the pictures of all splits: `images`, `images/*.jpg`, `*.jpg`."""
    inside = tail.lower().removeprefix("images").lstrip("/")
    return not inside or PurePosixPath(inside.removeprefix("**/")).stem in ("*", "**")
