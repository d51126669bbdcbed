"""Export, import and verification: the same state, bit for bit, or a refusal."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_server.engine.verify import state_sha256
from hope_server.errors import InvalidRequest, ModelNotFound, SessionCorrupted, SessionNotFound
from hope_server.sessions.container import Exported, pack, unpack
from hope_server.sessions.key import SessionKey
from hope_server.sessions.memory_store import MemoryStore
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import JournalRecord, Sampler, Transcript

Bench = Any
KEYS, STRANGERS = Keyring([b"k" * 32]), Keyring([b"s" * 32])
RECORDS = [
    JournalRecord(1, "run", "user", (1, 2, 3), transcript=Transcript(1, "aa", "bb")),
    JournalRecord(4, "step", "model", (4, 5), sampler=Sampler(9, 3), request="ab" * 16),
    JournalRecord(6, "rollback", "system", (), target_seq=2),
    JournalRecord(7, "reset", "system", ()),
]
SESSION = Exported("5" * 64, "née", RECORDS, 3, {"head": b"one", "phi.0": b"two"})
NAMES = ["head", "phi.0"]


def read(keys: Keyring, data: bytes) -> Exported:
    return unpack(keys, data, part_names=NAMES, max_part_bytes=8)


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
    assert (found.snapshot_seq, found.parts) == (0, None)
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
    made = await other.import_session("guests", await service.export_session(session))
    meta = await service.get_session(session)
    assert (made.head.seq, made.path, made.transcript) == (meta.seq, meta.path, meta.transcript)
    assert (made.key.tenant, made.name) == ("guests", "a name")
    assert (made.snapshot_seq > 0) == (keys is None)
    assert same(await bench.row(other, made.key), await bench.row(service, session))
    expected = await bench.turn(service, session, (1,), max_tokens=9)
    found = await bench.turn(other, made.key, (1,), max_tokens=9)
    assert [event.token for event in found] == [event.token for event in expected]
    assert (await other.verify_session(made.key)).equal


async def test_unfit_imports_leave_nothing(bench: Bench) -> None:
    service = await bench.service()
    keys = bench.store.keys
    wrong = Exported("5" * 64, None, [JournalRecord(1, "run", "user", (50,))])
    other_parts = Exported("5" * 64, None, RECORDS[:1], 3, dict.fromkeys(("head", "fast.0"), b"x"))
    for data in (b"", b"x" * 1000, pack(keys, wrong), pack(keys, other_parts)):
        with pytest.raises(InvalidRequest):
            await service.import_session("tenant", data)
    with pytest.raises(ModelNotFound):
        await service.import_session("tenant", pack(keys, Exported("4" * 64, None, [])))
    assert not bench.store._sessions
    with pytest.raises(SessionNotFound):
        await service.export_session(SessionKey("tenant", "nobody"))


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
    seq = (await service.get_session(session)).seq
    wrong = {**wrong, "digest": wrong["digest"] + 1}
    service._snapshots.offer(session, bench.store._sessions[session].fence, seq, wrong)
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
