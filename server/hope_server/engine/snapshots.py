"""Writes boundary states to the store, off the hot path. A lost snapshot costs replay, never a token."""

import asyncio
import time
from collections.abc import Callable

from hope_model.state import State, StateSpec
from hope_server.engine.observer import EngineObserver
from hope_server.errors import Fenced, HopeError, SequenceConflict, SessionNotFound
from hope_server.sessions.codec import encode_row
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import Fence, Head
from hope_server.sessions.store import SessionStore

MAX_PENDING = 64
"""Sessions whose state may wait to be written; beyond that the oldest is given up."""


class SnapshotWriter:
    """One write at a time; of each session only the newest state waits.

    Start and stop belong to the event loop that :meth:`offer` is called on.
    """

    def __init__(
        self,
        store: SessionStore,
        spec: StateSpec,
        observer: EngineObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._spec, self._observer, self._clock = store, spec, observer, clock
        self._pending: dict[SessionKey, tuple[Fence, int, State, Head]] = {}
        self._worker: asyncio.Task[None] | None = None

    def offer(self, session: SessionKey, fence: Fence, seq: int, row: State, head: Head) -> None:
        """Store ``row`` (``[1, ...]``, not to be changed) as the state after ``seq``, which is committed, in
        the journal that led to ``head``.
        """
        self._pending.pop(session, None)
        self._pending[session] = (fence, seq, row, head)
        if len(self._pending) > MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._drain(), name="hope-snapshots")

    def discard(self, session: SessionKey) -> None:
        """Forget what waits for a session that was reset or deleted."""
        self._pending.pop(session, None)

    async def flush(self) -> None:
        """Wait until everything offered is written or given up."""
        while self._worker is not None and not self._worker.done():
            await asyncio.wait({self._worker})

    async def close(self) -> None:
        """Give up what is not written yet."""
        self._pending.clear()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait({self._worker})

    async def _drain(self) -> None:
        while self._pending:
            session = next(iter(self._pending))
            fence, seq, row, head = self._pending.pop(session)
            try:
                await self._write(session, fence, seq, row, head)
            except (Fenced, SessionNotFound, SequenceConflict):
                pass  # taken over, deleted, rolled back or overtaken meanwhile
            except HopeError as error:
                self._observer.on_snapshot_failed(error)

    async def _write(self, session: SessionKey, fence: Fence, seq: int, row: State, head: Head) -> None:
        started = self._clock()
        parts = await asyncio.to_thread(encode_row, self._spec, row, seq)
        await self._store.put_snapshot(session, fence, seq=seq, parts=parts, head=head)
        self._observer.on_snapshot(self._clock() - started, bytes_written=sum(map(len, parts.values())))
