"""A session's place in the engine, as seen from the event loop: queue, restore, work, release."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from hope_model.state import StateSpec
from hope_server.engine.engine import Engine
from hope_server.engine.events import Boundary, Done, Event, Failed, Granted, Halted, is_urgent
from hope_server.engine.jobs import Generation
from hope_server.engine.logprobs import PromptScores
from hope_server.engine.mail import Mail
from hope_server.engine.observer import EngineObserver
from hope_server.engine.ownership import Ownership
from hope_server.engine.recovery import Recovery, end_learning
from hope_server.engine.restore import Restored, restore
from hope_server.engine.snapshots import SnapshotWriter
from hope_server.engine.thread import EngineThread
from hope_server.engine.units import TokenRun
from hope_server.errors import ModelNotFound, SessionCorrupted, ShuttingDown
from hope_server.sessions.key import SessionKey
from hope_server.sessions.refusals import quarantined
from hope_server.sessions.session import Fence, JournalRecord, SessionMeta
from hope_server.sessions.store import SessionStore

_CLOSED = "the server is shutting down; the request did not come to its end"


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
        ownership: Ownership,
        observer: EngineObserver,
        mail: Mail,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine, self.thread, self.store, self.spec = engine, thread, store, spec
        self.snapshots, self.ownership = snapshots, ownership
        self.observer, self.clock = observer, clock
        self.mail, self.mailboxes = mail, mail.mailboxes
        self.slow_weights_sha256 = ""
        self._closed = False

    async def meta(self, session: SessionKey) -> SessionMeta:
        """The head of a session that learned on these slow weights.

        Raises:
            SessionNotFound: no such session.
            ModelNotFound: it learned on others, on which its journal would replay to another state.
            SessionQuarantined: its journal is damaged.
        """
        meta = await self.store.meta(session)
        self.check(meta)
        return meta

    def check(self, meta: SessionMeta) -> None:
        """Raises what :meth:`meta` does."""
        if meta.quarantined:
            raise quarantined(meta.key)
        self.check_model(f"session {meta.session_id}", meta.model)

    def check_model(self, what: str, model: str) -> None:
        """Raises ModelNotFound for other slow weights; ``what`` learned on those."""
        if model != self.slow_weights_sha256:
            raise ModelNotFound(
                f"{what} learned on slow weights {model[:12]}, "
                f"this server has {self.slow_weights_sha256[:12]}",
                code="session_model_mismatch",
            )

    def open(self, session: str, mailbox: asyncio.Queue[Event]) -> None:
        """Events of ``session`` go to ``mailbox``. Raises ShuttingDown after :meth:`close`."""
        if self._closed:
            raise ShuttingDown(_CLOSED)
        self.mailboxes[session] = mailbox

    def close(self) -> None:
        """The engine is about to end: whoever still waits for it is told, whoever comes is refused."""
        self._closed = True
        for mailbox in self.mailboxes.values():
            mailbox.put_nowait(Failed(ShuttingDown(_CLOSED)))


class Lease:
    """Used by one task, in this order: :meth:`seat`, perhaps :meth:`bring`, :meth:`start` and :meth:`take`,
    and in any case :meth:`release`. Only :meth:`cancel` may come from elsewhere.
    """

    def __init__(self, desk: Desk, session: str) -> None:
        self._desk = desk
        self._session = session
        self._mailbox: asyncio.Queue[Event] = asyncio.Queue()
        self._cancelled = False
        self._granted = Granted(None)
        self._recovery = Recovery()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    async def seat(self) -> None:
        """Wait for a slot.

        Raises:
            QueueFull: too many wait.
            ShuttingDown: the engine has ended.
        """
        self.check_cancelled()
        self._desk.open(self._session, self._mailbox)
        self._desk.thread.post(partial(self._desk.engine.open, self._session))
        event = await self._next()
        if not isinstance(event, Granted):
            raise Cancelled
        self._granted = event
        self.check_cancelled()

    async def bring(self, meta: SessionMeta, fence: Fence | None = None) -> SessionMeta:
        """Bring the row to the head that ``meta`` names, unless it still stands there. With a ``fence``,
        boundaries on the way are stored, a session whose journal is damaged is quarantined, and one whose
        learning has to end is frozen: the result is ``meta``, or what it is then.

        Raises:
            SessionCorrupted: the journal is damaged, or its replay gives non-finite values.
        """
        found = self._granted
        resident = (found.position, found.head) == (meta.position, meta.head.sha256)
        untouched = found.position is None and meta.position == 0 and meta.path.freeze is None
        if not resident and not untouched:
            meta = await self._restore(meta, fence)
        self.check_cancelled()
        return meta

    async def recover(
        self, halted: Halted, meta: SessionMeta, fence: Fence, request: str = ""
    ) -> SessionMeta:
        """Let a halted row go on, from the store; its learning may end by that, as the result says.

        Raises:
            SessionCorrupted: nothing helps.
        """
        desk = self._desk
        if self._recovery.ends_learning(halted, frozen=meta.path.freeze is not None):
            meta = await end_learning(desk.store, meta, fence, halted, request)
            desk.observer.on_learning_rollback(halted.reason)
        else:
            desk.observer.on_reload()
        stored = await desk.store.meta(meta.key)
        meta = replace(meta, snapshot_seq=stored.snapshot_seq)
        self.resume(await restore(desk.store, desk.spec, meta, desk.observer.on_snapshot_failed))
        return meta

    def recover_ephemeral(
        self, halted: Halted, runs: Sequence[JournalRecord], freeze_at: int | None
    ) -> int | None:
        """As :meth:`recover`, for a session that has read ``runs`` and nothing else; where learning ends."""
        if self._recovery.ends_learning(halted, frozen=freeze_at is not None):
            freeze_at = halted.good
            self._desk.observer.on_learning_rollback(halted.reason)
        else:
            self._desk.observer.on_reload()
        self.resume(Restored(None, 0, list(runs), freeze_at))
        return freeze_at

    def load(self, found: Restored, scores: PromptScores | None = None, *, owned: bool = False) -> None:
        """Put ``found`` into the slot and read its runs; see ``Engine.load``."""
        load = partial(self._desk.engine.load, scores=scores, freeze_at=found.freeze_at, owned=owned)
        self._desk.thread.post(partial(load, self._session, found.row, found.position, found.runs))

    def resume(self, found: Restored) -> None:
        """A halted job goes on where ``found`` ends."""
        resume = partial(self._desk.engine.resume, freeze_at=found.freeze_at)
        self._desk.thread.post(partial(resume, self._session, found.row, found.position, found.runs))

    def offer(self, boundary: Boundary, meta: SessionMeta, fence: Fence) -> None:
        """Store a boundary's state, if the session's path keeps one there."""
        seq = meta.path.seq(boundary.position)
        if meta.path.keeps(seq):
            self._desk.snapshots.offer(meta.key, fence, seq, boundary.row, meta.head)

    def start(self, runs: Sequence[TokenRun], generation: Generation, *, durable: bool) -> None:
        """Read ``runs`` and generate; :meth:`take` yields what comes of it."""
        desk = self._desk
        desk.thread.post(partial(desk.engine.start, self._session, runs, generation, durable=durable))
        if self._cancelled:  # came while the prompt was being committed
            self.cancel()

    async def take(self) -> list[Event]:
        """Every event that is there, at least one; raises what ended the work."""
        self._desk.mail.collect()
        return [await self._next(), *self._taken()]

    async def gather(self, events: Sequence[Event]) -> list[Event]:
        """What comes after ``events``, perhaps nothing, until it is time to commit."""
        if not any(map(is_urgent, events)):
            await self._desk.mail.tide.wait(self._session)
        return self._taken()

    def _taken(self) -> list[Event]:
        self._desk.mail.collect()
        events: list[Event] = []
        while not self._mailbox.empty():
            events.append(self._mailbox.get_nowait())
        return events

    async def done(self) -> list[Event]:
        """What the work emits until its end; raises what ended it early."""
        events: list[Event] = []
        while not isinstance(event := await self._next(), Done):
            events.append(event)
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

    async def release(self, committed: int | None, head: str = "") -> None:
        """Give the slot back; see ``Engine.release``. Nothing happens for a lease that was never seated."""
        if self._desk.mailboxes.get(self._session) is not self._mailbox:
            return
        await self._desk.thread.call(partial(self._desk.engine.release, self._session, committed, head))
        del self._desk.mailboxes[self._session]

    async def _restore(self, meta: SessionMeta, fence: Fence | None) -> SessionMeta:
        desk, started = self._desk, self._desk.clock()
        try:
            found = await restore(desk.store, desk.spec, meta, desk.observer.on_snapshot_failed)
        except SessionCorrupted:
            if fence is not None:
                await desk.store.quarantine(meta.key, fence)
            raise
        self.check_cancelled()
        self.load(found, owned=fence is not None)
        while not isinstance(event := await self._next(), Done):
            if fence is None:
                continue
            if isinstance(event, Halted):
                meta = await self.recover(event, meta, fence)
            elif isinstance(event, Boundary) and meta.path.seq(event.position) > meta.snapshot_seq:
                self.offer(event, meta, fence)
        desk.observer.on_load(desk.clock() - started, replayed_tokens=found.tokens)
        return meta

    async def _next(self) -> Event:
        event = await self._mailbox.get()
        if isinstance(event, Failed):
            raise event.error
        return event


@asynccontextmanager
async def replayed(
    desk: Desk, name: str, start: Restored, scores: PromptScores | None = None
) -> AsyncIterator[list[Event]]:
    """A slot whose row has read ``start``'s runs, under a name that no session has, and what that emitted; it
    is given back in any case.

    Raises QueueFull, SessionCorrupted.
    """
    lease = Lease(desk, name)
    try:
        await lease.seat()
        lease.load(start, scores)
        yield await lease.done()
    finally:
        await lease.release(None)
