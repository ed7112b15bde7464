"""Files that stay valid and complete while results are added to them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from detrkit.errors import OutputError


class GrowingList:
    """A list in a JSON file that is complete after every addition.

    Args:
        path: of the file; an earlier one is replaced once there is something to add.
        begin: what comes before the list's entries.
        end: what comes behind them.
    """

    def __init__(self, path: Path, begin: str, end: str) -> None:
        self.path = path
        self._begin, self._closing = begin.encode(), f"\n{end}\n".encode()
        self._position = len(self._begin)  # where the next entry begins
        self._file: FileIO | None = None

    def extend(self, entries: Sequence[dict[str, Any]]) -> None:
        """Replaces the closing bracket by the entries and a new one, in one write."""
        if self._file is None:
            self._file = opened(self.path)
            self._write(self._begin + self._closing, at=0)
        if not entries:
            return
        text = ",\n".join(json.dumps(entry, allow_nan=False) for entry in entries)
        content = f"{',' if self._position > len(self._begin) else ''}\n{text}".encode()
        self._write(content + self._closing, at=self._position)
        self._position += len(content)

    def close(self, end: str | None = None) -> None:
        """Closes the file.

        Args:
            end: what comes behind the entries in the end, at least as long as what did so far; None leaves that.

        Raises:
            OutputError: the end cannot be written.
        """
        if self._file is None:
            return
        if end is not None and not self._file.closed:
            self._write(f"\n{end}\n".encode(), at=self._position)
        self._file.close()

    def _write(self, content: bytes, at: int) -> None:
        if self._file is None:
            raise ValueError(f"{self.path} is not open")
        with written(self.path):
            self._file.seek(at)
            while content:
                content = content[self._file.write(content) :]


def opened(path: Path) -> FileIO:
    """An empty file whose writes reach the system at once."""
    with written(path):
        return FileIO(path, "wb")


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turns a failed write of a file into a message.

    Raises:
        OutputError: the block raised an error of the system.
    """
    try:
        yield
    except OSError as problem:
        raise OutputError(
            f"{path} cannot be written ({problem.strerror or problem}): make room, or choose another --output"
        ) from problem
