"""A session as one file: the newest state if the server that reads it made it, and what its journal holds.

Little endian: ``magic 8 | version u16 | model 32 | name length u16 | name | snapshot_seq u64 | parts u16``,
then each part as ``name length u8 | name | length u32 | bytes``, each record as ``length u32 | record``, a
``0 u32`` after the last one, ``sha256 32`` of all before it and ``tag 32``, a keyed digest of that hash.

It is written piece by piece. The checksum finds damage; the tag tells whether the tensors are our own. Those
of strangers are never read: their session's state is made again from its journal. Lengths are looked at
before anything is allocated, and names and sizes of the parts are those that the codec's plan for this model
asks for. Records are decoded one at a time, as often as they are asked for: as objects they would take many
times the file's size.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from hope_server.errors import InvalidRequest
from hope_server.sessions.history import History
from hope_server.sessions.reading import Buffer, Reader
from hope_server.sessions.records import decode_record, encode_record
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import MAX_PARTS, JournalRecord

MAX_NAME_BYTES: Final = 1024
MAX_KEPT_SPANS: Final = 1_000_000
"""Of all rollbacks in a file together: what ``History`` has to remember of them."""
_MAGIC: Final = b"HOPESESS"
_VERSION: Final = 2
_HASH_BYTES: Final = 32
_TAIL_BYTES: Final = 2 * _HASH_BYTES
_HEADER = struct.Struct("<8sH32sH")
_SNAPSHOT = struct.Struct("<QH")
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Preface:
    """What comes before the records. ``parts`` is empty where there is no snapshot that can be trusted."""

    model: str
    name: str | None
    snapshot_seq: int
    parts: Mapping[str, bytes]


class Packer:
    """Makes a file: :meth:`preface`, each :meth:`record`, :meth:`end`; their bytes in this order are it."""

    def __init__(self, keys: Keyring) -> None:
        self._keys, self._digest = keys, sha256()

    def preface(self, preface: Preface) -> Iterator[bytes]:
        name = (preface.name or "").encode()[:MAX_NAME_BYTES]
        header = _HEADER.pack(_MAGIC, _VERSION, bytes.fromhex(preface.model), len(name))
        yield self._hashed(header + name + _SNAPSHOT.pack(preface.snapshot_seq, len(preface.parts)))
        for part, data in preface.parts.items():
            yield self._hashed(bytes([len(part)]) + part.encode() + _LENGTH.pack(len(data)))
            yield self._hashed(data)

    def record(self, record: JournalRecord) -> bytes:
        data = encode_record(record)
        return self._hashed(_LENGTH.pack(len(data)) + data)

    def end(self) -> bytes:
        last = self._hashed(_LENGTH.pack(0))
        digest = self._digest.digest()
        return last + digest + self._keys.tag(digest)

    def _hashed(self, data: bytes) -> bytes:
        self._digest.update(data)
        return data


class Opened:
    """A file whose checksum holds. Its records are decoded from ``data``, which must not change."""

    def __init__(
        self, keys: Keyring, data: Buffer, *, part_names: Sequence[str], max_part_bytes: int, block: int
    ) -> None:
        """``block``: tokens between two boundaries; learning ends at one.

        Raises ``InvalidRequest`` for a file that is damaged, or of other parts than ``part_names``.
        """
        self._block = block
        try:
            self.preface = self._open(keys, data, part_names, max_part_bytes)
        except ValueError as error:
            raise invalid_export(error) from error

    def records(self) -> Iterator[JournalRecord]:
        """Each record; raises ``InvalidRequest`` where one is damaged or does not follow the one before."""
        try:
            yield from self._records(Reader(self._body, self._records_at))
        except ValueError as error:
            raise invalid_export(error) from error

    def _open(self, keys: Keyring, data: Buffer, part_names: Sequence[str], max_part_bytes: int) -> Preface:
        if len(data) <= _TAIL_BYTES:
            raise ValueError(f"found {len(data)} bytes")
        view = memoryview(data)
        self._body, digest = view[:-_TAIL_BYTES], bytes(view[-_TAIL_BYTES:-_HASH_BYTES])
        if sha256(self._body).digest() != digest:
            raise ValueError("its checksum does not match")
        reader = Reader(self._body)
        magic, version, model, name_bytes = reader.take(_HEADER)
        if (magic, version) != (_MAGIC, _VERSION) or name_bytes > MAX_NAME_BYTES:
            raise ValueError(f"found another format than {_VERSION}")
        name = reader.raw(name_bytes).decode()
        snapshot_seq, parts = reader.take(_SNAPSHOT)
        if parts not in (0, len(part_names)) or parts > MAX_PARTS or (parts > 0) != (snapshot_seq > 0):
            raise ValueError(f"expected no parts or {len(part_names)}, found {parts}")
        found = dict(_part(reader, expected, max_part_bytes) for expected in part_names[:parts])
        self._records_at = reader.at
        if not found or not keys.is_tagged(digest, bytes(view[-_HASH_BYTES:])):
            return Preface(model.hex(), name or None, 0, {})
        return Preface(model.hex(), name or None, snapshot_seq, found)

    def _records(self, reader: Reader) -> Iterator[JournalRecord]:
        history, seq, spans = History(), 0, 0
        while size := reader.take(_LENGTH)[0]:
            record = decode_record(reader.raw(size))
            if record.first_seq != seq + 1:
                raise ValueError(f"expected a record that starts at {seq + 1}, found {record.first_seq}")
            history.read(record)
            seq = record.last_seq
            path = history.at(seq).path
            if record.kind == "freeze" and (path.frozen_position or 0) % self._block:
                raise ValueError(f"its learning ends after {path.frozen_position} tokens, at no boundary")
            if record.kind == "rollback":
                spans += len(path.closed)
                if path.overfull or spans > MAX_KEPT_SPANS:
                    raise ValueError("it has rolled back too often")
            yield record
        reader.end()


@dataclass(frozen=True, slots=True)
class Importable:
    """A file that was found whole. ``seq``: the last number of its journal."""

    opened: Opened
    seq: int

    @property
    def name(self) -> str | None:
        return self.opened.preface.name

    @property
    def has_state(self) -> bool:
        """Whether it brings a snapshot that can be trusted."""
        return bool(self.opened.preface.parts)


def invalid_export(error: Exception) -> InvalidRequest:
    """A file that makes no session."""
    return InvalidRequest(f"expected an exported session: {error}", code="invalid_export")


def _part(reader: Reader, expected: str, max_bytes: int) -> tuple[str, bytes]:
    name = reader.raw(reader.raw(1)[0])
    (size,) = reader.take(_LENGTH)
    if name != expected.encode() or size > max_bytes:
        raise ValueError(f"expected part {expected} of at most {max_bytes} bytes, found another")
    return expected, reader.raw(size)
