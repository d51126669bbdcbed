"""/v1/sessions/{id}/fork, /rollback, /verify and /diff: what can be done because the journal is the truth."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from hope_client.wire import MAX_SEQ, Diff, LevelDiff, Session, SessionFork, SessionRollback, Verification
from hope_server.api.body import read_json
from hope_server.api.leaving import WhileConnected
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


@router.post("/verify", response_model=Verification)
async def verify(session_id: str, runtime: RuntimeOf, sessions: SessionsOf) -> Response:
    """Compute the state from the journal alone and compare; the session itself is only read."""
    runtime.admit()

    async def work() -> Verification:
        found = await sessions.verify(session_id)
        return Verification(
            seq=found.seq,
            tokens=found.position,
            head_sha256=found.head_sha256,
            replayed_sha256=found.replayed_sha256,
            restored_sha256=found.restored_sha256,
            snapshot_seq=found.snapshot_seq,
            equal=found.equal,
        )

    return WhileConnected(work, limit_s=runtime.config.turn_timeout_s)


@router.get("/diff", response_model=Diff)
async def diff(
    session_id: str,
    runtime: RuntimeOf,
    sessions: SessionsOf,
    first: Annotated[int, Query(alias="from", ge=0, le=MAX_SEQ)] = 0,
    last: Annotated[int | None, Query(alias="to", ge=0, le=MAX_SEQ)] = None,
) -> Response:
    """How each level changed from the journal entry `from` (0: the beginning) to `to` (the last one)."""
    runtime.admit()

    async def work() -> Diff:
        found = await sessions.diff(session_id, first=first, last=last)
        return Diff(
            from_seq=found.first_seq,
            to_seq=found.last_seq,
            from_tokens=found.first_position,
            to_tokens=found.last_position,
            levels=[
                LevelDiff(
                    name=level.name,
                    writes=level.writes,
                    norm=level.norm,
                    relative=level.relative,
                    max_abs=level.max_abs,
                    cosine=level.cosine,
                )
                for level in found.levels
            ],
        )

    return WhileConnected(work, limit_s=runtime.config.turn_timeout_s)
