"""Brings a session back from the store: the newest snapshot that holds, and the journal after it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Self

from hope_model.state import State, StateSpec
from hope_model.streaks import Frozen
from hope_server.errors import EncryptionKeyMissing, HopeError, SnapshotCorrupt
from hope_server.sessions.codec import decode_row
from hope_server.sessions.history import part_of
from hope_server.sessions.key import SessionKey
from hope_server.sessions.path import Path
from hope_server.sessions.records import corrupt
from hope_server.sessions.session import JournalRecord, SessionMeta, Snapshot
from hope_server.sessions.store import SessionStore, journal


@dataclass(frozen=True, slots=True)
class Restored:
    """A row at a boundary after ``position`` tokens (None: the initial state) and the runs that follow,
    learned up to ``freeze_at``, if that is not behind.
    """

    row: State | None
    position: int
    runs: list[JournalRecord]
    freeze_at: int | None = None

    @classmethod
    def on(cls, path: Path, row: State | None, seq: int, runs: list[JournalRecord]) -> Self:
        """Of ``path``, with the state after token ``seq`` (0: the initial one)."""
        position, freeze_at = path.position(seq) if seq else 0, path.frozen_position
        return cls(row, position, runs, freeze_at if freeze_at is None or position <= freeze_at else None)

    @property
    def tokens(self) -> int:
        """Tokens to replay."""
        return sum(len(run.tokens) for run in self.runs)


async def restore(
    store: SessionStore, spec: StateSpec, meta: SessionMeta, on_corrupt: Callable[[HopeError], None]
) -> Restored:
    """What is needed to bring ``meta``'s session to its head, as it stood when ``meta`` was read.

    A damaged snapshot is passed to ``on_corrupt`` and the generation before it is tried, then the whole
    journal. The journal's chain is followed from record to record, up to the hash that ``meta`` names.

    Raises:
        SessionCorrupted: the journal itself is damaged.
        StoreUnavailable, SessionNotFound: as the store says.
    """
    row, seq = await newest_snapshot(store, spec, meta, on_corrupt)
    runs = [run async for run in runs_between(store, meta.key, meta.path, after=seq, head=meta.seq)]
    await _check_head(store, meta)
    return Restored.on(meta.path, row, seq, runs)


async def runs_between(
    store: SessionStore, session: SessionKey, path: Path, *, after: int, head: int
) -> AsyncIterator[JournalRecord]:
    """The tokens that ``path`` reads after token ``after`` up to ``head``, as they were cut."""
    for first, last in path.after(after, head):
        async for record in journal(store, session, after=first - 1, head=last):
            if record.tokens:
                yield part_of(record, first, last)


async def _check_head(store: SessionStore, meta: SessionMeta) -> None:
    if meta.seq:
        (record,) = await store.records(meta.key, after=meta.seq - 1, limit=1)
        if (record.last_seq, record.chain) != (meta.head.seq, meta.head.sha256):
            raise corrupt(meta.key, f"it does not end with {meta.head.sha256[:12]} at {meta.seq}")


async def newest_snapshot(
    store: SessionStore, spec: StateSpec, meta: SessionMeta, on_corrupt: Callable[[HopeError], None]
) -> tuple[State | None, int]:
    """The newest generation on ``meta``'s path that holds, as a row and its sequence number; (None, 0) if
    there is none.
    """
    newest = min(meta.snapshot_seq, meta.seq)
    for _generation in range(2):
        if newest < 1:
            break
        try:
            snapshot = await store.get_snapshot(meta.key, at_most_seq=newest)
            if snapshot is None:
                break
            newest = snapshot.seq
            return await _decoded(store, spec, meta, snapshot), snapshot.seq
        except (SnapshotCorrupt, EncryptionKeyMissing) as error:
            on_corrupt(error)
            newest -= 1
    return None, 0


async def _decoded(store: SessionStore, spec: StateSpec, meta: SessionMeta, snapshot: Snapshot) -> State:
    """The row, of this journal and after as many tokens as it says; raises ``SnapshotCorrupt``."""
    if not meta.path.keeps(snapshot.seq):
        raise SnapshotCorrupt(f"the session has left the history of its snapshot at {snapshot.seq}")
    (record,) = await store.records(meta.key, after=snapshot.seq - 1, limit=1)
    if record.chain != snapshot.chain:
        raise SnapshotCorrupt(f"the snapshot at {snapshot.seq} is of another journal")
    row = await asyncio.to_thread(decode_row, spec, snapshot.parts, snapshot.seq)
    expected = meta.path.position(snapshot.seq)
    if int(row["position"]) != expected:
        raise SnapshotCorrupt(f"expected a state after {expected} tokens, found {int(row['position'])}")
    frozen = Frozen.NO if meta.path.learns_at(snapshot.seq) else Frozen.JOURNAL
    if int(row["frozen"]) != frozen:
        raise SnapshotCorrupt(f"expected a state marked {int(frozen)}, found {int(row['frozen'])}")
    return row
