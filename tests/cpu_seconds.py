"""Processor seconds of tests, those of the processes that they start included: a plugin of pytest for `make test-times`.

Other than durations, they hardly depend on what else a computer does.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator

import pytest

SLOWEST = 40
_seconds: dict[str, float] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    before = _used()
    try:
        return (yield)
    finally:
        _seconds[item.nodeid] = _used() - before


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    files: dict[str, float] = defaultdict(float)
    for name, seconds in _seconds.items():
        files[name.split("::")[0]] += seconds
    for title, entries, count in (("file", files, len(files)), ("test", _seconds, SLOWEST)):
        terminalreporter.section(f"processor seconds by {title}")
        for name in sorted(entries, key=lambda name: -entries[name])[:count]:
            terminalreporter.write_line(f"{entries[name]:8.1f}  {name}")
    terminalreporter.write_line(f"{sum(_seconds.values()):8.1f}  in all")


def _used() -> float:
    """Of this process and of those of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
