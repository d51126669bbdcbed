"""What a generating request says outside of its body: its session, its idempotency key, its id."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from fastapi import Request

from hope_client.wire import (
    IDEMPOTENCY_HEADER,
    IDEMPOTENCY_KEY_PATTERN,
    SESSION_HEADER,
    SESSION_ID_PATTERN,
    CompletionRequest,
)
from hope_server.api.choices import once
from hope_server.api.context import span_of
from hope_server.api.repeats import fingerprint_of, is_repeated
from hope_server.api.tenancy import TenantSessions
from hope_server.api.turn import Body, Prompt, TurnSpec, unchanged
from hope_server.constrained import Grammar
from hope_server.engine.request import SamplingParams
from hope_server.errors import InvalidRequest, SessionNotFound
from hope_server.logging import request_id


def turn_spec(
    request: Request,
    sessions: TenantSessions,
    body: Body,
    sampling: SamplingParams,
    prepare: Callable[[str | None, str | None], Awaitable[Prompt]],
    *,
    echo: str | None = None,
    grammar: Grammar | None = None,
    canonical: Callable[[str], str] = unchanged,
) -> TurnSpec:
    """The turn that `request` asks for; `prepare` gets the session's id and the idempotency key.

    It is called once, however many choices there are of the prompt.
    """
    session_id = _session_id(request, body)
    key = idempotency_key(request)
    return TurnSpec(
        request_id=request_id.get(),
        sessions=sessions,
        session_id=session_id,
        idempotency_key=key,
        sampling=sampling,
        stop_strings=body.stop_strings,
        prepare=once(lambda: prepare(session_id, key)),
        echo=echo,
        grammar=grammar,
        canonical=canonical,
        fingerprint="" if key is not None else fingerprint_of(request),
        repeated=key is None and is_repeated(request),
        learn=body.learn == "on",
        operation="text_completion" if isinstance(body, CompletionRequest) else "chat",
        span=span_of(request.scope),
    )


def _session_id(request: Request, body: Body) -> str | None:
    header = request.headers.get(SESSION_HEADER)
    if header is None:
        return body.session_id
    if not re.fullmatch(SESSION_ID_PATTERN, header):
        raise SessionNotFound("there is no session with this id", param=SESSION_HEADER)
    if body.session_id not in (None, header):
        raise InvalidRequest(
            f"the header {SESSION_HEADER} and the body's session_id name different sessions",
            param="session_id",
            code="session_id_mismatch",
        )
    return header


def idempotency_key(request: Request) -> str | None:
    """The request's key. Raises InvalidRequest for one that is none."""
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is not None and not re.fullmatch(IDEMPOTENCY_KEY_PATTERN, key):
        raise InvalidRequest(
            f"{IDEMPOTENCY_HEADER}: expected 1 to 128 visible ASCII characters",
            param=IDEMPOTENCY_HEADER,
            code="invalid_value",
        )
    return key
