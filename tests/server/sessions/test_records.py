"""Journal records and manifests as bytes: exact round trips, and nothing but the declared error."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.sessions.writing import KEYS

from hope_server.errors import SessionCorrupted, SnapshotCorrupt
from hope_server.sessions.key import SessionKey
from hope_server.sessions.manifest import cut, decode_manifest, encode_manifest, join, open_chunk, seal_chunk
from hope_server.sessions.records import (
    check_page,
    decode_record,
    encode_record,
    read_entries,
    write_entries,
)
from hope_server.sessions.sealing import Keyring
from hope_server.sessions.session import (
    GENESIS,
    MAX_CHUNK_BYTES,
    MAX_TOKEN,
    Head,
    JournalRecord,
    Sampler,
    Transcript,
)

ONE, TWO, THREE = (
    SessionKey("tenant", "one"),
    SessionKey("tenant", "two"),
    SessionKey("other", "one"),
)
TOKENS = st.lists(st.integers(0, MAX_TOKEN), min_size=1, max_size=20).map(tuple)
FULL = st.builds(
    JournalRecord,
    st.integers(1, 2**50),
    st.sampled_from(["run", "step"]),
    st.sampled_from(["system", "user", "tool", "model"]),
    TOKENS,
    learn=st.booleans(),
)
RESETS = st.builds(JournalRecord, st.integers(1, 2**50), st.just("reset"), st.just("user"), st.just(()))
RETURNS = st.builds(
    JournalRecord,
    st.integers(2**30, 2**50),
    st.sampled_from(["rollback", "freeze"]),
    st.just("system"),
    st.just(()),
    target_seq=st.integers(0, 2**29),
)
DIGESTS = st.from_regex(r"[0-9a-f]{0,64}", fullmatch=True)
RECORDS = st.builds(
    replace,
    FULL | RESETS | RETURNS,
    sampler=st.none() | st.builds(Sampler, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    request=st.just("") | st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    transcript=st.none() | st.builds(Transcript, st.integers(0, 2**32 - 1), DIGESTS, DIGESTS),
)
START = bytes.fromhex(GENESIS.sha256)
OTHERS = Keyring([b"o" * 32])
PARTS = st.dictionaries(
    st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True), st.binary(min_size=1, max_size=99), min_size=1
)


@given(RECORDS)
def test_record_round_trip(record: JournalRecord) -> None:
    assert decode_record(encode_record(record)) == record


@given(RECORDS, st.integers(0, 400), st.binary(max_size=3))
def test_cut_or_longer_record_is_refused(record: JournalRecord, cut_at: int, more: bytes) -> None:
    good = encode_record(record)
    for bad in (good[: cut_at % len(good)], good + b"\0" + more):
        with pytest.raises(ValueError, match=r"\d"):
            decode_record(bad)


@given(st.binary(max_size=64))
def test_foreign_bytes_are_no_record(noise: bytes) -> None:
    try:
        record = decode_record(noise)
    except ValueError:
        return
    assert encode_record(record) == noise


@given(st.lists(RECORDS, min_size=1, max_size=4), st.data())
def test_changed_entry_is_refused(records: "list[JournalRecord]", data: st.DataObject) -> None:
    entries, _ = write_entries(KEYS, ONE, GENESIS, records)
    assert read_entries(KEYS, ONE, START, entries) == records
    at = data.draw(st.integers(0, len(entries) - 1))
    changed = [*entries]
    changed[at] = (entries[at][0], _mutated(entries[at][1], data))
    with pytest.raises(SessionCorrupted):
        read_entries(KEYS, ONE, START, changed)


@pytest.mark.parametrize("other", [TWO, THREE])
def test_entry_of_another_session_or_number_is_refused(other: SessionKey) -> None:
    entries, _ = write_entries(KEYS, ONE, GENESIS, [JournalRecord(1, "run", "user", (1, 2))])
    with pytest.raises(SessionCorrupted, match=f"session {other.session} is damaged"):
        read_entries(KEYS, other, START, entries)
    with pytest.raises(SessionCorrupted, match="ends at 3"):
        read_entries(KEYS, ONE, START, [(3, entries[0][1])])


def test_the_chain_tells_histories_apart() -> None:
    first, second = JournalRecord(1, "run", "user", (1,)), JournalRecord(2, "run", "user", (2,))
    entries, head = write_entries(KEYS, ONE, GENESIS, [first, second])
    other, _ = write_entries(KEYS, ONE, GENESIS, [first])
    assert head.sha256 == entries[1][1][:32].hex()
    with pytest.raises(SessionCorrupted, match="chain"):
        read_entries(KEYS, ONE, START, [other[0], entries[1]])


@pytest.mark.parametrize(
    ("after", "head", "firsts"),
    [(0, 4, [2]), (0, 4, [1, 4]), (0, 4, [3, 1]), (2, 2, [3]), (0, 4, []), (3, 4, [1])],
)
def test_page_with_a_gap_is_refused(after: int, head: int, firsts: "list[int]") -> None:
    records = [JournalRecord(first, "run", "user", (1, 1)) for first in firsts]
    with pytest.raises(SessionCorrupted):
        check_page(ONE, records, after=after, head=Head(head, ""))


def test_page_with_another_end_is_refused() -> None:
    record = JournalRecord(1, "run", "user", (1, 1), chain="ab" * 32)
    check_page(ONE, [record], after=0, head=Head(2, "ab" * 32))
    with pytest.raises(SessionCorrupted, match="its head should be"):
        check_page(ONE, [record], after=0, head=Head(2, "ac" * 32))


@given(PARTS, st.integers(0, 2**50))
def test_manifest_round_trip(parts: "dict[str, bytes]", seq: int) -> None:
    manifest, chunks = cut(KEYS, ONE, seq, parts)
    decoded = decode_manifest(KEYS, ONE, encode_manifest(KEYS, ONE, manifest), seq=seq)
    assert decoded == manifest
    assert join(ONE, decoded, _opened(_sealed(chunks))) == parts


@given(PARTS, st.data())
def test_changed_manifest_is_refused(parts: "dict[str, bytes]", data: st.DataObject) -> None:
    manifest, _ = cut(KEYS, ONE, 7, parts)
    with pytest.raises(SnapshotCorrupt):
        decode_manifest(KEYS, ONE, _mutated(encode_manifest(KEYS, ONE, manifest), data), seq=7)


@pytest.mark.parametrize(("session", "seq"), [(ONE, 8), (TWO, 7), (THREE, 7)])
def test_manifest_of_another_place_is_refused(session: SessionKey, seq: int) -> None:
    manifest, _ = cut(KEYS, ONE, 7, {"a": b"x"})
    with pytest.raises(SnapshotCorrupt):
        decode_manifest(KEYS, session, encode_manifest(KEYS, ONE, manifest), seq=seq)


def test_missing_or_swapped_chunk_is_refused() -> None:
    manifest, plain = cut(KEYS, ONE, 7, {"a": b"x" * MAX_CHUNK_BYTES + b"y"})
    chunks = _sealed(plain)
    first, second = manifest.chunk_ids
    assert all(len(chunk) <= 1 << 20 for chunk in chunks.values())
    for broken in ({first: chunks[first]}, {first: chunks[second], second: chunks[first]}):
        with pytest.raises(SnapshotCorrupt):
            join(ONE, manifest, _opened(broken))


def test_names_of_chunks_tell_nothing_without_the_key() -> None:
    names = [
        cut(keys, session, 7, {"a": b"x"})[0].chunk_ids for keys in (KEYS, OTHERS) for session in (ONE, TWO)
    ]
    assert len({name for (name,) in names}) == 4


def _sealed(chunks: "dict[str, bytes]") -> dict[str, bytes]:
    return {name: seal_chunk(KEYS, ONE, name, chunk) for name, chunk in chunks.items()}


def _opened(sealed: "dict[str, bytes]") -> dict[str, bytes]:
    """Those that open."""
    found = {name: open_chunk(KEYS, ONE, name, data) for name, data in sealed.items()}
    return {name: chunk for name, chunk in found.items() if chunk is not None}


def _mutated(good: bytes, data: st.DataObject) -> bytes:
    """``good`` with one bit flipped, cut short or made longer."""
    at = data.draw(st.integers(0, 8 * len(good) - 1))
    flipped = bytearray(good)
    flipped[at // 8] ^= 1 << at % 8
    return data.draw(st.sampled_from([bytes(flipped), good[: at // 8], good + b"\0", b"\0" + good]))
