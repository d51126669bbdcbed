"""A session as a file: out of the store, and out of a file, of whatever origin, into a new session."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from hope_server.engine.lease import Desk
from hope_server.engine.request import check_tokens
from hope_server.sessions.codec import decode_row, max_part_bytes, part_names
from hope_server.sessions.container import Exported, pack, unpack
from hope_server.sessions.copying import Blueprint, build, usable_snapshot
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import JournalRecord, SessionMeta
from hope_server.sessions.store import SessionStore, journal


async def export_session(store: SessionStore, session: SessionKey) -> bytes:
    """The session's journal and its newest snapshot; see ``sessions.container``.

    Raises SessionNotFound, InvalidRequest if it is too large for one file, SessionCorrupted.
    """
    meta = await store.meta(session)
    records = [record async for record in journal(store, session, after=0, head=meta.seq)]
    snapshot = await usable_snapshot(store, meta, meta.seq)
    exported = Exported(meta.model, meta.name, records)
    if snapshot is not None:
        exported = replace(exported, snapshot_seq=snapshot.seq, parts=snapshot.parts)
    return await asyncio.to_thread(pack, store.keys, exported)


async def import_session(desk: Desk, target: SessionKey, data: bytes, *, vocab_size: int) -> SessionMeta:
    """``target`` becomes what ``data`` says; its state is that of its journal, bit for bit.

    Raises InvalidRequest for a file that is none, ModelNotFound for one of other slow weights.
    """
    store, spec = desk.store, desk.spec
    exported = await asyncio.to_thread(
        unpack, store.keys, data, part_names=part_names(spec), max_part_bytes=max_part_bytes(spec)
    )
    desk.check_model("the session", exported.model)
    check_tokens((token for record in exported.records for token in record.tokens), vocab_size)
    snapshot = None
    if exported.parts:
        await asyncio.to_thread(decode_row, spec, exported.parts, exported.snapshot_seq)
        snapshot = exported.snapshot_seq, exported.parts
    plan = Blueprint(exported.model, exported.name, _each(exported.records), snapshot)
    return await build(store, target, plan, nonce=desk.ownership.nonce)


async def _each(records: Iterable[JournalRecord]) -> AsyncIterator[JournalRecord]:
    for record in records:
        yield record
