"""/v1/sessions/{id}/fork, /rollback and /verify: what can be done because the journal is the truth."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request

from hope_client.wire import Session, SessionFork, SessionRollback, Verification
from hope_server.api.body import read_json
from hope_server.api.openapi import accepts
from hope_server.api.runtime import RuntimeOf
from hope_server.api.sessions import described
from hope_server.api.tenancy import SessionsOf
from hope_server.errors import TurnTimeout

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


@router.post("/verify")
async def verify(session_id: str, runtime: RuntimeOf, sessions: SessionsOf) -> Verification:
    """Compute the state from the journal alone and compare; the session itself is only read."""
    runtime.admit()
    limit_s = runtime.config.turn_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            found = await sessions.verify(session_id)
    except TimeoutError:
        raise TurnTimeout(f"expected a verification of at most {limit_s:g} seconds") from None
    return Verification(
        seq=found.seq,
        tokens=found.position,
        head_sha256=found.head_sha256,
        replayed_sha256=found.replayed_sha256,
        restored_sha256=found.restored_sha256,
        snapshot_seq=found.snapshot_seq,
        equal=found.equal,
    )
