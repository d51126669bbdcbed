"""/v1/sessions: create, list, get, delete, reset; what each level has learned; the journal."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from hope_client.wire import (
    MAX_PAGE_EVENTS,
    MAX_PAGE_SESSIONS,
    Event,
    Events,
    Learn,
    Levels,
    LevelStatus,
    Session,
    SessionCreate,
    SessionDeleted,
    SessionList,
    SessionUpdate,
)
from hope_server.api.body import read_json
from hope_server.api.openapi import accepts
from hope_server.api.runtime import Runtime, RuntimeOf
from hope_server.api.tenancy import SessionsOf
from hope_server.api.text import TokenDecoder
from hope_server.sessions.session import MAX_SEQ, JournalRecord, SessionMeta, list_cursor

DEFAULT_SESSIONS = 100
DEFAULT_EVENTS = 1000
CHARACTER_LEAD = 3
"""Tokens before a page that may hold the beginning of its first character: UTF-8 has at most 4 bytes."""

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])


@router.post("", openapi_extra=accepts(SessionCreate, required=False))
async def create(request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> Session:
    """A new session at the initial state. The body may be empty."""
    body = await read_json(request, SessionCreate, limit=runtime.config.max_body_bytes)
    runtime.admit()
    return described(runtime, await sessions.create(body.name))


@router.get("")
async def list_all(
    runtime: RuntimeOf,
    sessions: SessionsOf,
    after: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SESSIONS)] = DEFAULT_SESSIONS,
) -> SessionList:
    """One page of sessions, oldest first."""
    metas = await sessions.list(after=after, limit=limit)
    return SessionList(
        data=[described(runtime, meta) for meta in metas],
        last_id=list_cursor(metas[-1]) if metas else None,
        has_more=len(metas) == limit,
    )


@router.get("/{session_id}")
async def get(session_id: str, runtime: RuntimeOf, sessions: SessionsOf) -> Session:
    """The session's head."""
    return described(runtime, await sessions.get(session_id))


@router.patch("/{session_id}", openapi_extra=accepts(SessionUpdate))
async def update(session_id: str, request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> Session:
    """Call the session by another name. Nothing that it learned changes."""
    body = await read_json(request, SessionUpdate, limit=runtime.config.max_body_bytes)
    return described(runtime, await sessions.rename(session_id, body.name))


@router.delete("/{session_id}")
async def delete(session_id: str, sessions: SessionsOf) -> SessionDeleted:
    """Forget the session: journal, snapshots, everything."""
    await sessions.delete(session_id)
    return SessionDeleted(id=session_id)


@router.post("/{session_id}/reset")
async def reset(session_id: str, runtime: RuntimeOf, sessions: SessionsOf) -> Session:
    """Back to the initial state; the journal keeps what was."""
    runtime.admit()
    return described(runtime, await sessions.reset(session_id))


@router.get("/{session_id}/levels")
async def levels(session_id: str, sessions: SessionsOf) -> Levels:
    """What each level of the session has read, written and how far it has moved, all counted."""
    found = await sessions.levels(session_id)
    return Levels(
        levels=[
            LevelStatus(
                name=level.name,
                period=level.period,
                tokens=level.tokens,
                writes=level.writes,
                refused=level.refused,
                frequency=level.frequency,
                drift_ratio=level.drift_ratio,
                bytes=level.bytes,
            )
            for level in found
        ]
    )


@router.get("/{session_id}/events")
async def events(
    session_id: str,
    runtime: RuntimeOf,
    sessions: SessionsOf,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_EVENTS)] = DEFAULT_EVENTS,
) -> Events:
    """The journal from `after` on, one event per token, and the last committed seq."""
    lead = max(0, after - CHARACTER_LEAD)
    records, head = await sessions.events(session_id, after=lead, limit=limit + CHARACTER_LEAD)
    return Events(events=_events(runtime, records, lead=lead, after=after, limit=limit), head=head)


def _events(
    runtime: Runtime, records: list[JournalRecord], *, lead: int, after: int, limit: int
) -> list[Event]:
    """Events after `after`. Those from `lead` to there only complete the first character."""
    decoder = TokenDecoder(runtime.tokenizer.decode_bytes)
    found: list[Event] = []
    for record in records:
        if not record.tokens:
            decoder.flush()
            if record.first_seq > after:
                found.append(Event(seq=record.first_seq, kind=record.kind, origin=record.origin))
        learn: Learn = "on" if record.learn else "off"
        for seq, token in enumerate(record.tokens, record.first_seq):
            if seq <= lead:
                continue
            text = decoder.feed(token)
            if seq > after:
                event = Event(
                    seq=seq, kind=record.kind, token=token, text=text, origin=record.origin, learn=learn
                )
                found.append(event)
            if len(found) >= limit:
                return found
    return found[:limit]


def described(runtime: Runtime, meta: SessionMeta) -> Session:
    """A session as routes show it.

    `model` is the served model's name, or the hash of other weights that the session learned on.
    """
    own = meta.model == runtime.slow_weights_sha256
    return Session(
        id=meta.session_id,
        name=meta.name,
        created_at=meta.created_at,
        model=runtime.model_name if own else meta.model,
        seq=meta.seq,
        tokens=meta.position,
        learning="on" if meta.path.freeze is None else "frozen",
    )
