"""The store's twin in memory, for tests: the same rules and the same bytes, nothing durable."""

import secrets
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Self

from hope_server.sessions.documents import open_document, seal_document
from hope_server.sessions.history import freeze_record, last_transcript, reset_path, rollback_record
from hope_server.sessions.key import SessionKey
from hope_server.sessions.manifest import Manifest, cut, join, open_chunk, seal_chunk
from hope_server.sessions.path import Path
from hope_server.sessions.records import CHAIN_BYTES, check_page, read_entries, upto_record, write_entries
from hope_server.sessions.refusals import (
    already_frozen,
    already_learned,
    fenced,
    lease_held,
    moved_on,
    not_found,
    outside,
    quarantined,
    taken,
    too_many_documents,
)
from hope_server.sessions.sealing import KEY_BYTES, Keyring
from hope_server.sessions.session import (
    GENESIS,
    MAX_DOCUMENTS,
    MAX_IDEMPOTENCY_KEYS,
    MAX_PAGE_BYTES,
    MAX_SEQ,
    Fence,
    Head,
    JournalRecord,
    Point,
    SessionMeta,
    Snapshot,
    TurnKey,
    check_append,
    check_document,
    list_cursor,
)
from hope_server.sessions.store import Deleting, RecordPage, SessionPage

NOBODY = Fence(0, "")


@dataclass
class _Session:
    meta: SessionMeta
    hidden: bool
    fence: Fence = NOBODY
    lease_until: float = 0.0
    journal: list[tuple[int, bytes]] = field(default_factory=list)
    turns: dict[str, tuple[int, int]] = field(default_factory=dict)
    generations: list[tuple[Manifest, str]] = field(default_factory=list)
    chunks: dict[str, bytes] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)


class MemoryStore:
    """``SessionStore`` without a server. ``clock``: the seconds that leases last by."""

    def __init__(
        self,
        keys: Keyring | None = None,
        clock: Callable[[], float] = time.monotonic,
        deleting: Deleting = nullcontext,
    ) -> None:
        self._deleting = deleting
        self.keys = keys or Keyring([secrets.token_bytes(KEY_BYTES)])
        self._clock = clock
        self._sessions: dict[SessionKey, _Session] = {}

    @classmethod
    async def open(cls, url: str, keys: Keyring, *, deleting: Deleting = nullcontext) -> Self:
        return cls(keys, deleting=deleting)

    def _session(self, session: SessionKey, fence: Fence | None = None) -> _Session:
        """A write names its fence."""
        entry = self._sessions.get(session)
        if entry is None:
            raise not_found(session)
        if fence is not None and fence != entry.fence:
            raise fenced(session)
        return entry

    async def create(
        self, session: SessionKey, *, model: str, name: str | None, staged: bool = False
    ) -> SessionMeta:
        if session in self._sessions:
            raise taken(session)
        meta = SessionMeta(session, (time.time_ns() // 1000) / 1e6, model, name)
        self._sessions[session] = _Session(meta, hidden=staged)
        return meta

    async def reveal(self, session: SessionKey, fence: Fence) -> None:
        self._session(session, fence).hidden = False

    async def rename(self, session: SessionKey, name: str) -> None:
        entry = self._session(session)
        entry.meta = replace(entry.meta, name=name)

    async def meta(self, session: SessionKey) -> SessionMeta:
        entry = self._session(session)
        if entry.hidden:
            raise not_found(session)
        return entry.meta

    async def list(self, tenant: str, *, after: str | None, limit: int) -> SessionPage:
        if after is not None and ":" not in after:
            after = list_cursor(await self.meta(SessionKey(tenant, after)))
        entries = [entry for key, entry in self._sessions.items() if key.tenant == tenant]
        metas = sorted((entry.meta for entry in entries if not entry.hidden), key=list_cursor)
        return metas[bisect_right(metas, after or "", key=list_cursor) :][:limit]

    async def acquire(self, session: SessionKey, *, nonce: str, ttl_s: float) -> tuple[Fence, SessionMeta]:
        entry, now = self._session(session), self._clock()
        if entry.fence.nonce != nonce:
            if entry.lease_until > now:
                raise lease_held(session, entry.lease_until - now)
            entry.fence = Fence(entry.fence.counter + 1, nonce)
        entry.lease_until = now + ttl_s
        return entry.fence, entry.meta

    async def renew(self, session: SessionKey, fence: Fence, *, ttl_s: float) -> None:
        self._session(session, fence).lease_until = self._clock() + ttl_s

    async def release(self, session: SessionKey, fence: Fence) -> None:
        self._session(session, fence).lease_until = 0.0

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
        return self._commit(session, fence, expected, records, idempotency_key, reset_path(records))

    async def rollback(
        self, session: SessionKey, fence: Fence, *, expected: Head, to: Point, request: str = ""
    ) -> Head:
        record, path = rollback_record(expected.seq, to, request)
        return self._commit(session, fence, expected, [record], None, path)

    def _commit(
        self,
        session: SessionKey,
        fence: Fence,
        expected: Head,
        records: Sequence[JournalRecord],
        turn: TurnKey | None,
        path: Path | None,
    ) -> Head:
        entries, head = write_entries(self.keys, session, expected, records)
        entry = self._session(session, fence)
        if turn is not None:
            _refuse_known(entry, turn)
        if entry.meta.quarantined:
            raise quarantined(session)
        if entry.meta.head != expected:
            raise moved_on(expected.seq, entry.meta.seq)
        if records[0].kind == "freeze" and entry.meta.path.freeze is not None:
            raise already_frozen(session)
        entry.journal += entries
        entry.meta = replace(entry.meta, head=head)
        if path is not None:
            entry.meta = replace(entry.meta, path=path)
            _keep_generations(entry, [one for one in entry.generations if path.keeps(one[0].seq)])
        if (transcript := last_transcript(records)) is not None:
            entry.meta = replace(entry.meta, transcript=transcript)
        if turn is not None:
            _remember(entry, turn, head.seq)
        return head

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
        return self._commit(session, fence, expected, [record], None, frozen)

    async def learned(self, session: SessionKey, turn_key: str) -> tuple[int, int] | None:
        return self._session(session).turns.get(turn_key)

    async def records(
        self, session: SessionKey, *, after: int, limit: int, upto: int = MAX_SEQ
    ) -> RecordPage:
        entry = self._session(session)
        start = bisect_right(entry.journal, after, key=lambda stored: stored[0])
        page: list[tuple[int, bytes]] = []
        size = 0
        for stored in entry.journal[start:]:
            if len(page) >= limit or size >= MAX_PAGE_BYTES:
                break
            page.append(stored)
            size += len(stored[1])
        before = entry.journal[start - 1][1][:CHAIN_BYTES] if start else bytes.fromhex(GENESIS.sha256)
        records = read_entries(self.keys, session, before, upto_record(page, upto))
        if limit > 0:
            check_page(session, records, after=after, head=entry.meta.head)
        return records

    async def put_snapshot(
        self, session: SessionKey, fence: Fence, *, seq: int, parts: Mapping[str, bytes], head: Head
    ) -> None:
        manifest, chunks = cut(self.keys, session, seq, parts)
        entry = self._session(session, fence)
        meta = entry.meta
        if not max(1, meta.snapshot_seq) <= seq <= meta.seq or not meta.path.keeps(seq):
            raise outside(seq, head=meta.seq, last=meta.snapshot_seq)
        known = {last: stored[:CHAIN_BYTES].hex() for last, stored in entry.journal}
        if head.seq < seq or known.get(head.seq) != head.sha256:
            raise outside(seq, head=meta.seq, last=meta.snapshot_seq)
        for chunk_id in chunks.keys() - entry.chunks.keys():
            entry.chunks[chunk_id] = seal_chunk(self.keys, session, chunk_id, chunks[chunk_id])
        place = next((stored for last, stored in entry.journal if last >= seq), b"")
        kept = entry.generations[-1:] if seq > meta.snapshot_seq else entry.generations[:-1]
        _keep_generations(entry, [*kept, (manifest, place[:CHAIN_BYTES].hex())])

    async def get_snapshot(self, session: SessionKey, *, at_most_seq: int | None = None) -> Snapshot | None:
        entry = self._session(session)
        for manifest, chain in reversed(entry.generations):
            if at_most_seq is None or manifest.seq <= at_most_seq:
                chunks = self._opened(session, entry, manifest)
                return Snapshot(manifest.seq, join(session, manifest, chunks), chain)
        return None

    def _opened(self, session: SessionKey, entry: _Session, manifest: Manifest) -> dict[str, bytes]:
        """The chunks that are intact."""
        chunks = {name: entry.chunks.get(name, b"") for name in manifest.chunk_ids}
        opened = {name: open_chunk(self.keys, session, name, sealed) for name, sealed in chunks.items()}
        return {name: chunk for name, chunk in opened.items() if chunk is not None}

    async def put_document(self, session: SessionKey, name: str, data: bytes | None) -> None:
        check_document(name, data)
        documents = self._session(session).documents
        if data is None:
            documents.pop(name, None)
            return
        if name not in documents and len(documents) >= MAX_DOCUMENTS:
            raise too_many_documents(session)
        documents[name] = seal_document(self.keys, session, name, data)

    async def document_names(self, session: SessionKey) -> Sequence[str]:
        return sorted(self._session(session).documents)

    async def documents(self, session: SessionKey, names: Sequence[str]) -> Mapping[str, bytes]:
        kept = self._session(session).documents
        found = [(name, kept[name]) for name in names if name in kept]
        return {name: open_document(self.keys, session, name, sealed) for name, sealed in found}

    async def quarantine(self, session: SessionKey, fence: Fence) -> None:
        entry = self._session(session, fence)
        entry.meta = replace(entry.meta, quarantined=True)

    async def delete(self, session: SessionKey, fence: Fence) -> None:
        async with self._deleting():
            self._session(session, fence)
            del self._sessions[session]

    async def ping(self) -> None:
        return

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return


def _refuse_known(entry: _Session, turn: TurnKey) -> None:
    known = entry.turns.get(turn.key)
    if known is not None and known[0] != turn.first_seq:
        raise already_learned(*known)


def _remember(entry: _Session, turn: TurnKey, head: int) -> None:
    entry.turns[turn.key] = (turn.first_seq, head)
    if len(entry.turns) > MAX_IDEMPOTENCY_KEYS:
        del entry.turns[next(iter(entry.turns))]


def _keep_generations(entry: _Session, generations: list[tuple[Manifest, str]]) -> None:
    """Chunks that no generation refers to are dropped."""
    entry.generations = generations
    used = {chunk for manifest, _ in generations for chunk in manifest.chunk_ids}
    entry.chunks = {key: data for key, data in entry.chunks.items() if key in used}
    entry.meta = replace(entry.meta, snapshot_seq=generations[-1][0].seq if generations else 0)
