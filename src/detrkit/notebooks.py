"""What notebooks show of results: short HTML, escaped, without scripts, in the notebook's own colours."""

from __future__ import annotations

import base64
import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_ROWS_SHOWN = 20
_LEFT, _RIGHT = "text-align: left", "text-align: right"


def shown(title: str, *parts: str) -> str:
    """A title and parts of HTML below it.

    Args:
        title: text.
        parts: HTML, such as `paragraph` and `table` return.
    """
    return f"<div><strong>{escape(title)}</strong>{''.join(parts)}</div>"


def paragraph(text: str) -> str:
    """A text as a paragraph; nothing for an empty one."""
    return f"<p>{escape(text)}</p>" if text else ""


def image(png: bytes, words: str) -> str:
    """A picture inside the HTML, on its own white ground.

    Args:
        png: the file.
        words: what it shows, for people who cannot see it.
    """
    address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<p><img alt="{escape(words)}" style="max-width: 100%; background: white" src="{address}"/></p>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, longest: int = _ROWS_SHOWN) -> str:
    """A table of texts and numbers, whose first column names the rows; of many rows the first, and how many more there are.

    Args:
        columns: headings.
        rows: one value for each column; numbers stand flush right, floats have three decimals, None is a dash.
        longest: rows that are shown at most.
    """
    every = [list(row) for row in rows]
    heads = "".join(f'<th scope="col" style="{_LEFT}">{escape(column)}</th>' for column in columns)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in every[:longest])
    left = len(every) - longest
    more = paragraph(f"and {left} more") if left > 0 else ""
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>{more}"


def _cell(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
    return f'<td style="{_RIGHT if number else _LEFT}">{escape(text)}</td>'


class CellLine:
    """A line in the output of a notebook's cell that changes in place. It needs no widgets, and a saved notebook holds only its last state.

    Args:
        display: IPython's function.
    """

    def __init__(self, display: Any) -> None:
        self._display = display
        self._handle: Any = None

    def show(self, text: str, done: int = 0, total: int = 0) -> None:
        """Shows a text from now on, behind a bar if anything is counted.

        Args:
            text: on one line.
            done: how much of it there is.
            total: how much there will be; 0 if nothing is counted.
        """
        bar = f'<progress value="{min(done, total)}" max="{total}" style="vertical-align: middle"></progress> '
        self._put({"text/plain": text, "text/html": f"<div>{bar if total else ''}{escape(text)}</div>"})

    def clear(self) -> None:
        """Takes the line away; what was shown below it moves up."""
        if self._handle is not None:
            self._put({"text/plain": "", "text/html": ""})

    def _put(self, content: dict[str, str]) -> None:
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def in_notebook() -> bool:
    """Whether this code runs in a cell, and not in a program, a terminal or a process that a cell began."""
    ipython = sys.modules.get("IPython")  # whoever is in a notebook has it
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def import_tqdm_quietly() -> None:
    """In notebooks, imports tqdm before another library does: it warns once that there are no widgets for its bars, which detrkit does not show."""
    if in_notebook() and "tqdm.auto" not in sys.modules:
        with warnings.catch_warnings(), contextlib.suppress(ImportError):
            warnings.filterwarnings("ignore", message="IProgress not found")
            importlib.import_module("tqdm.auto")


def cell_line() -> CellLine | None:
    """A line in the output of the cell that runs; None outside of notebooks."""
    return CellLine(importlib.import_module("IPython.display").display) if in_notebook() else None
