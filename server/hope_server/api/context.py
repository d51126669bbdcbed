"""What surrounds every request: who calls, its id, one log line, and an answer even when the code fails."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hope_client.wire import REQUEST_ID_HEADER
from hope_server.api import page
from hope_server.api.errors import ErrorResponse, as_hope_error, report
from hope_server.api.headers import SECURITY_HEADERS
from hope_server.api.runtime import Runtime
from hope_server.errors import Forbidden, HopeError
from hope_server.logging import begin_request, request_id
from hope_server.tenants.api_key import Caller
from hope_server.tracing import NO_SPAN, Span

logger = logging.getLogger("hope.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
_CALLER = "hope.caller"
_SPAN = "hope.span"
PUBLIC_PATHS = frozenset({"/health", "/ready", *page.FILES})
"""Answered without a key: an orchestrator's probes have none, and the page asks for it. Every other path,
known or not, needs one."""
STRANGER = Caller(tenant=None)
SERVER_ERROR = 500


def caller_of(scope: Scope) -> Caller:
    """Who sent the request. A route learns it from here alone."""
    caller: Caller = scope[_CALLER]
    return caller


def span_of(scope: Scope) -> Span:
    """The request's span, whose parts are what it goes through."""
    span: Span = scope[_SPAN]
    return span


def require_operator(request: Request) -> None:
    """Raises Forbidden unless the caller may read the server's own figures, which all tenants add to."""
    if not caller_of(request.scope).operator:
        raise Forbidden("expected an operator's key (hope keys create --operator)")


class RequestContext:
    """ASGI middleware. Nothing behind it runs before the caller is known.

    A caller's X-Request-ID goes back in the answer; a new id replaces an unfit one. The log line has method,
    route, status and time; never what stands for a parameter in the path, headers, query strings or bodies.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        identity = _identity(Headers(scope=scope).get(REQUEST_ID_HEADER, ""))
        span = _runtime(scope).tracing.request(Headers(scope=scope), {"http.request.method": scope["method"]})
        scope[_SPAN] = span
        begin_request(identity, trace_id=span.trace_id)
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = identity
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            scope[_CALLER] = _caller(scope)
            await self._app(scope, receive, send_named)
        except ClientDisconnect:
            pass
        except Exception as error:
            ours = as_hope_error(error)
            report(_runtime(scope), ours)
            if status:
                raise ConnectionError("the answer was cut off by an error") from error
            await ErrorResponse(ours)(scope, receive, send_named)
        finally:
            seconds, route = time.monotonic() - started, _route(scope)
            _end(span, scope["method"], route, status)
            _runtime(scope).metrics.on_http(
                method=scope["method"], route=route, status=status, seconds=seconds
            )
            fields = {"method": scope["method"], "route": route, "status": status, "duration_s": seconds}
            logger.info("%s %s %s %.3fs", scope["method"], route, status or "gone", seconds, extra=fields)


def _end(span: Span, method: str, route: str, status: int) -> None:
    """As the conventions for HTTP servers have it: an error is what the caller cannot mend."""
    if span is NO_SPAN:
        return
    span.rename(f"{method} {route}")
    span.set({"http.route": route, "http.response.status_code": status, "hope.request_id": request_id.get()})
    span.end("client_disconnected" if not status else str(status) if status >= SERVER_ERROR else "")


def _runtime(scope: Scope) -> Runtime:
    runtime: Runtime = scope["app"].state.runtime
    return runtime


def _caller(scope: Scope) -> Caller:
    headers, client = Headers(scope=scope), scope.get("client")
    try:
        return _runtime(scope).gate.caller(
            headers.getlist("authorization"), client=client[0] if client else "", host=headers.get("host", "")
        )
    except HopeError:
        if scope["path"] in PUBLIC_PATHS:
            return STRANGER
        raise


def _route(scope: Scope) -> str:
    """The route as it is declared; a path that led to none may hold anything."""
    path: str = getattr(scope.get("route"), "path", "(no route)")
    return path


def _identity(given: str) -> str:
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
