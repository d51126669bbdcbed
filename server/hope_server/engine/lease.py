"""A session's place in the engine, as seen from the event loop: queue, restore, work, release."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from hope_model.state import StateSpec
from hope_server.engine.engine import Engine
from hope_server.engine.events import Boundary, Done, Event, Failed, Granted
from hope_server.engine.jobs import Generation
from hope_server.engine.observer import EngineObserver
from hope_server.engine.restore import restore
from hope_server.engine.snapshots import SnapshotWriter
from hope_server.engine.thread import EngineThread
from hope_server.engine.units import TokenRun
from hope_server.errors import ModelNotFound
from hope_server.sessions.key import SessionKey
from hope_server.sessions.store import SessionMeta, SessionStore


class Cancelled(Exception):
    """The caller of a turn is gone; never leaves the engine package."""


class Desk:
    """What leases share: the engine and its thread, the store, and who gets which engine event."""

    def __init__(
        self,
        engine: Engine,
        thread: EngineThread,
        store: SessionStore,
        spec: StateSpec,
        snapshots: SnapshotWriter,
        observer: EngineObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine, self.thread, self.store, self.spec = engine, thread, store, spec
        self.snapshots, self.observer, self.clock = snapshots, observer, clock
        self.mailboxes: dict[str, asyncio.Queue[Event]] = {}
        self.slow_weights_sha256 = ""

    async def meta(self, session: SessionKey) -> SessionMeta:
        """The head of a session that learned on these slow weights.

        Raises:
            SessionNotFound: no such session.
            ModelNotFound: it learned on others, on which its journal would replay to another state.
        """
        meta = await self.store.meta(session)
        if meta.model != self.slow_weights_sha256:
            raise ModelNotFound(
                f"session {session.session} learned on slow weights {meta.model[:12]}, "
                f"this server has {self.slow_weights_sha256[:12]}",
                code="session_model_mismatch",
            )
        return meta

    def deliver(self, events: list[tuple[str, Event]]) -> None:
        """Called on the loop with what the engine emitted; events of a released session have no reader."""
        for session, event in events:
            mailbox = self.mailboxes.get(session)
            if mailbox is not None:
                mailbox.put_nowait(event)


class Lease:
    """Used by one task, in this order: :meth:`seat` or :meth:`occupy`, perhaps :meth:`start` and
    :meth:`take`, and in any case :meth:`release`. Only :meth:`cancel` may come from elsewhere.
    """

    def __init__(self, desk: Desk, session: str) -> None:
        self._desk = desk
        self._session = session
        self._mailbox: asyncio.Queue[Event] = asyncio.Queue()
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    async def seat(self) -> int | None:
        """Wait for a slot; returns the position of the row that is still in it, None if there is none.

        Raises:
            QueueFull: too many wait.
        """
        self.check_cancelled()
        self._desk.mailboxes[self._session] = self._mailbox
        self._desk.thread.post(partial(self._desk.engine.open, self._session))
        event = await self._next()
        if not isinstance(event, Granted):
            raise Cancelled
        return event.position

    async def occupy(self, meta: SessionMeta) -> None:
        """Wait for a slot and bring it to the head that ``meta`` names, unless the row there still stands at
        it.

        Raises:
            QueueFull: too many wait.
            SessionCorrupted: the journal is damaged, or its replay gives non-finite values.
        """
        position = await self.seat()
        self.check_cancelled()
        if position != meta.position and (position, meta.position) != (None, 0):
            await self._restore(meta)
        self.check_cancelled()

    def start(self, runs: Sequence[TokenRun], generation: Generation, *, durable: bool) -> None:
        """Read ``runs`` and generate; :meth:`take` yields what comes of it."""
        desk = self._desk
        desk.thread.post(partial(desk.engine.start, self._session, runs, generation, durable=durable))
        if self._cancelled:  # came while the prompt was being committed
            self.cancel()

    async def take(self) -> list[Event]:
        """Every event that is there, at least one."""
        events = [await self._next()]
        while not self._mailbox.empty():
            events.append(self._mailbox.get_nowait())
        return events

    def committed(self, tokens: int) -> None:
        """Sampled tokens became durable."""
        self._desk.thread.post(partial(self._desk.engine.committed, self._session, tokens))

    def cancel(self) -> None:
        """Stop at the next token; the waiting call raises Cancelled or yields Done."""
        self._cancelled = True
        if (
            self._desk.mailboxes.get(self._session) is self._mailbox
        ):  # not another lease's work on the session
            self._desk.thread.post(partial(self._desk.engine.cancel, self._session))

    def check_cancelled(self) -> None:
        if self._cancelled:
            raise Cancelled

    async def release(self, committed: int | None) -> None:
        """Give the slot back; see ``Engine.release``. Nothing happens for a lease that was never seated."""
        if self._desk.mailboxes.get(self._session) is not self._mailbox:
            return
        await self._desk.thread.call(partial(self._desk.engine.release, self._session, committed))
        del self._desk.mailboxes[self._session]

    async def _restore(self, meta: SessionMeta) -> None:
        desk, started = self._desk, self._desk.clock()
        found = await restore(desk.store, desk.spec, meta, desk.observer.on_snapshot_failed)
        self.check_cancelled()
        desk.thread.post(partial(desk.engine.load, self._session, found.row, found.position, found.runs))
        while not isinstance(event := await self._next(), Done):
            if isinstance(event, Boundary) and meta.base_seq + event.position > meta.snapshot_seq:
                desk.snapshots.offer(meta.key, meta.base_seq + event.position, event.row)
        desk.observer.on_load(desk.clock() - started, replayed_tokens=found.tokens)

    async def _next(self) -> Event:
        event = await self._mailbox.get()
        if isinstance(event, Failed):
            raise event.error
        return event
