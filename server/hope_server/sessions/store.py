"""What a session store is: its records, its bounds and the protocol that every store follows.

Neither torch nor redis is imported here.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from hope_server.errors import SessionCorrupted
from hope_server.sessions.key import SessionKey
from hope_server.sessions.path import WHOLE, Path
from hope_server.sessions.sealing import Keyring

Origin = Literal["system", "user", "tool", "model", "template", "text"]
"""Whose tokens they are; "template": what a chat template writes around messages; "text": plain
text, no chat. Stored as its place here."""
Kind = Literal["run", "step", "reset", "rollback"]

MAX_APPEND_TOKENS = 220_000
"""Tokens in one append: with headers, seals and hashes the command stays under 1 MiB."""
MAX_APPEND_RECORDS = 1024
MAX_TOKEN = 2**32 - 1
MAX_SEQ = 2**53 - 1
"""The largest integer that Lua's numbers hold exactly."""
MAX_PAGE_BYTES = 1 << 20
"""A page of ``records`` ends with the record that passes this size."""
MAX_CHUNK_BYTES = (1 << 20) - 128
"""The largest piece of a snapshot part: sealed, it is one value of at most 1 MiB."""
MAX_PARTS = 4096
MAX_IDEMPOTENCY_KEYS = 256
"""Turn keys that a session remembers, the most recent ones."""
MAX_KEY_BYTES = 255


@dataclass(frozen=True, slots=True)
class Fence:
    """Who may write a session: both parts are compared for equality inside every write.

    The counter grows with every change of hands. The nonce (32 hex digits) is the worker's own: a store that
    lost its tail may give a counter out twice, a nonce nobody else has.
    """

    counter: int
    nonce: str


@dataclass(frozen=True, slots=True)
class Head:
    """Where a journal ends: its last sequence number, and the hex hash of the whole chain of records."""

    seq: int
    sha256: str


GENESIS = Head(0, "00" * 32)
"""The head of an empty journal."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a session has read of a chat: the messages' count, a digest of them and of the first one."""

    count: int
    sha256: str
    first_message_sha256: str


NO_TRANSCRIPT = Transcript(0, "", "")


@dataclass(frozen=True, slots=True)
class Sampler:
    """How the tokens of a record were drawn: the turn's seed, and the counter of the first draw, which is
    the tokens that the state had read by then.
    """

    seed: int
    counter: int


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One run of tokens as it was computed; token i has sequence number ``first_seq + i``.

    A ``run`` is one forward over all its tokens, a ``step`` record is as many single-token steps. A ``reset``
    and a ``rollback`` (to ``target_seq``) have no tokens and take one sequence number. Numbers start at 1.

    request: 32 hex digits that stand for the request that brought it, empty for none. transcript: the chat
    up to and including the record, where that is known. chain: the hex hash of the journal up to and
    including the record, as the store keeps it; empty for one that is not stored.
    """

    first_seq: int
    kind: Kind
    origin: Origin
    tokens: tuple[int, ...]
    target_seq: int = 0
    sampler: Sampler | None = None
    request: str = ""
    transcript: Transcript | None = None
    chain: str = field(default="", compare=False)

    @property
    def last_seq(self) -> int:
        return self.first_seq + max(len(self.tokens), 1) - 1


@dataclass(frozen=True, slots=True)
class TurnKey:
    """A turn's idempotency key; ``first_seq`` is the number of the turn's first token.

    Every append of the turn carries the same value: the first one registers it (``first_seq`` is then
    ``expected.seq + 1``), the later ones extend the remembered range to the new head.
    """

    key: str
    first_seq: int


@dataclass(frozen=True, slots=True)
class SessionMeta:
    """A session's head. ``created_at`` is in seconds since the epoch, digests are hex (empty: none).

    quarantined: the journal was found damaged; nothing is appended any more, the bytes are kept.
    """

    key: SessionKey
    created_at: float
    model: str
    name: str | None
    head: Head = GENESIS
    path: Path = WHOLE
    snapshot_seq: int = 0
    transcript: Transcript = NO_TRANSCRIPT
    quarantined: bool = False

    @property
    def session_id(self) -> str:
        """The session's name within its tenant."""
        return self.key.session

    @property
    def seq(self) -> int:
        return self.head.seq

    @property
    def position(self) -> int:
        """Tokens that the state has read."""
        return self.head.seq - self.path.base_seq


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state after token ``seq``, as the codec's parts; every part is authentic.

    chain: that of the journal record that holds token ``seq``.
    """

    seq: int
    parts: Mapping[str, bytes]
    chain: str


@dataclass(frozen=True, slots=True)
class Point:
    """A session as it stood when ``seq`` was its head."""

    seq: int
    path: Path
    transcript: Transcript


# A class with a method called list cannot use the built-in in its annotations.
SessionPage = list[SessionMeta]
RecordPage = list[JournalRecord]


class SessionStore(Protocol):
    """Sessions and their journals, durable before a call returns.

    Every method raises ``StoreUnavailable`` when the store cannot be reached within the time limit and
    ``SessionNotFound`` for an unknown session. A write takes the writer's fence and raises ``Fenced`` if the
    session has changed hands. A cancelled call still runs to its end in the background, so after a cancelled
    or unavailable ``append`` its fate is unknown: ``acquire`` before going on.
    """

    @property
    def keys(self) -> Keyring:
        """The keys that seal what this store holds."""
        ...

    async def create(
        self, session: SessionKey, *, model: str, name: str | None, staged: bool = False
    ) -> SessionMeta:
        """Make an empty session; ``model`` is the digest of the slow weights it learns on.

        A ``staged`` one can be written but is not found by ``meta`` and ``list`` until ``reveal``; without
        that it vanishes within the hour. Raises ``SequenceConflict`` if the name is taken.
        """
        ...

    async def reveal(self, session: SessionKey, fence: Fence) -> None:
        """A staged session becomes one like others."""
        ...

    async def meta(self, session: SessionKey) -> SessionMeta: ...

    async def list(self, tenant: str, *, after: str | None, limit: int) -> SessionPage:
        """Up to ``limit`` sessions of ``tenant``, oldest first.

        ``after`` is ``list_cursor(meta)`` of the last one seen, which may be deleted by now, or the id
        of an existing session. Fewer than ``limit`` means the end.
        """
        ...

    async def acquire(self, session: SessionKey, *, nonce: str, ttl_s: float) -> tuple[Fence, SessionMeta]:
        """Become the session's one writer; also the head to go on from.

        The lease lasts ``ttl_s`` by the store's own clock and is for liveness alone: it keeps others from
        taking over, while what a write needs is the fence. Whoever holds the session already (by ``nonce``)
        keeps its fence. Raises ``LeaseHeld`` while another's lease lasts.
        """
        ...

    async def renew(self, session: SessionKey, fence: Fence, *, ttl_s: float) -> None:
        """The lease lasts ``ttl_s`` from now."""
        ...

    async def release(self, session: SessionKey, fence: Fence) -> None:
        """End the lease: others may acquire. Until one does, the fence stays good."""
        ...

    async def append(
        self,
        session: SessionKey,
        fence: Fence,
        *,
        expected: Head,
        records: Sequence[JournalRecord],
        idempotency_key: TurnKey | None = None,
    ) -> Head:
        """Add ``records`` after ``expected``, all or none, and return the new head.

        At most ``MAX_APPEND_TOKENS`` tokens in ``MAX_APPEND_RECORDS`` records. The transcript of the last
        record that has one replaces the remembered one. A reset forgets the transcript and the snapshots
        before it. Raises ``SequenceConflict`` if the head, number or hash, is not ``expected``,
        ``AlreadyLearned`` if another turn used the key, ``SessionQuarantined``, ``ValueError`` for records
        that do not follow each other or roll back.
        """
        ...

    async def rollback(
        self, session: SessionKey, fence: Fence, *, expected: Head, to: Point, request: str = ""
    ) -> Head:
        """Append a rollback record: the state is that of ``to`` again, the journal keeps what was.

        Snapshots that lie beyond ``to`` are forgotten. Raises as ``append`` does.
        """
        ...

    async def learned(self, session: SessionKey, turn_key: str) -> tuple[int, int] | None:
        """The first and last sequence number of the turn that used ``turn_key``, if it is remembered."""
        ...

    async def records(
        self, session: SessionKey, *, after: int, limit: int, upto: int = MAX_SEQ
    ) -> RecordPage:
        """The next records that hold numbers above ``after``, at most ``upto``; the first may begin earlier,
        the last end later, and nothing beyond it is looked at.

        A page ends at ``limit`` records or at the record that passes ``MAX_PAGE_BYTES``, so only an
        empty page means the end (``journal`` reads on by itself). Raises ``SessionCorrupted`` for a
        damaged or missing record, or one that does not continue the chain.
        """
        ...

    async def put_snapshot(
        self, session: SessionKey, fence: Fence, *, seq: int, parts: Mapping[str, bytes]
    ) -> None:
        """Publish the state after token ``seq``, all parts at once; the generation before it is kept.

        Parts are addressed by content: one that equals a stored one is not sent again. Raises
        ``SequenceConflict`` unless the session's path holds ``seq``, at or above the last snapshot.
        """
        ...

    async def get_snapshot(self, session: SessionKey, *, at_most_seq: int | None = None) -> Snapshot | None:
        """The newest of the two kept generations with ``seq <= at_most_seq``; ``None`` if there is none.

        Raises ``SnapshotCorrupt`` if a part is missing or damaged: ask again with ``at_most_seq`` below
        the damaged one (``meta.snapshot_seq - 1``), then replay the whole journal.
        """
        ...

    async def quarantine(self, session: SessionKey, fence: Fence) -> None:
        """Mark a session whose journal is damaged: nothing is appended to it any more, nothing deleted."""
        ...

    async def delete(self, session: SessionKey, fence: Fence) -> None:
        """Remove every value of the session."""
        ...

    async def ping(self) -> None: ...

    async def check(self) -> None:
        """``ping``, and that the store still keeps what it is given: ``StoreConfigError`` if not."""
        ...

    async def close(self) -> None: ...


async def journal(
    store: SessionStore, session: SessionKey, *, after: int, head: int
) -> AsyncIterator[JournalRecord]:
    """The records that hold ``after + 1 .. head``, page by page; the first may begin before them, the last
    may end after them.
    """
    while after < head:
        page = await store.records(session, after=after, limit=MAX_APPEND_RECORDS, upto=head)
        if not page:
            raise SessionCorrupted(f"the journal of session {session} ends at {after}, expected {head}")
        for record in page:
            yield record
            after = record.last_seq


def check_append(expected: Head, records: Sequence[JournalRecord], turn: TurnKey | None) -> int:
    """The last sequence number of ``records``.

    Raises ``ValueError`` unless they follow ``expected`` and each other within the bounds.
    """
    if not 1 <= len(records) <= MAX_APPEND_RECORDS:
        raise ValueError(f"an append takes 1 to {MAX_APPEND_RECORDS} records, found {len(records)}")
    total = sum(len(record.tokens) for record in records)
    if total > MAX_APPEND_TOKENS:
        raise ValueError(f"an append takes at most {MAX_APPEND_TOKENS} tokens, found {total}")
    if turn is not None:
        _check_turn_key(turn, expected.seq)
    seq = expected.seq
    for record in records:
        if record.first_seq != seq + 1:
            raise ValueError(f"expected a record that starts at {seq + 1}, found {record.first_seq}")
        if (record.kind in ("run", "step")) != bool(record.tokens):
            raise ValueError(f"a {record.kind} record cannot hold {len(record.tokens)} tokens")
        seq = record.last_seq
    if seq > MAX_SEQ:
        raise ValueError(f"sequence numbers end at {MAX_SEQ}, found {seq}")
    return seq


def _check_turn_key(turn: TurnKey, expected_seq: int) -> None:
    if not 1 <= len(turn.key.encode()) <= MAX_KEY_BYTES:
        raise ValueError(f"an idempotency key has 1 to {MAX_KEY_BYTES} bytes")
    if not 1 <= turn.first_seq <= expected_seq + 1:
        raise ValueError(f"a turn at {expected_seq + 1} cannot start at {turn.first_seq}")


def list_cursor(meta: SessionMeta) -> str:
    """Where a listing goes on after ``meta``; stays valid when the session is deleted."""
    return f"{round(meta.created_at * 1e6):016x}:{meta.session_id}"
