"""Export, import and verification: the same state, bit for bit, or a refusal."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_server.engine.verify import state_sha256
from hope_server.errors import (
    InvalidRequest,
    ModelNotFound,
    SessionCorrupted,
    SessionNotFound,
    SessionQuarantined,
    StoreUnavailable,
)
from hope_server.sessions.codec import part_names
from hope_server.sessions.container import MAX_KEPT_SPANS, Opened, Packer, Preface
from hope_server.sessions.key import SessionKey
from hope_server.sessions.memory_store import MemoryStore
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import Head, JournalRecord, Sampler, Transcript

Bench = Any
KEYS, STRANGERS = Keyring([b"k" * 32]), Keyring([b"s" * 32])
RECORDS = [
    JournalRecord(1, "run", "user", (1, 2, 3), transcript=Transcript(1, "aa", "bb")),
    JournalRecord(4, "step", "model", (4, 5), sampler=Sampler(9, 3), request="ab" * 16),
    JournalRecord(6, "rollback", "system", (), target_seq=2),
    JournalRecord(7, "reset", "system", ()),
]


@dataclass(frozen=True)
class Exported:
    """All that a file says."""

    model: str
    name: str | None
    records: Sequence[JournalRecord]
    snapshot_seq: int = 0
    parts: Mapping[str, bytes] = field(default_factory=dict)


SESSION = Exported("5" * 64, "née", RECORDS, 3, {"head": b"one", "phi.0": b"two"})
NAMES = ["head", "phi.0"]


def pack(keys: Keyring, session: Exported) -> bytes:
    packer = Packer(keys)
    preface = Preface(session.model, session.name, session.snapshot_seq, session.parts)
    head = b"".join(packer.preface(preface))
    return head + b"".join(map(packer.record, session.records)) + packer.end()


def read(keys: Keyring, data: bytes) -> Exported:
    opened = Opened(keys, bytearray(data), part_names=NAMES, max_part_bytes=8, block=2)
    found = opened.preface
    records = list(opened.records())
    assert list(opened.records()) == records, "they can be read again"
    return Exported(found.model, found.name, records, found.snapshot_seq, found.parts)


async def exported(service: Any, session: SessionKey) -> bytes:
    return b"".join([piece async for piece in service.export_session(session)])


async def imported(service: Any, tenant: str, data: bytes) -> Any:
    return await service.import_session(tenant, await service.open_export(data))


async def busy(bench: Bench, service: Any) -> SessionKey:
    """A session with turns, a rollback and a snapshot."""
    key: SessionKey = (await service.create_session("tenant", "a name")).key
    for length in (12, 9):
        await bench.turn(service, key, range(length), max_tokens=6, temperature=1.0, seed=length)
        await service._snapshots.flush()
    await service.rollback_session(key, seq=29)
    await bench.turn(service, key, (5, 5), max_tokens=9)
    return key


def test_a_file_round_trip() -> None:
    assert read(KEYS, pack(KEYS, SESSION)) == SESSION
    bare = Exported("6" * 64, None, [])
    assert read(KEYS, pack(KEYS, bare)) == bare


def test_tensors_of_strangers_are_not_read() -> None:
    found = read(KEYS, pack(STRANGERS, SESSION))
    assert (found.snapshot_seq, found.parts) == (0, {})
    assert found.records == RECORDS
    assert read(Keyring([b"s" * 32, b"k" * 32]), pack(STRANGERS, SESSION)) == SESSION


@settings(max_examples=200)
@given(st.integers(0, 10_000), st.sampled_from(["flip", "cut", "more"]))
def test_a_damaged_file_is_refused(at: int, damage: str) -> None:
    good = pack(KEYS, replace(SESSION, parts={name: bytes(8) for name in NAMES}))
    at %= 8 * (len(good) - 32)
    broken = bytearray(good)
    broken[at // 8] ^= 1 << at % 8
    data = {"flip": bytes(broken), "cut": good[: at // 8], "more": good + b"x"}[damage]
    with pytest.raises(InvalidRequest):
        read(KEYS, data)


@pytest.mark.parametrize(
    "session",
    [
        replace(SESSION, records=RECORDS[1:]),
        replace(SESSION, records=[RECORDS[0], RECORDS[2]]),
        replace(SESSION, records=[*RECORDS[:2], replace(RECORDS[2], target_seq=6)]),
        replace(SESSION, parts={"head": b"one"}),
        replace(SESSION, parts={"head": b"one", "phi.1": b"two"}),
        replace(SESSION, parts={"head": b"one", "phi.0": b"x" * 9}),
        replace(SESSION, snapshot_seq=0),
    ],
    ids=["late", "gap", "target", "part missing", "part name", "part size", "no seq"],
)
def test_what_makes_no_session_is_refused_though_its_checksum_holds(session: Exported) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(KEYS, pack(KEYS, session))
    assert refused.value.code == "invalid_export"


@pytest.mark.parametrize("keys", [None, STRANGERS], ids=["own", "stranger's"])
async def test_an_imported_session_goes_on_as_the_original(
    bench: Bench, same: Any, keys: Keyring | None
) -> None:
    """With our own snapshot or, from another server's file, from its journal alone."""
    service = await bench.service()
    session = await busy(bench, service)
    other = await bench.service(store=MemoryStore(keys or bench.store.keys))
    made = await imported(other, "guests", await exported(service, session))
    meta = await service.get_session(session)
    assert (made.head.seq, made.path, made.transcript) == (meta.seq, meta.path, meta.transcript)
    assert (made.key.tenant, made.name) == ("guests", "a name")
    assert (made.snapshot_seq > 0) == (keys is None)
    assert same(await bench.row(other, made.key), await bench.row(service, session))
    expected = await bench.turn(service, session, (1,), max_tokens=9)
    found = await bench.turn(other, made.key, (1,), max_tokens=9)
    assert [event.token for event in found] == [event.token for event in expected]
    assert (await other.verify_session(made.key)).equal
    again = await imported(service, "tenant", await exported(other, made.key))
    assert same(await bench.row(service, again.key), await bench.row(other, made.key))


async def test_an_import_that_is_cancelled_or_fails_leaves_nothing(bench: Bench, eventually: Any) -> None:
    service = await bench.service()
    session = await busy(bench, service)
    found = await service.open_export(await exported(service, session))
    bench.store.gate.clear()
    importing = asyncio.create_task(service.import_session("tenant", found))
    await eventually(service, lambda: len(bench.store._sessions) == 2)
    importing.cancel()
    await asyncio.gather(importing, return_exceptions=True)
    assert importing.cancelled()
    bench.store.gate.set()
    bench.store.broken = lambda append: StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable):
        await service.import_session("tenant", found)
    assert list(bench.store._sessions) == [session]


async def test_a_file_is_made_in_pieces_and_of_what_was_committed_when_it_began(bench: Bench) -> None:
    service = await bench.service(max_prompt_tokens=1 << 20)
    session = (await service.create_session("tenant")).key
    fence, meta = await bench.store.acquire(session, nonce="a" * 32, ttl_s=60)
    head = meta.head
    for _ in range(3):
        record = JournalRecord(head.seq + 1, "run", "user", (7,) * 40_000)
        head = await bench.store.append(session, fence, expected=head, records=[record])
    pieces = service.export_session(session)
    data = await anext(pieces)
    await bench.store.append(
        session, fence, expected=head, records=[JournalRecord(head.seq + 1, "run", "user", (8,))]
    )
    sizes = []
    async for piece in pieces:
        sizes.append(len(piece))
        data += piece
    assert max(sizes) < 2 * 4 * 40_000
    assert [len(record.tokens) for record in read(bench.store.keys, data).records] == [40_000] * 3


async def test_a_snapshot_of_another_history_does_not_travel(bench: Bench, same: Any) -> None:
    """As after a store that lost its tail: the numbers are the same, the tokens are not."""
    service = await bench.service()
    session = await busy(bench, service)
    await service._snapshots.flush()
    entry = bench.store._sessions[session]
    entry.generations = [(manifest, "0" * 64) for manifest, _ in entry.generations]
    assert not (await service.open_export(await exported(service, session))).has_state
    forked = await service.fork_session(session)
    assert forked.snapshot_seq == 0
    fresh = await bench.service()
    assert same(await bench.row(fresh, forked.key), await bench.row(service, session))


async def test_a_journal_that_became_another_one_meanwhile_is_not_exported(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a store that lost its tail between two pages."""
    service = await bench.service()
    session = await busy(bench, service)
    meta = await service.get_session(session)

    async def before(key: SessionKey) -> Any:
        return replace(meta, head=Head(meta.seq, "0" * 64))

    monkeypatch.setattr(bench.store, "meta", before)
    with pytest.raises(SessionCorrupted):
        await exported(service, session)


async def test_a_damaged_or_quarantined_session_is_not_exported(bench: Bench) -> None:
    service = await bench.service()
    session = await busy(bench, service)
    entry = bench.store._sessions[session]
    entry.meta = replace(entry.meta, head=Head(entry.meta.seq, "0" * 64))
    with pytest.raises(SessionCorrupted):
        await exported(service, session)
    await bench.store.quarantine(session, entry.fence)
    with pytest.raises(SessionQuarantined):
        await exported(service, session)


@pytest.mark.parametrize("at", [0, 8], ids=["magic", "version"])
def test_a_file_of_another_format_is_refused_though_its_checksum_holds(at: int) -> None:
    body = bytearray(pack(KEYS, SESSION)[:-64])
    body[at] += 1
    digest = sha256(body).digest()
    with pytest.raises(InvalidRequest, match="another format") as refused:
        read(KEYS, bytes(body) + digest + KEYS.tag(digest))
    assert refused.value.code == "invalid_export"


def test_rollbacks_in_a_file_are_bounded() -> None:
    """Each may remember as many spans as a session has; a small file must not ask for all memory."""
    records = [JournalRecord(1, "run", "user", (1,))]
    while len(records) < 2100:
        seq = records[-1].last_seq
        records.append(JournalRecord(seq + 1, "rollback", "system", (), target_seq=seq))
        records.append(JournalRecord(seq + 2, "run", "user", (1,)))
    with pytest.raises(InvalidRequest, match="too often"):
        read(KEYS, pack(KEYS, replace(SESSION, records=records)))
    few = records[:1801]
    repeated = [
        JournalRecord(few[-1].last_seq + 1 + number, "rollback", "system", (), target_seq=few[-1].last_seq)
        for number in range(MAX_KEPT_SPANS // 900 + 1)
    ]
    with pytest.raises(InvalidRequest, match="too often"):
        read(KEYS, pack(KEYS, replace(SESSION, records=[*few, *repeated])))


async def test_unfit_imports_leave_nothing(bench: Bench) -> None:
    service = await bench.service()
    keys = bench.store.keys
    wrong = Exported("5" * 64, None, [JournalRecord(1, "run", "user", (50,))])
    other_parts = Exported("5" * 64, None, RECORDS[:1], 3, dict.fromkeys(("head", "fast.0"), b"x"))
    spec = service._desk.spec
    not_ours = Exported("5" * 64, None, RECORDS[:1], 3, dict.fromkeys(part_names(spec), b"x"))
    for data in (b"", b"x" * 1000, pack(keys, wrong), pack(keys, other_parts), pack(keys, not_ours)):
        with pytest.raises(InvalidRequest):
            await service.open_export(data)
    with pytest.raises(ModelNotFound):
        await service.open_export(pack(keys, Exported("4" * 64, None, [])))
    assert not bench.store._sessions
    with pytest.raises(SessionNotFound):
        await exported(service, SessionKey("tenant", "nobody"))


async def test_verification_compares_replay_and_snapshot(bench: Bench) -> None:
    service = await bench.service()
    session = await busy(bench, service)
    await service._snapshots.flush()
    found = await service.verify_session(session)
    meta = await service.get_session(session)
    assert (found.seq, found.position, found.head_sha256) == (meta.seq, meta.position, meta.head.sha256)
    assert (found.equal, found.snapshot_seq) == (True, meta.snapshot_seq)
    assert found.snapshot_seq > 0
    assert found.replayed_sha256 == state_sha256(await bench.row(service, session))
    forked = await service.fork_session(session)
    assert (await service.verify_session(forked.key)).replayed_sha256 == found.replayed_sha256
    await service.check_integrity()


async def test_verification_finds_a_snapshot_of_another_state(bench: Bench) -> None:
    service = await bench.service()
    session = await busy(bench, service)
    await service._snapshots.flush()
    wrong = await bench.row(service, session)
    head = (await service.get_session(session)).head
    wrong = {**wrong, "digest": wrong["digest"] + 1}
    service._snapshots.offer(session, bench.store._sessions[session].fence, head.seq, wrong, head)
    await service._snapshots.flush()
    assert not (await service.verify_session(session)).equal


async def test_verification_finds_a_draw_that_stands_elsewhere(bench: Bench) -> None:
    service = await bench.service()
    key = (await service.create_session("tenant")).key
    fence, meta = await bench.store.acquire(key, nonce="a" * 32, ttl_s=60)
    draw = JournalRecord(1, "step", "model", (4, 5), sampler=Sampler(9, 1))
    await bench.store.append(key, fence, expected=meta.head, records=[draw])
    with pytest.raises(SessionCorrupted, match="draw"):
        await service.verify_session(key)
