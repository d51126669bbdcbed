"""The store's twin in memory, for tests: the same rules, nothing durable."""

import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from hope_server.errors import AlreadyLearned, SequenceConflict, SessionNotFound
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
    require_session_id,
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
        self._sessions: dict[str, _Session] = {}

    @classmethod
    async def open(cls, url: str) -> Self:
        return cls()

    def _session(self, session_id: str) -> _Session:
        session = self._sessions.get(require_session_id(session_id))
        if session is None:
            raise SessionNotFound(f"there is no session {session_id}")
        return session

    async def create(self, session_id: str, *, model: str, name: str | None) -> SessionMeta:
        if require_session_id(session_id) in self._sessions:
            raise SequenceConflict(f"expected a new session id, found session {session_id}")
        created_at = (time.time_ns() // 1000) / 1e6
        meta = SessionMeta(session_id, created_at, model, 0, 0, 0, 0, "", "", name)
        self._sessions[session_id] = _Session(meta)
        return meta

    async def meta(self, session_id: str) -> SessionMeta:
        return self._session(session_id).meta

    async def list(self, *, after: str | None, limit: int) -> SessionPage:
        if after is not None and ":" not in after:
            after = list_cursor(await self.meta(after))
        metas = sorted((session.meta for session in self._sessions.values()), key=list_cursor)
        return metas[bisect_right(metas, after or "", key=list_cursor) :][:limit]

    async def append(
        self,
        session_id: str,
        *,
        expected_seq: int,
        records: Sequence[JournalRecord],
        transcript: Transcript | None = None,
        idempotency_key: TurnKey | None = None,
    ) -> int:
        head, base = check_append(expected_seq, records, idempotency_key)
        session = self._session(session_id)
        entries = [(record.last_seq, encode_record(session_id, record)) for record in records]
        if idempotency_key is not None:
            _refuse_known(session, idempotency_key)
        if session.meta.seq != expected_seq:
            raise SequenceConflict(f"expected the session's head at {expected_seq}, found {session.meta.seq}")
        session.journal += entries
        session.meta = replace(session.meta, seq=head)
        if base is not None:
            session.meta = replace(session.meta, base_seq=base, snapshot_seq=0)
            session.generations, session.chunks = [], {}
            transcript = transcript or Transcript(0, "", "")
        if transcript is not None:
            session.meta = _with_transcript(session.meta, transcript)
        if idempotency_key is not None:
            _remember(session, idempotency_key, head)
        return head

    async def learned(self, session_id: str, key: str) -> tuple[int, int] | None:
        return self._session(session_id).turns.get(key)

    async def records(self, session_id: str, *, after: int, limit: int) -> RecordPage:
        session = self._session(session_id)
        page: RecordPage = []
        size = 0
        start = bisect_right(session.journal, after, key=lambda entry: entry[0])
        for _, payload in session.journal[start:]:
            if len(page) >= limit or size >= MAX_PAGE_BYTES:
                break
            page.append(decode_record(session_id, payload))
            size += len(payload)
        if limit > 0:
            check_page(session_id, page, after=after, head=session.meta.seq)
        return page

    async def put_snapshot(self, session_id: str, *, seq: int, parts: Mapping[str, bytes]) -> None:
        manifest, chunks = cut(seq, parts)
        session = self._session(session_id)
        meta = session.meta
        if not meta.base_seq < seq <= meta.seq or seq < meta.snapshot_seq:
            allowed = f"above {meta.base_seq}, from {meta.snapshot_seq} to {meta.seq}"
            raise SequenceConflict(f"a snapshot must lie {allowed}, found {seq}")
        kept = session.generations[-1:] if seq > meta.snapshot_seq else session.generations[:-1]
        session.generations = [*kept, manifest]
        used = {chunk for generation in session.generations for chunk in generation.chunk_ids}
        session.chunks = {key: data for key, data in (session.chunks | chunks).items() if key in used}
        session.meta = replace(meta, snapshot_seq=seq)

    async def get_snapshot(self, session_id: str, *, at_most_seq: int | None = None) -> Snapshot | None:
        session = self._session(session_id)
        for manifest in reversed(session.generations):
            if at_most_seq is None or manifest.seq <= at_most_seq:
                return Snapshot(manifest.seq, join(session_id, manifest, session.chunks))
        return None

    async def delete(self, session_id: str) -> None:
        self._session(session_id)
        del self._sessions[session_id]

    async def ping(self) -> None:
        return

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return


def _refuse_known(session: _Session, turn: TurnKey) -> None:
    known = session.turns.get(turn.key)
    if known is not None and known[0] != turn.first_seq:
        message = f"this idempotency key was used for tokens {known[0]} to {known[1]}"
        raise AlreadyLearned(message, first_seq=known[0], last_seq=known[1])


def _remember(session: _Session, turn: TurnKey, head: int) -> None:
    session.turns[turn.key] = (turn.first_seq, head)
    if len(session.turns) > MAX_IDEMPOTENCY_KEYS:
        del session.turns[next(iter(session.turns))]


def _with_transcript(meta: SessionMeta, transcript: Transcript) -> SessionMeta:
    return replace(
        meta,
        transcript_count=transcript.count,
        transcript_sha256=transcript.sha256,
        first_message_sha256=transcript.first_message_sha256,
    )
