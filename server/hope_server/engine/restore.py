"""Brings a session back from the store: the newest snapshot that holds, and the journal after it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from hope_model.state import State, StateSpec
from hope_server.errors import SnapshotCorrupt
from hope_server.sessions.codec import decode_row
from hope_server.sessions.store import JournalRecord, SessionMeta, SessionStore, journal


@dataclass(frozen=True, slots=True)
class Restored:
    """A row at a boundary after ``position`` tokens (None: the initial state) and the runs that follow."""

    row: State | None
    position: int
    runs: list[JournalRecord]

    @property
    def tokens(self) -> int:
        """Tokens to replay."""
        return sum(len(run.tokens) for run in self.runs)


async def restore(
    store: SessionStore, spec: StateSpec, meta: SessionMeta, on_corrupt: Callable[[SnapshotCorrupt], None]
) -> Restored:
    """What is needed to bring ``meta``'s session to its head, as it stood when ``meta`` was read.

    A damaged snapshot is passed to ``on_corrupt`` and the generation before it is tried, then the whole
    journal.

    Raises:
        SessionCorrupted: the journal itself is damaged.
        StoreUnavailable, SessionNotFound: as the store says.
    """
    row, seq = await _snapshot(store, spec, meta, on_corrupt)
    runs = [_after(record, seq) async for record in journal(store, meta.key, after=seq, head=meta.seq)]
    return Restored(row, seq - meta.base_seq, runs)


async def _snapshot(
    store: SessionStore, spec: StateSpec, meta: SessionMeta, on_corrupt: Callable[[SnapshotCorrupt], None]
) -> tuple[State | None, int]:
    newest = meta.snapshot_seq
    for _generation in range(2):
        if newest <= meta.base_seq:
            break
        try:
            snapshot = await store.get_snapshot(meta.key, at_most_seq=min(newest, meta.seq))
            if snapshot is None or snapshot.seq <= meta.base_seq:
                break
            newest = snapshot.seq
            row = await asyncio.to_thread(decode_row, spec, snapshot.parts, snapshot.seq)
            if int(row["position"]) != snapshot.seq - meta.base_seq:
                expected = snapshot.seq - meta.base_seq
                raise SnapshotCorrupt(
                    f"expected a state after {expected} tokens, found {int(row['position'])}"
                )
            return row, snapshot.seq
        except SnapshotCorrupt as error:
            on_corrupt(error)
            newest -= 1
    return None, meta.base_seq


def _after(record: JournalRecord, seq: int) -> JournalRecord:
    """The part of ``record`` after ``seq``: a run that a boundary cut is continued as a run."""
    if record.first_seq > seq:
        return record
    return replace(record, first_seq=seq + 1, tokens=record.tokens[seq + 1 - record.first_seq :])
