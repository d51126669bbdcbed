"""One HTTP connection: uvicorn's protocol with deadlines, and refusals in the API's own shape."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from hope_server.api.errors import error_body, error_headers
from hope_server.api.headers import SECURITY_HEADERS
from hope_server.errors import HeadTooLarge, HopeError, InvalidRequest, RequestTimeout, TooManyConnections

HEAD_TOO_LARGE = 431
VERSIONS = (b"1.0", b"1.1")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each connection, and of their number.

    head_s: From the first byte of a request (or the connection's begin) to the end of its head.
    body_s: From there to the end of its body.
    write_s: While the client takes nothing of what is sent.
    """

    head_s: float
    body_s: float
    write_s: float
    connections: int


def protocol(limits: Limits) -> type[H11Protocol]:
    """uvicorn makes its protocols itself, with arguments of its own: the limits come with the class."""

    class Limited(HttpProtocol):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, limits=limits, **more)

    return Limited


class _Connection(h11.Connection):
    """h11's parser takes any version number: those that nobody defined are refused here."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request) and event.http_version not in VERSIONS:
            raise h11.RemoteProtocolError("expected HTTP/1.0 or HTTP/1.1")
        return event


class _Deadline:
    """A timer that is running or not."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, passed: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._passed = passed
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Run from now on, or go on running."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._passed)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class HttpProtocol(H11Protocol):
    """A client that sends too slowly gets 408; one that takes nothing is cut off, which ends its turn."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert config.h11_max_incomplete_event_size is not None
        self.conn = _Connection(h11.SERVER, config.h11_max_incomplete_event_size)
        self._most = limits.connections
        self._head = _Deadline(self.loop, limits.head_s, self._sent_too_slowly)
        self._body = _Deadline(self.loop, limits.body_s, self._sent_too_slowly)
        self._write = _Deadline(self.loop, limits.write_s, self._takes_nothing)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most:
            self._refuse(TooManyConnections("as many connections are open as the server holds"))
        else:
            self._head.start()

    def connection_lost(self, exc: Exception | None) -> None:
        for deadline in (self._head, self._body, self._write):
            deadline.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write.start()

    def resume_writing(self) -> None:
        self._write.stop()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP. Called while the parser's error is being handled."""
        error = sys.exc_info()[1]
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == HEAD_TOO_LARGE:
            self._refuse(HeadTooLarge("the request's head is larger than the server reads"))
        else:
            self._refuse(InvalidRequest(msg, code="invalid_http"))

    def _watch(self) -> None:
        """Run the deadline of what the client has begun to send; between requests keep-alive's own runs."""
        if self.transport.is_closing():
            return
        begun = bool(self.conn.trailing_data[0])
        if self.conn.their_state is h11.IDLE and begun:
            self._head.start()
        elif self.conn.their_state is not h11.IDLE:
            self._head.stop()
        if self.conn.their_state is h11.SEND_BODY:
            self._body.start()
        else:
            self._body.stop()

    def _sent_too_slowly(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self.transport.close()
        else:
            self._refuse(RequestTimeout("the request was not sent within the server's time limit"))

    def _takes_nothing(self) -> None:
        self.transport.abort()

    def _refuse(self, error: HopeError) -> None:
        """Answer without the app, and close. The app, if it runs, sees that the client is gone."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = error_body(error).model_dump_json().encode()
        headers = {
            **SECURITY_HEADERS,
            **error_headers(error),
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
        }
        for event in (
            h11.Response(
                status_code=error.status,
                headers=[(name.encode(), value.encode()) for name, value in headers.items()],
                reason=STATUS_PHRASES[error.status],
            ),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
