"""The engine as the API sees it: sessions and token streams on the event loop."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial

from hope_server.engine.diff import diff
from hope_server.engine.engine import Engine
from hope_server.engine.exchange import export_session, import_session, open_export
from hope_server.engine.lease import Desk, Lease
from hope_server.engine.loss import loss
from hope_server.engine.mail import Mail
from hope_server.engine.observer import EngineObserver, NullObserver
from hope_server.engine.ownership import Ownership
from hope_server.engine.request import (
    Difference,
    EngineConfig,
    EngineStats,
    GenerationRequest,
    LevelStatus,
    SessionLoss,
    TokenEvent,
    Verification,
    check_tokens,
)
from hope_server.engine.restore import runs_between
from hope_server.engine.runner import ServedModel, runner_for
from hope_server.engine.snapshots import SnapshotWriter
from hope_server.engine.thread import EngineThread
from hope_server.engine.tide import Tide
from hope_server.engine.turn import Turn
from hope_server.engine.turns import Turns
from hope_server.engine.verify import verify
from hope_server.errors import (
    ContextTooLong,
    EmptyPrompt,
    HopeError,
    ShuttingDown,
)
from hope_server.sessions.container import Importable
from hope_server.sessions.copying import fork
from hope_server.sessions.history import point_at
from hope_server.sessions.key import SessionKey
from hope_server.sessions.reading import Buffer
from hope_server.sessions.refusals import no_such_seq
from hope_server.sessions.session import JournalRecord, SessionMeta
from hope_server.sessions.store import SessionStore

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
        clock: monotonic seconds.
    """

    def __init__(
        self,
        model: ServedModel,
        store: SessionStore,
        config: EngineConfig,
        *,
        slow_weights_hash: Callable[[], str],
        observer: EngineObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model, self._store, self._config, self._clock = model, store, config, clock
        self._hash = slow_weights_hash
        self._observer = observer or NullObserver()
        self._snapshots = SnapshotWriter(store, model.state_spec, self._observer, clock)
        self._ownership = Ownership(
            store,
            ttl_s=config.lease_ttl_s,
            nonce=config.owner_nonce,
            on_lost=self._lost,
            observer=self._observer,
            clock=clock,
        )
        self._turns = Turns()
        self._ephemeral = 0
        self._draining = False
        self._sha256 = ""

    async def start(self) -> None:
        """Start the engine's thread and hash the slow weights."""
        loop = asyncio.get_running_loop()
        mail = Mail(loop, Tide(self._config.commit_interval_s))
        self._engine = Engine(
            runner_for(self._model, self._config),
            self._config,
            sink=mail.send,
            observer=self._observer,
        )
        self._thread = EngineThread(self._engine, loop)
        self._desk = Desk(
            self._engine,
            self._thread,
            self._store,
            self._model.state_spec,
            self._snapshots,
            self._ownership,
            self._observer,
            mail,
            self._clock,
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
        end = self._clock() + deadline_s
        await self._turns.wait(deadline_s - min(FLUSH_RESERVE_S, deadline_s / 4))
        self._turns.cut(ShuttingDown("the server stopped before the turn was over; what was sent is kept"))
        await self._turns.wait(end - self._clock())
        self._turns.abandon()
        await self._turns.wait(FLUSH_RESERVE_S)
        self._desk.close()
        flush = asyncio.create_task(self._snapshots.flush())
        await asyncio.wait({flush}, timeout=max(0.0, end - self._clock()))
        await self._snapshots.close()
        await flush
        await self._ownership.close()
        await asyncio.to_thread(self._thread.stop)

    async def create_session(self, tenant: str, name: str | None = None) -> SessionMeta:
        """A new empty durable session of ``tenant`` with a random 128-bit id."""
        meta = await self._store.create(_new_key(tenant), model=self._sha256, name=name)
        self._observer.on_session("create")
        return meta

    async def get_session(self, session: SessionKey) -> SessionMeta:
        """Raises SessionNotFound."""
        return await self._store.meta(session)

    async def rename_session(self, session: SessionKey, name: str) -> SessionMeta:
        """It may be in a turn, here or elsewhere. Raises SessionNotFound."""
        await self._store.meta(session)
        await self._store.rename(session, name)
        return await self._store.meta(session)

    async def list_sessions(self, tenant: str, *, after: str | None, limit: int) -> list[SessionMeta]:
        """Up to ``limit`` sessions of ``tenant``, oldest first; see ``SessionStore.list``."""
        return await self._store.list(tenant, after=after, limit=limit)

    async def delete_session(self, session: SessionKey) -> None:
        """Raises SessionNotFound, SessionBusy while a turn runs here, LeaseHeld while one runs elsewhere."""
        async with self._turns.none_of(session), self._ownership.hold(session) as (fence, _):
            await self._vacate(session)
            await self._store.delete(session, fence)
            self._observer.on_session("delete")

    async def reset_session(self, session: SessionKey) -> SessionMeta:
        """Back to the initial state; the journal keeps its past. Raises as :meth:`delete_session` does."""
        async with self._turns.none_of(session), self._ownership.hold(session) as (fence, meta):
            await self._vacate(session)
            record = JournalRecord(meta.seq + 1, "reset", "system", ())
            await self._store.append(session, fence, expected=meta.head, records=[record])
            self._observer.on_session("reset")
            return await self._store.meta(session)

    async def rollback_session(self, session: SessionKey, *, seq: int) -> SessionMeta:
        """Back to the state after token ``seq``, or to any number that the journal has, 0 for the beginning.

        The journal keeps its past, so a rollback can be rolled back. Raises InvalidRequest for a number that
        the journal does not have, else as :meth:`delete_session` does.
        """
        async with self._turns.none_of(session), self._ownership.hold(session) as (fence, meta):
            self._desk.check(meta)
            point = await point_at(self._store, session, seq)
            await self._vacate(session)
            await self._store.rollback(session, fence, expected=meta.head, to=point)
            self._observer.on_session("rollback")
            return await self._store.meta(session)

    async def fork_session(
        self, session: SessionKey, *, seq: int | None = None, name: str | None = None
    ) -> SessionMeta:
        """A new session that is what ``session`` was when ``seq`` (None: now) was its head.

        The source is only read: it may be in a turn, or quarantined if its journal is whole up to ``seq``.
        Raises SessionNotFound, InvalidRequest, SessionCorrupted.
        """
        self._admit()
        source = await self._store.meta(session)
        at = source.seq if seq is None else seq
        if not 0 <= at <= source.seq:
            raise no_such_seq(at, source.seq)
        target = _new_key(session.tenant)
        copy = await fork(self._store, source, target, seq=at, name=name, nonce=self._ownership.nonce)
        self._observer.on_session("fork")
        return copy

    def export_session(self, session: SessionKey) -> AsyncGenerator[bytes]:
        """The session as one file, in pieces: the newest snapshot, and the journal; see
        ``sessions.container``. It may be in a turn: the file has what was committed before.

        Raises, before the first piece or later, SessionNotFound, SessionQuarantined, SessionCorrupted.
        """
        self._observer.on_session("export")
        return export_session(self._store, session)

    async def open_export(self, data: Buffer) -> Importable:
        """Check an exported file, which must not change afterwards; nothing is stored.

        Raises InvalidRequest for a file that is none, ModelNotFound for one of other slow weights.
        """
        self._admit()
        config = self._model.config
        return await open_export(self._desk, data, vocab_size=config.vocab_size, block=config.block)

    async def import_session(self, tenant: str, found: Importable) -> SessionMeta:
        """A new session of ``tenant`` from an exported one; its state is that of its journal, bit for bit.

        Cancelled or failed, it leaves nothing.
        """
        self._admit()
        meta = await import_session(self._desk, _new_key(tenant), found)
        self._observer.on_session("import")
        return meta

    async def verify_session(self, session: SessionKey) -> Verification:
        """Recompute the state from the journal and compare hashes; the session itself is only read.

        Raises SessionNotFound, SessionCorrupted, QueueFull, ModelNotFound.
        """
        self._admit()
        found = await verify(self._desk, await self._desk.meta(session), self._ephemeral_name())
        self._observer.on_session("verify")
        return found

    async def diff_session(self, session: SessionKey, *, first: int, last: int | None) -> Difference:
        """How each level changed from the number ``first`` to ``last`` (None: the head).

        Raises SessionNotFound, InvalidRequest, SessionCorrupted, QueueFull, ModelNotFound.
        """
        self._admit()
        meta = await self._desk.meta(session)
        end = meta.seq if last is None else last
        return await diff(self._desk, meta, self._ephemeral_name(), first=first, last=end)

    async def session_loss(self, session: SessionKey, *, tokens: int) -> SessionLoss:
        """What the session's memory is worth on its own recent text, at most ``tokens`` of it; see ``loss``.

        Raises SessionNotFound, SessionCorrupted, QueueFull, ModelNotFound.
        """
        self._admit()
        return await loss(self._desk, await self._desk.meta(session), self._ephemeral_name(), tokens=tokens)

    async def levels(self, session: SessionKey) -> list[LevelStatus]:
        """What each level has done since the last reset, by the state's own counters.

        During a turn the figures are those of the moment. A session that is not resident is restored first.

        Raises:
            SessionNotFound, QueueFull, ModelNotFound.
        """
        while (turn := self._turns.get(str(session))) is not None:
            await turn.resident.wait()
            levels = await self._thread.call(partial(self._engine.levels, str(session)))
            if levels is not None:
                return levels
            await turn.closed.wait()
        self._admit()
        async with self._turns.lock(str(session)):
            meta = await self._desk.meta(session)
            lease = Lease(self._desk, str(session))
            try:
                await lease.seat()
                await lease.bring(meta)
                return await self._thread.call(partial(self._engine.levels, str(session))) or []
            finally:
                await lease.release(meta.position, meta.head.sha256)

    async def events(self, session: SessionKey, *, after: int, limit: int) -> tuple[list[JournalRecord], int]:
        """Journal records that hold any seq above ``after``, and the head seq."""
        meta = await self._store.meta(session)
        return await self._store.records(session, after=after, limit=limit), meta.seq

    async def path(self, session: SessionKey, *, after: int) -> AsyncGenerator[JournalRecord]:
        """The records that the state has read, behind the seq ``after``: past what was taken back."""
        meta = await self._store.meta(session)
        async for record in runs_between(self._store, session, meta.path, after=after, head=meta.seq):
            yield record

    async def learned(self, session: SessionKey, idempotency_key: str) -> tuple[int, int] | None:
        """The first and last seq of the turn that used the key, None if no turn did."""
        return await self._store.learned(session, idempotency_key)

    async def put_document(self, session: SessionKey, name: str, data: bytes | None) -> None:
        """Keep a document beside the journal; see ``SessionStore.put_document``."""
        await self._store.put_document(session, name, data)

    async def document_names(self, session: SessionKey) -> Sequence[str]:
        """All names, in order."""
        return await self._store.document_names(session)

    async def documents(self, session: SessionKey, names: Sequence[str]) -> Mapping[str, bytes]:
        """Those of the names that there are."""
        return await self._store.documents(session, names)

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
        """The engine's own invariants, and: an idle row that names its journal's head stands exactly there.

        One that names another head was overtaken by another worker; no turn takes it.

        Raises:
            AssertionError: names what does not hold.
        """
        await self._thread.call(self._engine.check_integrity)
        for name in await self._thread.call(self._engine.idle_sessions):
            async with self._turns.lock(name):
                meta = await self._store.meta(SessionKey(*name.split("/")))
                standing = await self._thread.call(partial(self._engine.standing, name))
                stale = standing is not None and standing[1] != meta.head.sha256
                assert stale or standing in (None, (meta.position, meta.head.sha256)), (
                    f"{name}: row at {standing}, journal {meta.position} {meta.head.sha256}"
                )

    def _begin(self, request: GenerationRequest) -> Turn:
        self._admit()
        self._check(request)
        name = self._ephemeral_name() if request.session is None else str(request.session)
        turn = Turn(self._desk, name, request)
        self._turns.begin(name, turn, request_id=request.request_id)
        return turn

    def _ephemeral_name(self) -> str:
        """Another one each time, and no session's: those hold no colon."""
        self._ephemeral += 1
        return f"ephemeral:{self._ephemeral}"

    def _lost(self, session: SessionKey, error: HopeError) -> None:
        """The lease of a session could not be kept: its turn stops, what it committed stays."""
        turn = self._turns.get(str(session))
        if turn is not None:
            turn.cancel(error)

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
        tokens = (token for part in request.prompt for token in part.tokens)
        check_tokens(tokens, self._model.config.vocab_size)

    async def _vacate(self, session: SessionKey) -> None:
        self._snapshots.discard(session)
        await self._thread.call(partial(self._engine.drop, str(session)))


def _new_key(tenant: str) -> SessionKey:
    return SessionKey(tenant, secrets.token_hex(16))
