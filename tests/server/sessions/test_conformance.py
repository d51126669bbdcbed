"""What every store promises, over the registry."""

from importlib import import_module

import pytest

from hope_server.errors import (
    AlreadyLearned,
    SequenceConflict,
    SessionNotFound,
    SnapshotCorrupt,
    StoreConfigError,
)
from hope_server.sessions import STORES, open_store
from hope_server.sessions.key import SessionKey
from hope_server.sessions.store import (
    MAX_APPEND_RECORDS,
    MAX_APPEND_TOKENS,
    MAX_CHUNK_BYTES,
    MAX_IDEMPOTENCY_KEYS,
    JournalRecord,
    SessionStore,
    Transcript,
    TurnKey,
    journal,
    list_cursor,
)


def sibling(session: SessionKey, number: int) -> SessionKey:
    """Another session of the same tenant."""
    return SessionKey(session.tenant, f"{session.session}-{number}")


def run(first_seq: int, *tokens: int) -> JournalRecord:
    return JournalRecord(first_seq, "run", "user", tokens)


def reset(seq: int) -> JournalRecord:
    return JournalRecord(seq, "reset", "user", ())


async def test_new_session_is_empty(store: SessionStore, session: SessionKey) -> None:
    created = await store.create(session, model="ab" * 32, name="née")
    assert created == await store.meta(session)
    assert (created.seq, created.position, created.snapshot_seq, created.name) == (0, 0, 0, "née")
    assert await store.records(session, after=0, limit=10) == []
    assert await store.get_snapshot(session) is None


async def test_no_name_is_not_an_empty_name(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    await store.create(sibling(session, 2), model="m", name="")
    assert (await store.meta(session)).name is None
    assert (await store.meta(sibling(session, 2))).name == ""


async def test_taken_id_is_refused(store: SessionStore, session: SessionKey) -> None:
    first = await store.create(session, model="m", name=None)
    with pytest.raises(SequenceConflict):
        await store.create(session, model="m", name="again")
    assert await store.meta(session) == first


async def test_unknown_session_is_not_found(store: SessionStore, session: SessionKey) -> None:
    calls = [
        store.meta(session),
        store.append(session, expected_seq=0, records=[run(1, 5)]),
        store.records(session, after=0, limit=1),
        store.learned(session, "key"),
        store.put_snapshot(session, seq=1, parts={"a": b"x"}),
        store.get_snapshot(session),
        store.delete(session),
    ]
    for call in calls:
        with pytest.raises(SessionNotFound):
            await call


async def test_append_moves_the_head(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    step = JournalRecord(4, "step", "model", (2**32 - 1, 0))
    assert await store.append(session, expected_seq=0, records=[run(1, 7, 8, 9), step]) == 5
    assert await store.append(session, expected_seq=5, records=[run(6, 1)]) == 6
    assert await store.records(session, after=0, limit=10) == [run(1, 7, 8, 9), step, run(6, 1)]
    assert (await store.meta(session)).seq == 6


async def test_wrong_expected_seq_changes_nothing(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    await store.append(session, expected_seq=0, records=[run(1, 7, 8)])
    before = await store.meta(session)
    for expected in (0, 1, 3):
        with pytest.raises(SequenceConflict):
            await store.append(
                session,
                expected_seq=expected,
                records=[run(expected + 1, 9)],
                transcript=Transcript(1, "a", "b"),
                idempotency_key=TurnKey("k", expected + 1),
            )
    assert await store.meta(session) == before
    assert await store.records(session, after=0, limit=10) == [run(1, 7, 8)]
    assert await store.learned(session, "k") is None


@pytest.mark.parametrize(
    "records",
    [
        [],
        [run(2, 5)],
        [run(1, 5), run(3, 5)],
        [run(1)],
        [run(1, -1)],
        [run(1, 2**32)],
        [JournalRecord(1, "reset", "user", (1,))],
        [run(at, 5) for at in range(1, MAX_APPEND_RECORDS + 2)],
        [run(1, *([5] * (MAX_APPEND_TOKENS + 1)))],
    ],
    ids=["none", "gap", "inner gap", "no tokens", "negative", "too large", "full reset", "many", "long"],
)
async def test_unfit_records_are_refused(
    store: SessionStore, session: SessionKey, records: "list[JournalRecord]"
) -> None:
    await store.create(session, model="m", name=None)
    with pytest.raises(ValueError, match=r"\d"):
        await store.append(session, expected_seq=0, records=records)
    assert (await store.meta(session)).seq == 0


async def test_largest_append_is_read_back_in_pages(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    size = MAX_APPEND_TOKENS // MAX_APPEND_RECORDS
    records = [run(1 + at * size, *range(at, at + size)) for at in range(MAX_APPEND_RECORDS)]
    head = await store.append(session, expected_seq=0, records=records)
    longest = run(head + 1, *range(MAX_APPEND_TOKENS))
    head = await store.append(session, expected_seq=head, records=[longest])
    assert len(await store.records(session, after=0, limit=3)) == 3
    first_page = await store.records(session, after=0, limit=10_000)
    assert 0 < len(first_page) <= MAX_APPEND_RECORDS + 1
    assert [record async for record in journal(store, session, after=0, head=head)] == [*records, longest]


async def test_paging_starts_inside_a_record(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    records = [run(1, 1, 2, 3), reset(4), run(5, 5, 6)]
    await store.append(session, expected_seq=0, records=records)
    starts = {after: (await store.records(session, after=after, limit=9))[:1] for after in range(7)}
    assert starts == {
        0: records[:1],
        1: records[:1],
        2: records[:1],
        3: records[1:2],
        4: records[2:],
        5: records[2:],
        6: [],
    }


async def test_transcript_is_kept_and_replaced(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    await store.append(session, expected_seq=0, records=[run(1, 1)], transcript=Transcript(2, "aa", "ff"))
    await store.append(session, expected_seq=1, records=[run(2, 1)])
    meta = await store.meta(session)
    assert (meta.transcript_count, meta.transcript_sha256, meta.first_message_sha256) == (2, "aa", "ff")


async def test_reset_forgets_transcript_and_snapshots(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    await store.append(session, expected_seq=0, records=[run(1, 1, 2)], transcript=Transcript(2, "aa", "ff"))
    await store.put_snapshot(session, seq=2, parts={"a": b"x"})
    await store.append(session, expected_seq=2, records=[reset(3), run(4, 9)])
    meta = await store.meta(session)
    assert (meta.seq, meta.base_seq, meta.position, meta.snapshot_seq) == (4, 3, 1, 0)
    assert (meta.transcript_count, meta.transcript_sha256, meta.first_message_sha256) == (0, "", "")
    assert await store.get_snapshot(session) is None
    with pytest.raises(SequenceConflict):
        await store.put_snapshot(session, seq=2, parts={"a": b"x"})
    assert len(await store.records(session, after=0, limit=9)) == 3


async def test_key_is_learned_once_with_its_whole_turn(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    turn = TurnKey("key one", 1)
    await store.append(session, expected_seq=0, records=[run(1, 1, 2)], idempotency_key=turn)
    await store.append(session, expected_seq=2, records=[run(3, 3)], idempotency_key=turn)
    await store.append(session, expected_seq=3, records=[run(4, 4)])
    assert await store.learned(session, "key one") == (1, 3)
    with pytest.raises(AlreadyLearned) as refused:
        await store.append(
            session, expected_seq=4, records=[run(5, 1, 2)], idempotency_key=TurnKey("key one", 5)
        )
    assert (refused.value.first_seq, refused.value.last_seq) == (1, 3)
    assert (await store.meta(session)).seq == 4


async def test_recent_keys_are_remembered(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    for at in range(MAX_IDEMPOTENCY_KEYS + 2):
        key = TurnKey(f"key-{at}", at + 1)
        await store.append(session, expected_seq=at, records=[run(at + 1, 1)], idempotency_key=key)
    assert await store.learned(session, "key-1") is None
    assert await store.learned(session, "key-2") == (3, 3)
    assert await store.learned(session, f"key-{MAX_IDEMPOTENCY_KEYS + 1}") is not None


@pytest.mark.parametrize("key", [TurnKey("", 1), TurnKey("x" * 256, 1), TurnKey("k", 2), TurnKey("k", 0)])
async def test_unfit_key_is_refused(store: SessionStore, session: SessionKey, key: TurnKey) -> None:
    await store.create(session, model="m", name=None)
    with pytest.raises(ValueError, match="1"):
        await store.append(session, expected_seq=0, records=[run(1, 1)], idempotency_key=key)


async def test_list_goes_on_where_it_stopped(store: SessionStore, session: SessionKey) -> None:
    made = [await store.create(sibling(session, at), model="m", name=None) for at in range(5)]
    ours = [meta async for meta in _all(store, made[0].session_id)]
    assert [meta for meta in [made[0], *ours] if meta.session_id.startswith(session.session)] == made
    assert (await store.list("tenant", after=made[0].session_id, limit=2)) == made[1:3]
    await store.delete(made[1].key)
    assert (await store.list("tenant", after=list_cursor(made[1]), limit=2)) == made[2:4]
    with pytest.raises(SessionNotFound):
        await store.list("tenant", after=made[1].session_id, limit=2)


async def _all(store: SessionStore, after: str):  # type: ignore[no-untyped-def]
    while page := await store.list("tenant", after=after, limit=2):
        for meta in page:
            yield meta
        after = page[-1].session_id


async def test_a_tenant_sees_its_own_sessions_alone(store: SessionStore, session: SessionKey) -> None:
    other = SessionKey("other", session.session)
    await store.create(session, model="m", name="ours")
    await store.create(other, model="m", name="theirs")
    await store.append(session, expected_seq=0, records=[run(1, 5)], idempotency_key=TurnKey("k", 1))
    assert (await store.meta(other)).seq == 0
    assert await store.records(other, after=0, limit=1) == []
    assert await store.learned(other, "k") is None
    listed = [meta.key for meta in await store.list("other", after=None, limit=10_000)]
    assert other in listed
    assert {key.tenant for key in listed} == {"other"}
    await store.delete(other)
    assert (await store.meta(session)).seq == 1


async def test_two_generations_of_snapshots(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    await store.append(session, expected_seq=0, records=[run(1, *range(9))])
    for seq in (2, 4, 6):
        await store.put_snapshot(session, seq=seq, parts={"slow": b"same", "fast": b"%d" % seq})
    newest, older = await store.get_snapshot(session), await store.get_snapshot(session, at_most_seq=5)
    assert newest is not None
    assert older is not None
    assert (newest.seq, dict(newest.parts)) == (6, {"slow": b"same", "fast": b"6"})
    assert (older.seq, dict(older.parts)) == (4, {"slow": b"same", "fast": b"4"})
    assert await store.get_snapshot(session, at_most_seq=3) is None
    assert (await store.meta(session)).snapshot_seq == 6


async def test_snapshots_stay_inside_the_journal_and_never_go_back(
    store: SessionStore, session: SessionKey
) -> None:
    await store.create(session, model="m", name=None)
    await store.append(session, expected_seq=0, records=[run(1, *range(9))])
    await store.put_snapshot(session, seq=4, parts={"a": b"x"})
    for seq in (0, 3, 10):
        with pytest.raises(SequenceConflict):
            await store.put_snapshot(session, seq=seq, parts={"a": b"y"})
    await store.put_snapshot(session, seq=4, parts={"a": b"z"})
    found = await store.get_snapshot(session)
    assert found is not None
    assert found.parts == {"a": b"z"}
    assert await store.get_snapshot(session, at_most_seq=3) is None


async def test_large_part_is_cut_and_joined(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    await store.append(session, expected_seq=0, records=[run(1, 1)])
    parts = {"large": bytes(range(256)) * 4096 * 2 + b"tail", "exact": b"y" * MAX_CHUNK_BYTES}
    await store.put_snapshot(session, seq=1, parts=parts)
    found = await store.get_snapshot(session)
    assert found is not None
    assert found.parts == parts


@pytest.mark.parametrize("parts", [{}, {"a": b""}, {"": b"x"}, {"a/b": b"x"}, {"a" * 65: b"x"}])
async def test_unfit_parts_are_refused(
    store: SessionStore, session: SessionKey, parts: "dict[str, bytes]"
) -> None:
    await store.create(session, model="m", name=None)
    await store.append(session, expected_seq=0, records=[run(1, 1)])
    with pytest.raises(ValueError, match=r"1 to 4096|expected"):
        await store.put_snapshot(session, seq=1, parts=parts)


async def test_deleted_session_is_gone(store: SessionStore, session: SessionKey) -> None:
    meta = await store.create(session, model="m", name=None)
    await store.append(session, expected_seq=0, records=[run(1, 1)], idempotency_key=TurnKey("k", 1))
    await store.put_snapshot(session, seq=1, parts={"a": b"x"})
    await store.delete(session)
    with pytest.raises(SessionNotFound):
        await store.meta(session)
    assert meta not in await store.list("tenant", after=None, limit=10_000)
    await store.create(session, model="m", name=None)
    assert await store.learned(session, "k") is None
    assert await store.records(session, after=0, limit=1) == []
    assert await store.get_snapshot(session) is None


async def test_ping_and_check(store: SessionStore) -> None:
    await store.ping()
    await store.check()


def test_registry_names_classes() -> None:
    for target in STORES.values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name).open)


async def test_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(StoreConfigError, match="memory, redis, rediss, unix, found 'http'"):
        await open_store("http://127.0.0.1")


def test_snapshot_corrupt_is_a_server_error() -> None:
    assert SnapshotCorrupt("x").status == 500
