"""/v1/sessions/{id}/fork and /rollback: any number of the journal is a point to go back to."""

from __future__ import annotations

from fastapi import APIRouter, Request

from hope_client.wire import Session, SessionFork, SessionRollback
from hope_server.api.body import read_json
from hope_server.api.openapi import accepts
from hope_server.api.runtime import RuntimeOf
from hope_server.api.sessions import described
from hope_server.api.tenancy import SessionsOf

router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["sessions"])


@router.post("/fork", openapi_extra=accepts(SessionFork, required=False))
async def fork(session_id: str, request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> Session:
    """A new session that is what this one was at `seq`, or is now. The body may be empty."""
    body = await read_json(request, SessionFork, limit=runtime.config.max_body_bytes)
    runtime.admit()
    return described(runtime, await sessions.fork(session_id, seq=body.seq, name=body.name))


@router.post("/rollback", openapi_extra=accepts(SessionRollback))
async def rollback(session_id: str, request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> Session:
    """Back to how the session stood after `seq`; the journal keeps what was, so this can be undone too."""
    body = await read_json(request, SessionRollback, limit=runtime.config.max_body_bytes)
    runtime.admit()
    return described(runtime, await sessions.rollback(session_id, seq=body.seq))
