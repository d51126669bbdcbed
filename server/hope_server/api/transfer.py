"""GET /v1/sessions/{id}/export and POST /v1/sessions/import: a session as a file, out and in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hope_client.wire import OCTET_STREAM, Session
from hope_server.api.body import read_octets
from hope_server.api.leaving import WhileConnected, in_time
from hope_server.api.openapi import accepts_octets, answers_octets
from hope_server.api.runtime import Runtime, RuntimeOf
from hope_server.api.sessions import described
from hope_server.api.sse import until_disconnect
from hope_server.api.tenancy import SessionsOf, TenantSessions

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])


@router.get("/{session_id}/export", response_class=Response, responses=answers_octets())
async def export(session_id: str, runtime: RuntimeOf, sessions: SessionsOf) -> Response:
    """The session as one file: what it learned, and its journal. Import it here or on another server."""
    return _Export(runtime, sessions, session_id)


@router.post("/import", response_model=Session, openapi_extra=accepts_octets())
async def import_(request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> Response:
    """A new session from an exported one. Nothing is stored unless all of the file is in order."""
    return _Import(runtime, sessions)


class _Export(Response):
    """Errors before the first piece become a status; later ones cut the answer off before its end."""

    def __init__(self, runtime: Runtime, sessions: TenantSessions, session_id: str) -> None:
        super().__init__()
        self._runtime, self._sessions, self._session_id = runtime, sessions, session_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._sessions.transfer():
            work = in_time(self._send_file(send), limit_s=self._runtime.config.turn_timeout_s)
            await until_disconnect(receive, work)

    async def _send_file(self, send: Send) -> None:
        async with aclosing(self._sessions.export(self._session_id)) as pieces:
            first = await anext(pieces)
            name = f'attachment; filename="{self._session_id}.hope"'
            headers = [(b"content-type", OCTET_STREAM.encode()), (b"content-disposition", name.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for piece in _preceded(first, pieces):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Import(Response):
    """Has its place before the first byte of the file is read: so many files at most are in memory."""

    def __init__(self, runtime: Runtime, sessions: TenantSessions) -> None:
        super().__init__()
        self._runtime, self._sessions = runtime, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        config = self._runtime.config
        with self._sessions.transfer():
            self._runtime.admit()
            data = await read_octets(Request(scope, receive), limit=config.max_import_bytes)

            async def work() -> Session:
                return described(self._runtime, await self._sessions.import_(data))

            await WhileConnected(work, limit_s=config.turn_timeout_s)(scope, receive, send)


async def _preceded(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
