"""The engine as the API sees it: sessions and token streams on the event loop."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from weakref import WeakValueDictionary

from hope_server.engine.engine import Engine
from hope_server.engine.events import Event
from hope_server.engine.lease import Desk, Lease
from hope_server.engine.observer import EngineObserver, NullObserver
from hope_server.engine.request import EngineConfig, EngineStats, GenerationRequest, LevelStatus, TokenEvent
from hope_server.engine.runner import ServedModel, runner_for
from hope_server.engine.snapshots import SnapshotWriter
from hope_server.engine.thread import EngineThread
from hope_server.engine.turn import Turn
from hope_server.errors import (
    ContextTooLong,
    EmptyPrompt,
    InvalidRequest,
    SessionBusy,
    ShuttingDown,
)
from hope_server.sessions.store import JournalRecord, SessionMeta, SessionStore

Events = list[tuple[str, Event]]

FLUSH_RESERVE_S = 1.0
"""Of a stop's deadline, at most this much is kept for cutting turns and writing what is left."""


class EngineService:
    """Sessions that learn, for any number of concurrent callers on one event loop.

    Args:
        model: the slow weights, on their device: a ``Hope`` in evaluation mode, or a ``HopeAttention``.
        store: where sessions live; the caller closes it after :meth:`stop`.
        config: sizes and bounds.
        slow_weights_hash: recomputes the hex digest of theta and psi; called on the engine's thread.
        observer: receives real events (metrics).
    """

    def __init__(
        self,
        model: ServedModel,
        store: SessionStore,
        config: EngineConfig,
        *,
        slow_weights_hash: Callable[[], str],
        observer: EngineObserver | None = None,
    ) -> None:
        self._model, self._store, self._config = model, store, config
        self._hash = slow_weights_hash
        self._observer = observer or NullObserver()
        self._snapshots = SnapshotWriter(store, model.state_spec, self._observer)
        self._turns: dict[str, Turn] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._ephemeral = 0
        self._draining = False
        self._sha256 = ""

    async def start(self) -> None:
        """Start the engine's thread and hash the slow weights."""
        loop = asyncio.get_running_loop()
        self._engine = Engine(
            runner_for(self._model, self._config),
            self._config,
            sink=lambda events: _hand_over(loop, self._desk.deliver, events),
            observer=self._observer,
        )
        self._thread = EngineThread(self._engine, loop)
        self._desk = Desk(
            self._engine, self._thread, self._store, self._model.state_spec, self._snapshots, self._observer
        )
        self._thread.start()
        self._sha256 = self._desk.slow_weights_sha256 = await self._thread.call(self._hash)

    async def stop(self, *, deadline_s: float) -> None:
        """Admit nothing more, finish turns or cut them at the deadline, flush, end the thread.

        A cut turn raises ShuttingDown to its reader; what it committed stays learned. May take a little
        longer than ``deadline_s``: one engine step, and one store call if the store hangs.
        """
        if self._draining:
            return
        self._draining = True
        end = self._desk.clock() + deadline_s
        await self._wait_for_turns(deadline_s - min(FLUSH_RESERVE_S, deadline_s / 4))
        for turn in list(self._turns.values()):
            turn.cancel(ShuttingDown("the server stopped before the turn was over; what was sent is kept"))
        await self._wait_for_turns(end - self._desk.clock())
        for task in self._tasks:
            task.cancel()
        await self._wait_for_turns(FLUSH_RESERVE_S)
        flush = asyncio.create_task(self._snapshots.flush())
        await asyncio.wait({flush}, timeout=max(0.0, end - self._desk.clock()))
        await self._snapshots.close()
        await flush
        await asyncio.to_thread(self._thread.stop)

    async def create_session(self, name: str | None = None, *, session_id: str | None = None) -> SessionMeta:
        """A new empty durable session, with a random 128-bit id unless one is given."""
        return await self._store.create(session_id or secrets.token_hex(16), model=self._sha256, name=name)

    async def get_session(self, session_id: str) -> SessionMeta:
        """Raises SessionNotFound."""
        return await self._store.meta(session_id)

    async def list_sessions(self, *, after: str | None, limit: int) -> list[SessionMeta]:
        """Up to ``limit`` sessions, oldest first; see ``SessionStore.list``."""
        return await self._store.list(after=after, limit=limit)

    async def delete_session(self, session_id: str) -> None:
        """Raises SessionNotFound, SessionBusy while a turn runs."""
        async with self._alone(session_id):
            await self._vacate(session_id)
            await self._store.delete(session_id)

    async def reset_session(self, session_id: str) -> SessionMeta:
        """Back to the initial state; the journal keeps its past. Raises SessionNotFound, SessionBusy."""
        async with self._alone(session_id):
            meta = await self._store.meta(session_id)
            await self._vacate(session_id)
            record = JournalRecord(meta.seq + 1, "reset", "system", ())
            await self._store.append(session_id, expected_seq=meta.seq, records=[record])
            return await self._store.meta(session_id)

    async def levels(self, session_id: str) -> list[LevelStatus]:
        """What each level has done since the last reset, by the state's own counters.

        During a turn the figures are those of the moment. A session that is not resident is restored first.

        Raises:
            SessionNotFound, QueueFull, ModelNotFound.
        """
        while (turn := self._turns.get(session_id)) is not None:
            await turn.resident.wait()
            levels = await self._thread.call(partial(self._engine.levels, session_id))
            if levels is not None:
                return levels
            await turn.closed.wait()
        self._admit()
        async with self._lock(session_id):
            meta = await self._desk.meta(session_id)
            lease = Lease(self._desk, session_id)
            try:
                await lease.occupy(meta)
                return await self._thread.call(partial(self._engine.levels, session_id)) or []
            finally:
                await lease.release(meta.position)

    async def events(self, session_id: str, *, after: int, limit: int) -> tuple[list[JournalRecord], int]:
        """Journal records that hold any seq above ``after``, and the head seq."""
        meta = await self._store.meta(session_id)
        return await self._store.records(session_id, after=after, limit=limit), meta.seq

    async def learned(self, session_id: str, idempotency_key: str) -> tuple[int, int] | None:
        """The first and last seq of the turn that used the key, None if no turn did."""
        return await self._store.learned(session_id, idempotency_key)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """Run one turn. Nothing happens before the first ``__anext__``, which raises every error of admission
        (SessionNotFound, SessionBusy, QueueFull, ShuttingDown, EmptyPrompt, ContextTooLong, AlreadyLearned,
        ...).

        Every token is committed before it is yielded. ``aclose()`` (client gone) stops the turn within one
        token and returns when the session is free; what was sampled by then stays learned.
        """
        turn = self._begin(request)
        try:
            while (event := await turn.next()) is not None:
                yield event
        finally:
            turn.cancel()
            await turn.closed.wait()

    async def slow_weights_sha256(self) -> str:
        """Digest taken at start."""
        return self._sha256

    async def verify_slow_weights(self) -> bool:
        """Recompute the digest between two engine steps and compare."""
        return await self._thread.call(self._hash) == self._sha256

    def stats(self) -> EngineStats:
        """As of the last engine step."""
        return self._engine.stats

    async def check_integrity(self) -> None:
        """The engine's own invariants, and: every idle row stands exactly at its journal's head.

        Raises:
            AssertionError: names what does not hold.
        """
        await self._thread.call(self._engine.check_integrity)
        for session_id in await self._thread.call(self._engine.idle_sessions):
            async with self._lock(session_id):
                meta = await self._store.meta(session_id)
                position = await self._thread.call(partial(self._engine.position, session_id))
                assert position in (None, meta.position), (
                    f"{session_id}: row at {position}, journal {meta.position}"
                )

    def _begin(self, request: GenerationRequest) -> Turn:
        self._admit()
        self._check(request)
        if request.session_id is None:
            self._ephemeral += 1
        key = request.session_id or f"ephemeral:{self._ephemeral}"  # no session id holds a colon
        if key in self._turns:
            raise SessionBusy(f"session {key} is in the middle of another turn", param="session_id")
        turn = self._turns[key] = Turn(self._desk, key, request)
        task = asyncio.create_task(self._run(key, turn), name=f"hope-turn-{request.request_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return turn

    async def _run(self, key: str, turn: Turn) -> None:
        try:
            async with self._lock(key):
                await turn.run()
        finally:
            del self._turns[key]
            turn.close()

    def _admit(self) -> None:
        if self._draining:
            raise ShuttingDown("the server is shutting down and admits no new work")

    def _check(self, request: GenerationRequest) -> None:
        if not request.prompt_tokens:
            raise EmptyPrompt("expected at least one prompt token, found none")
        if request.prompt_tokens > self._config.max_prompt_tokens:
            raise ContextTooLong(
                f"expected at most {self._config.max_prompt_tokens} new tokens, found {request.prompt_tokens}"
            )
        size = self._model.config.vocab_size
        for part in request.prompt:
            if part.tokens and not 0 <= min(part.tokens) <= max(part.tokens) < size:
                raise InvalidRequest(f"expected token ids from 0 to {size - 1}, found others", param="prompt")

    @asynccontextmanager
    async def _alone(self, session_id: str) -> AsyncIterator[None]:
        """No turn runs, and none starts inside; raises SessionBusy."""
        if session_id in self._turns:
            raise SessionBusy(f"session {session_id} is in the middle of a turn", param="session_id")
        async with self._lock(session_id):
            yield

    def _lock(self, session_id: str) -> asyncio.Lock:
        lock = self._locks.get(session_id)
        if lock is None:
            lock = self._locks[session_id] = asyncio.Lock()
        return lock

    async def _vacate(self, session_id: str) -> None:
        self._snapshots.discard(session_id)
        await self._thread.call(partial(self._engine.drop, session_id))

    async def _wait_for_turns(self, timeout_s: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, timeout_s))


def _hand_over(loop: asyncio.AbstractEventLoop, deliver: Callable[[Events], None], events: Events) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
        loop.call_soon_threadsafe(deliver, events)
