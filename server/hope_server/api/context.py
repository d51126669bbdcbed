"""What surrounds every request: its id, one log line, and an answer even when the code fails."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hope_client.wire import REQUEST_ID_HEADER
from hope_server.api.errors import ErrorResponse, as_hope_error
from hope_server.logging import request_id

logger = logging.getLogger("hope.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


class RequestContext:
    """ASGI middleware. A caller's X-Request-ID goes back in the answer; a new id replaces an unfit one.

    The log line has method, path, status and time; never headers, query strings or bodies.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        identity = _identity(Headers(scope=scope).get(REQUEST_ID_HEADER, ""))
        request_id.set(identity)
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = identity
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except ClientDisconnect:
            pass
        except Exception as error:
            ours = as_hope_error(error)
            if status:
                raise ConnectionError("the answer was cut off by an error") from error
            await ErrorResponse(ours)(scope, receive, send_named)
        finally:
            seconds = time.monotonic() - started
            logger.info("%s %s %s %.3fs", scope["method"], scope["path"], status or "gone", seconds)


def _identity(given: str) -> str:
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
