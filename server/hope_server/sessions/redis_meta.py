"""A session's keys and its meta hash on Redis."""

import re
from collections.abc import Sequence
from typing import Any

from hope_server.errors import SessionCorrupted
from hope_server.sessions.key import SessionKey
from hope_server.sessions.path import Freeze, Path
from hope_server.sessions.records import decode_transcript, encode_transcript
from hope_server.sessions.refusals import fenced, lease_held, not_found, quarantined
from hope_server.sessions.sealing import Keyring, Tampered
from hope_server.sessions.session import (
    MAX_SEQ,
    NO_TRANSCRIPT,
    Fence,
    Head,
    SessionMeta,
    Transcript,
)

VERSION = b"2"
HIDDEN = b"hidden"
META_FIELDS = (
    "v",
    "created_us",
    "seq",
    "start_seq",
    "snap_seq",
    "model",
    "head",
    "spans",
    "state",
    "name",
    "transcript",
    "transcript_seq",
    "frozen_seq",
)
_HEX = re.compile(rb"[0-9a-f]{64}")
_SPANS = re.compile(rb"([0-9]+-[0-9]+( [0-9]+-[0-9]+)*)?")


def index_key(tenant: str) -> str:
    return f"h1:{{{tenant}}}:sessions"


def meta_key(session: SessionKey) -> str:
    return f"h1:{{{session}}}:m"


def journal_key(session: SessionKey) -> str:
    return f"h1:{{{session}}}:j"


def turns_key(session: SessionKey) -> str:
    return f"h1:{{{session}}}:i"


def documents_key(session: SessionKey) -> str:
    return f"h1:{{{session}}}:d"


def chunk_key(session: SessionKey, chunk_id: str) -> str:
    return f"h1:{{{session}}}:p:{chunk_id}"


def keys_of(session: SessionKey) -> list[str]:
    """What every function gets."""
    return [meta_key(session), journal_key(session), turns_key(session)]


def decode_meta(keys: Keyring, session: SessionKey, values: Sequence[bytes | None]) -> SessionMeta:
    """The meta from the values of ``META_FIELDS``; raises ``SessionCorrupted`` if they make none."""
    *required, name, transcript, transcript_seq, frozen_seq = values
    if required[0] != VERSION or None in required:
        raise _unfit(session, f"meta version {VERSION.decode()}", required[0])
    created_us, seq, start_seq, snapshot_seq = (_number(session, value) for value in required[1:5])
    model, head, spans, state = (value for value in required[5:] if value is not None)
    if not _HEX.fullmatch(head):
        raise _unfit(session, "a hash as its head", head)
    return SessionMeta(
        key=session,
        created_at=created_us / 1e6,
        model=model.decode(errors="replace"),
        name=None if name is None else _unsealed(keys, session, "name", 0, name).decode(),
        head=Head(seq, head.decode()),
        path=_decode_path(session, start_seq, spans, frozen_seq or b""),
        snapshot_seq=snapshot_seq,
        transcript=_decode_transcript(keys, session, transcript, transcript_seq),
        quarantined=state == b"quarantined",
    )


def seal_name(keys: Keyring, session: SessionKey, name: str | None) -> bytes:
    """Empty for no name."""
    return b"" if name is None else keys.seal(session, "name", 0, name.encode())


def seal_transcript(keys: Keyring, session: SessionKey, seq: int, transcript: Transcript) -> bytes:
    """For a commit whose last token is ``seq``."""
    return keys.seal(session, "transcript", seq, encode_transcript(transcript))


def encode_spans(path: Path) -> str:
    return " ".join(f"{first}-{last}" for first, last in path.closed)


def check_reply(session: SessionKey, reply: Sequence[Any]) -> None:
    """Raises what a function's refusal means; nothing for ``OK`` and for words of the function's own."""
    match reply:
        case [b"NOTFOUND"]:
            raise not_found(session)
        case [b"FENCED"]:
            raise fenced(session)
        case [b"QUARANTINED"]:
            raise quarantined(session)
        case [b"HELD", milliseconds]:
            raise lease_held(session, int(milliseconds) / 1000)


def encode_freeze(path: Path) -> str:
    """Empty for a path that learns."""
    return "" if path.freeze is None else f"{path.freeze.good_seq}-{path.freeze.seq}"


def _decode_path(session: SessionKey, start_seq: int, spans: bytes, frozen_seq: bytes) -> Path:
    closed, freezes = _decode_spans(session, spans), _decode_spans(session, frozen_seq)
    path = Path(start_seq, closed, Freeze(*freezes[0]) if freezes else None)
    if path.overfull or len(freezes) > 1:
        raise _unfit(session, "spans", spans[:64])
    return path


def _decode_spans(session: SessionKey, spans: bytes) -> tuple[tuple[int, int], ...]:
    if not _SPANS.fullmatch(spans):
        raise _unfit(session, "spans", spans[:64])
    pairs = [span.split(b"-") for span in spans.split()]
    return tuple((int(first), int(last)) for first, last in pairs)


def _decode_transcript(
    keys: Keyring, session: SessionKey, sealed: bytes | None, seq: bytes | None
) -> Transcript:
    if sealed is None:
        return NO_TRANSCRIPT
    try:
        return decode_transcript(_unsealed(keys, session, "transcript", _number(session, seq), sealed))
    except ValueError as error:
        raise _unfit(session, "a transcript", b"another value") from error


def _unsealed(keys: Keyring, session: SessionKey, kind: str, place: int, sealed: bytes) -> bytes:
    try:
        return keys.unseal(session, kind, place, sealed)
    except Tampered as error:
        raise _unfit(session, f"a sealed {kind}", b"a damaged one") from error


def _number(session: SessionKey, value: bytes | None) -> int:
    if value is None or not value.isdigit() or int(value) > MAX_SEQ:
        raise _unfit(session, "a number", value)
    return int(value)


def _unfit(session: SessionKey, expected: str, found: bytes | None) -> SessionCorrupted:
    return SessionCorrupted(f"session {session.session} should have {expected} in its meta, found {found!r}")


def fence_args(fence: Fence) -> list[Any]:
    """The first arguments of every function that writes."""
    return [fence.counter, fence.nonce]
