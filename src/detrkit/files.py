"""Writes files so that a crash, a full disk or a second run never replaces a complete file with half of one."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from detrkit.errors import OutputError

_LONGEST_STEM = 40
_TOKEN = 8  # random bytes in the name of a file that is being written
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with the user's folder in the place of a leading `~`, as a shell would read it; otherwise as it was given."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser fails where a user is unknown


def write_atomically(path: Path, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a temporary file beside `path`, then renames it to `path`.

    Args:
        path: the file to write; its folder is created if it is missing, and `~` is the user's folder.
        write: takes the temporary file's path (with the same suffix) and writes to it.

    Raises:
        OutputError: the folder or file cannot be written.
    """
    temporary: Path | None = None
    path = expanded(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp, whose files only their owner may read: to find out what others may do, the umask has to be changed for a moment, for
        # all threads. The name is cut, as it must not be too long where that of the file just fits.
        hidden = path.parent / f".{path.stem[:_LONGEST_STEM]}-{secrets.token_hex(_TOKEN)}{path.suffix}"
        hidden.open("x").close()
        temporary = hidden
        write(temporary)
        temporary.replace(path)
    except OSError as problem:
        raise _not_written(path, problem) from problem
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def remove_unfinished(folder: Path) -> None:
    """Removes what processes that were killed left of files that they wrote; nobody may be writing there.

    Args:
        folder: whose files are looked at, but not those in folders in it.
    """
    for path in folder.glob(".*"):
        if re.fullmatch(rf"\..+-[0-9a-f]{{{2 * _TOKEN}}}(\.[^.]*)?", path.name) and path.is_file():
            with suppress(OSError):  # it takes room, no more
                path.unlink()


def _not_written(path: Path, problem: OSError) -> OutputError:
    """What is wrong, and what to do about it."""
    remedy = "make room, or choose another path" if problem.errno in _NO_ROOM else "choose another path"
    return OutputError(f"{path} cannot be written ({problem.strerror or problem}): {remedy}")


def write_text(path: Path, text: str) -> Path:
    """Writes a UTF-8 text file atomically; see `write_atomically`."""
    return write_atomically(path, lambda temporary: _write_text(temporary, text))


def write_bytes(path: Path, data: bytes) -> Path:
    """Writes a file atomically; see `write_atomically`."""
    return write_atomically(path, lambda temporary: _write_bytes(temporary, data))


def write_json(path: Path, value: Any) -> Path:
    """Writes a JSON file atomically; NaN and infinity, which JSON does not allow, raise a ValueError."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def prepare_folder(path: Path) -> Path:
    """Creates a folder and checks that files can be written to it, before hours of work depend on it.

    Raises:
        OutputError: it cannot be created, is a file, or cannot be written to.
    """
    path = expanded(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise OutputError(f"the folder {path} cannot be written to ({reason}): choose another") from problem
    return path


def refuse_folder(path: str | os.PathLike[str]) -> Path:
    """The path of a file that will be written, or be replaced.

    Raises:
        OutputError: it is a folder.
    """
    path = expanded(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder, and a file is to be written: name a file, such as one in this folder")
    return path


def check_folder(path: Path) -> list[Path]:
    """Checks that files can be written to a folder, also to one that is still to be created, before hours of work depend on it.

    Args:
        path: the folder; it is left as it is, also if it is missing.

    Returns:
        The folder if it is missing.

    Raises:
        OutputError: it is a file, or neither it nor the nearest folder above it can be written to.
    """
    path = expanded(path)
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists() or folder.is_symlink())
    prepare_folder(there)
    return [] if there == path else [path]


def prepare_files(files: Mapping[str, Path | None], kept: Iterable[Path] = ()) -> list[Path]:
    """Checks that files can be written, before hours of work depend on it; folders that are missing are created with the files.

    Args:
        files: by the options that name them; None where an option was not given.
        kept: files that must stay as they are, such as those that are read.

    Returns:
        The folders that are missing.

    Raises:
        OutputError: one is a folder, its folder cannot be written to, it is to be kept, or two are the same.
    """
    missing: list[Path] = []
    taken: dict[Path, str] = {expanded(file).resolve(): "" for file in kept}
    for option, file in files.items():
        if file is None:
            continue
        path = refuse_folder(file)
        earlier = taken.setdefault(path.resolve(), option)
        if not earlier:
            raise OutputError(f"{option} {path} would overwrite what is read: choose another file")
        if earlier != option:
            raise OutputError(f"{option} and {earlier} name the same file, {path}: choose two")
        missing += check_folder(path.parent)
    return list(dict.fromkeys(missing))


def created_folders_note(missing: Iterable[Path]) -> str:
    """A sentence about folders that were missing and are there now; empty if there are none."""
    names = [str(folder) for folder in missing if folder.is_dir()]
    return f"Note: created the folder{'s' if len(names) > 1 else ''} {', '.join(names)}." if names else ""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that is complete or not there: it is filled beside its place and renamed at the end; after an error nothing is left.

    Args:
        path: must not exist, or be an empty folder.

    Yields:
        The folder to fill.

    Raises:
        OutputError: the path is a file or a folder with contents, or cannot be written.
    """
    path = expanded(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise OutputError(f"{path} exists and is {'not empty' if path.is_dir() else 'a file'}: choose a new folder")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}-"))
    except OSError as problem:
        raise _not_written(path, problem) from problem
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())  # mkdtemp creates folders that only their owner may read
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
    except OSError as problem:
        if isinstance(problem, OutputError):
            raise
        raise _not_written(path, problem) from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
