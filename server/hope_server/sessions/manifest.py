"""How a snapshot lies in a store: parts cut into chunks named by their content, and a manifest.

A chunk that the store already holds is never sent again, so a part that did not change since the last
snapshot costs nothing. A name is a keyed digest: it tells nothing without the encryption key. Chunks are
sealed to their name, the manifest to its sequence number.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hope_server.errors import EncryptionKeyMissing, SnapshotCorrupt
from hope_server.sessions.key import SessionKey
from hope_server.sessions.sealing import Keyring, Tampered
from hope_server.sessions.session import MAX_CHUNK_BYTES, MAX_PARTS

_VERSION = 2
_HEADER = struct.Struct("<BBHQ")
_ENTRY = struct.Struct("<BH")
_CHUNK_ID_BYTES = 32
_PART_NAME = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_MAX_CHUNKS = 4096


@dataclass(frozen=True, slots=True)
class Manifest:
    """``parts`` maps a part's name to the hex names of its chunks, in order."""

    seq: int
    parts: Mapping[str, tuple[str, ...]]

    @property
    def chunk_ids(self) -> list[str]:
        """Every chunk once, in order of first use."""
        return list(dict.fromkeys(chunk for chunks in self.parts.values() for chunk in chunks))


def cut(
    keys: Keyring, session: SessionKey, seq: int, parts: Mapping[str, bytes]
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of ``parts`` and its chunks by name, not sealed, each at most ``MAX_CHUNK_BYTES`` long.

    Raises ``ValueError`` for no parts, an empty part, an unfit name or too many of them.
    """
    if not 1 <= len(parts) <= MAX_PARTS:
        raise ValueError(f"a snapshot has 1 to {MAX_PARTS} parts, found {len(parts)}")
    chunks: dict[str, bytes] = {}
    ids: dict[str, tuple[str, ...]] = {}
    for name, data in parts.items():
        if not _PART_NAME.fullmatch(name.encode()) or not data:
            raise ValueError(f"expected a named part with content, found {name!r} of {len(data)} bytes")
        pieces = [data[at : at + MAX_CHUNK_BYTES] for at in range(0, len(data), MAX_CHUNK_BYTES)]
        ids[name] = tuple(keys.names(session, "chunk", piece)[0] for piece in pieces)
        chunks.update(zip(ids[name], pieces, strict=True))
    if sum(map(len, ids.values())) > _MAX_CHUNKS:
        raise ValueError(f"a snapshot has at most {_MAX_CHUNKS} chunks of {MAX_CHUNK_BYTES} bytes")
    return Manifest(seq, ids), chunks


def join(session: SessionKey, manifest: Manifest, chunks: Mapping[str, bytes]) -> dict[str, bytes]:
    """The parts of opened ``chunks``; raises ``SnapshotCorrupt`` where one is missing."""
    for chunk_id in manifest.chunk_ids:
        if chunk_id not in chunks:
            found = f"chunk {chunk_id[:16]} of generation {manifest.seq} is missing or damaged"
            raise _corrupt(session, found)
    return {name: b"".join(chunks[chunk] for chunk in ids) for name, ids in manifest.parts.items()}


def seal_chunk(keys: Keyring, session: SessionKey, chunk_id: str, chunk: bytes) -> bytes:
    return keys.seal(session, "chunk", chunk_id, chunk)


def open_chunk(keys: Keyring, session: SessionKey, chunk_id: str, sealed: bytes) -> bytes | None:
    """The chunk; None for anything else than it."""
    try:
        return keys.unseal(session, "chunk", chunk_id, sealed)
    except (Tampered, EncryptionKeyMissing):
        return None


def encode_manifest(keys: Keyring, session: SessionKey, manifest: Manifest) -> bytes:
    body = _HEADER.pack(_VERSION, 0, len(manifest.parts), manifest.seq)
    for name, chunks in manifest.parts.items():
        body += _ENTRY.pack(len(name), len(chunks)) + name.encode() + bytes.fromhex("".join(chunks))
    return keys.seal(session, "manifest", manifest.seq, body)


def decode_manifest(keys: Keyring, session: SessionKey, data: bytes, *, seq: int) -> Manifest:
    """The manifest of generation ``seq``; raises ``SnapshotCorrupt`` for anything else."""
    try:
        body = keys.unseal(session, "manifest", seq, data)
    except (Tampered, EncryptionKeyMissing) as error:
        raise _corrupt(session, f"its manifest of {seq}: {error}") from error
    if len(body) < _HEADER.size:
        raise _corrupt(session, "its manifest is cut short")
    version, zero, count, found_seq = _HEADER.unpack_from(body)
    if version != _VERSION or zero or found_seq != seq:
        raise _corrupt(session, f"expected manifest {_VERSION} of {seq}, found {version} of {found_seq}")
    parts: dict[str, tuple[str, ...]] = {}
    at = _HEADER.size
    for _ in range(count):
        name, chunks, at = _decode_entry(session, body, at)
        parts[name] = chunks
    if at != len(body) or not parts or len(parts) != count:
        raise _corrupt(session, f"expected {count} parts in its manifest, found {len(parts)}")
    return Manifest(seq, parts)


def _decode_entry(session: SessionKey, body: bytes, at: int) -> tuple[str, tuple[str, ...], int]:
    if at + _ENTRY.size > len(body):
        raise _corrupt(session, "its manifest is cut short")
    name_bytes, chunks = _ENTRY.unpack_from(body, at)
    start = at + _ENTRY.size + name_bytes
    end = start + chunks * _CHUNK_ID_BYTES
    name = body[start - name_bytes : start]
    if end > len(body) or not chunks or not _PART_NAME.fullmatch(name):
        raise _corrupt(session, "its manifest names an unfit part")
    return name.decode(), tuple(_hex_ids(body[start:end])), end


def _hex_ids(data: bytes) -> Sequence[str]:
    return [data[at : at + _CHUNK_ID_BYTES].hex() for at in range(0, len(data), _CHUNK_ID_BYTES)]


def _corrupt(session: SessionKey, found: str) -> SnapshotCorrupt:
    return SnapshotCorrupt(f"the snapshot of session {session.session} is unfit: {found}")
