"""Commits go by one connection, those of one step in one write; each keeps its own answer."""

import asyncio
import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout
from tests.server.sessions.certificate import Certificate
from tests.server.sessions.writing import KEYS, Writer

from hope_server.errors import SequenceConflict, StoreUnavailable
from hope_server.sessions.key import SessionKey
from hope_server.sessions.redis_address import Address
from hope_server.sessions.redis_lane import MOST, Lane
from hope_server.sessions.redis_store import RedisStore
from hope_server.sessions.session import JournalRecord, TurnKey
from hope_server.sessions.store import SessionStore

FIRST = JournalRecord(1, "run", "user", (1, 2, 3))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"), "localhost")


async def writers(store: SessionStore, count: int) -> list[Writer]:
    return [await Writer.create(store, SessionKey("tenant", secrets.token_hex(16))) for _ in range(count)]


async def test_commits_of_a_step_share_a_write(proxy: Any, proxied: SessionStore) -> None:
    step = await writers(proxied, 8)
    proxy.watch(b"hope_v1_commit")
    heads = await asyncio.gather(*(writer.append(FIRST) for writer in step))
    assert proxy.seen == 1
    assert [head.seq for head in heads] == [3] * 8
    assert [await writer.records() for writer in step] == [[FIRST]] * 8


async def test_more_commits_than_one_write_holds(redis_store: SessionStore) -> None:
    step = await writers(redis_store, MOST + 3)
    heads = await asyncio.gather(*(writer.append(FIRST) for writer in step))
    assert [head.seq for head in heads] == [3] * (MOST + 3)


async def test_a_refused_commit_is_nobody_elses(redis_store: SessionStore) -> None:
    first, refused, last = step = await writers(redis_store, 3)
    await Writer(redis_store, refused.session, refused.fence, refused.head).append(FIRST)
    results = await asyncio.gather(*(writer.append(FIRST) for writer in step), return_exceptions=True)
    assert [type(result) for result in results[::2]] == [type(first.head), type(last.head)]
    assert isinstance(results[1], SequenceConflict)


@pytest.mark.parametrize("plan", [["lose_request"], ["lose_reply"], ["lose_request", "lose_reply"]])
async def test_a_lost_write_is_done_once_for_each(
    proxy: Any, proxied: SessionStore, plan: "list[str]"
) -> None:
    step = await writers(proxied, 5)
    proxy.watch(b"hope_v1_commit", *plan)
    heads = await asyncio.gather(*(writer.append(FIRST, key=TurnKey("k", 1)) for writer in step))
    assert [head.seq for head in heads] == [3] * 5
    assert [await writer.records() for writer in step] == [[FIRST]] * 5
    assert proxy.plan == []


async def test_a_caller_who_leaves_takes_nobody_along(redis_store: SessionStore) -> None:
    left, stays = await writers(redis_store, 2)
    leaving, staying = (asyncio.ensure_future(writer.append(FIRST)) for writer in (left, stays))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).seq == 3
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (await left.meta()).head.seq == 3


async def test_a_server_that_is_gone_is_said_to_each(proxy: Any) -> None:
    store = await RedisStore.open(proxy.url, KEYS, patience_s=0.1)
    step = await writers(store, 3)
    await proxy.stop()
    results = await asyncio.gather(*(writer.append(FIRST) for writer in step), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 3
    await store.close()


@asynccontextmanager
async def lane(url: str, timeout_s: float = 5.0) -> AsyncIterator[Lane]:
    opened = Lane(Address.of(url), timeout_s)
    yield opened
    await opened.close()


async def test_an_error_is_of_its_own_command(external_url: str) -> None:
    async with lane(external_url) as opened:
        name = secrets.token_hex(8)
        commands = [("SET", name, "1"), ("LPUSH", name, "1"), ("GET", name)]
        results = await asyncio.gather(*(opened.send(*each) for each in commands), return_exceptions=True)
        assert isinstance(results.pop(1), ResponseError)
        assert results == [b"OK", b"1"]


async def test_a_command_that_cannot_be_sent_takes_nobodys_reply(external_url: str) -> None:
    async with lane(external_url) as opened:
        name = secrets.token_hex(8)
        commands: list[tuple[Any, ...]] = [("SET", name, "1"), ("SET", name, None), ("GET", name)]
        results = await asyncio.gather(*(opened.send(*each) for each in commands), return_exceptions=True)
        assert isinstance(results.pop(1), TypeError)
        assert results == [b"OK", b"1"]


async def test_an_idle_connection_is_kept_alive(external_url: str) -> None:
    async with lane(external_url) as opened:
        await opened.send("PING")
        assert opened._wire is not None
        connection = opened._wire._transport.get_extra_info("socket")
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30


async def test_a_closed_lane_stays_closed(server: "Server") -> None:
    port = await server.start()
    async with lane(f"redis://127.0.0.1:{port}") as opened:
        await opened.send("PING")
    asked = len(server.got)
    with pytest.raises(RedisConnectionError, match="closed"):
        await opened.send("PING")
    assert len(server.got) == asked


async def test_what_stands_in_the_lanes_way_is_said_at_the_start(
    external_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(_lane: Lane, *_command: Any) -> Any:
        raise ssl.SSLCertVerificationError("a certificate of nobody's")

    monkeypatch.setattr(Lane, "send", lost)
    with pytest.raises(StoreUnavailable, match="no Redis server answers at redis_url"):
        await RedisStore.open(external_url, keys=KEYS, patience_s=0.1)


async def test_an_answer_that_nobody_waits_for_is_left(external_url: str) -> None:
    async with lane(external_url) as opened:
        left, *stay = (asyncio.ensure_future(opened.send("ECHO", str(each))) for each in range(3))
        await asyncio.sleep(0)
        left.cancel()
        assert await asyncio.gather(*stay) == [b"1", b"2"]
        assert await opened.send("ECHO", "3") == b"3"


async def test_what_was_sent_is_answered_before_it_closes(external_url: str) -> None:
    async with lane(external_url) as opened:
        name = secrets.token_hex(8)
        left, *stay = (asyncio.ensure_future(opened.send("LPUSH", name, "1")) for _ in range(3))
        await asyncio.sleep(0)
        left.cancel()
    assert [reply.result() for reply in stay] == [2, 3]


class Server:
    """Answers as it is told: ``+OK`` to each command, unless ``words`` says what comes instead."""

    def __init__(self) -> None:
        self.words: list[bytes] = []
        self.got: list[bytes] = []
        self.asked, self.answers = asyncio.Event(), asyncio.Event()
        self.answers.set()
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self, **options: Any) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, **options)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while data := await reader.read(1 << 16):
            self.got.append(data)
            self.asked.set()
            await self.answers.wait()
            for _ in range(data.count(b"*")):
                writer.write(self.words.pop(0) if self.words else b"+OK\r\n")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    started = Server()
    yield started
    await started.stop()


async def test_a_command_does_not_wait_for_the_reply_to_another(server: Server) -> None:
    async with lane(f"redis://127.0.0.1:{await server.start()}") as opened:
        server.answers.clear()
        first = asyncio.ensure_future(opened.send("PING"))
        await server.asked.wait()
        second = asyncio.ensure_future(opened.send("ECHO", "x"))
        server.words = [b"+PONG\r\n", b"$1\r\nx\r\n"]
        assert opened._wire is not None
        for _ in range(2):
            await asyncio.sleep(0)
        assert len(opened._wire.owed) == 2
        server.answers.set()
        assert [await first, await second] == [b"PONG", b"x"]


async def test_a_server_that_says_nothing_is_left(server: Server) -> None:
    url = f"redis://127.0.0.1:{await server.start()}"
    async with lane(url, timeout_s=0.05) as opened:
        server.answers.clear()
        asked = [asyncio.ensure_future(opened.send("PING")) for _ in range(2)]
        await asyncio.wait(asked, timeout=10.0)
        assert [type(each.exception()) for each in asked] == [RedisTimeout] * 2
        server.answers.set()
        assert await opened.send("PING") == b"OK"


@pytest.mark.parametrize("word", [b"?noise\r\n", b"+OK\r\n+OK\r\n"])
async def test_a_server_that_says_what_nobody_understands_is_left(server: Server, word: bytes) -> None:
    """Nor is the reply to one command taken for that to the next."""
    async with lane(f"redis://127.0.0.1:{await server.start()}") as opened:
        server.words = [word]
        with suppress(RedisConnectionError):
            assert await opened.send("PING") == b"OK"
        server.words = [b"+SECOND\r\n"]
        with suppress(RedisConnectionError):
            assert await opened.send("PING") == b"SECOND"
        server.words = [b"+THIRD\r\n"]
        assert await opened.send("PING") == b"THIRD"


async def test_it_says_who_it_is(server: Server) -> None:
    port = await server.start()
    async with lane(f"redis://user:secret@127.0.0.1:{port}/3") as opened:
        await opened.send("PING")
    assert [data.split(b"\r\n")[2::2] for data in server.got] == [
        [b"AUTH", b"user", b"secret"],
        [b"SELECT", b"3"],
        [b"PING"],
    ]


async def test_a_password_that_is_refused_is_said(server: Server) -> None:
    port = await server.start()
    async with lane(f"redis://:wrong@127.0.0.1:{port}") as opened:
        server.words = [b"-WRONGPASS invalid username-password pair\r\n"]
        with pytest.raises(AuthenticationError):
            await opened.send("PING")
        assert await opened.send("PING") == b"OK"


async def test_a_connection_by_tls_checks_the_server(server: Server, tls: Certificate) -> None:
    port = await server.start(ssl=tls.context)
    async with lane(f"rediss://localhost:{port}?ssl_ca_certs={tls.path}") as opened:
        assert await opened.send("PING") == b"OK"
    for url in (f"rediss://localhost:{port}", f"rediss://127.0.0.1:{port}?ssl_ca_certs={tls.path}"):
        async with lane(url) as opened:
            with pytest.raises(ssl.SSLCertVerificationError):
                await opened.send("PING")


def test_no_nonce_is_used_twice() -> None:
    key = SessionKey("tenant", "s" * 32)
    with ThreadPoolExecutor(8) as threads:
        sealed = list(threads.map(lambda place: KEYS.seal(key, "entry", place, b""), range(5000)))
    assert len({value[9:21] for value in sealed}) == 5000


def test_a_forked_process_draws_its_own_nonces() -> None:
    key = SessionKey("tenant", "s" * 32)
    KEYS.seal(key, "entry", 0, b"")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, KEYS.seal(key, "entry", 0, b"")[9:21])
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 12)
    assert len(theirs) == 12
    assert theirs not in {KEYS.seal(key, "entry", 0, b"")[9:21] for _ in range(512)}
    os.close(reading)
    os.close(writing)
