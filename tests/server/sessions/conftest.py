"""Stores for the store tests: the embedded child, one on TCP, and a proxy that loses replies."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from tests.server.sessions.writing import KEYS, Writer

from hope_server.sessions import open_store
from hope_server.sessions.embedded import EmbeddedValkey
from hope_server.sessions.key import SessionKey
from hope_server.sessions.store import SessionStore

StartValkey = Callable[..., str]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of one embedded Valkey for the whole run."""
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("embedded"))
    await valkey.start()
    yield valkey.url
    await valkey.stop()


@pytest.fixture(scope="session")
def external_url(start_valkey: StartValkey) -> str:
    """One plain server for the whole run."""
    return start_valkey()


@pytest.fixture(params=["memory", "redis", "unix"])
async def store(
    request: pytest.FixtureRequest, embedded_url: str, external_url: str
) -> AsyncIterator[SessionStore]:
    """Every store of the registry; ``rediss`` is the class of ``redis`` behind TLS."""
    urls = {"memory": "memory:", "redis": external_url, "unix": embedded_url}
    opened = await open_store(urls[request.param], KEYS)
    yield opened
    await opened.close()


@pytest.fixture
async def redis_store(external_url: str) -> AsyncIterator[SessionStore]:
    opened = await open_store(external_url, KEYS)
    yield opened
    await opened.close()


@pytest.fixture
def session() -> SessionKey:
    """The name of a session that does not exist yet."""
    return SessionKey("tenant", secrets.token_hex(16))


@pytest.fixture
async def writer(store: SessionStore, session: SessionKey) -> Writer:
    """The one writer of a new session, in every store."""
    return await Writer.create(store, session)


class Proxy:
    """Forwards bytes to ``target`` and meddles with requests as it is told.

    ``lose_request`` drops it, ``lose_reply`` lets it run and drops the answer, ``hold`` keeps it back until a
    second one arrives, then lets it run first. In each case the client's connection is cut.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: bytes | None = None
        self._needle = b"?"
        self.plan: list[str] = []
        self.seen = 0
        self.url = ""

    def watch(self, needle: bytes, *plan: str) -> None:
        """Count the requests that hold ``needle`` from now on, and meddle with the first ones."""
        self._needle, self.plan, self.seen = needle, [*plan], 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        back = asyncio.ensure_future(self._pump(upstream_reader, writer))
        self._tasks.add(back)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(1 << 20):
                if self._needle in data and await self._meddle(data, back, upstream_writer):
                    break
                upstream_writer.write(data)
        back.cancel()
        for stream in (writer, upstream_writer):
            stream.close()

    async def _meddle(self, data: bytes, back: "asyncio.Task[None]", upstream: asyncio.StreamWriter) -> bool:
        """Whether the client's connection is to be cut instead of forwarding ``data``."""
        self.seen += 1
        if self._held is not None:
            held, self._held = self._held, None
            await self._run_elsewhere(held)
        if not self.plan:
            return False
        match self.plan.pop(0):
            case "lose_reply":
                await self._run_elsewhere(data)
            case "hold":
                self._held = data
        return True

    async def _run_elsewhere(self, data: bytes) -> None:
        """Run the request on a connection of its own, up to its reply."""
        reader, writer = await asyncio.open_connection(*self._target)
        writer.write(data)
        await reader.read(1)
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                writer.write(data)
        writer.close()


@pytest.fixture
async def proxy(external_url: str) -> AsyncIterator[Proxy]:
    host, _, port = external_url.removeprefix("redis://").partition(":")
    opened = Proxy((host, int(port)))
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
async def proxied(proxy: Proxy) -> AsyncIterator[SessionStore]:
    """A store that reaches its server through the proxy."""
    opened = await open_store(proxy.url, KEYS)
    yield opened
    await opened.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "valkey"
