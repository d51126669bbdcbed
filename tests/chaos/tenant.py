"""One tenant's clients: one for each worker process, whose every received byte is looked through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import httpx

from hope_client import AsyncClient, NotFoundError

TIMEOUT_S = 8.0
"""Nobody waits longer for a byte: longer than most faults, shorter than some."""
OVERLAP_BYTES = 64
"""At least what a canary or a session's name has."""

OnForeign = Callable[[int, str], None]


class Tenant:
    """Holds an API key; knows what is its own and what must never come here."""

    def __init__(self, name: str, api_key: str, canary: str, on_foreign: OnForeign) -> None:
        self.name, self.api_key, self.canary = name, api_key, canary
        self.sessions: set[str] = set()
        """Those that exist."""
        self.doubtful: set[str] = set()
        """Names of sessions that were asked for without an answer."""
        self.others: list[Tenant] = []
        self._on_foreign = on_foreign
        self._clients: dict[str, AsyncClient] = {}

    def client(self, url: str) -> AsyncClient:
        """The client of the worker at ``url``."""
        if url not in self._clients:
            transport = _Watching(self.look)
            self._clients[url] = AsyncClient(
                url, api_key=self.api_key, timeout=TIMEOUT_S, max_retries=0, transport=transport
            )
        return self._clients[url]

    def look(self, received: bytes, what: str) -> None:
        """Count what belongs to others."""
        for secret in self._foreign():
            if found := received.count(secret):
                self._on_foreign(found * len(secret), f"{self.name} received {secret!r} with {what}")

    def _foreign(self) -> Iterable[bytes]:
        for other in self.others:
            yield other.canary.encode()
            yield from (session.encode() for session in other.sessions)

    async def try_foreign(self, client: AsyncClient, session: str, way: str) -> None:
        """Ask for another tenant's session, which must be none at all."""
        sessions: dict[str, Callable[[], Any]] = {
            "get": lambda: client.sessions.get(session),
            "events": lambda: client.sessions.events(session),
            "levels": lambda: client.sessions.levels(session),
            "verify": lambda: client.sessions.verify(session),
            "fork": lambda: client.sessions.fork(session),
            "reset": lambda: client.sessions.reset(session),
            "delete": lambda: client.sessions.delete(session),
            "turn": lambda: client.completions([4000, 4001], session_id=session, max_tokens=1),
        }
        try:
            answer = await sessions[way]()
        except NotFoundError:
            return
        self._on_foreign(len(str(answer)), f"{self.name} did {way} with a session of somebody else")

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()


FOREIGN_WAYS = ("get", "events", "levels", "verify", "fork", "reset", "delete", "turn")


class _Watching(httpx.AsyncBaseTransport):
    """Shows every byte of every answer to ``look`` as it comes."""

    def __init__(self, look: Callable[[bytes, str], None]) -> None:
        self._look = look
        self._inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(keepalive_expiry=2.0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        # A refusal may repeat the path that was asked for; its answer says nothing that the caller did not.
        what = f"{request.method} {request.url.path} ({response.status_code})"
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Watched(response.stream, lambda data: self._look(data, what))
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Watched(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, look: Callable[[bytes], None]) -> None:
        self._stream, self._look = stream, look

    async def __aiter__(self) -> AsyncIterator[bytes]:
        before = b""
        async for chunk in self._stream:
            self._look(before + chunk)
            before = (before + chunk)[-OVERLAP_BYTES:]
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
