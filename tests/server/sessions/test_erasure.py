"""Deletion that deletes: no file of a real Valkey holds the sealed bytes or the key's name any more."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.server.sessions.writing import KEYS, Writer

from hope_server.errors import Fenced
from hope_server.sessions import open_store
from hope_server.sessions.embedded import EmbeddedValkey
from hope_server.sessions.erasure import REST, RETRY_S, Erasure
from hope_server.sessions.key import SessionKey
from hope_server.sessions.redis_store import RedisStore
from hope_server.sessions.session import Fence

GONE, KEPT = SessionKey("tenant", "gone"), SessionKey("tenant", "kept")
HOUR_S = 3600.0


def on_disk(directory: Path, needles: list[bytes]) -> list[bytes]:
    """Those that some file holds."""
    files = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
    return [needle for needle in needles if any(needle in data for data in files)]


async def fill(store: RedisStore, session: SessionKey) -> tuple[Writer, list[bytes]]:
    """A session, and what is stored for it: the key's name, a sealed record, chunk, name and manifest."""
    writer = await Writer.create(store, session)
    await writer.read(*range(100))
    await writer.snapshot(100, head=os.urandom(3000))
    tag = f"h1:{{{session}}}"
    ((_, entry),) = await store._link.send("XRANGE", f"{tag}:j", "-", "+")
    manifest, chunks = await store._link.send("HMGET", f"{tag}:m", "snap_manifest", "snap_chunks")
    chunk = await store._link.send("GET", f"{tag}:p:{chunks.split()[0].decode()}")
    await writer.release()
    return writer, [tag.encode(), entry[b"r"][40:140], chunk[40:140], manifest[30:90], chunks.split()[0]]


@asynccontextmanager
async def running(directory: Path, settle_s: float) -> AsyncIterator[tuple[EmbeddedValkey, RedisStore]]:
    valkey = EmbeddedValkey(directory, settle_s=settle_s)
    await valkey.start()
    store = await open_store(valkey.url, KEYS, deleting=valkey.erasure.deleting)
    assert isinstance(store, RedisStore)
    try:
        yield valkey, store
    finally:
        await store.close()
        await valkey.stop()


async def test_a_deleted_session_leaves_the_disk_and_the_others_stay(data_dir: Path) -> None:
    async with running(data_dir, settle_s=0.0) as (valkey, store):
        gone, needles = await fill(store, GONE)
        kept, kept_needles = await fill(store, KEPT)
        assert valkey.erasure.clean.is_set()
        await store.delete(GONE, gone.fence)
        assert on_disk(data_dir, needles) == needles, "a deletion alone leaves everything where it is"
        await asyncio.wait_for(valkey.erasure.clean.wait(), 60)
        assert on_disk(data_dir, needles) == []
        assert on_disk(data_dir, kept_needles) == kept_needles
        assert (await store.get_snapshot(KEPT)) is not None
        assert (await store.meta(KEPT)).head == kept.head


@pytest.mark.parametrize("end", ["crash", "stop"])
async def test_what_was_due_when_the_server_ended_is_done(
    data_dir: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the stop itself or, after a crash, by the next start."""
    monkeypatch.setattr("hope_server.sessions.erasure.STOP_S", 60.0)
    async with running(data_dir, settle_s=HOUR_S) as (valkey, store):
        writer, needles = await fill(store, GONE)
        await store.delete(GONE, writer.fence)
        if end == "crash":
            (data_dir / "temp-rewriteaof-bg-1.aof").write_bytes(b"".join(needles))
            valkey.erasure._task.cancel()  # type: ignore[union-attr]
            valkey.erasure._task = None
            assert valkey.pid is not None
            os.kill(valkey.pid, signal.SIGKILL)
    assert on_disk(data_dir, needles) == (needles if end == "crash" else [])
    async with running(data_dir, settle_s=0.0) as (valkey, _):
        await asyncio.wait_for(valkey.erasure.clean.wait(), 60)
        assert on_disk(data_dir, needles) == []


async def test_a_refused_deletion_is_followed_by_a_rewrite_too(data_dir: Path) -> None:
    """Nobody knows what a call did whose reply was lost."""
    async with running(data_dir, settle_s=0.0) as (valkey, store):
        await fill(store, KEPT)
        with pytest.raises(Fenced):
            await store.delete(KEPT, Fence(99, "f" * 32))
        await asyncio.wait_for(valkey.erasure.clean.wait(), 60)
        assert (await store.meta(KEPT)).seq == 100


class Script:
    """A rewrite and a sleep that the test lets go on, one at a time; a clock that only they move."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        self.go: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.now = 0.0

    async def rewrite(self) -> None:
        await self.events.put(("rewrite", self.now))
        error = await self.go.get()
        self.now += 2.0
        if error is not None:
            raise error

    async def sleep(self, seconds: float) -> None:
        await self.events.put(("sleep", seconds))
        await self.go.get()
        self.now += seconds

    async def expect(self, event: str, figure: float, *, error: Exception | None = None) -> None:
        assert await asyncio.wait_for(self.events.get(), 10) == (event, figure)
        await self.go.put(error)


async def test_rewrites_are_few_and_none_is_forgotten(tmp_path: Path) -> None:
    script, marker = Script(), tmp_path / "due"
    erasure = Erasure(marker, script.rewrite, settle_s=5.0, clock=lambda: script.now, sleep=script.sleep)
    erasure.start()
    for _ in range(3):
        async with erasure.deleting():
            assert marker.exists()
            assert not erasure.clean.is_set()
    await script.expect("sleep", 5.0)
    await script.expect("rewrite", 5.0, error=OSError("disk full"))
    await script.expect("sleep", RETRY_S)
    await script.expect("sleep", 5.0)
    assert marker.exists()
    assert await asyncio.wait_for(script.events.get(), 10) == ("rewrite", 42.0)
    async with erasure.deleting():  # not known to be before the rewrite
        pass
    await script.go.put(None)
    await script.expect("sleep", REST * 2.0)
    assert not erasure.clean.is_set()
    await script.expect("sleep", 5.0)
    deletion = erasure.deleting()
    await deletion.__aenter__()
    await script.expect("rewrite", 87.0)
    await script.expect("sleep", REST * 2.0)
    assert marker.exists(), "one deletion is on its way"
    await deletion.__aexit__(None, None, None)
    await script.expect("sleep", 5.0)
    await script.expect("rewrite", 132.0)
    await asyncio.wait_for(erasure.clean.wait(), 10)
    assert not marker.exists()
    await erasure.stop()
