"""Stopping a run between two steps, so that what is saved is what a step left behind."""

import signal
import threading
from types import FrameType, TracebackType


class StopSignal:
    """While open, SIGINT and SIGTERM only ask for a stop; a second one interrupts at once.

    Signals reach the main thread alone: opened in another one, it catches nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if callable(handler) else signal.SIG_DFL)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
