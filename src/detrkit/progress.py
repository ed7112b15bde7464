"""One line that says how far work is: in terminals and notebooks it changes in place, elsewhere a line is printed now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TextIO, TypeVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

from detrkit.notebooks import CellLine, cell_line
from detrkit.terminal import is_seen, terminal

_Item = TypeVar("_Item")

_LEAST_BAR, _WIDEST_BAR = 8, 40  # characters
_REDRAWN = 4  # times a second
_SAID_EVERY = 60.0  # seconds between two lines where there is no terminal,
_SAID_TIMES = 100  # but in long work only so many lines
_SPINNER, _PLAIN_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"


class Follow(Protocol):
    """Passes items on and shows how many there were."""

    def __call__(
        self, items: Iterable[_Item], what: str, *, unit: str, total: int, size: Callable[[_Item], int] = ...
    ) -> Iterator[_Item]:
        """Yields the items.

        Args:
            items: whatever is worked on.
            what: is being done.
            unit: what is counted, in the singular.
            total: number of units in all.
            size: number of units of an item.
        """
        ...  # pragma: no cover


@dataclass(frozen=True)
class Activity:
    """How far something is.

    Attributes:
        what: is being done.
        unit: what is counted, in the singular.
        done: number of units.
        total: number of units in all; 0 if nothing is counted.
        left: seconds that the rest will take, as far as that is known.
        extras: what else is worth knowing, the most important first; shown as far as there is room.
    """

    what: str
    unit: str
    done: int
    total: int
    left: float | None = None
    extras: tuple[str, ...] = ()

    def sentence(self, times: str | None = None) -> str:
        """All of it as a line of text.

        Args:
            times: what it says of time; by default about how much is left, if that is known.
        """
        left = [] if self.left is None else [f"about {duration(self.left)} left"]
        count = [f"{self.unit} {self.done}/{self.total}"] if self.total else []
        return ", ".join([self.what, *count, *(left if times is None else [times]), *self.extras])


class ProgressLine:
    """The line. It is shown from entering to leaving a `with` block, and always leaves the terminal, or the output of the cell, as it was.

    Args:
        console: what shows it; other text that is printed there meanwhile appears above the line.
        clock: seconds since any moment.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._activity: Activity | None = None
        self._started = self._began = self._changed = self._said = clock()
        self._live: Live | None = None
        self._cell: CellLine | None = None
        self._put = float("-inf")  # when the line of the cell was last changed

    @property
    def in_place(self) -> bool:
        """Whether the line changes in place in a terminal, which files and simple terminals cannot do."""
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def __enter__(self) -> ProgressLine:
        """Shows the line."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Takes it away."""
        self.stop()

    def start(self) -> None:
        """Shows the line; for callers that cannot use `with`."""
        self._started = self._began = self._changed = self._said = self._clock()
        if self.in_place:
            self._live = Live(
                self,
                console=self.console,
                refresh_per_second=_REDRAWN,
                transient=True,
                redirect_stdout=_is_terminal(sys.stdout),  # what goes to a file still goes there
                redirect_stderr=_is_terminal(sys.stderr),
            )
            self._live.start()
        elif is_seen(self.console):
            self._cell = cell_line()

    def stop(self) -> None:
        """Takes the line away, if it is there."""
        if self._live is not None:
            self._live.stop()
        if self._cell is not None:
            self._cell.clear()

    def show(self, activity: Activity) -> None:
        """Shows this from now on; where no line changes in place, says it if nothing was said for a while."""
        is_new = self._activity is None or self._activity.what != activity.what
        self._activity, self._changed = activity, self._clock()
        if self.in_place:
            return
        if self._cell is not None:
            if is_new or self._changed - self._put >= 1 / _REDRAWN:
                self._put = self._changed
                self._cell.show(activity.sentence(self._time(self._changed)), activity.done, activity.total)
            return
        expected = self._changed - self._started + (activity.left or 0.0)
        if self._changed - self._said >= max(_SAID_EVERY, expected / _SAID_TIMES):
            self.print(activity.sentence())

    def print(self, text: str) -> None:
        """Prints a line of text above, which counts as having said something."""
        self.console.print(text)
        self._said = self._clock()

    def follow(
        self,
        items: Iterable[_Item],
        what: str,
        *,
        unit: str,
        total: int,
        size: Callable[[_Item], int] = lambda _: 1,
    ) -> Iterator[_Item]:
        """Yields the items and shows how far they are; see `Follow`. Afterwards the line stays as it is."""
        self._began = self._clock()
        activity = Activity(what, unit, 0, total)
        self.show(activity)
        for item in items:
            yield item
            done = activity.done + size(item)
            elapsed = self._clock() - self._began
            activity = replace(activity, done=done, left=elapsed / max(1, done) * max(0, total - done))
            self.show(activity)

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """The line in the width that the terminal has now.

        The cursor waits at its beginning. So when a terminal that has become narrower breaks the line in two, all of it is below the cursor
        and is erased. A line that is drawn before the new width is known is cut instead of broken.
        """
        yield _codes("\x1b[?7l\x1b[J")  # no breaks, and nothing from here to the end of the screen
        if self._activity is not None:
            now = self._clock()
            yield fitted(self._activity, options.max_width - 1, self._time(now), now=now, ascii_only=options.ascii_only)
        yield _codes("\r\x1b[?7h")

    def _time(self, now: float) -> str:
        assert self._activity is not None
        left = self._activity.left
        if left is None or self._activity.done >= self._activity.total:
            return f"{clock_time(now - self._began)} so far"
        return f"{clock_time(left - (now - self._changed))} left"


def _codes(text: str) -> Segment:
    """Codes for the terminal that Rich has no names for; old Windows consoles only return to the beginning of the line."""
    return Segment(text, None, [(ControlType.CARRIAGE_RETURN,)])


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def fitted(activity: Activity, width: int, times: str, *, now: float, ascii_only: bool = False) -> Text:
    """An activity as a line of text: what is most important first, and more of the rest the wider the terminal.

    Args:
        activity: to show.
        width: characters that the line may have.
        times: the remaining time, or another one.
        now: seconds since any moment; the first character changes with it.
        ascii_only: whether the terminal has no other characters.
    """
    spinner = _PLAIN_SPINNER if ascii_only else _SPINNER
    head = f"{spinner[int(now * _REDRAWN) % len(spinner)]} {activity.what}"
    if not activity.total:
        return Text(f"{head}, {times}"[: max(0, width)], end="")
    count = f"{activity.done}/{activity.total}"
    tail = f"{activity.unit} {count}, {times}"
    room = width - len(head) - len(tail) - 2
    if room < _LEAST_BAR:
        shorter = (f"{head} {tail}", f"{head} {count}, {times}", f"{head} {count}", count)
        return Text(next((form for form in shorter if len(form) <= width), count[:width]), end="")
    for extra in activity.extras:
        if room - len(extra) - 2 < _LEAST_BAR:
            break
        tail += f", {extra}"
        room -= len(extra) + 2
    bar = min(room, _WIDEST_BAR)
    full = bar * min(activity.done, activity.total) // max(1, activity.total)
    done, rest = ("=", "-") if ascii_only else ("━", "─")
    return Text.assemble(head, " ", (done * full, "green"), (rest * (bar - full), "dim"), " ", tail, end="")


@contextmanager
def watched(progress: bool | Follow) -> Iterator[Follow]:
    """How work is followed that may be watched: True makes a line on the error stream or below the cell of a notebook, False none.

    Args:
        progress: that, or what follows it instead.
    """
    if not isinstance(progress, bool):
        yield progress
    elif progress:
        with ProgressLine(terminal(stderr=True)) as line:
            yield line.follow
    else:
        yield _unseen


def _unseen(
    items: Iterable[_Item],
    what: str,  # noqa: ARG001 - as `Follow`
    *,
    unit: str,  # noqa: ARG001
    total: int,  # noqa: ARG001
    size: Callable[[_Item], int] = lambda _: 1,  # noqa: ARG001
) -> Iterator[_Item]:
    return iter(items)


def clock_time(seconds: float) -> str:
    """Seconds as a clock shows them: "0:07", "12:34", "1:02:03"."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """Seconds in readable units: "40 s", "12 min", "3 h 20 min", "2 days 4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"
