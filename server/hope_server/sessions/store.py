"""What a session store is: its records, its bounds and the protocol that every store follows.

Neither torch nor redis is imported here.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from hope_server.errors import SessionCorrupted
from hope_server.sessions.key import SessionKey

Origin = Literal["system", "user", "tool", "model", "template", "text"]
"""Whose tokens they are; "template": what a chat template writes around messages; "text": plain
text, no chat. Stored as its place here."""
Kind = Literal["run", "step", "reset"]

MAX_APPEND_TOKENS = 250_000
"""Tokens in one append: with its headers the command stays under 1 MiB."""
MAX_APPEND_RECORDS = 1024
MAX_TOKEN = 2**32 - 1
MAX_SEQ = 2**53 - 1
"""The largest integer that Lua's numbers hold exactly."""
MAX_PAGE_BYTES = 1 << 20
"""A page of ``records`` ends with the record that passes this size."""
MAX_CHUNK_BYTES = 1 << 20
"""The largest value that one command carries; longer snapshot parts are cut."""
MAX_PARTS = 4096
MAX_IDEMPOTENCY_KEYS = 256
"""Turn keys that a session remembers, the most recent ones."""
MAX_KEY_BYTES = 255


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One run of tokens as it was computed; token i has sequence number ``first_seq + i``.

    A ``run`` is one forward over all its tokens, a ``step`` record is as many single-token steps.
    A ``reset`` has no tokens and takes one sequence number. Numbers start at 1.
    """

    first_seq: int
    kind: Kind
    origin: Origin
    tokens: tuple[int, ...]

    @property
    def last_seq(self) -> int:
        return self.first_seq + max(len(self.tokens), 1) - 1


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a session has read of a chat: the messages' count, a digest of them and of the first one."""

    count: int
    sha256: str
    first_message_sha256: str


@dataclass(frozen=True, slots=True)
class TurnKey:
    """A turn's idempotency key; ``first_seq`` is the number of the turn's first token.

    Every append of the turn carries the same value: the first one registers it (``first_seq`` is then
    ``expected_seq + 1``), the later ones extend the remembered range to the new head.
    """

    key: str
    first_seq: int


@dataclass(frozen=True, slots=True)
class SessionMeta:
    """A session's head. ``created_at`` is in seconds since the epoch, digests are hex (empty: none)."""

    key: SessionKey
    created_at: float
    model: str
    seq: int
    base_seq: int
    snapshot_seq: int
    transcript_count: int
    transcript_sha256: str
    first_message_sha256: str
    name: str | None

    @property
    def session_id(self) -> str:
        """The session's name within its tenant."""
        return self.key.session

    @property
    def position(self) -> int:
        """Tokens that the state has read: those since the last reset."""
        return self.seq - self.base_seq


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state after token ``seq``, as the codec's parts; every part matched its checksum."""

    seq: int
    parts: Mapping[str, bytes]


# A class with a method called list cannot use the built-in in its annotations.
SessionPage = list[SessionMeta]
RecordPage = list[JournalRecord]


class SessionStore(Protocol):
    """Sessions and their journals, durable before a call returns.

    Every method raises ``StoreUnavailable`` when the store cannot be reached within the time limit and
    ``SessionNotFound`` for an unknown id. A cancelled call still runs to its end in the background, so
    after a cancelled or unavailable ``append`` its fate is unknown: read ``meta`` before going on.
    """

    async def create(self, session: SessionKey, *, model: str, name: str | None) -> SessionMeta:
        """Make an empty session; ``model`` is the digest of the slow weights it learns on.

        Raises ``SequenceConflict`` if the id is taken.
        """
        ...

    async def meta(self, session: SessionKey) -> SessionMeta: ...

    async def list(self, tenant: str, *, after: str | None, limit: int) -> SessionPage:
        """Up to ``limit`` sessions of ``tenant``, oldest first.

        ``after`` is ``list_cursor(meta)`` of the last one seen, which may be deleted by now, or the id
        of an existing session. Fewer than ``limit`` means the end.
        """
        ...

    async def append(
        self,
        session: SessionKey,
        *,
        expected_seq: int,
        records: Sequence[JournalRecord],
        transcript: Transcript | None = None,
        idempotency_key: TurnKey | None = None,
    ) -> int:
        """Add ``records`` after ``expected_seq``, all or none, and return the new head.

        At most ``MAX_APPEND_TOKENS`` tokens in ``MAX_APPEND_RECORDS`` records. ``transcript`` replaces
        the remembered one. A reset forgets the transcript and the snapshots before it.
        Raises ``SequenceConflict`` if the head is not ``expected_seq``, ``AlreadyLearned`` if another
        turn used the key, ``ValueError`` for records that do not follow each other.
        """
        ...

    async def learned(self, session: SessionKey, turn_key: str) -> tuple[int, int] | None:
        """The first and last sequence number of the turn that used ``key``, if it is remembered."""
        ...

    async def records(self, session: SessionKey, *, after: int, limit: int) -> RecordPage:
        """The next records that hold a sequence number above ``after``; the first may begin before it.

        A page ends at ``limit`` records or at the record that passes ``MAX_PAGE_BYTES``, so only an
        empty page means the end (``journal`` reads on by itself). Raises ``SessionCorrupted`` for a
        damaged or missing record.
        """
        ...

    async def put_snapshot(self, session: SessionKey, *, seq: int, parts: Mapping[str, bytes]) -> None:
        """Publish the state after token ``seq``, all parts at once; the generation before it is kept.

        Parts are addressed by content: one that equals a stored one is not sent again. Raises
        ``SequenceConflict`` unless ``seq`` is above the last snapshot and reset and not above the head.
        """
        ...

    async def get_snapshot(self, session: SessionKey, *, at_most_seq: int | None = None) -> Snapshot | None:
        """The newest of the two kept generations with ``seq <= at_most_seq``; ``None`` if there is none.

        Raises ``SnapshotCorrupt`` if a part is missing or damaged: ask again with ``at_most_seq`` below
        the damaged one (``meta.snapshot_seq - 1``), then replay the whole journal.
        """
        ...

    async def delete(self, session: SessionKey) -> None: ...

    async def ping(self) -> None: ...

    async def check(self) -> None:
        """``ping``, and that the store still keeps what it is given: ``StoreConfigError`` if not."""
        ...

    async def close(self) -> None: ...


async def journal(
    store: SessionStore, session: SessionKey, *, after: int, head: int
) -> AsyncIterator[JournalRecord]:
    """The records that hold ``after + 1 .. head``, page by page; the first may begin before them."""
    while after < head:
        page = await store.records(session, after=after, limit=MAX_APPEND_RECORDS)
        if not page:
            raise SessionCorrupted(f"the journal of session {session} ends at {after}, expected {head}")
        for record in page:
            yield record
            after = record.last_seq


def check_append(
    expected_seq: int, records: Sequence[JournalRecord], idempotency_key: TurnKey | None
) -> tuple[int, int | None]:
    """The head after ``records`` and the number of the last reset among them, if any.

    Raises ``ValueError`` unless they follow ``expected_seq`` and each other within the bounds.
    """
    if not 1 <= len(records) <= MAX_APPEND_RECORDS:
        raise ValueError(f"an append takes 1 to {MAX_APPEND_RECORDS} records, found {len(records)}")
    total = sum(len(record.tokens) for record in records)
    if total > MAX_APPEND_TOKENS:
        raise ValueError(f"an append takes at most {MAX_APPEND_TOKENS} tokens, found {total}")
    if idempotency_key is not None:
        _check_turn_key(idempotency_key, expected_seq)
    head, base = expected_seq, None
    for record in records:
        if record.first_seq != head + 1:
            raise ValueError(f"expected a record that starts at {head + 1}, found {record.first_seq}")
        if (record.kind == "reset") != (not record.tokens):
            raise ValueError(f"a {record.kind} record cannot hold {len(record.tokens)} tokens")
        head = record.last_seq
        base = head if record.kind == "reset" else base
    if head > MAX_SEQ:
        raise ValueError(f"sequence numbers end at {MAX_SEQ}, found {head}")
    return head, base


def _check_turn_key(turn: TurnKey, expected_seq: int) -> None:
    if not 1 <= len(turn.key.encode()) <= MAX_KEY_BYTES:
        raise ValueError(f"an idempotency key has 1 to {MAX_KEY_BYTES} bytes")
    if not 1 <= turn.first_seq <= expected_seq + 1:
        raise ValueError(f"a turn at {expected_seq + 1} cannot start at {turn.first_seq}")


def list_cursor(meta: SessionMeta) -> str:
    """Where a listing goes on after ``meta``; stays valid when the session is deleted."""
    return f"{round(meta.created_at * 1e6):016x}:{meta.session_id}"
