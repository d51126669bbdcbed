"""Sessions on Redis 7.0 or newer (or Valkey): one stream, two hashes and chunks named by content each.

Every change is one call of the function library ``hope_v1.lua``, which compares the fence and the head first.
All of them may be sent again when a reply is lost: the second time changes nothing.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Self

from hope_server.errors import SessionCorrupted, StoreConfigError, StoreUnavailable
from hope_server.sessions.documents import RedisDocuments
from hope_server.sessions.history import freeze_record, reset_path, rollback_record
from hope_server.sessions.key import SessionKey
from hope_server.sessions.path import Path
from hope_server.sessions.redis_check import check_fsync, check_policy, check_server
from hope_server.sessions.redis_journal import RedisJournal
from hope_server.sessions.redis_link import LOST, REFUSED, Link
from hope_server.sessions.redis_meta import (
    HIDDEN,
    META_FIELDS,
    check_reply,
    decode_meta,
    fence_args,
    index_key,
    keys_of,
    meta_key,
    seal_name,
)
from hope_server.sessions.redis_snapshots import RedisSnapshots
from hope_server.sessions.refusals import not_found, taken
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import (
    MAX_SEQ,
    Fence,
    Head,
    JournalRecord,
    Point,
    SessionMeta,
    Snapshot,
    TurnKey,
    check_append,
    list_cursor,
)
from hope_server.sessions.store import Deleting, RecordPage, SessionPage

logger = logging.getLogger(__name__)

_STALE_ENTRY_S = 3600.0
_STATE = META_FIELDS.index("state")


class RedisStore:
    """``SessionStore`` on one Redis primary; the protocol says what each method promises."""

    def __init__(self, link: Link, keys: Keyring, deleting: Deleting = nullcontext) -> None:
        self._link, self.keys, self._deleting = link, keys, deleting
        self._journal = RedisJournal(link, keys)
        self._snapshots = RedisSnapshots(link, keys)
        self._documents = RedisDocuments(link, keys)

    @classmethod
    async def open(
        cls,
        url: str,
        keys: Keyring,
        *,
        timeout_s: float = 5.0,
        patience_s: float = 3.0,
        connections: int = 32,
        deleting: Deleting = nullcontext,
    ) -> Self:
        """Connect, check the server's settings and load the function library.

        ``timeout_s`` bounds one reply; a lost connection is tried again for ``patience_s``. Raises
        ``StoreConfigError`` naming the setting at fault, ``StoreUnavailable`` if nobody answers.
        """
        link = Link(url, timeout_s=timeout_s, patience_s=patience_s, connections=connections)
        store = cls(link, keys, deleting)
        try:
            await store._link.owned(store._start())
        except BaseException:
            await store.close()
            raise
        return store

    async def _start(self) -> None:
        try:
            check_server(await self._link.ask("INFO"))
            await self._link.greet_quickly()
            check_fsync(await self._link.setting("appendfsync"))
            await self._link.load_functions()
        except REFUSED as error:
            message = "the Redis server refuses the user or password in redis_url"
            raise StoreConfigError(message, param="redis_url") from error
        except LOST as error:
            raise StoreUnavailable("no Redis server answers at redis_url", param="redis_url") from error

    async def create(
        self, session: SessionKey, *, model: str, name: str | None, staged: bool = False
    ) -> SessionMeta:
        return await self._link.owned(self._create(session, model, name, staged))

    async def _create(self, session: SessionKey, model: str, name: str | None, staged: bool) -> SessionMeta:
        created_us = time.time_ns() // 1000
        meta = SessionMeta(session, created_us / 1e6, model, name)
        args = [created_us, model, seal_name(self.keys, session, name), "hidden" if staged else "ok"]
        # The index first: a crash in between leaves an entry that listings skip, never a hidden session.
        await self._link.ask("ZADD", index_key(session.tenant), 0, list_cursor(meta))
        reply = await self._link.ask_function("create", keys_of(session), args)
        if reply[0] == b"TAKEN":
            await self._link.ask("ZREM", index_key(session.tenant), list_cursor(meta))
            raise taken(session)
        return meta

    async def reveal(self, session: SessionKey, fence: Fence) -> None:
        await self._link.owned(self._reveal(session, fence))

    async def _reveal(self, session: SessionKey, fence: Fence) -> None:
        values = await self._link.ask("HMGET", meta_key(session), *META_FIELDS)
        if values[0] is None:
            raise not_found(session)
        # Again: a listing may have dropped the entry of a session that took long to fill.
        entry = list_cursor(decode_meta(self.keys, session, values))
        await self._link.ask("ZADD", index_key(session.tenant), 0, entry)
        await self._write("reveal", session, fence)

    async def rename(self, session: SessionKey, name: str) -> None:
        await self._link.owned(self._rename(session, name))

    async def _rename(self, session: SessionKey, name: str) -> None:
        args = [seal_name(self.keys, session, name)]
        check_reply(session, await self._link.ask_function("rename", keys_of(session), args))

    async def meta(self, session: SessionKey) -> SessionMeta:
        return await self._link.owned(self._meta(session))

    async def _meta(self, session: SessionKey) -> SessionMeta:
        values = await self._link.ask("HMGET", meta_key(session), *META_FIELDS)
        if not any(values) or values[_STATE] == HIDDEN:
            raise not_found(session)
        return decode_meta(self.keys, session, values)

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
                shown = any(values) and values[_STATE] != HIDDEN
                metas += [decode_meta(self.keys, session, values)] if shown else []
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

    async def acquire(self, session: SessionKey, *, nonce: str, ttl_s: float) -> tuple[Fence, SessionMeta]:
        return await self._link.owned(self._acquire(session, nonce, ttl_s))

    async def _acquire(self, session: SessionKey, nonce: str, ttl_s: float) -> tuple[Fence, SessionMeta]:
        args = [nonce, round(ttl_s * 1000), *META_FIELDS]
        reply = await self._link.ask_function("acquire", keys_of(session), args)
        check_reply(session, reply)
        _, counter, values = reply
        return Fence(int(counter), nonce), decode_meta(self.keys, session, values)

    async def renew(self, session: SessionKey, fence: Fence, *, ttl_s: float) -> None:
        await self._link.owned(self._write("renew", session, fence, max(1, round(ttl_s * 1000))))

    async def release(self, session: SessionKey, fence: Fence) -> None:
        await self._link.owned(self._write("renew", session, fence, 0))

    async def _write(self, function: str, session: SessionKey, fence: Fence, *args: Any) -> None:
        reply = await self._link.ask_function(function, keys_of(session), [*fence_args(fence), *args])
        check_reply(session, reply)

    async def append(
        self,
        session: SessionKey,
        fence: Fence,
        *,
        expected: Head,
        records: Sequence[JournalRecord],
        idempotency_key: TurnKey | None = None,
    ) -> Head:
        check_append(expected, records, idempotency_key)
        path = reset_path(records)
        return await self._journal.commit("commit", session, fence, expected, records, idempotency_key, path)

    async def rollback(
        self, session: SessionKey, fence: Fence, *, expected: Head, to: Point, request: str = ""
    ) -> Head:
        record, path = rollback_record(expected.seq, to, request)
        return await self._journal.commit("rollback", session, fence, expected, [record], None, path)

    async def freeze(
        self,
        session: SessionKey,
        fence: Fence,
        *,
        expected: Head,
        path: Path,
        good_seq: int,
        request: str = "",
    ) -> Head:
        record, frozen = freeze_record(expected.seq, path, good_seq, request)
        return await self._journal.commit("freeze", session, fence, expected, [record], None, frozen)

    async def learned(self, session: SessionKey, turn_key: str) -> tuple[int, int] | None:
        return await self._link.owned(self._journal.learned(session, turn_key))

    async def records(
        self, session: SessionKey, *, after: int, limit: int, upto: int = MAX_SEQ
    ) -> RecordPage:
        return await self._link.owned(self._journal.records(session, after, limit, upto))

    async def put_snapshot(
        self, session: SessionKey, fence: Fence, *, seq: int, parts: Mapping[str, bytes], head: Head
    ) -> None:
        await self._link.owned(self._snapshots.put(session, fence, seq, parts, head))

    async def get_snapshot(self, session: SessionKey, *, at_most_seq: int | None = None) -> Snapshot | None:
        return await self._link.owned(self._snapshots.get(session, at_most_seq))

    async def put_document(self, session: SessionKey, name: str, data: bytes | None) -> None:
        await self._link.owned(self._documents.put(session, name, data))

    async def document_names(self, session: SessionKey) -> Sequence[str]:
        return await self._link.owned(self._documents.names(session))

    async def documents(self, session: SessionKey, names: Sequence[str]) -> Mapping[str, bytes]:
        return await self._link.owned(self._documents.read(session, names))

    async def quarantine(self, session: SessionKey, fence: Fence) -> None:
        await self._link.owned(self._write("quarantine", session, fence))

    async def delete(self, session: SessionKey, fence: Fence) -> None:
        await self._link.owned(self._delete(session, fence))

    async def _delete(self, session: SessionKey, fence: Fence) -> None:
        async with self._deleting():
            await self._delete_all(session, fence)

    async def _delete_all(self, session: SessionKey, fence: Fence) -> None:
        created_us = await self._link.ask("HGET", meta_key(session), "created_us")
        if created_us is None:
            raise not_found(session)
        # A repeated call finds nothing: the one whose reply was lost did it.
        reply = await self._link.ask_function("delete", keys_of(session), fence_args(fence))
        if reply != [b"NOTFOUND"]:
            check_reply(session, reply)
        entry = f"{int(created_us):016x}:{session.session}"
        await self._link.ask("ZREM", index_key(session.tenant), entry)

    async def ping(self) -> None:
        await self._link.owned(self._link.send("PING"))

    async def check(self) -> None:
        check_policy(await self._link.owned(self._link.send("INFO")))

    async def close(self) -> None:
        await self._link.close()
