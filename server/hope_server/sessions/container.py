"""A session as one file: what its journal holds, and the newest state if the server that reads it made it.

Little endian: ``magic 8 | version u16 | model 32 | name length u16 | name | records u32 | snapshot_seq u64 |
parts u16``, then each record as ``length u32 | record``, each part as ``name length u8 | name | length u32 |
bytes``, then ``sha256 32`` of all before it and ``tag 32``, a keyed digest of that hash.

The checksum finds damage; the tag tells whether the tensors are our own. Those of strangers are never read:
their session's state is made again from its journal. Lengths are looked at before anything is allocated, and
names and sizes of the parts are those that the codec's plan for this model asks for.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from hope_server.errors import InvalidRequest
from hope_server.sessions.history import History
from hope_server.sessions.reading import Reader
from hope_server.sessions.records import decode_record, encode_record
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import MAX_PARTS, JournalRecord

MAX_BYTES: Final = 256 << 20
"""The largest file that is written or read."""
MAX_NAME_BYTES: Final = 1024
_MAGIC: Final = b"HOPESESS"
_VERSION: Final = 1
_HASH_BYTES: Final = 32
_TAIL_BYTES: Final = 2 * _HASH_BYTES
_HEADER = struct.Struct("<8sH32sH")
_COUNTS = struct.Struct("<IQH")
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Exported:
    """A session to write or read. ``parts`` is empty where there is no snapshot that can be trusted."""

    model: str
    name: str | None
    records: Sequence[JournalRecord]
    snapshot_seq: int = 0
    parts: Mapping[str, bytes] | None = None


def pack(keys: Keyring, session: Exported) -> bytes:
    """The file; raises ``InvalidRequest`` for a session that is too large for one."""
    name = (session.name or "").encode()[:MAX_NAME_BYTES]
    parts = session.parts or {}
    pieces = [
        _HEADER.pack(_MAGIC, _VERSION, bytes.fromhex(session.model), len(name)),
        name,
        _COUNTS.pack(len(session.records), session.snapshot_seq, len(parts)),
    ]
    for record in session.records:
        data = encode_record(record)
        pieces += [_LENGTH.pack(len(data)), data]
    for part, data in parts.items():
        pieces += [bytes([len(part)]), part.encode(), _LENGTH.pack(len(data)), data]
    if sum(map(len, pieces)) + _TAIL_BYTES > MAX_BYTES:
        raise InvalidRequest(f"expected a session that fits {MAX_BYTES} bytes, found a longer one")
    body = b"".join(pieces)
    digest = sha256(body).digest()
    return body + digest + keys.tag(digest)


def unpack(keys: Keyring, data: bytes, *, part_names: Sequence[str], max_part_bytes: int) -> Exported:
    """What ``pack`` wrote, its parts only if one of ``keys`` tagged it.

    Raises ``InvalidRequest`` for anything else: damaged, too large, of other parts than ``part_names``, or
    with records that do not make a journal.
    """
    try:
        return _unpack(keys, data, part_names, max_part_bytes)
    except ValueError as error:
        raise InvalidRequest(f"expected an exported session: {error}", code="invalid_export") from error


def _unpack(keys: Keyring, data: bytes, part_names: Sequence[str], max_part_bytes: int) -> Exported:
    if not _TAIL_BYTES < len(data) <= MAX_BYTES:
        raise ValueError(f"found {len(data)} bytes")
    body, digest = data[:-_TAIL_BYTES], data[-_TAIL_BYTES:-_HASH_BYTES]
    if sha256(body).digest() != digest:
        raise ValueError("its checksum does not match")
    reader = Reader(body)
    magic, version, model, name_bytes = reader.take(_HEADER)
    if (magic, version) != (_MAGIC, _VERSION) or name_bytes > MAX_NAME_BYTES:
        raise ValueError(f"found another format than {_VERSION}")
    name = reader.raw(name_bytes).decode()
    count, snapshot_seq, parts = reader.take(_COUNTS)
    records = list(_records(reader, count))
    if parts not in (0, len(part_names)) or parts > MAX_PARTS or (parts > 0) != (snapshot_seq > 0):
        raise ValueError(f"expected no parts or {len(part_names)}, found {parts}")
    found = dict(_part(reader, expected, max_part_bytes) for expected in part_names[:parts])
    reader.end()
    if not found or not keys.is_tagged(digest, data[-_HASH_BYTES:]):
        return Exported(model.hex(), name or None, records)
    return Exported(model.hex(), name or None, records, snapshot_seq, found)


def _records(reader: Reader, count: int) -> Iterator[JournalRecord]:
    history, seq = History(), 0
    for _ in range(count):
        (size,) = reader.take(_LENGTH)
        record = decode_record(reader.raw(size))
        if record.first_seq != seq + 1:
            raise ValueError(f"expected a record that starts at {seq + 1}, found {record.first_seq}")
        history.read(record)
        seq = record.last_seq
        yield record


def _part(reader: Reader, expected: str, max_bytes: int) -> tuple[str, bytes]:
    name = reader.raw(reader.raw(1)[0])
    (size,) = reader.take(_LENGTH)
    if name != expected.encode() or size > max_bytes:
        raise ValueError(f"expected part {expected} of at most {max_bytes} bytes, found another")
    return expected, reader.raw(size)
