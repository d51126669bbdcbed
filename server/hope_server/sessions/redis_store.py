"""Sessions on Redis 7.0 or newer (or Valkey): one stream, two hashes and content-addressed chunks each.

Every change is one call of the function library ``hope_v1.lua``. A call whose reply was lost is settled by
reading what the server holds, on a new connection, before anything is sent again.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Self

from hope_server.errors import SequenceConflict, SessionCorrupted, StoreConfigError, StoreUnavailable
from hope_server.sessions.key import SessionKey
from hope_server.sessions.redis_check import check_policy, check_server
from hope_server.sessions.redis_journal import RedisJournal
from hope_server.sessions.redis_link import LOST, REFUSED, Link
from hope_server.sessions.redis_meta import (
    META_FIELDS,
    decode_meta,
    index_key,
    journal_key,
    meta_key,
    not_found,
    turns_key,
)
from hope_server.sessions.redis_snapshots import RedisSnapshots
from hope_server.sessions.store import (
    JournalRecord,
    RecordPage,
    SessionMeta,
    SessionPage,
    Snapshot,
    Transcript,
    TurnKey,
    list_cursor,
)

logger = logging.getLogger(__name__)

_STALE_ENTRY_S = 3600.0


class RedisStore:
    """``SessionStore`` on one Redis primary; the protocol says what each method promises."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._journal = RedisJournal(link)
        self._snapshots = RedisSnapshots(link)

    @classmethod
    async def open(
        cls, url: str, *, timeout_s: float = 5.0, patience_s: float = 3.0, connections: int = 32
    ) -> Self:
        """Connect, check the server's settings and load the function library.

        ``timeout_s`` bounds one reply; a lost connection is tried again for ``patience_s``. Raises
        ``StoreConfigError`` naming the setting at fault, ``StoreUnavailable`` if nobody answers.
        """
        store = cls(Link(url, timeout_s=timeout_s, patience_s=patience_s, connections=connections))
        try:
            await store._link.owned(store._start())
        except BaseException:
            await store.close()
            raise
        return store

    async def _start(self) -> None:
        try:
            check_server(await self._link.ask("INFO"))
            await self._link.load_functions()
        except REFUSED as error:
            message = "the Redis server refuses the user or password in redis_url"
            raise StoreConfigError(message, param="redis_url") from error
        except LOST as error:
            raise StoreUnavailable("no Redis server answers at redis_url", param="redis_url") from error

    async def create(self, session: SessionKey, *, model: str, name: str | None) -> SessionMeta:
        return await self._link.owned(self._create(session, model, name))

    async def _create(self, session: SessionKey, model: str, name: str | None) -> SessionMeta:
        created_us = time.time_ns() // 1000
        meta = SessionMeta(session, created_us / 1e6, model, 0, 0, 0, 0, "", "", name)
        args = [created_us, model, name or "", int(name is not None)]
        keys = [meta_key(session)]
        # The index first: a crash in between leaves an entry that listings skip, never a hidden session.
        await self._link.ask("ZADD", index_key(session.tenant), 0, list_cursor(meta))
        reply = await self._link.ask_function("create", keys, args)
        if reply[0] == b"TAKEN":
            await self._link.ask("ZREM", index_key(session.tenant), list_cursor(meta))
            raise SequenceConflict(f"expected a new session id, found session {session}")
        return meta

    async def meta(self, session: SessionKey) -> SessionMeta:
        return await self._link.owned(self._meta(session))

    async def _meta(self, session: SessionKey) -> SessionMeta:
        values = await self._link.ask("HMGET", meta_key(session), *META_FIELDS)
        if not any(values):
            raise not_found(session)
        return decode_meta(session, values)

    async def list(self, tenant: str, *, after: str | None, limit: int) -> SessionPage:
        return await self._link.owned(self._list(tenant, after, limit))

    async def _list(self, tenant: str, after: str | None, limit: int) -> SessionPage:
        if after is not None and ":" not in after:
            after = list_cursor(await self._meta(SessionKey(tenant, after)))
        found: SessionPage = []
        while len(found) < limit and (entries := await self._entries(tenant, after, limit - len(found))):
            found += await self._metas(tenant, entries)
            after = entries[-1]
        return found

    async def _entries(self, tenant: str, after: str | None, limit: int) -> Sequence[str]:
        start = "-" if after is None else f"({after}"
        command = ("ZRANGE", index_key(tenant), start, "+", "BYLEX", "LIMIT", 0, limit)
        return [entry.decode() for entry in await self._link.ask(*command)]

    async def _metas(self, tenant: str, entries: Sequence[str]) -> SessionPage:
        """The sessions of index entries; a damaged one is left out, so that it hides no other."""
        ids = [SessionKey(tenant, entry.partition(":")[2]) for entry in entries]
        commands = [("HMGET", meta_key(session), *META_FIELDS) for session in ids]
        replies = await self._link.settled(lambda: self._link.send_all(commands))
        metas: SessionPage = []
        for session, values in zip(ids, replies, strict=True):
            try:
                metas += [decode_meta(session, values)] if any(values) else []
            except SessionCorrupted as error:
                logger.error("a listing leaves a session out: %s", error)
        gone = [entry for entry, values in zip(entries, replies, strict=True) if not any(values)]
        await self._drop_stale(tenant, gone)
        return metas

    async def _drop_stale(self, tenant: str, entries: Sequence[str]) -> None:
        """An entry without a session is one being created, unless it is old."""
        oldest_us = (time.time() - _STALE_ENTRY_S) * 1e6
        stale = [entry for entry in entries if int(entry.partition(":")[0], 16) < oldest_us]
        if stale:
            await self._link.ask("ZREM", index_key(tenant), *stale)

    async def append(
        self,
        session: SessionKey,
        *,
        expected_seq: int,
        records: Sequence[JournalRecord],
        transcript: Transcript | None = None,
        idempotency_key: TurnKey | None = None,
    ) -> int:
        work = self._journal.append(session, expected_seq, records, transcript, idempotency_key)
        return await self._link.owned(work)

    async def learned(self, session: SessionKey, turn_key: str) -> tuple[int, int] | None:
        return await self._link.owned(self._journal.learned(session, turn_key))

    async def records(self, session: SessionKey, *, after: int, limit: int) -> RecordPage:
        return await self._link.owned(self._journal.records(session, after, limit))

    async def put_snapshot(self, session: SessionKey, *, seq: int, parts: Mapping[str, bytes]) -> None:
        await self._link.owned(self._snapshots.put(session, seq, parts))

    async def get_snapshot(self, session: SessionKey, *, at_most_seq: int | None = None) -> Snapshot | None:
        return await self._link.owned(self._snapshots.get(session, at_most_seq))

    async def delete(self, session: SessionKey) -> None:
        await self._link.owned(self._delete(session))

    async def _delete(self, session: SessionKey) -> None:
        meta = await self._meta(session)
        keys = [meta_key(session), journal_key(session), turns_key(session)]
        # A repeated call finds nothing: the one whose reply was lost did it.
        await self._link.ask_function("delete", keys, [])
        await self._link.ask("ZREM", index_key(session.tenant), list_cursor(meta))

    async def ping(self) -> None:
        await self._link.owned(self._link.send("PING"))

    async def check(self) -> None:
        check_policy(await self._link.owned(self._link.send("INFO")))

    async def close(self) -> None:
        await self._link.close()
