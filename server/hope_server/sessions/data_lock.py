"""Who may use a data directory: one server, and no Valkey left over from a dead one.

Two lock files. ``server.lock`` is held by the server process alone. ``valkey.lock`` is opened by the server
and inherited by its Valkey child, so the kernel keeps it locked until both are gone.
"""

import asyncio
import fcntl
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from hope_server.errors import StoreConfigError

_POLITE_S = 5.0
_KILLED_S = 5.0
_POLL_S = 0.02


class DataLock:
    """Both locks of ``directory``, from ``take`` to ``release``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server: int | None = None
        self._child: int | None = None

    @property
    def child_fd(self) -> int:
        """The descriptor that the child inherits."""
        assert self._child is not None
        return self._child

    async def take(self, ask_orphan_to_stop: Callable[[], Awaitable[bool]]) -> None:
        """Lock the directory; an orphaned Valkey is asked to stop, and killed if it does not listen.

        ``ask_orphan_to_stop`` says whether it took the order. Raises ``StoreConfigError`` if another server
        lives there or the orphan does not go.
        """
        self._server = _open(self._directory / "server.lock")
        if not _lock(self._server):
            self.release()
            raise StoreConfigError(f"data_dir {self._directory} is used by another server", param="data_dir")
        self._child = _open(self._directory / "valkey.lock")
        if _lock(self._child):
            return
        if await ask_orphan_to_stop() and await self._child_lock_within(_POLITE_S):
            return
        for pid in self._holders():
            os.kill(pid, signal.SIGKILL)
        if not await self._child_lock_within(_KILLED_S):
            self.release()
            message = f"a Valkey of an earlier server still uses data_dir {self._directory}"
            raise StoreConfigError(message, param="data_dir")

    async def _child_lock_within(self, seconds: float) -> bool:
        for _ in range(round(seconds / _POLL_S)):
            if _lock(self.child_fd):
                return True
            await asyncio.sleep(_POLL_S)
        return False

    def _holders(self) -> Iterator[int]:
        """Other processes that have ``valkey.lock`` open; known on Linux only."""
        target = str((self._directory / "valkey.lock").resolve())
        for entry in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                found = os.readlink(entry)
            except OSError:
                continue
            pid = int(entry.parts[2])
            if found == target and pid != os.getpid():
                yield pid

    def release(self) -> None:
        for fd in (self._child, self._server):
            if fd is not None:
                os.close(fd)
        self._child = self._server = None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
