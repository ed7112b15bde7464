"""How names of files are compared."""

from __future__ import annotations

import unicodedata


def folded(name: str) -> str:
    """A name without what differs between systems: case, and accents that are one character or two."""
    return unicodedata.normalize("NFC", name).casefold()
