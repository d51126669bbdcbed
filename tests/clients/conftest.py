"""A scripted HTTP server on loopback, and both clients behind one blocking face."""

import asyncio
import inspect
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hope_client import AsyncClient, Client


@dataclass(frozen=True)
class Seen:
    """One request as the server got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.loopback.connections += 1  # type: ignore[attr-defined]

    def _serve(self) -> None:
        loopback: Loopback = self.server.loopback  # type: ignore[attr-defined]
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        plain = headers.get("content-type") == "application/octet-stream"
        body = content if plain else json.loads(content) if content else None
        loopback.seen.append(Seen(self.command, self.path, headers, body))
        loopback.replies.popleft()(self)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve

    def log_message(self, format: str, *args: object) -> None:
        pass


Reply = Callable[[_Handler], None]


@dataclass
class Loopback:
    """Answers each request with the next of `replies` and remembers it in `seen`."""

    url: str
    seen: list[Seen] = field(default_factory=list)
    replies: deque[Reply] = field(default_factory=deque)
    connections: int = 0
    hang_up: threading.Event = field(default_factory=threading.Event)

    def json(self, body: object, *, status: int = 200, **headers: str) -> None:
        content = json.dumps(body).encode()
        self.raw(status, content, {"Content-Type": "application/json", **headers})

    def error(self, status: int, code: str, *, more: dict[str, object] | None = None, **headers: str) -> None:
        detail = {"message": f"it is {code}", "type": "t", "param": None, "code": code, **(more or {})}
        self.json({"error": detail}, status=status, **headers)

    def raw(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        def reply(handler: _Handler) -> None:
            handler.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(content)

        self.replies.append(reply)

    def drop(self) -> None:
        """Read the request and close the connection without a word."""

        def reply(handler: _Handler) -> None:
            handler.close_connection = True

        self.replies.append(reply)

    def stream(
        self, pieces: list[bytes], *, ending: str = "complete", kind: str = "text/event-stream; charset=utf-8"
    ) -> None:
        """A stream, an HTTP chunk a piece. `ending`: complete, cut, or hang till the client leaves."""

        def reply(handler: _Handler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Type", kind)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            for piece in pieces:
                handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            if ending == "complete":
                handler.wfile.write(b"0\r\n\r\n")
                return
            handler.close_connection = True
            if ending == "hang" and handler.connection.recv(1) == b"":
                self.hang_up.set()

        self.replies.append(reply)


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = False
    server.loopback = loopback = Loopback(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield loopback
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Collected:
    """A stream, read to its end."""

    chunks: list[Any]
    texts: list[str]
    usage: Any
    finish_reason: Any


class Flavour:
    """One of the two clients, used from blocking tests. `sleeps_s`: the pauses that it asked for."""

    def __init__(self, asynchronous: bool) -> None:
        self._asynchronous = asynchronous
        self.sleeps_s: list[float] = []

    def call(self, use: Callable[[Any], Any], base_url: str = "http://hope.test", **options: Any) -> Any:
        """The result of `use(client)`."""
        if self._asynchronous:
            return asyncio.run(self._call_async(use, base_url, options))
        with Client(base_url, sleep=self.sleeps_s.append, **options) as client:
            return _collect(use(client))

    async def _call_async(self, use: Callable[[Any], Any], base_url: str, options: dict[str, Any]) -> Any:
        async def sleep(delay_s: float) -> None:
            self.sleeps_s.append(delay_s)

        async with AsyncClient(base_url, sleep=sleep, **options) as client:
            result = use(client)
            return await _acollect(await result if inspect.isawaitable(result) else result)


def _collect(result: Any) -> Any:
    if not hasattr(result, "finish_reason"):
        return result
    with result as stream:
        chunks = list(stream)
    return Collected(chunks, _texts(chunks), stream.usage, stream.finish_reason)


async def _acollect(result: Any) -> Any:
    if not hasattr(result, "finish_reason"):
        return result
    async with result as stream:
        chunks = [chunk async for chunk in stream]
    return Collected(chunks, _texts(chunks), stream.usage, stream.finish_reason)


def _texts(chunks: list[Any]) -> list[str]:
    choices = [choice for chunk in chunks for choice in getattr(chunk, "choices", ())]
    return [choice.delta.content for choice in choices if choice.delta.content]


@pytest.fixture(params=["sync", "async"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return Flavour(asynchronous=request.param == "async")
