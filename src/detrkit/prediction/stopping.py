"""Ctrl-C, and the signal that asks a process to end: both stop the work, but never in the middle of writing a result."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignals:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt while it is entered; where writing is protected, at the end of it.

    In threads other than the main one, which get no signals, it does nothing.
    """

    def __init__(self) -> None:
        self._protected = False
        self._asked = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Both signals stop what happens inside the block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def protected(self) -> Iterator[None]:
        """What happens inside the block is finished first."""
        self._protected = True
        try:
            yield
        finally:
            self._protected = False
        if self._asked:
            raise KeyboardInterrupt

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what a handler is called with
        if self._protected and not self._asked:
            self._asked = True
            return
        raise KeyboardInterrupt
