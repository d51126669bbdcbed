"""A worker's hand on one session, for tests of stores."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Self

from hope_server.sessions.history import point_at
from hope_server.sessions.key import SessionKey
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import Fence, Head, JournalRecord, SessionMeta, Snapshot, TurnKey
from hope_server.sessions.store import SessionStore

KEYS = Keyring([b"k" * 32])
TTL_S = 60.0


class Writer:
    """Writes ``session`` under its own fence, from its own idea of the head."""

    def __init__(self, store: SessionStore, session: SessionKey, fence: Fence, head: Head) -> None:
        self.store, self.session, self.fence, self.head = store, session, fence, head

    @classmethod
    async def create(cls, store: SessionStore, session: SessionKey, **options: bool) -> Self:
        """A new session's first writer."""
        await store.create(session, model="m", name=None, **options)
        return await cls.take(store, session)

    @classmethod
    async def take(cls, store: SessionStore, session: SessionKey, nonce: str = "") -> Self:
        """Acquire a session that nobody is at work on."""
        fence, meta = await store.acquire(session, nonce=nonce or secrets.token_hex(16), ttl_s=TTL_S)
        return cls(store, session, fence, meta.head)

    async def append(self, *records: JournalRecord, key: TurnKey | None = None) -> Head:
        self.head = await self.store.append(
            self.session, self.fence, expected=self.head, records=records, idempotency_key=key
        )
        return self.head

    async def read(self, *tokens: int) -> Head:
        """Append one run of a user."""
        return await self.append(JournalRecord(self.head.seq + 1, "run", "user", tokens))

    async def rollback(self, seq: int) -> Head:
        point = await point_at(self.store, self.session, seq)
        self.head = await self.store.rollback(self.session, self.fence, expected=self.head, to=point)
        return self.head

    async def freeze(self, good_seq: int) -> Head:
        path = (await point_at(self.store, self.session, self.head.seq)).path
        self.head = await self.store.freeze(
            self.session, self.fence, expected=self.head, path=path, good_seq=good_seq
        )
        return self.head

    async def snapshot(self, seq: int, **parts: bytes) -> None:
        await self.store.put_snapshot(self.session, self.fence, seq=seq, parts=parts, head=self.head)

    async def found(self, at_most_seq: int | None = None) -> tuple[int, Mapping[str, bytes]] | None:
        """The snapshot that the store gives."""
        snapshot: Snapshot | None = await self.store.get_snapshot(self.session, at_most_seq=at_most_seq)
        return None if snapshot is None else (snapshot.seq, dict(snapshot.parts))

    async def records(self, after: int = 0, limit: int = 1000) -> Sequence[JournalRecord]:
        return await self.store.records(self.session, after=after, limit=limit)

    async def meta(self) -> SessionMeta:
        return await self.store.meta(self.session)

    async def release(self) -> None:
        await self.store.release(self.session, self.fence)

    async def delete(self) -> None:
        await self.store.delete(self.session, self.fence)
