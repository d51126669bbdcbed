"""The embedded Valkey: data survives every death, one owner at a time, no orphan in the way."""

import asyncio
import contextlib
import os
import random
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server.sessions.writing import KEYS, Writer

from hope_server.errors import SequenceConflict, StoreConfigError, StoreUnavailable
from hope_server.sessions import binary as binary_module
from hope_server.sessions import open_store
from hope_server.sessions.binary import find_binary, server_version
from hope_server.sessions.embedded import EmbeddedValkey
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import Head, JournalRecord
from hope_server.sessions.store import journal

SESSION, KEPT = SessionKey("tenant", "s"), SessionKey("tenant", "kept")

_DEATH_S = 60.0
OWNER = Path(__file__).with_name("embedded_owner.py")


async def test_data_survive_a_clean_restart(data_dir: Path) -> None:
    for expected in (0, 2):
        valkey = EmbeddedValkey(data_dir, maxmemory="64mb")
        await valkey.start()
        store = await open_store(valkey.url, KEYS)
        writer = await (Writer.take if expected else Writer.create)(store, SESSION)
        assert writer.head.seq == expected
        assert (await writer.read(1, 2)).seq == expected + 2
        await writer.release()
        await store.close()
        await valkey.stop()
        assert valkey.pid is None


async def test_directory_and_files_are_private(data_dir: Path) -> None:
    valkey = EmbeddedValkey(data_dir)
    await valkey.start()
    files = ("valkey.sock", "valkey.conf", "runtime.json", "valkey.lock")
    assert stat.S_IMODE(os.stat(data_dir).st_mode) == 0o700
    assert [os.stat(data_dir / name).st_mode & 0o077 for name in files] == [0, 0, 0, 0]
    await valkey.stop()


async def _kill_while_writing(data_dir: Path, *, kills: int) -> None:
    """Writers append while the server is killed; every acknowledged record is there, in order, once."""
    valkey = EmbeddedValkey(data_dir)
    await valkey.start()
    store = await open_store(valkey.url, KEYS)
    done = asyncio.Event()
    acknowledged: dict[SessionKey, list[JournalRecord]] = {
        SessionKey("tenant", f"w{at}"): [] for at in range(3)
    }

    async def write(session: SessionKey) -> None:
        writer = await Writer.create(store, session)
        while not done.is_set():
            record = JournalRecord(writer.head.seq + 1, "step", "model", (writer.head.seq, 7))
            try:
                await writer.append(record)
            except StoreUnavailable:
                writer = await _again(writer)
            if writer.head.seq == record.last_seq:
                acknowledged[session].append(record)
            if writer.head.seq % 40 == 0:
                with contextlib.suppress(StoreUnavailable):
                    await writer.snapshot(writer.head.seq, a=b"%d" % writer.head.seq)

    writers = [asyncio.ensure_future(write(session)) for session in acknowledged]
    dice = random.Random(7)
    for _ in range(kills):
        target = sum(map(len, acknowledged.values())) + dice.randrange(20, 60)
        while sum(map(len, acknowledged.values())) < target:
            await asyncio.wait(writers, timeout=0.001, return_when=asyncio.FIRST_COMPLETED)
            assert not any(writer.done() for writer in writers)
        if valkey.pid is not None:
            os.kill(valkey.pid, signal.SIGKILL)
    done.set()
    await asyncio.gather(*writers)
    assert valkey.restarts >= 1
    for session, records in acknowledged.items():
        head = (await store.meta(session)).seq
        assert [record async for record in journal(store, session, after=0, head=head)] == records
    await store.close()
    await valkey.stop()


async def _again(writer: Writer) -> Writer:
    """After an append of unknown fate, as the protocol says."""
    while True:
        try:
            return await Writer.take(writer.store, writer.session, writer.fence.nonce)
        except StoreUnavailable:
            await asyncio.sleep(0)


async def test_killed_server_loses_nothing(data_dir: Path) -> None:
    await _kill_while_writing(data_dir, kills=3)


@pytest.mark.chaos
async def test_server_killed_often_loses_nothing(data_dir: Path) -> None:
    await _kill_while_writing(data_dir, kills=50)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize("orphaned", ["watched", "left", "stopped"])
async def test_restart_after_the_owner_was_killed(data_dir: Path, orphaned: str) -> None:
    """``left``: the watchdog died too, so Valkey lives on; ``stopped``: it does not even answer."""
    valkey_pid = _orphan(data_dir, orphaned)
    valkey = EmbeddedValkey(data_dir)
    await valkey.start()
    assert not _is_running(valkey_pid)
    store = await open_store(valkey.url, KEYS)
    assert (await store.meta(KEPT)).seq == 2
    await store.close()
    await valkey.stop()


def _orphan(data_dir: Path, orphaned: str) -> int:
    """Kill a process that owns a Valkey; returns the process id of that Valkey."""
    with subprocess.Popen([sys.executable, OWNER, data_dir], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        valkey_pid = int(owner.stdout.readline())
        if orphaned != "watched":
            (watchdog,) = [
                pid for pid, command in _processes() if b"\0hope-watchdog\0%d\0" % valkey_pid in command
            ]
            os.kill(watchdog, signal.SIGKILL)
        if orphaned == "stopped":
            os.kill(valkey_pid, signal.SIGSTOP)
        ends = os.pidfd_open(valkey_pid)
        owner.kill()
    if orphaned == "watched":
        assert select.select([ends], [], [], _DEATH_S)[0], "Valkey outlives its owner"
    os.close(ends)
    return valkey_pid


def _processes() -> Iterator[tuple[int, bytes]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield int(path.parent.name), path.read_bytes()


def _is_running(pid: int) -> bool:
    """Whether the process lives; one that nobody has waited for does not."""
    return any(found == pid and command for found, command in _processes())


async def test_second_server_is_refused_and_the_first_unharmed(data_dir: Path) -> None:
    first = EmbeddedValkey(data_dir)
    await first.start()
    with pytest.raises(StoreConfigError, match="used by another server") as refused:
        await EmbeddedValkey(data_dir).start()
    assert refused.value.param == "data_dir"
    store = await open_store(first.url, KEYS)
    await store.ping()
    await store.close()
    await first.stop()


async def test_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path / ("long " + "x" * 120) / 'quo"te')
    await valkey.start()
    socket = valkey.url.partition("@")[2]
    assert len(socket) < 100
    store = await open_store(valkey.url, KEYS)
    await store.ping()
    await store.close()
    await valkey.stop()
    assert not Path(socket).parent.exists()


async def test_damaged_data_stop_the_start_with_the_log(data_dir: Path) -> None:
    (data_dir / "appendonlydir").mkdir(parents=True)
    (data_dir / "appendonlydir" / "appendonly.aof.manifest").write_text("noise\n")
    valkey = EmbeddedValkey(data_dir)
    with pytest.raises(StoreConfigError, match=r"(?s)ended with 1 at start.*manifest"):
        await valkey.start()
    (data_dir / "appendonlydir" / "appendonly.aof.manifest").unlink()
    await valkey.start()
    await valkey.stop()


async def test_unusable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreConfigError, match="data_dir") as refused:
        await EmbeddedValkey(tmp_path / "file" / "data").start()
    assert refused.value.param == "data_dir"


def test_bad_maxmemory_is_named(data_dir: Path) -> None:
    with pytest.raises(StoreConfigError, match="found '1gb\\\\nport 1'") as refused:
        EmbeddedValkey(data_dir, maxmemory="1gb\nport 1")
    assert refused.value.param == "maxmemory"


def test_binary_is_new_enough() -> None:
    assert server_version(find_binary()) >= (7, 0)


def test_no_binary_is_an_error_not_a_fall_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho Redis server v=6.2.14 sha=0\n")
    old.chmod(0o755)
    monkeypatch.setattr(binary_module, "_from_wheel", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreConfigError, match=r"7\.0 or newer.*found only .*redis-server 6\.2"):
        find_binary()


async def test_conflict_is_not_a_lost_call(data_dir: Path) -> None:
    valkey = EmbeddedValkey(data_dir)
    await valkey.start()
    store = await open_store(valkey.url, KEYS)
    writer = await Writer.create(store, SESSION)
    writer.head = Head(5, "ab" * 32)
    with pytest.raises(SequenceConflict):
        await writer.read(1)
    await store.close()
    await valkey.stop()
