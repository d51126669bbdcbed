"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading

import pytest

from hope_model.train.stop import StopSignal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_first_signal_asks(number: signal.Signals) -> None:
    with StopSignal() as stop:
        assert not stop.asked
        signal.raise_signal(number)
        assert stop.asked


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_interrupts(number: signal.Signals) -> None:
    with StopSignal():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_the_handlers_before_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignal():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_in_another_thread_the_handlers_stay() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    seen: list[object] = []

    def look() -> None:
        with StopSignal():
            seen.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == before
