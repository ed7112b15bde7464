"""Signals stop what is watched, but wait for what is protected, unless they come twice."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from detrkit.prediction.stopping import StopSignals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_once_outside_and_later_inside_protection(number: int) -> None:
    signals = StopSignals()
    with pytest.raises(KeyboardInterrupt), signals.watched():
        send(number)
    finished = []

    def work() -> None:
        with signals.watched():
            with signals.protected():
                send(number)
                finished.append("inside")
            finished.append("behind")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert finished == ["inside"]


def test_the_second_signal_stops_even_what_is_protected() -> None:
    signals = StopSignals()
    finished = []

    def work() -> None:
        with signals.watched(), signals.protected():
            send(signal.SIGINT)
            finished.append("first")
            send(signal.SIGINT)
            finished.append("second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert finished == ["first"]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals().watched():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_do_without() -> None:
    passed = []

    def work() -> None:
        signals = StopSignals()
        with signals.watched(), signals.protected():
            passed.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert passed == [True]
