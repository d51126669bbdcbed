"""Journal records and manifests as bytes: exact round trips, and nothing but the declared error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_server.errors import SessionCorrupted, SnapshotCorrupt
from hope_server.sessions.key import SessionKey
from hope_server.sessions.manifest import cut, decode_manifest, encode_manifest, join
from hope_server.sessions.records import check_page, decode_record, encode_record
from hope_server.sessions.store import MAX_CHUNK_BYTES, MAX_TOKEN, JournalRecord

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
)
RESETS = st.builds(JournalRecord, st.integers(1, 2**50), st.just("reset"), st.just("user"), st.just(()))
RECORDS = FULL | RESETS
PARTS = st.dictionaries(
    st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True), st.binary(min_size=1, max_size=99), min_size=1
)


@given(RECORDS)
def test_record_round_trip(record: JournalRecord) -> None:
    assert decode_record(ONE, encode_record(ONE, record)) == record


@given(RECORDS, st.data())
def test_changed_record_is_refused(record: JournalRecord, data: st.DataObject) -> None:
    good = encode_record(ONE, record)
    with pytest.raises(SessionCorrupted):
        decode_record(ONE, _mutated(good, data))


@given(st.binary(max_size=64))
def test_foreign_bytes_are_no_record(noise: bytes) -> None:
    with pytest.raises(SessionCorrupted):
        decode_record(ONE, noise)


def test_record_of_another_session_is_refused() -> None:
    data = encode_record(ONE, JournalRecord(1, "run", "user", (1, 2)))
    with pytest.raises(SessionCorrupted, match="session tenant/two"):
        decode_record(TWO, data)


@pytest.mark.parametrize(
    ("after", "head", "firsts"),
    [(0, 4, [2]), (0, 4, [1, 4]), (0, 4, [3, 1]), (2, 2, [3]), (0, 4, []), (3, 4, [1])],
)
def test_page_with_a_gap_is_refused(after: int, head: int, firsts: "list[int]") -> None:
    records = [JournalRecord(first, "run", "user", (1, 1)) for first in firsts]
    with pytest.raises(SessionCorrupted):
        check_page(ONE, records, after=after, head=head)


@given(PARTS, st.integers(0, 2**50))
def test_manifest_round_trip(parts: "dict[str, bytes]", seq: int) -> None:
    manifest, chunks = cut(seq, parts)
    decoded = decode_manifest(ONE, encode_manifest(ONE, manifest), seq=seq)
    assert decoded == manifest
    assert join(ONE, decoded, chunks) == parts


@given(PARTS, st.data())
def test_changed_manifest_is_refused(parts: "dict[str, bytes]", data: st.DataObject) -> None:
    manifest, _ = cut(7, parts)
    with pytest.raises(SnapshotCorrupt):
        decode_manifest(ONE, _mutated(encode_manifest(ONE, manifest), data), seq=7)


@pytest.mark.parametrize(("session", "seq"), [(ONE, 8), (TWO, 7), (THREE, 7)])
def test_manifest_of_another_place_is_refused(session: SessionKey, seq: int) -> None:
    manifest, _ = cut(7, {"a": b"x"})
    with pytest.raises(SnapshotCorrupt):
        decode_manifest(session, encode_manifest(ONE, manifest), seq=seq)


def test_missing_or_swapped_chunk_is_refused() -> None:
    manifest, chunks = cut(7, {"a": b"x" * MAX_CHUNK_BYTES + b"y"})
    first, second = manifest.chunk_ids
    assert all(len(chunk) <= MAX_CHUNK_BYTES for chunk in chunks.values())
    for broken in ({first: chunks[first]}, {first: chunks[second], second: chunks[first]}):
        with pytest.raises(SnapshotCorrupt):
            join(ONE, manifest, broken)


def _mutated(good: bytes, data: st.DataObject) -> bytes:
    """``good`` with one bit flipped, cut short or made longer."""
    at = data.draw(st.integers(0, 8 * len(good) - 1))
    flipped = bytearray(good)
    flipped[at // 8] ^= 1 << at % 8
    return data.draw(st.sampled_from([bytes(flipped), good[: at // 8], good + b"\0", b"\0" + good]))
