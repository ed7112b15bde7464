"""Text files as users have them: with or without a byte order mark, UTF-8 or Windows' UTF-16, any line ending."""

from __future__ import annotations

import codecs
from pathlib import Path

from detrkit.errors import DataError


def read_text(file: Path) -> str:
    """The text of a file, with every line ending as a line feed.

    Raises:
        DataError: the file cannot be read, or is neither UTF-8 nor UTF-16 with its mark.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): make it a readable file.") from None
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except ValueError:
        raise DataError(f"{file} is not UTF-8 text: save it as UTF-8.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(file: Path) -> list[str]:
    """The lines of a text file, also the empty ones; see `read_text`."""
    return read_text(file).split("\n")
