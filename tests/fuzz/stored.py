"""Decoders of what the store gives back, and of exported sessions.

Where a seal or a checksum guards a layout, the input is what lies inside: whoever has the key, or writes the
checksum, must not crash its reader either.
"""

from __future__ import annotations

from hashlib import sha256

from tests.fuzz.target import Target
from tests.server.engine.conftest import HashModel
from tests.server.sessions.writing import KEYS

from hope_server.errors import (
    EncryptionKeyMissing,
    InvalidRequest,
    SessionCorrupted,
    SnapshotCorrupt,
    StartupError,
)
from hope_server.sessions import codec, container
from hope_server.sessions.key import SessionKey
from hope_server.sessions.keyfile import parse_keys
from hope_server.sessions.manifest import Manifest, decode_manifest, encode_manifest
from hope_server.sessions.records import (
    CHAIN_BYTES,
    decode_record,
    decode_transcript,
    encode_record,
    encode_transcript,
    read_entries,
    write_entries,
)
from hope_server.sessions.redis_meta import decode_meta
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import GENESIS, JournalRecord, Sampler, Transcript

SESSION = SessionKey("tenant", "session")
MODEL = "5" * 64
RECORDS = (
    JournalRecord(1, "run", "user", (1, 2, 3), request="ab" * 16, transcript=Transcript(1, "ab" * 32, "cd")),
    JournalRecord(4, "step", "model", (4, 5), sampler=Sampler(7, 3), learn=False),
    JournalRecord(6, "rollback", "system", (), target_seq=2),
    JournalRecord(7, "reset", "system", ()),
)
SPEC = HashModel().state_spec
PARTS = codec.encode_row(SPEC, SPEC.zeros(1), 5)
NAMES = codec.part_names(SPEC)
META = b"\n".join([b"2", b"1700000000000000", b"9", b"0", b"8", MODEL.encode(), b"0" * 64, b"1-3 5-9", b"ok"])


def _container(data: bytes) -> object:
    """The body; a true checksum and somebody else's tag are put behind it."""
    digest = sha256(data).digest()
    stranger = Keyring([b"s" * 32])
    tag = stranger.tag(digest) if data[-1:] < b"\x80" else KEYS.tag(digest)
    opened = container.Opened(
        KEYS, data + digest + tag, part_names=NAMES, max_part_bytes=codec.max_part_bytes(SPEC), block=4
    )
    return list(opened.records())


def _codec(data: bytes) -> object:
    """One part's content, with a true checksum and a head that names it."""
    name = NAMES[1]
    parts = {**PARTS, name: data + sha256(data).digest()}
    fixed = PARTS[codec.HEAD][: codec._HEAD.size]
    head = fixed + b"".join(sha256(parts[each]).digest() for each in NAMES[1:])
    return codec.decode_row(SPEC, {**parts, codec.HEAD: head + sha256(head).digest()}, 5)


def _manifest(data: bytes) -> Manifest:
    return decode_manifest(KEYS, SESSION, KEYS.seal(SESSION, "manifest", 7, data), seq=7)


def _meta(data: bytes) -> object:
    """Lines: the fields that are not sealed, those of a frozen session with one more."""
    values: list[bytes | None] = [value if value != b"-" else None for value in data.split(b"\n")]
    *always, frozen_seq = [*values, *[None] * 10][:10]
    return decode_meta(KEYS, SESSION, [*always, None, None, None, frozen_seq])


def _entries(data: bytes) -> object:
    """A journal's entry as it is stored, seal and all."""
    return read_entries(KEYS, SESSION, bytes(CHAIN_BYTES), [(3, data)])


def _packed() -> bytes:
    packer = container.Packer(KEYS)
    preface = packer.preface(container.Preface(MODEL, "a name", 5, PARTS))
    return b"".join([*preface, *map(packer.record, RECORDS), packer.end()])[: -container._TAIL_BYTES]


def _manifest_seed() -> bytes:
    manifest = Manifest(7, {"head": ("ab" * 32,), "fast.0": ("cd" * 32,) * 2})
    return KEYS.unseal(SESSION, "manifest", 7, encode_manifest(KEYS, SESSION, manifest))


TARGETS = (
    Target("container", _container, (InvalidRequest,), (_packed(),)),
    Target("record", decode_record, (ValueError,), tuple(map(encode_record, RECORDS))),
    Target("transcript", decode_transcript, (ValueError,), (encode_transcript(Transcript(2, "ab", "")),)),
    Target(
        "entry",
        _entries,
        (SessionCorrupted, EncryptionKeyMissing),
        (write_entries(KEYS, SESSION, GENESIS, RECORDS[:1])[0][0][1],),
    ),
    Target("manifest", _manifest, (SnapshotCorrupt,), (_manifest_seed(),)),
    Target("meta", _meta, (SessionCorrupted,), (META, META + b"\n3-7")),
    Target("codec", _codec, (SnapshotCorrupt,), tuple(PARTS[name][:-32] for name in NAMES[1:2])),
    Target(
        "encryption-keys",
        lambda data: parse_keys(data.decode("ascii", errors="replace"), "test"),
        (StartupError,),
        (b"ab" * 32 + b"\n# old\n" + b"CD" * 32, b"ab" * 32 + b"," + b"12" * 32),
    ),
)
