"""A program at a pseudo-terminal, and what a person would see on its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence

import pyte

ROWS, COLUMNS = 100, 100
PATIENCE_S = 60.0
ENTER, ALT_ENTER, CTRL_C, CTRL_D, UP, TAB = "\r", "\x1b\r", "\x03", "\x04", "\x1b[A", "\t"
_ATTACH = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
"""So that the terminal's Ctrl-C reaches the process."""


class Terminal:
    """Runs a Python program; `raw` is all that it wrote."""

    def __init__(
        self, program: str, arguments: Sequence[str], *, term: str = "xterm-256color", **variables: str
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ATTACH + program, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=_environment(term, variables),
        )
        os.close(slave)
        self.raw = b""
        self._screen = _Screen(self.type)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def text(self) -> str:
        """The screen's lines, without the blanks at their ends."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def expect(self, text: str, times: int = 1) -> None:
        """Wait until the screen shows this text so many times."""
        self.until(lambda shown: shown.count(text) >= times, repr(text))

    def until(self, condition: Callable[[str], bool], expected: str) -> None:
        """Wait until what the screen shows fulfils a condition."""
        while not condition(self.text):
            ready, _, _ = select.select([self._master], [], [], PATIENCE_S)
            assert ready, f"expected {expected}, the screen shows\n{self.text}"
            try:
                data = os.read(self._master, 4096)
            except OSError as error:
                raise AssertionError(f"expected {expected}, it ended with\n{self.text}") from error
            self.raw += data
            self._stream.feed(data)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def say(self, line: str) -> None:
        """A line and Enter."""
        self.type(line + ENTER)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


class _Screen(pyte.Screen):
    """Answers questions after the cursor's place, as a terminal does."""

    def __init__(self, answer: Callable[[str], None]) -> None:
        super().__init__(COLUMNS, ROWS)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data)


def _environment(term: str, variables: Mapping[str, str]) -> dict[str, str]:
    """This process's, without what says how a terminal should look."""
    dropped = ("HOPE_", "REDIS_", "NO_COLOR", "COLUMNS", "LINES", "COLORTERM", "FORCE_COLOR", "TTY_")
    own = {name: text for name, text in os.environ.items() if not name.startswith(dropped)}
    return {**own, "TERM": term, **variables}
