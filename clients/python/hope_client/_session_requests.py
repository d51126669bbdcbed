"""Requests of sessions."""

from urllib.parse import quote

from hope_client import wire
from hope_client._call import Call, build
from hope_client.errors import InvalidRequestError


def create(name: str | None) -> Call[wire.Session]:
    """POST /v1/sessions."""
    body = build(wire.SessionCreate, name=name).to_wire()
    return Call("POST", "/v1/sessions", wire.Session, repeatable=False, body=body)


def get(session_id: str) -> Call[wire.Session]:
    """GET /v1/sessions/{id}."""
    return Call("GET", _path(session_id), wire.Session, repeatable=True)


def rename(session_id: str, name: str) -> Call[wire.Session]:
    """PATCH /v1/sessions/{id}."""
    body = build(wire.SessionUpdate, name=name).to_wire()
    return Call("PATCH", _path(session_id), wire.Session, repeatable=True, body=body)


def list(after: str | None, limit: int) -> Call[wire.SessionList]:
    """GET /v1/sessions: the page behind the session `after`."""
    params: dict[str, str | int] = {"limit": limit}
    if after is not None:
        params["after"] = after
    return Call("GET", "/v1/sessions", wire.SessionList, repeatable=True, params=params)


def delete(session_id: str) -> Call[wire.SessionDeleted]:
    """DELETE /v1/sessions/{id}."""
    return Call("DELETE", _path(session_id), wire.SessionDeleted, repeatable=False)


def reset(session_id: str) -> Call[wire.Session]:
    """POST /v1/sessions/{id}/reset."""
    return Call("POST", f"{_path(session_id)}/reset", wire.Session, repeatable=False)


def fork(session_id: str, seq: int | None, name: str | None) -> Call[wire.Session]:
    """POST /v1/sessions/{id}/fork."""
    body = build(wire.SessionFork, seq=seq, name=name).to_wire()
    path = f"{_path(session_id)}/fork"
    return Call("POST", path, wire.Session, repeatable=False, body=body)


def rollback(session_id: str, seq: int) -> Call[wire.Session]:
    """POST /v1/sessions/{id}/rollback."""
    body = build(wire.SessionRollback, seq=seq).to_wire()
    path = f"{_path(session_id)}/rollback"
    return Call("POST", path, wire.Session, repeatable=False, body=body)


def verify(session_id: str) -> Call[wire.Verification]:
    """POST /v1/sessions/{id}/verify."""
    return Call("POST", f"{_path(session_id)}/verify", wire.Verification, repeatable=True)


def diff(session_id: str, from_seq: int, to_seq: int | None) -> Call[wire.Diff]:
    """GET /v1/sessions/{id}/diff."""
    params: dict[str, str | int] = {"from": from_seq}
    if to_seq is not None:
        params["to"] = to_seq
    return Call("GET", f"{_path(session_id)}/diff", wire.Diff, repeatable=True, params=params)


def export(session_id: str) -> Call[wire.Session]:
    """GET /v1/sessions/{id}/export, whose answer is a file."""
    path = f"{_path(session_id)}/export"
    return Call("GET", path, wire.Session, repeatable=True, streamed=True)


def import_(data: bytes) -> Call[wire.Session]:
    """POST /v1/sessions/import."""
    headers = {"Content-Type": wire.OCTET_STREAM}
    path = "/v1/sessions/import"
    return Call("POST", path, wire.Session, repeatable=False, content=data, headers=headers)


def levels(session_id: str) -> Call[wire.Levels]:
    """GET /v1/sessions/{id}/levels."""
    return Call("GET", f"{_path(session_id)}/levels", wire.Levels, repeatable=True)


def events(session_id: str, after: int, limit: int) -> Call[wire.Events]:
    """GET /v1/sessions/{id}/events: the entries behind the seq `after`."""
    params: dict[str, str | int] = {"after": after, "limit": limit}
    return Call("GET", f"{_path(session_id)}/events", wire.Events, repeatable=True, params=params)


def loss(session_id: str, tokens: int) -> Call[wire.SessionLoss]:
    """GET /v1/sessions/{id}/loss over at most `tokens` tokens."""
    path = f"{_path(session_id)}/loss"
    return Call("GET", path, wire.SessionLoss, repeatable=True, params={"tokens": tokens})


def messages(session_id: str, after: int, limit: int) -> Call[wire.SessionMessages]:
    """GET /v1/sessions/{id}/messages: those behind the seq `after`."""
    params: dict[str, str | int] = {"after": after, "limit": limit}
    path = f"{_path(session_id)}/messages"
    return Call("GET", path, wire.SessionMessages, repeatable=True, params=params)


def _path(session_id: str) -> str:
    if not session_id:
        raise InvalidRequestError("expected a session id, got an empty string")
    return f"/v1/sessions/{quote(session_id, safe='')}"
