"""Journal records as bytes: versioned, bounded, bound to their session by a keyed digest.

Little endian: ``version u8 | kind u8 | origin u8 | 0 u8 | first_seq u64 | count u32 | token u32 * count |
digest 8``. Redis's append-only file has no checksums, so a flipped bit would load silently without the
digest; its key is the session id, so a reply meant for another session fails too.
"""

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, get_args

from hope_server.errors import SessionCorrupted
from hope_server.sessions.key import SessionKey
from hope_server.sessions.store import MAX_APPEND_TOKENS, MAX_SEQ, MAX_TOKEN, JournalRecord, Kind, Origin

_VERSION: Final = 1
_HEADER = struct.Struct("<BBBBQI")
_DIGEST_BYTES: Final = 8
_KINDS: tuple[Kind, ...] = get_args(Kind)
_ORIGINS: tuple[Origin, ...] = get_args(Origin)


def encode_record(session: SessionKey, record: JournalRecord) -> bytes:
    """``16 + 4 * tokens + 8`` bytes; raises ``ValueError`` for a token outside 0 .. 2**32 - 1."""
    tokens = record.tokens
    if tokens and not 0 <= min(tokens) <= max(tokens) <= MAX_TOKEN:
        raise ValueError(f"a token is 0 to {MAX_TOKEN}, found {min(tokens)} to {max(tokens)}")
    kind, origin = _KINDS.index(record.kind), _ORIGINS.index(record.origin)
    header = _HEADER.pack(_VERSION, kind, origin, 0, record.first_seq, len(tokens))
    body = header + struct.pack(f"<{len(tokens)}I", *tokens)
    return body + _digest(session, body)


def decode_record(session: SessionKey, data: bytes) -> JournalRecord:
    """The record that ``encode_record`` made of; raises ``SessionCorrupted`` for anything else."""
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if len(body) < _HEADER.size or _digest(session, body) != digest:
        raise _corrupt(session, f"expected a record with its digest, found {len(data)} other bytes")
    version, kind, origin, zero, first_seq, count = _HEADER.unpack_from(body)
    if version != _VERSION or zero or kind >= len(_KINDS) or origin >= len(_ORIGINS):
        raise _corrupt(session, f"expected record version {_VERSION}, found {body[:4].hex()}")
    if count > MAX_APPEND_TOKENS or len(body) != _HEADER.size + 4 * count:
        raise _corrupt(session, f"a record of {count} tokens does not take {len(data)} bytes")
    if (_KINDS[kind] == "reset") != (count == 0) or not 1 <= first_seq <= MAX_SEQ:
        raise _corrupt(session, f"a {_KINDS[kind]} record at {first_seq} cannot hold {count} tokens")
    tokens = struct.unpack_from(f"<{count}I", body, _HEADER.size)
    return JournalRecord(first_seq, _KINDS[kind], _ORIGINS[origin], tokens)


def check_page(session: SessionKey, records: Sequence[JournalRecord], *, after: int, head: int) -> None:
    """Raises ``SessionCorrupted`` unless ``records`` go on without a gap from ``after``, up to ``head``."""
    if not records and after < head:
        raise _corrupt(session, f"token {after + 1} of {head} is missing")
    for record in records:
        if not record.first_seq <= after + 1 <= record.last_seq <= head:
            found = f"{record.first_seq} to {record.last_seq}"
            raise _corrupt(session, f"expected a record with token {after + 1} of {head}, found {found}")
        after = record.last_seq


def _digest(session: SessionKey, body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST_BYTES, key=session.digest_key()).digest()


def _corrupt(session: SessionKey, found: str) -> SessionCorrupted:
    return SessionCorrupted(f"the journal of session {session} is damaged: {found}")
