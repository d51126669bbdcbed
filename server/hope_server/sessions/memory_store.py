"""The store's twin in memory, for tests: the same rules, nothing durable."""

import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from hope_server.errors import AlreadyLearned, SequenceConflict, SessionNotFound
from hope_server.sessions.key import SessionKey
from hope_server.sessions.manifest import Manifest, cut, join
from hope_server.sessions.records import check_page, decode_record, encode_record
from hope_server.sessions.store import (
    MAX_IDEMPOTENCY_KEYS,
    MAX_PAGE_BYTES,
    JournalRecord,
    RecordPage,
    SessionMeta,
    SessionPage,
    Snapshot,
    Transcript,
    TurnKey,
    check_append,
    list_cursor,
)


@dataclass
class _Session:
    meta: SessionMeta
    journal: list[tuple[int, bytes]] = field(default_factory=list)
    turns: dict[str, tuple[int, int]] = field(default_factory=dict)
    generations: list[Manifest] = field(default_factory=list)
    chunks: dict[str, bytes] = field(default_factory=dict)


class MemoryStore:
    """``SessionStore`` without a server."""

    def __init__(self) -> None:
        self._sessions: dict[SessionKey, _Session] = {}

    @classmethod
    async def open(cls, url: str) -> Self:
        return cls()

    def _session(self, session: SessionKey) -> _Session:
        entry = self._sessions.get(session)
        if entry is None:
            raise SessionNotFound(f"there is no session {session.session}")
        return entry

    async def create(self, session: SessionKey, *, model: str, name: str | None) -> SessionMeta:
        if session in self._sessions:
            raise SequenceConflict(f"expected a new session id, found session {session}")
        created_at = (time.time_ns() // 1000) / 1e6
        meta = SessionMeta(session, created_at, model, 0, 0, 0, 0, "", "", name)
        self._sessions[session] = _Session(meta)
        return meta

    async def meta(self, session: SessionKey) -> SessionMeta:
        return self._session(session).meta

    async def list(self, tenant: str, *, after: str | None, limit: int) -> SessionPage:
        if after is not None and ":" not in after:
            after = list_cursor(await self.meta(SessionKey(tenant, after)))
        ours = (entry.meta for key, entry in self._sessions.items() if key.tenant == tenant)
        metas = sorted(ours, key=list_cursor)
        return metas[bisect_right(metas, after or "", key=list_cursor) :][:limit]

    async def append(
        self,
        session: SessionKey,
        *,
        expected_seq: int,
        records: Sequence[JournalRecord],
        transcript: Transcript | None = None,
        idempotency_key: TurnKey | None = None,
    ) -> int:
        head, base = check_append(expected_seq, records, idempotency_key)
        entry = self._session(session)
        entries = [(record.last_seq, encode_record(session, record)) for record in records]
        if idempotency_key is not None:
            _refuse_known(entry, idempotency_key)
        if entry.meta.seq != expected_seq:
            raise SequenceConflict(f"expected the session's head at {expected_seq}, found {entry.meta.seq}")
        entry.journal += entries
        entry.meta = replace(entry.meta, seq=head)
        if base is not None:
            entry.meta = replace(entry.meta, base_seq=base, snapshot_seq=0)
            entry.generations, entry.chunks = [], {}
            transcript = transcript or Transcript(0, "", "")
        if transcript is not None:
            entry.meta = _with_transcript(entry.meta, transcript)
        if idempotency_key is not None:
            _remember(entry, idempotency_key, head)
        return head

    async def learned(self, session: SessionKey, turn_key: str) -> tuple[int, int] | None:
        return self._session(session).turns.get(turn_key)

    async def records(self, session: SessionKey, *, after: int, limit: int) -> RecordPage:
        entry = self._session(session)
        page: RecordPage = []
        size = 0
        start = bisect_right(entry.journal, after, key=lambda entry: entry[0])
        for _, payload in entry.journal[start:]:
            if len(page) >= limit or size >= MAX_PAGE_BYTES:
                break
            page.append(decode_record(session, payload))
            size += len(payload)
        if limit > 0:
            check_page(session, page, after=after, head=entry.meta.seq)
        return page

    async def put_snapshot(self, session: SessionKey, *, seq: int, parts: Mapping[str, bytes]) -> None:
        manifest, chunks = cut(seq, parts)
        entry = self._session(session)
        meta = entry.meta
        if not meta.base_seq < seq <= meta.seq or seq < meta.snapshot_seq:
            allowed = f"above {meta.base_seq}, from {meta.snapshot_seq} to {meta.seq}"
            raise SequenceConflict(f"a snapshot must lie {allowed}, found {seq}")
        kept = entry.generations[-1:] if seq > meta.snapshot_seq else entry.generations[:-1]
        entry.generations = [*kept, manifest]
        used = {chunk for generation in entry.generations for chunk in generation.chunk_ids}
        entry.chunks = {key: data for key, data in (entry.chunks | chunks).items() if key in used}
        entry.meta = replace(meta, snapshot_seq=seq)

    async def get_snapshot(self, session: SessionKey, *, at_most_seq: int | None = None) -> Snapshot | None:
        entry = self._session(session)
        for manifest in reversed(entry.generations):
            if at_most_seq is None or manifest.seq <= at_most_seq:
                return Snapshot(manifest.seq, join(session, manifest, entry.chunks))
        return None

    async def delete(self, session: SessionKey) -> None:
        self._session(session)
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
        message = f"this idempotency key was used for tokens {known[0]} to {known[1]}"
        raise AlreadyLearned(message, first_seq=known[0], last_seq=known[1])


def _remember(entry: _Session, turn: TurnKey, head: int) -> None:
    entry.turns[turn.key] = (turn.first_seq, head)
    if len(entry.turns) > MAX_IDEMPOTENCY_KEYS:
        del entry.turns[next(iter(entry.turns))]


def _with_transcript(meta: SessionMeta, transcript: Transcript) -> SessionMeta:
    return replace(
        meta,
        transcript_count=transcript.count,
        transcript_sha256=transcript.sha256,
        first_message_sha256=transcript.first_message_sha256,
    )
