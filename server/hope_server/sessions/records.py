"""Journal records as bytes: versioned, bounded, sealed, and each chained to all before it.

Little endian: ``version u8 | kind u8 | origin u8 | parts u8 | first_seq u64 | count u32 | tokens u32 each``,
then the parts that its bits name, in this order: 1 target_seq u64, 2 seed u64 and counter u64, 4 request 16,
8 transcript: count u32 and two digests, each ``length u8 | text``. Bit 16, of a turn that does not learn, has
no bytes.

An entry of the journal is ``chain 32 | sealed record``: ``chain = sha256(chain before | sealed record)``.
Redis's append-only file has no checksums, so a flipped bit would load silently without the seal; a record
that is missing, repeated or from another history breaks the chain.
"""

import re
import struct
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Final, get_args

from hope_server.errors import SessionCorrupted
from hope_server.sessions.key import SessionKey
from hope_server.sessions.reading import Reader
from hope_server.sessions.sealing import Keyring, Tampered
from hope_server.sessions.session import (
    MAX_APPEND_TOKENS,
    MAX_SEQ,
    MAX_TOKEN,
    Head,
    JournalRecord,
    Kind,
    Origin,
    Sampler,
    Transcript,
)

CHAIN_BYTES: Final = 32
_VERSION: Final = 2
_HEADER = struct.Struct("<BBBBQI")
_TARGET = struct.Struct("<Q")
_SAMPLER = struct.Struct("<QQ")
_REQUEST_BYTES: Final = 16
_COUNT = struct.Struct("<I")
_HAS_TARGET, _HAS_SAMPLER, _HAS_REQUEST, _HAS_TRANSCRIPT, _LEARN_OFF = 1, 2, 4, 8, 16
_KINDS: tuple[Kind, ...] = get_args(Kind)
_ORIGINS: tuple[Origin, ...] = get_args(Origin)
_TARGETED: Final = ("rollback", "freeze")
_DIGEST = re.compile(rb"[0-9a-f]{0,64}")


def encode_record(record: JournalRecord) -> bytes:
    """``16 + 4 * tokens`` bytes and the parts; raises ``ValueError`` for a token outside 0 .. 2**32 - 1."""
    tokens = record.tokens
    if tokens and not 0 <= min(tokens) <= max(tokens) <= MAX_TOKEN:
        raise ValueError(f"a token is 0 to {MAX_TOKEN}, found {min(tokens)} to {max(tokens)}")
    kind, origin = _KINDS.index(record.kind), _ORIGINS.index(record.origin)
    has, parts = 0, b""
    if record.kind in _TARGETED:
        has, parts = _HAS_TARGET, _TARGET.pack(record.target_seq)
    if record.sampler is not None:
        has, parts = has | _HAS_SAMPLER, parts + _SAMPLER.pack(record.sampler.seed, record.sampler.counter)
    if record.request:
        has, parts = has | _HAS_REQUEST, parts + _request(record.request)
    if record.transcript is not None:
        has, parts = has | _HAS_TRANSCRIPT, parts + encode_transcript(record.transcript)
    if not record.learn:
        has |= _LEARN_OFF
    header = _HEADER.pack(_VERSION, kind, origin, has, record.first_seq, len(tokens))
    return header + struct.pack(f"<{len(tokens)}I", *tokens) + parts


def decode_record(data: bytes) -> JournalRecord:
    """The record that ``encode_record`` made of; raises ``ValueError`` for anything else."""
    reader = Reader(data)
    version, kind, origin, has, first_seq, count = reader.take(_HEADER)
    if version != _VERSION or kind >= len(_KINDS) or origin >= len(_ORIGINS) or has >= 32:
        raise ValueError(f"expected record version {_VERSION}, found {data[:4].hex()}")
    if count > MAX_APPEND_TOKENS or (_KINDS[kind] in ("run", "step")) != (count > 0):
        raise ValueError(f"a {_KINDS[kind]} record cannot hold {count} tokens")
    if not 1 <= first_seq <= MAX_SEQ - count or (_KINDS[kind] in _TARGETED) != bool(has & _HAS_TARGET):
        raise ValueError(f"a {_KINDS[kind]} record at {first_seq} cannot have the parts {has}")
    if has & _LEARN_OFF and not count:
        raise ValueError(f"a {_KINDS[kind]} record has no tokens that could teach")
    tokens = reader.take(struct.Struct(f"<{count}I"))
    record = JournalRecord(
        first_seq,
        _KINDS[kind],
        _ORIGINS[origin],
        tokens,
        target_seq=reader.take(_TARGET)[0] if has & _HAS_TARGET else 0,
        sampler=Sampler(*reader.take(_SAMPLER)) if has & _HAS_SAMPLER else None,
        request=reader.raw(_REQUEST_BYTES).hex() if has & _HAS_REQUEST else "",
        transcript=_transcript(reader) if has & _HAS_TRANSCRIPT else None,
        learn=not has & _LEARN_OFF,
    )
    reader.end()
    return record


def encode_transcript(transcript: Transcript) -> bytes:
    """``count u32``, then both digests as ``length u8 | text``."""
    texts = [text.encode() for text in (transcript.sha256, transcript.first_message_sha256)]
    if any(not _DIGEST.fullmatch(text) for text in texts):
        raise ValueError("a transcript's digests are at most 64 hex digits")
    return _COUNT.pack(transcript.count) + b"".join(bytes([len(text)]) + text for text in texts)


def decode_transcript(data: bytes) -> Transcript:
    """Raises ``ValueError`` for what ``encode_transcript`` did not make."""
    reader = Reader(data)
    transcript = _transcript(reader)
    reader.end()
    return transcript


def write_entries(
    keys: Keyring, session: SessionKey, expected: Head, records: Sequence[JournalRecord]
) -> tuple[list[tuple[int, bytes]], Head]:
    """The entries of ``records`` by last sequence number, in the chain of ``expected``; the new head."""
    chain, entries = bytes.fromhex(expected.sha256), []
    for record in records:
        sealed = keys.seal(session, "record", record.last_seq, encode_record(record))
        chain = _link(chain, sealed)
        entries.append((record.last_seq, chain + sealed))
    return entries, Head(entries[-1][0], chain.hex())


def upto_record(entries: Sequence[tuple[int, bytes]], upto: int) -> Sequence[tuple[int, bytes]]:
    """The entries up to the one that holds token ``upto``; all of them if none does."""
    return entries[: bisect_left(entries, upto, key=lambda entry: entry[0]) + 1]


def read_entries(
    keys: Keyring, session: SessionKey, before: bytes, entries: Sequence[tuple[int, bytes]]
) -> list[JournalRecord]:
    """The records of ``entries``, which follow the chain ``before``; raises ``SessionCorrupted``."""
    records = []
    for seq, entry in entries:
        chain, sealed = entry[:CHAIN_BYTES], entry[CHAIN_BYTES:]
        if chain != _link(before, sealed):
            raise corrupt(session, f"the record that ends at {seq} does not continue the chain")
        records.append(_read_entry(keys, session, seq, sealed, chain))
        before = chain
    return records


def check_page(session: SessionKey, records: Sequence[JournalRecord], *, after: int, head: Head) -> None:
    """Raises ``SessionCorrupted`` unless ``records`` go on without a gap from ``after``, up to ``head``."""
    if not records and after < head.seq:
        raise corrupt(session, f"token {after + 1} of {head.seq} is missing")
    for record in records:
        if not record.first_seq <= after + 1 <= record.last_seq <= head.seq:
            found = f"{record.first_seq} to {record.last_seq}"
            raise corrupt(session, f"expected a record with token {after + 1} of {head.seq}, found {found}")
        after = record.last_seq
        if after == head.seq and record.chain != head.sha256:
            raise corrupt(session, f"its head should be {head.sha256[:12]}, found {record.chain[:12]}")


def corrupt(session: SessionKey, found: str) -> SessionCorrupted:
    return SessionCorrupted(f"the journal of session {session.session} is damaged: {found}")


def _read_entry(keys: Keyring, session: SessionKey, seq: int, sealed: bytes, chain: bytes) -> JournalRecord:
    try:
        record = decode_record(keys.unseal(session, "record", seq, sealed))
    except (Tampered, ValueError) as error:
        raise corrupt(session, f"the record that ends at {seq}: {error}") from error
    if record.last_seq != seq:
        raise corrupt(session, f"the record that ends at {seq} says {record.last_seq}")
    return replace(record, chain=chain.hex())


def _link(before: bytes, sealed: bytes) -> bytes:
    return sha256(before + sealed).digest()


def _request(request: str) -> bytes:
    data = bytes.fromhex(request)
    if len(data) != _REQUEST_BYTES:
        raise ValueError(f"a record's request is {2 * _REQUEST_BYTES} hex digits, found {request!r}")
    return data


def _transcript(reader: Reader) -> Transcript:
    (count,) = reader.take(_COUNT)
    texts = [reader.raw(reader.raw(1)[0]) for _ in range(2)]
    if any(not _DIGEST.fullmatch(text) for text in texts):
        raise ValueError("a transcript's digests are at most 64 hex digits")
    return Transcript(count, *(text.decode() for text in texts))
