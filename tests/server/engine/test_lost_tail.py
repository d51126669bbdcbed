"""A Valkey that lost the end of what it had acknowledged: the session is what the store has, nothing else."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hope_server.errors import HopeError, SequenceConflict
from hope_server.sessions import open_store
from hope_server.sessions.binary import find_binary
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.store import SessionStore

Bench = Any


class Valkey:
    """A server on one port and directory, through all its lives."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        options = {"port": self._port, "bind": "127.0.0.1", "save": "", "appendonly": "yes"}
        options |= {"appendfsync": "always"}  # so that what the test takes away is all that is lost
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [str(find_binary()), *arguments], cwd=self._directory, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert any(b"Ready to accept connections" in line for line in self._process.stdout)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    @property
    def size(self) -> int:
        """Bytes of the append-only file's last part."""
        return self._tail.stat().st_size

    def lose(self, size: int) -> None:
        """Die, and come back with only the first ``size`` bytes of that part."""
        self.kill()
        os.truncate(self._tail, size)
        self.start()

    @property
    def _tail(self) -> Path:
        (tail,) = (self._directory / "appendonlydir").glob("*.incr.aof")
        return tail


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    running = Valkey(tmp_path)
    yield running
    running.kill()


@pytest.fixture
async def store(valkey: Valkey) -> AsyncIterator[SessionStore]:
    opened = await open_store(valkey.url, Keyring([b"k" * 32]))
    yield opened
    await opened.close()


async def test_a_session_goes_on_from_what_the_store_still_has(
    bench: Bench, same: Any, valkey: Valkey, store: SessionStore
) -> None:
    """Not from the worker's own row, which has read more; as one that never read it."""
    service = await bench.service(store=store)
    session, steady = [(await service.create_session("tenant")).key for _ in range(2)]
    for key in (session, steady):
        await bench.turn(service, key, range(10), max_tokens=3)
        await service._snapshots.flush()
    size, head = valkey.size, (await service.get_session(session)).head
    await bench.turn(service, session, range(20), max_tokens=9)
    await service._snapshots.flush()
    valkey.lose(size)
    assert (await service.get_session(session)).head == head
    options = {"max_tokens": 25, "temperature": 1.0, "seed": 3}
    expected = await bench.turn(service, steady, (7, 7), **options)
    found = await bench.turn(service, session, (7, 7), **options)
    assert [event.token for event in found] == [event.token for event in expected]
    assert same(await bench.row(service, session), await bench.row(service, steady))
    await service._snapshots.flush()
    found_states = [await service.verify_session(key) for key in (session, steady)]
    assert all(each.equal for each in found_states)
    assert len({each.replayed_sha256 for each in found_states}) == 1
    await service.check_integrity()


async def test_a_tail_that_is_lost_within_a_turn_ends_it(
    bench: Bench, valkey: Valkey, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn cannot be acknowledged any further; the next one goes on from the store."""
    service = await bench.service(store=store)
    session = (await service.create_session("tenant")).key
    await bench.turn(service, session, range(10), max_tokens=3)
    size, head = valkey.size, (await service.get_session(session)).head
    append, lost = store.append, asyncio.Event()

    async def held(*arguments: Any, **more: Any) -> Any:
        if more["expected"].seq > head.seq + 3:
            await lost.wait()
        return await append(*arguments, **more)

    monkeypatch.setattr(store, "append", held)
    turn = service.generate(bench.request(session, (1, 2, 3), 40))
    await anext(turn)
    valkey.lose(size)
    lost.set()
    with pytest.raises(HopeError) as ended:
        async for _ in turn:
            pass
    assert isinstance(ended.value, SequenceConflict)
    assert (await service.get_session(session)).head == head
    await bench.turn(service, session, (7,), max_tokens=20)
    await service._snapshots.flush()
    assert (await service.verify_session(session)).equal
    await service.check_integrity()


async def test_a_state_of_what_was_lost_is_not_stored_over_what_came_instead(
    bench: Bench, same: Any, valkey: Valkey, store: SessionStore
) -> None:
    """Computed before the loss and written after it, when the same numbers hold other tokens."""
    service = await bench.service(store=store)
    session = (await service.create_session("tenant")).key
    size = valkey.size
    await bench.turn(service, session, range(16), max_tokens=1)
    await service._snapshots.flush()
    lost_head, lost_row = (await service.get_session(session)).head, await bench.row(service, session)
    valkey.lose(size)
    fence, _ = await store.acquire(session, nonce=service._ownership.nonce, ttl_s=60)
    await store.release(session, fence)
    await bench.turn(service, session, (9,) * 16, max_tokens=1)
    expected = await bench.row(service, session)
    service._snapshots.offer(session, fence, 17, lost_row, lost_head)
    await service._snapshots.flush()
    fresh = await bench.service(store=store)
    assert same(await bench.row(fresh, session), expected)
    assert (await service.verify_session(session)).equal
