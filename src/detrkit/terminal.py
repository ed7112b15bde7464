"""The console that commands print to."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import textwrap
from typing import TYPE_CHECKING, Any, cast

from detrkit.notebooks import in_notebook

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.table import Table

# What Python does by itself with characters that a stream's encoding lacks, where it must not simply fail.
_FAILING = ("strict", "surrogateescape")


def terminal(*, stderr: bool = False) -> Console:
    """A console that prints text unchanged: names of classes and files may contain brackets.

    A person reads lines that break between words, and never within a path. What is to be copied, such as a command, is printed with
    `soft_wrap=True`: then nothing is broken, and the terminal folds it. In files no line is broken. Characters that the stream's encoding lacks
    are printed as question marks, since no work should be lost for them. In notebooks the text goes to the stream, too, whose lines stay
    together, where Rich would make a piece of HTML of each. That stream says that it is a terminal, and is none.

    Args:
        stderr: whether to print to the error stream.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    stream = getattr(stream, "rich_proxied_file", stream)  # a progress bar puts a proxy in the stream's place
    file: Any = None if stream is None else _Lossy(stream)

    class Terminal(Console):
        def print(self, *objects: Any, soft_wrap: bool | None = None, **rest: Any) -> None:
            if soft_wrap is None:
                objects = tuple(Prose(each) if isinstance(each, str) else each for each in objects)
            super().print(*objects, soft_wrap=soft_wrap, **rest)

    return Terminal(
        file=file,
        stderr=stderr,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=True,
        force_jupyter=False,
        force_terminal=False if in_notebook() else None,
    )


def is_seen(console: Console) -> bool:
    """Whether a console is one of `terminal`, and not one that writes to a file or a text."""
    return isinstance(console.file, _Lossy)


class Prose:
    """A text whose lines break between words where a person reads it, and keep their indentation; in files it is printed as it is.

    Args:
        text: of one or more lines.
        style: of Rich.
    """

    def __init__(self, text: str, style: str = "") -> None:
        self.text, self.style = text, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        if console.is_terminal:
            yield Text(_broken(self.text, options.max_width), style=self.style, no_wrap=True, overflow="ignore")
        else:
            yield Text(self.text, style=self.style)


def _broken(text: str, width: int) -> str:
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip(" "))]
        lines.append(
            textwrap.fill(
                line,
                width,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
                replace_whitespace=False,
            )
        )
    return "\n".join(lines)


class Name:
    """A name in a table: where there is no room for it, it breaks after hyphens and the like, and inside a part only if that is too long.

    Args:
        text: the name.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = re.findall(r"[^-_./ ]*[-_./ ]|[^-_./ ]+", text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.cells import cell_len
        from rich.text import Text

        lines = [""]
        for part in self._parts:
            if lines[-1] and cell_len(lines[-1] + part) > options.max_width:
                lines.append("")
            lines[-1] += part
        yield Text("\n".join(lines), overflow="fold", no_wrap=False)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.cells import cell_len
        from rich.measure import Measurement

        return Measurement(max(map(cell_len, self._parts), default=0), cell_len(self.text))


def narrow_table(title: str, caption: str | None = None) -> Table:
    """A table that spends little on lines, so that many columns fit into the 80 characters of a plain terminal or a file."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        caption=cast("Any", None if caption is None else Prose(caption, "table.caption")),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )


def add_numbers(table: Table, *columns: str) -> None:
    """Columns of numbers, which are never cut or folded: whatever text is beside them folds."""
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)


def add_texts(table: Table, *columns: str) -> None:
    """Columns of texts that fold where there is no room, also within long words."""
    for column in columns:
        table.add_column(column, overflow="fold")


def print_any_character() -> None:
    """Makes the streams of this process print question marks in the place of characters that their encoding lacks; for commands alone."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in _FAILING:
            with contextlib.suppress(ValueError, OSError):  # a stream that is closed
                stream.reconfigure(errors="replace")


class _Lossy:
    """A text stream that prints question marks in the place of characters that its encoding lacks.

    Args:
        stream: the stream, which stays as it is; everything but `write` goes to it.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text; returns its length."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
        return len(text)
