"""The protocol that every session store follows: what each call promises, and what it raises.

Neither torch nor redis is imported here.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from hope_server.errors import SessionCorrupted
from hope_server.sessions.key import SessionKey
from hope_server.sessions.path import Path
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import (
    MAX_APPEND_RECORDS,
    MAX_SEQ,
    Fence,
    Head,
    JournalRecord,
    Point,
    SessionMeta,
    Snapshot,
    TurnKey,
)

# A class with a method called list cannot use the built-in in its annotations.
SessionPage = list[SessionMeta]
RecordPage = list[JournalRecord]

Deleting = Callable[[], AbstractAsyncContextManager[None]]
"""What happens around each deletion of a session."""


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

    async def rename(self, session: SessionKey, name: str) -> None:
        """The session is called ``name``. No fence is needed: nothing of the journal changes."""
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
        """Append a freeze record: of ``path``, which leads to ``expected``, tokens after ``good_seq`` are not
        learned, and neither is what follows. No token is lost.

        Snapshots beyond ``good_seq`` are forgotten, and tokens up to the record get none any more. Raises as
        ``append`` does, ``SequenceConflict`` also if learning has ended already.
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
        self, session: SessionKey, fence: Fence, *, seq: int, parts: Mapping[str, bytes], head: Head
    ) -> None:
        """Publish the state after token ``seq``, all parts at once; the generation before it is kept.

        ``head``: one that the journal had, at or after ``seq``. A store that lost its tail may hold other
        tokens under the same numbers by now, and their state is another one.

        Parts are addressed by content: one that equals a stored one is not sent again. Raises
        ``SequenceConflict`` unless the session's path keeps ``seq``, at or above the last snapshot, and the
        journal still leads through ``head``.
        """
        ...

    async def get_snapshot(self, session: SessionKey, *, at_most_seq: int | None = None) -> Snapshot | None:
        """The newest of the two kept generations with ``seq <= at_most_seq``; ``None`` if there is none.

        Raises ``SnapshotCorrupt`` if a part is missing or damaged: ask again with ``at_most_seq`` below
        the damaged one (``meta.snapshot_seq - 1``), then replay the whole journal.
        """
        ...

    async def put_document(self, session: SessionKey, name: str, data: bytes | None) -> None:
        """Keep ``data`` beside the journal under ``name`` (see ``check_document``); None removes it.

        It is sealed like the rest, goes with the session, and is not copied by a fork. No fence is needed: it
        says something about the journal and changes nothing of it. Raises ``TooManyDocuments``.
        """
        ...

    async def document_names(self, session: SessionKey) -> Sequence[str]:
        """All names, in order."""
        ...

    async def documents(self, session: SessionKey, names: Sequence[str]) -> Mapping[str, bytes]:
        """Those of up to ``MAX_DOCUMENTS_READ`` names that there are. Raises ``SessionCorrupted``."""
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
