"""What is deleted leaves the disk too: Valkey's append-only file is rewritten after deletions.

A deletion is one more entry of that file, which keeps all that came before it; a rewrite makes a new file of
what there is and removes the old one. Deleting only the key of a sealed value would not do: its wrapped form
lies in the same file.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

SETTLE_S = 5.0
"""From a deletion to the rewrite, so that one rewrite serves many."""
REST = 19.0
"""After a rewrite, so many times its duration pass before the next one: it has a twentieth of the time."""
RETRY_S = 30.0
STOP_S = 5.0
"""The longest that a stop waits for what is still to be rewritten; the next start goes on with it."""


class Erasure:
    """Calls ``rewrite`` after deletions: seldom, never twice at once, and also after a crash.

    Args:
        marker: a file that is there while deleted bytes may be on the disk.
        rewrite: makes them go; raises ``OSError`` if that failed.
        settle_s: see ``SETTLE_S``.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        marker: Path,
        rewrite: Callable[[], Awaitable[None]],
        *,
        settle_s: float = SETTLE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._marker, self._rewrite, self._settle_s = marker, rewrite, settle_s
        self._clock, self._sleep = clock, sleep
        self._due = asyncio.Event()
        self._deleting = 0
        self._marking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.clean = asyncio.Event()
        """Set while nothing deleted is left on the disk."""

    def start(self) -> None:
        """Go on with what an earlier run has left."""
        (self._due if self._marker.exists() else self.clean).set()
        self._task = asyncio.create_task(self._run(), name="hope-erasure")

    async def stop(self) -> None:
        """Rewrite what is due, if that takes no longer than ``STOP_S``."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        self._task = None
        if not self.clean.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await self._erase()

    @asynccontextmanager
    async def deleting(self) -> AsyncIterator[None]:
        """Around each deletion: first it is noted on the disk, so that no crash forgets it."""
        self._deleting += 1
        try:
            async with self._marking:
                if self.clean.is_set():
                    await asyncio.to_thread(_touch, self._marker)
                    self.clean.clear()
            yield
        finally:
            self._deleting -= 1
            self._due.set()

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            await self._sleep(self._settle_s)
            started = self._clock()
            done = await self._erase()
            await self._sleep(REST * (self._clock() - started) if done else RETRY_S)

    async def _erase(self) -> bool:
        """Whether all that was deleted before is gone; what is deleted meanwhile is due again."""
        self._due.clear()
        try:
            await self._rewrite()
        except (OSError, TimeoutError) as error:
            logger.warning("deleted sessions are still in the append-only file: %s", error)
            self._due.set()
            return False
        if not self._due.is_set() and not self._deleting:
            self._marker.unlink(missing_ok=True)
            self.clean.set()
        return True


def _touch(marker: Path) -> None:
    for path, flags in ((marker, os.O_CREAT | os.O_WRONLY), (marker.parent, os.O_RDONLY)):
        descriptor = os.open(path, flags, 0o600)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
