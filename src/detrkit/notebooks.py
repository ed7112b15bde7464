"""What notebooks show of results: short HTML, escaped, without scripts, in the notebook's own colours."""

from __future__ import annotations

import base64
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


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of texts and numbers, whose first column names the rows; of many rows the first twenty, and how many more there are.

    Args:
        columns: headings.
        rows: one value for each column; numbers stand flush right, floats have three decimals, None is a dash.
    """
    every = [list(row) for row in rows]
    heads = "".join(f'<th scope="col" style="{_LEFT}">{escape(column)}</th>' for column in columns)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in every[:_ROWS_SHOWN])
    left = len(every) - _ROWS_SHOWN
    more = paragraph(f"and {left} more") if left > 0 else ""
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>{more}"


def _cell(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
    return f'<td style="{_RIGHT if number else _LEFT}">{escape(text)}</td>'
