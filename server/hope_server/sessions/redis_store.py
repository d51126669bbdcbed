"""Sessions on Redis 7.0 or newer (or Valkey): one stream, two hashes and content-addressed chunks each.

Every change is one call of the function library ``hope_v1.lua``. A call whose reply was lost is settled by
reading what the server holds, on a new connection, before anything is sent again.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Self

from hope_server.errors import SequenceConflict, SessionCorrupted, StoreConfigError, StoreUnavailable
from hope_server.sessions.redis_check import check_policy, check_server
from hope_server.sessions.redis_journal import RedisJournal
from hope_server.sessions.redis_link import LOST, REFUSED, Link
from hope_server.sessions.redis_meta import (
    META_FIELDS,
    decode_meta,
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

_INDEX = "h1:sessions"
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

    async def create(self, session_id: str, *, model: str, name: str | None) -> SessionMeta:
        return await self._link.owned(self._create(session_id, model, name))

    async def _create(self, session_id: str, model: str, name: str | None) -> SessionMeta:
        created_us = time.time_ns() // 1000
        meta = SessionMeta(session_id, created_us / 1e6, model, 0, 0, 0, 0, "", "", name)
        args = [created_us, model, name or "", int(name is not None)]
        keys = [meta_key(session_id)]
        # The index first: a crash in between leaves an entry that listings skip, never a hidden session.
        await self._link.ask("ZADD", _INDEX, 0, list_cursor(meta))
        reply = await self._link.ask_function("create", keys, args)
        if reply[0] == b"TAKEN":
            await self._link.ask("ZREM", _INDEX, list_cursor(meta))
            raise SequenceConflict(f"expected a new session id, found session {session_id}")
        return meta

    async def meta(self, session_id: str) -> SessionMeta:
        return await self._link.owned(self._meta(session_id))

    async def _meta(self, session_id: str) -> SessionMeta:
        values = await self._link.ask("HMGET", meta_key(session_id), *META_FIELDS)
        if not any(values):
            raise not_found(session_id)
        return decode_meta(session_id, values)

    async def list(self, *, after: str | None, limit: int) -> SessionPage:
        return await self._link.owned(self._list(after, limit))

    async def _list(self, after: str | None, limit: int) -> SessionPage:
        if after is not None and ":" not in after:
            after = list_cursor(await self._meta(after))
        found: SessionPage = []
        while len(found) < limit and (entries := await self._entries(after, limit - len(found))):
            found += await self._metas(entries)
            after = entries[-1]
        return found

    async def _entries(self, after: str | None, limit: int) -> Sequence[str]:
        start = "-" if after is None else f"({after}"
        command = ("ZRANGE", _INDEX, start, "+", "BYLEX", "LIMIT", 0, limit)
        return [entry.decode() for entry in await self._link.ask(*command)]

    async def _metas(self, entries: Sequence[str]) -> SessionPage:
        """The sessions of index entries; a damaged one is left out, so that it hides no other."""
        ids = [entry.partition(":")[2] for entry in entries]
        commands = [("HMGET", meta_key(session_id), *META_FIELDS) for session_id in ids]
        replies = await self._link.settled(lambda: self._link.send_all(commands))
        metas: SessionPage = []
        for session_id, values in zip(ids, replies, strict=True):
            try:
                metas += [decode_meta(session_id, values)] if any(values) else []
            except SessionCorrupted as error:
                logger.error("a listing leaves a session out: %s", error)
        gone = [entry for entry, values in zip(entries, replies, strict=True) if not any(values)]
        await self._drop_stale(gone)
        return metas

    async def _drop_stale(self, entries: Sequence[str]) -> None:
        """An entry without a session is one being created, unless it is old."""
        oldest_us = (time.time() - _STALE_ENTRY_S) * 1e6
        stale = [entry for entry in entries if int(entry.partition(":")[0], 16) < oldest_us]
        if stale:
            await self._link.ask("ZREM", _INDEX, *stale)

    async def append(
        self,
        session_id: str,
        *,
        expected_seq: int,
        records: Sequence[JournalRecord],
        transcript: Transcript | None = None,
        idempotency_key: TurnKey | None = None,
    ) -> int:
        work = self._journal.append(session_id, expected_seq, records, transcript, idempotency_key)
        return await self._link.owned(work)

    async def learned(self, session_id: str, key: str) -> tuple[int, int] | None:
        return await self._link.owned(self._journal.learned(session_id, key))

    async def records(self, session_id: str, *, after: int, limit: int) -> RecordPage:
        return await self._link.owned(self._journal.records(session_id, after, limit))

    async def put_snapshot(self, session_id: str, *, seq: int, parts: Mapping[str, bytes]) -> None:
        await self._link.owned(self._snapshots.put(session_id, seq, parts))

    async def get_snapshot(self, session_id: str, *, at_most_seq: int | None = None) -> Snapshot | None:
        return await self._link.owned(self._snapshots.get(session_id, at_most_seq))

    async def delete(self, session_id: str) -> None:
        await self._link.owned(self._delete(session_id))

    async def _delete(self, session_id: str) -> None:
        meta = await self._meta(session_id)
        keys = [meta_key(session_id), journal_key(session_id), turns_key(session_id)]
        # A repeated call finds nothing: the one whose reply was lost did it.
        await self._link.ask_function("delete", keys, [])
        await self._link.ask("ZREM", _INDEX, list_cursor(meta))

    async def ping(self) -> None:
        await self._link.owned(self._link.send("PING"))

    async def check(self) -> None:
        check_policy(await self._link.owned(self._link.send("INFO")))

    async def close(self) -> None:
        await self._link.close()
