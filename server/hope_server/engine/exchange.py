"""A session as a file: out of the store, and out of a file, of whatever origin, into a new session."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from itertools import islice

from hope_server.engine.lease import Desk
from hope_server.engine.request import check_tokens
from hope_server.errors import SnapshotCorrupt
from hope_server.sessions.codec import decode_row, max_part_bytes, part_names
from hope_server.sessions.container import Importable, Opened, Packer, Preface, invalid_export
from hope_server.sessions.copying import Blueprint, build, usable_snapshot
from hope_server.sessions.key import SessionKey
from hope_server.sessions.reading import Buffer
from hope_server.sessions.records import corrupt
from hope_server.sessions.refusals import quarantined
from hope_server.sessions.session import JournalRecord, SessionMeta
from hope_server.sessions.store import SessionStore, journal

PIECE_BYTES = 1 << 16
CHECKED_AT_ONCE = 1024
"""Records between two moments at which a check can be cancelled."""


async def export_session(store: SessionStore, session: SessionKey) -> AsyncGenerator[bytes]:
    """The session's newest snapshot and its journal, in pieces; see ``sessions.container``.

    Holds a page of the journal at a time. Raises SessionNotFound, SessionQuarantined, SessionCorrupted.
    """
    meta = await store.meta(session)
    if meta.quarantined:
        raise quarantined(session)
    packer = Packer(store.keys)
    for piece in packer.preface(await _preface(store, meta)):
        yield piece
    gathered, chain = bytearray(), ""
    async for record in journal(store, session, after=0, head=meta.seq):
        gathered += packer.record(record)
        chain = record.chain
        if len(gathered) >= PIECE_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if meta.seq and chain != meta.head.sha256:
        raise corrupt(session, f"it does not end with {meta.head.sha256[:12]} at {meta.seq}")
    yield bytes(gathered) + packer.end()


async def _preface(store: SessionStore, meta: SessionMeta) -> Preface:
    snapshot = await usable_snapshot(store, meta, meta.seq)
    if snapshot is None or not meta.path.keeps(snapshot.seq):
        return Preface(meta.model, meta.name, 0, {})
    return Preface(meta.model, meta.name, snapshot.seq, snapshot.parts)


async def open_export(desk: Desk, data: Buffer, *, vocab_size: int, block: int) -> Importable:
    """Check all of ``data``, of which nothing is stored yet.

    Raises InvalidRequest for a file that is none, ModelNotFound for one of other slow weights.
    """
    spec = desk.spec
    opened = await asyncio.to_thread(
        Opened,
        desk.store.keys,
        data,
        part_names=part_names(spec),
        max_part_bytes=max_part_bytes(spec),
        block=block,
    )
    preface = opened.preface
    desk.check_model("the session", preface.model)
    if preface.parts:
        try:
            await asyncio.to_thread(decode_row, spec, preface.parts, preface.snapshot_seq)
        except SnapshotCorrupt as error:
            raise invalid_export(error) from error
    records, seq = opened.records(), 0
    while (last := await asyncio.to_thread(_check_some, records, vocab_size)) is not None:
        seq = last
    return Importable(opened, seq)


async def import_session(desk: Desk, target: SessionKey, found: Importable) -> SessionMeta:
    """``target`` becomes what the file says; its state is that of its journal, bit for bit."""
    preface = found.opened.preface
    snapshot = (preface.snapshot_seq, preface.parts) if preface.parts else None
    plan = Blueprint(preface.model, preface.name, _each(found.opened.records()), snapshot)
    return await build(desk.store, target, plan, nonce=desk.ownership.nonce)


def _check_some(records: Iterator[JournalRecord], vocab_size: int) -> int | None:
    """Check the next ones; the last one's last number, None after the end."""
    last = None
    for record in islice(records, CHECKED_AT_ONCE):
        check_tokens(record.tokens, vocab_size)
        last = record.last_seq
    return last


async def _each(records: Iterable[JournalRecord]) -> AsyncIterator[JournalRecord]:
    for record in records:
        yield record
