"""Random bits flipped in what a real Valkey holds of a session: whoever reads it next must notice.

Of every value that holds a conversation or what was learned from it (records, chunks and manifest of the
snapshots, name, transcript), and of the journal's head. The other numbers of a session are not sealed: see
`SECURITY.md`, "Not promised".
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from redis.asyncio import Redis
from tests.chaos.valkey import Valkey
from tests.server.sessions.writing import KEYS, Writer

from hope_server.errors import EncryptionKeyMissing, SessionCorrupted, SnapshotCorrupt
from hope_server.sessions import open_store
from hope_server.sessions.key import SessionKey
from hope_server.sessions.redis_meta import journal_key, meta_key
from hope_server.sessions.session import JournalRecord, Transcript
from hope_server.sessions.store import SessionStore, journal

SESSION = SessionKey("tenant", "session")
NOTICED = (SessionCorrupted, SnapshotCorrupt, EncryptionKeyMissing)
RECORDS, TOKENS, STATE_BYTES = 12, 40, 300_000
META = ("name", "transcript", "snap_manifest", "prev_manifest", "head", "seq")

Place = tuple[str, bytes, Callable[[bytes], Awaitable[object]]]
"""What it is, its value, and how to write another one there."""


@dataclass
class Flips:
    """How many bits were flipped, by kind of value, and which nobody noticed."""

    tried: Counter[str]
    unnoticed: list[str]


async def flip(count: int, seed: int) -> Flips:
    """Flip ``count`` bits, one at a time, in a Valkey of its own."""
    rng = Random(seed)
    with tempfile.TemporaryDirectory(prefix="hope-flips-") as folder:
        (Path(folder) / "valkey").mkdir()
        valkey = Valkey(Path(folder) / "valkey")
        await valkey.start()
        url = f"redis://127.0.0.1:{valkey.port}"
        raw, store = Redis.from_url(url), await open_store(url, KEYS)
        try:
            await _fill(store, rng)
            return await _flip(raw, store, rng, count)
        finally:
            await raw.aclose()
            await store.close()
            await valkey.kill()


async def _fill(store: SessionStore, rng: Random) -> None:
    await store.create(SESSION, model="m", name="a name")
    writer = await Writer.take(store, SESSION)
    for number in range(RECORDS):
        tokens = tuple(rng.randrange(8192) for _ in range(TOKENS))
        told = Transcript(number + 1, "ab" * 32, "cd" * 32)
        await writer.append(JournalRecord(writer.head.seq + 1, "run", "user", tokens, transcript=told))
        if number % 4 == 3:
            await writer.snapshot(writer.head.seq, fast=rng.randbytes(STATE_BYTES), slow=b"slow" * 99)


async def _flip(raw: Any, store: SessionStore, rng: Random, count: int) -> Flips:
    await _read(store)
    places = await _places(raw)
    kinds = sorted({kind for kind, _, _ in places})
    flips = Flips(Counter(), [])
    for _ in range(count):
        wanted = rng.choice(kinds)
        kind, value, write = rng.choice([place for place in places if place[0] == wanted])
        bit = rng.randrange(8 * len(value))
        broken = bytearray(value)
        broken[bit // 8] ^= 1 << bit % 8
        await write(bytes(broken))
        flips.tried[kind] += 1
        if not await _noticed(store):
            flips.unnoticed.append(f"bit {bit} of {kind} ({len(value)} bytes)")
        await write(value)
    await _read(store)
    return flips


async def _noticed(store: SessionStore) -> bool:
    try:
        await _read(store)
    except NOTICED:
        return True
    return False


async def _read(store: SessionStore) -> None:
    """Everything that a restore, a rollback or a listing may need."""
    meta = await store.meta(SESSION)
    assert [record async for record in journal(store, SESSION, after=0, head=meta.seq)]
    assert await store.get_snapshot(SESSION)
    assert await store.get_snapshot(SESSION, at_most_seq=meta.snapshot_seq - 1)


async def _places(raw: Any) -> list[Place]:
    meta, stream = meta_key(SESSION), journal_key(SESSION)
    places: list[Place] = []
    for field in META:
        value = await raw.hget(meta, field)
        places.append((field, value, partial(raw.hset, meta, field)))
    async for key in raw.scan_iter(f"h1:{{{SESSION}}}:p:*"):
        places.append(("chunk", await raw.get(key), partial(raw.set, key)))
    entries = [(entry, fields[b"r"]) for entry, fields in await raw.xrange(stream)]

    async def rewrite(at: int, new: bytes) -> None:
        """A stream's entries cannot be changed: it is written anew."""
        pipeline = raw.pipeline()
        pipeline.delete(stream)
        for number, (entry, value) in enumerate(entries):
            pipeline.xadd(stream, {b"r": new if number == at else value}, id=entry)
        await pipeline.execute()

    for at, (_, value) in enumerate(entries):
        places.append(("record", value, partial(rewrite, at)))
    return places
