"""Where commands talk to people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def terminal(*, stderr: bool = False) -> Console:
    """A console that shows texts as they are: names of classes and files may hold brackets, and paths are not broken over lines.

    Args:
        stderr: whether it is the error stream.
    """
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)
