"""A session's keys and its meta hash on Redis."""

from collections.abc import Sequence

from hope_server.errors import SessionCorrupted, SessionNotFound
from hope_server.sessions.key import SessionKey
from hope_server.sessions.store import MAX_SEQ, SessionMeta

VERSION = b"1"
META_FIELDS = (
    "v",
    "model",
    "transcript_sha256",
    "first_message_sha256",
    "created_us",
    "seq",
    "base_seq",
    "snap_seq",
    "transcript_count",
    "name",
)


def index_key(tenant: str) -> str:
    return f"h1:{{{tenant}}}:sessions"


def meta_key(session: SessionKey) -> str:
    return f"h1:{{{session}}}:m"


def journal_key(session: SessionKey) -> str:
    return f"h1:{{{session}}}:j"


def turns_key(session: SessionKey) -> str:
    return f"h1:{{{session}}}:i"


def chunk_key(session: SessionKey, chunk_id: str) -> str:
    return f"h1:{{{session}}}:p:{chunk_id}"


def decode_meta(session: SessionKey, values: Sequence[bytes | None]) -> SessionMeta:
    """The meta from the values of ``META_FIELDS``; raises ``SessionCorrupted`` if they make none."""
    *required, name = values
    if required[0] != VERSION or None in required:
        raise SessionCorrupted(f"session {session} should have meta version 1, found {required[0]!r}")
    _, model, transcript, first_message = (value.decode() for value in required[:4] if value is not None)
    created_us, seq, base_seq, snapshot_seq, count = (_number(session, value) for value in required[4:])
    return SessionMeta(
        key=session,
        created_at=created_us / 1e6,
        model=model,
        seq=seq,
        base_seq=base_seq,
        snapshot_seq=snapshot_seq,
        transcript_count=count,
        transcript_sha256=transcript,
        first_message_sha256=first_message,
        name=None if name is None else name.decode(),
    )


def _number(session: SessionKey, value: bytes | None) -> int:
    if value is None or not value.isdigit() or int(value) > MAX_SEQ:
        raise SessionCorrupted(f"session {session} should have a number in its meta, found {value!r}")
    return int(value)


def not_found(session: SessionKey) -> SessionNotFound:
    return SessionNotFound(f"there is no session {session.session}")
