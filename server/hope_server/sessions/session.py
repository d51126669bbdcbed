"""What a session is: its journal's records, its head, its snapshots; and their bounds.

Neither torch nor redis is imported here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hope_server.sessions.key import SessionKey
from hope_server.sessions.path import WHOLE, Path

Origin = Literal["system", "user", "tool", "model", "template", "text"]
"""Whose tokens they are; "template": what a chat template writes around messages; "text": plain
text, no chat. Stored as its place here."""
Kind = Literal["run", "step", "reset", "rollback", "freeze"]

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
MAX_DOCUMENTS = 4096
"""Of one session."""
MAX_DOCUMENT_BYTES = (1 << 20) - 128
"""Sealed, it is one value of at most 1 MiB."""
MAX_DOCUMENTS_READ = 64
"""In one call."""


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

    A ``run`` is one forward over all its tokens, a ``step`` record is as many single-token steps. A
    ``reset``, a ``rollback`` (to ``target_seq``) and a ``freeze`` (of what was learned up to ``target_seq``)
    have no tokens and take one sequence number. Numbers start at 1.

    request: 32 hex digits that stand for the request that brought it, empty for none. transcript: the chat
    up to and including the record, where that is known. learn: False for tokens of a turn that teaches
    nothing (E29 of ``model/EQUATIONS.md``). chain: the hex hash of the journal up to and including the
    record, as the store keeps it; empty for one that is not stored.
    """

    first_seq: int
    kind: Kind
    origin: Origin
    tokens: tuple[int, ...]
    target_seq: int = 0
    sampler: Sampler | None = None
    request: str = ""
    transcript: Transcript | None = None
    learn: bool = True
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
        if record.kind in ("rollback", "freeze"):
            raise ValueError(f"a {record.kind} is a commit of its own")
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


def check_document(name: str, data: bytes | None) -> None:
    """Raises ``ValueError`` for a name that is not 1 to 64 small letters and digits, or too much data."""
    if not (1 <= len(name) <= 64 and name.isascii() and name.isalnum() and name == name.lower()):
        raise ValueError(f"expected a document's name, found {name!r}")
    if data is not None and not 1 <= len(data) <= MAX_DOCUMENT_BYTES:
        raise ValueError(f"a document has 1 to {MAX_DOCUMENT_BYTES} bytes, found {len(data)}")


def list_cursor(meta: SessionMeta) -> str:
    """Where a listing goes on after ``meta``; stays valid when the session is deleted."""
    return f"{round(meta.created_at * 1e6):016x}:{meta.session_id}"
