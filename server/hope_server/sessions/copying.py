"""Makes a session out of the records of another one; nobody sees it before it is whole."""

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from hope_server.errors import HopeError, SequenceConflict
from hope_server.sessions.history import History, part_of
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import (
    GENESIS,
    MAX_APPEND_RECORDS,
    MAX_APPEND_TOKENS,
    Fence,
    Head,
    JournalRecord,
    SessionMeta,
    Snapshot,
)
from hope_server.sessions.store import SessionStore, journal

_LEASE_S = 60.0
"""Nobody else knows the session's name; the lease only has to be there."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a new session is made of. ``model``: digest of the slow weights that it learned on."""

    model: str
    name: str | None
    records: AsyncIterator[JournalRecord]
    snapshot: tuple[int, Mapping[str, bytes]] | None


async def fork(
    store: SessionStore, source: SessionMeta, target: SessionKey, *, seq: int, name: str | None, nonce: str
) -> SessionMeta:
    """``target`` becomes what ``source`` was when ``seq`` was its head, its whole journal included.

    Idempotency keys stay behind. Raises ``InvalidRequest`` for a number that the journal does not have,
    ``SessionCorrupted`` for a damaged journal.
    """
    records = _upto(store, source.key, seq)
    snapshot = await usable_snapshot(store, source, seq)
    parts = None if snapshot is None else (snapshot.seq, snapshot.parts)
    return await build(store, target, Blueprint(source.model, name, records, parts), nonce=nonce)


async def build(store: SessionStore, target: SessionKey, plan: Blueprint, *, nonce: str) -> SessionMeta:
    """Make ``target``; on an error nothing is left of it."""
    await store.create(target, model=plan.model, name=plan.name, staged=True)
    fence, _ = await store.acquire(target, nonce=nonce, ttl_s=_LEASE_S)
    try:
        await _Filling(store, target, fence).fill(plan)
        await store.reveal(target, fence)
    except BaseException:
        with suppress(HopeError):
            await store.delete(target, fence)
        raise
    await store.release(target, fence)
    return await store.meta(target)


class _Filling:
    """Appends records in large commits; a rollback or a freeze is one of its own, for it needs a path."""

    def __init__(self, store: SessionStore, target: SessionKey, fence: Fence) -> None:
        self._store, self._target, self._fence = store, target, fence
        self._history = History()
        self._head: Head = GENESIS
        self._batch: list[JournalRecord] = []

    async def fill(self, plan: Blueprint) -> None:
        async for record in plan.records:
            if record.kind == "rollback":
                await self._flush()
                to = self._history.at(record.target_seq)
                self._head = await self._store.rollback(
                    self._target, self._fence, expected=self._head, to=to, request=record.request
                )
            elif record.kind == "freeze":
                await self._flush()
                self._head = await self._store.freeze(
                    self._target,
                    self._fence,
                    expected=self._head,
                    path=self._history.at(self._head.seq).path,
                    good_seq=record.target_seq,
                    request=record.request,
                )
            else:
                await self._add(record)
            self._history.read(record)
        await self._flush()
        if plan.snapshot is not None:
            seq, parts = plan.snapshot
            with suppress(SequenceConflict):  # a rollback may have left it behind: it is only a cache
                await self._store.put_snapshot(
                    self._target, self._fence, seq=seq, parts=parts, head=self._head
                )

    async def _add(self, record: JournalRecord) -> None:
        tokens = sum(len(one.tokens) for one in self._batch) + len(record.tokens)
        if len(self._batch) == MAX_APPEND_RECORDS or tokens > MAX_APPEND_TOKENS:
            await self._flush()
        self._batch.append(record)

    async def _flush(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._head = await self._store.append(
                self._target, self._fence, expected=self._head, records=batch
            )


async def _upto(store: SessionStore, session: SessionKey, seq: int) -> AsyncIterator[JournalRecord]:
    async for record in journal(store, session, after=0, head=seq):
        yield part_of(record, 1, seq)


async def usable_snapshot(store: SessionStore, source: SessionMeta, seq: int) -> Snapshot | None:
    """The newest one at or before ``seq`` that can be read and is of this journal, which makes the same state
    alone.
    """
    with suppress(HopeError):
        snapshot = await store.get_snapshot(source.key, at_most_seq=seq)
        if snapshot is not None:
            (record,) = await store.records(source.key, after=snapshot.seq - 1, limit=1)
            return snapshot if record.chain == snapshot.chain else None
    return None
