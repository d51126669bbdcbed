"""Every error as OpenAI writes them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hope_client.wire import ErrorBody, ErrorDetail
from hope_server.api.body import invalid
from hope_server.api.linger import send_and_linger
from hope_server.api.runtime import Runtime
from hope_server.errors import (
    AlreadyLearned,
    BodyTooLarge,
    HopeError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    RequestError,
    RouteNotFound,
    SessionNotFound,
    Unauthorized,
)
from hope_server.logging import request_id

logger = logging.getLogger("hope.api")


def error_body(error: HopeError) -> ErrorBody:
    """The body of an answer, or of an event inside a stream."""
    message = _message(error)
    detail = ErrorDetail(message=message, type=error.type, param=error.param, code=error.code)
    if isinstance(error, AlreadyLearned):
        detail = detail.model_copy(update={"first_seq": error.first_seq, "last_seq": error.last_seq})
    return ErrorBody(error=detail)


def error_headers(error: HopeError) -> dict[str, str]:
    """Whether to retry, and when. OpenAI's clients retry 409 and 5xx by themselves unless told not to."""
    headers = {"x-should-retry": "true" if error.retry else "false"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    return headers


class ErrorResponse(Response):
    """An error as a whole answer. Where the body was not read to its end, the connection is closed gently."""

    def __init__(self, error: HopeError, headers: dict[str, str] | None = None) -> None:
        self._body_unread = isinstance(error, BodyTooLarge)
        super().__init__(
            error_body(error).model_dump_json(),
            status_code=error.status,
            headers={**error_headers(error), **(headers or {})},
            media_type="application/json",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._body_unread:
            await send_and_linger(self, receive, send)
        else:
            await super().__call__(scope, receive, send)


def as_hope_error(error: Exception) -> HopeError:
    """`error` itself if it is one of ours; anything else is a bug, logged here and hidden from the caller."""
    if isinstance(error, HopeError):
        return error
    logger.error("unexpected error", exc_info=error)
    return InternalError("a bug, see above")


def report(runtime: Runtime, error: HopeError) -> None:
    """Count an answered error; what the caller is not told goes to the log."""
    runtime.metrics.on_error(error)
    if not isinstance(error, RequestError):
        logger.warning("answered %s: %s", error.code, error.message, extra={"code": error.code})


def _message(error: HopeError) -> str:
    """What the caller is told.

    A request's own fault is explained. Of the server's it hears the kind and where to look, nothing of its
    inside. A session that is not there and one that is another tenant's give the same words.
    """
    if isinstance(error, SessionNotFound):
        return "there is no session with this id"
    if isinstance(error, RequestError):
        return error.message
    where = request_id.get()
    return error.public_message + (
        f"; the server's log has more under request {where}" if where != "-" else ""
    )


def install(app: FastAPI) -> None:
    """Map our errors and the framework's to answers."""

    @app.exception_handler(HopeError)
    async def _ours(request: Request, error: HopeError) -> Response:
        report(request.app.state.runtime, error)
        return ErrorResponse(error)

    @app.exception_handler(RequestValidationError)
    async def _parameters(request: Request, error: RequestValidationError) -> Response:
        # The first part of a location says "query" or "path", the input is keyed by what follows.
        errors = [{**each, "loc": each["loc"][1:]} for each in error.errors()]
        data = {str(each["loc"][0]): each["input"] for each in errors if each["loc"]}
        return await _ours(request, invalid(errors, data))  # type: ignore[arg-type]

    @app.exception_handler(HTTPException)
    async def _framework(request: Request, error: HTTPException) -> Response:
        path = request.scope["path"]
        if error.status_code == HTTPStatus.NOT_FOUND:
            return await _ours(request, RouteNotFound(f"there is no {path[:200]!r} here"))
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            ours = MethodNotAllowed(f"{path[:200]!r} does not answer {request.method}")
            report(request.app.state.runtime, ours)
            return ErrorResponse(ours, dict(error.headers or {}))
        return await _ours(request, InvalidRequest(str(error.detail)))
