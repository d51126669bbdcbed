"""GET /v1/sessions/{id}/loss: what a session's memory is worth, in nats per token."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from hope_client.wire import MAX_LOSS_TOKENS, SessionLoss
from hope_server.api.leaving import WhileConnected
from hope_server.api.runtime import RuntimeOf
from hope_server.api.tenancy import SessionsOf

DEFAULT_TOKENS = 256

router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["sessions"])


@router.get("/loss", response_model=SessionLoss)
async def loss(
    session_id: str,
    runtime: RuntimeOf,
    sessions: SessionsOf,
    tokens: Annotated[int, Query(ge=1, le=MAX_LOSS_TOKENS)] = DEFAULT_TOKENS,
) -> Response:
    """Read up to `tokens` of the session's recent tokens again, from a snapshot taken before them, with what
    it had learned by then and without. The session itself is only read.
    """
    runtime.admit()

    async def work() -> SessionLoss:
        found = await sessions.loss(session_id, tokens=tokens)
        return SessionLoss(
            from_seq=found.first_seq,
            to_seq=found.last_seq,
            tokens=found.tokens,
            with_memory=found.with_memory,
            without_memory=found.without_memory,
        )

    return WhileConnected(work, limit_s=runtime.config.turn_timeout_s)
