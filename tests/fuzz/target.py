"""What a decoder under fuzz is: bytes go in; a value or one of its own errors comes out, soon and small."""

from __future__ import annotations

import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

HANG_S = 30
"""Nothing here should take a second; a busy machine is not a hang."""
FREE_BYTES = 48 << 20
BYTES_PER_BYTE = 256
"""An input may cost this many times its size, and a decoder FREE_BYTES whatever it reads."""


class Hang(AssertionError):
    """A decoder does not come back."""


class Greedy(AssertionError):
    """A decoder takes more memory than its input is worth."""


@dataclass(frozen=True)
class Target:
    """One decoder: ``run`` on any bytes returns or raises one of ``errors``. ``seeds`` are good inputs."""

    name: str
    run: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    slow: bool = False
    """It starts a process for each input."""

    def check(self, data: bytes) -> bool:
        """Whether ``data`` is accepted. Raises whatever is not among its errors, Hang and Greedy."""
        with _within(HANG_S), _less_than(FREE_BYTES + BYTES_PER_BYTE * len(data)):
            try:
                self.run(data)
            except self.errors:
                return False
        return True


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"no result after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _less_than(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if peak > limit:
        raise Greedy(f"{peak} bytes were allocated, {limit} are allowed")
