"""The HTTP server: uvicorn with bounds, without its signal handlers, and with the API's own errors."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from hope_server.api.errors import error_body
from hope_server.config import ServerConfig
from hope_server.errors import InvalidRequest

BACKLOG = 1024
CLOSE_CONNECTIONS_S = 5

HEAD_TOO_LARGE = 431
BAD_REQUEST = 400
VERSIONS = (b"1.0", b"1.1")


class _Connection(h11.Connection):
    """h11's parser takes any version number: those that nobody defined are refused here."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request) and event.http_version not in VERSIONS:
            raise h11.RemoteProtocolError("expected HTTP/1.0 or HTTP/1.1")
        return event


class HttpProtocol(H11Protocol):
    """uvicorn's protocol; `send_400_response` is where it refuses bytes that are not HTTP."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert config.h11_max_incomplete_event_size is not None
        self.conn = _Connection(h11.SERVER, config.h11_max_incomplete_event_size)

    def send_400_response(self, msg: str) -> None:
        """Refuse, and close the connection. Called while the parser's error is being handled."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        error = sys.exc_info()[1]
        too_large = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == HEAD_TOO_LARGE
        status = HEAD_TOO_LARGE if too_large else BAD_REQUEST
        code = "head_too_large" if too_large else "invalid_http"
        message = "the request's head is larger than the server reads" if too_large else msg
        body = error_body(InvalidRequest(message, code=code)).model_dump_json().encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-should-retry", b"false"),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class HttpServer(uvicorn.Server):
    """uvicorn over an app. Its signal handlers would end the process by the signal itself: they are left out.

    `answering` is set once requests are accepted; `should_exit = True` ends it.
    """

    def __init__(self, config: ServerConfig, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=HttpProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=round(config.keep_alive_s),
                timeout_graceful_shutdown=CLOSE_CONNECTIONS_S,
                h11_max_incomplete_event_size=config.max_header_bytes,
                backlog=BACKLOG,
            )
        )
        self.answering = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answering.set()
