"""What every store promises, over the registry."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib import import_module

import pytest
from tests.server.sessions.writing import KEYS, TTL_S, Writer

from hope_server.errors import (
    AlreadyLearned,
    Fenced,
    InvalidRequest,
    LeaseHeld,
    SequenceConflict,
    SessionNotFound,
    SessionQuarantined,
    SnapshotCorrupt,
    StoreConfigError,
    TooManyDocuments,
)
from hope_server.sessions import STORES, open_store
from hope_server.sessions.copying import fork
from hope_server.sessions.history import part_of, point_at
from hope_server.sessions.key import SessionKey
from hope_server.sessions.memory_store import MemoryStore
from hope_server.sessions.path import Freeze, Path
from hope_server.sessions.session import (
    GENESIS,
    MAX_APPEND_RECORDS,
    MAX_APPEND_TOKENS,
    MAX_CHUNK_BYTES,
    MAX_DOCUMENT_BYTES,
    MAX_IDEMPOTENCY_KEYS,
    Fence,
    Head,
    JournalRecord,
    Point,
    Sampler,
    SessionMeta,
    Transcript,
    TurnKey,
    list_cursor,
)
from hope_server.sessions.store import SessionStore, journal

FENCE = Fence(1, "0" * 32)


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
    assert (created.head, created.position, created.snapshot_seq, created.name) == (GENESIS, 0, 0, "née")
    assert await store.records(session, after=0, limit=10) == []
    assert await store.get_snapshot(session) is None


async def test_no_name_is_not_an_empty_name(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    await store.create(sibling(session, 2), model="m", name="")
    assert (await store.meta(session)).name is None
    assert (await store.meta(sibling(session, 2))).name == ""


async def test_a_name_is_changed_without_a_fence(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    await store.create(sibling(session, 2), model="m", name="other")
    before = await store.meta(session)
    for name in ("née", "", "née"):
        await store.rename(session, name)
        assert await store.meta(session) == replace(before, name=name)
    assert (await store.meta(sibling(session, 2))).name == "other"
    with pytest.raises(SessionNotFound):
        await store.rename(sibling(session, 3), "x")


async def test_taken_id_is_refused(store: SessionStore, session: SessionKey) -> None:
    first = await store.create(session, model="m", name=None)
    with pytest.raises(SequenceConflict):
        await store.create(session, model="m", name="again")
    assert await store.meta(session) == first


async def test_unknown_session_is_not_found(store: SessionStore, session: SessionKey) -> None:
    calls = [
        store.meta(session),
        store.acquire(session, nonce="0" * 32, ttl_s=1),
        store.renew(session, FENCE, ttl_s=1),
        store.release(session, FENCE),
        store.append(session, FENCE, expected=GENESIS, records=[run(1, 5)]),
        store.rollback(session, FENCE, expected=GENESIS, to=Point(0, Path(), Transcript(0, "", ""))),
        store.records(session, after=0, limit=1),
        store.learned(session, "key"),
        store.put_snapshot(session, FENCE, seq=1, parts={"a": b"x"}, head=GENESIS),
        store.get_snapshot(session),
        store.reveal(session, FENCE),
        store.quarantine(session, FENCE),
        store.delete(session, FENCE),
    ]
    for call in calls:
        with pytest.raises(SessionNotFound):
            await call


async def test_append_moves_the_head(writer: Writer) -> None:
    step = JournalRecord(4, "step", "model", (2**32 - 1, 0), sampler=Sampler(2**64 - 1, 3), request="ab" * 16)
    first = await writer.append(run(1, 7, 8, 9), step)
    second = await writer.append(run(6, 1))
    assert (first.seq, second.seq) == (5, 6)
    assert (await writer.meta()).head == second != first
    assert await writer.records() == [run(1, 7, 8, 9), step, run(6, 1)]
    assert [record.chain for record in await writer.records()][1:] == [first.sha256, second.sha256]


async def test_another_head_changes_nothing(writer: Writer) -> None:
    """Another number, or the same number of another history."""
    first = await writer.read(7, 8)
    before = await writer.meta()
    for wrong in (GENESIS, Head(1, first.sha256), Head(3, first.sha256), Head(2, "ab" * 32)):
        writer.head = wrong
        record = replace(run(wrong.seq + 1, 9), transcript=Transcript(1, "aa", "bb"))
        with pytest.raises(SequenceConflict):
            await writer.append(record, key=TurnKey("k", wrong.seq + 1))
    assert await writer.meta() == before
    assert await writer.records() == [run(1, 7, 8)]
    assert await writer.store.learned(writer.session, "k") is None


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
        [replace(run(1, 5), request="abc")],
        [replace(run(1, 5), transcript=Transcript(1, "no hex", ""))],
        [run(at, 5) for at in range(1, MAX_APPEND_RECORDS + 2)],
        [run(1, *([5] * (MAX_APPEND_TOKENS + 1)))],
    ],
    ids=[
        "none",
        "gap",
        "inner gap",
        "no tokens",
        "negative",
        "too large",
        "full reset",
        "request",
        "transcript",
        "many",
        "long",
    ],
)
async def test_unfit_records_are_refused(writer: Writer, records: "list[JournalRecord]") -> None:
    with pytest.raises(ValueError, match=r"\d"):
        await writer.append(*records)
    assert (await writer.meta()).head == GENESIS


async def test_largest_append_is_read_back_in_pages(writer: Writer) -> None:
    size = MAX_APPEND_TOKENS // MAX_APPEND_RECORDS
    records = [run(1 + at * size, *range(at, at + size)) for at in range(MAX_APPEND_RECORDS)]
    head = await writer.append(*records)
    longest = run(head.seq + 1, *range(MAX_APPEND_TOKENS))
    head = await writer.append(longest)
    assert len(await writer.records(limit=3)) == 3
    first_page = await writer.records(limit=10_000)
    assert 0 < len(first_page) <= MAX_APPEND_RECORDS + 1
    read = [record async for record in journal(writer.store, writer.session, after=0, head=head.seq)]
    assert read == [*records, longest]


async def test_paging_starts_inside_a_record(writer: Writer) -> None:
    records = [run(1, 1, 2, 3), reset(4), run(5, 5, 6)]
    await writer.append(*records)
    starts = {after: (await writer.records(after=after, limit=9))[:1] for after in range(7)}
    assert starts == {
        0: records[:1],
        1: records[:1],
        2: records[:1],
        3: records[1:2],
        4: records[2:],
        5: records[2:],
        6: [],
    }


async def test_transcript_is_kept_and_replaced(writer: Writer) -> None:
    await writer.append(replace(run(1, 1), transcript=Transcript(2, "aa", "ff")))
    await writer.read(1)
    assert (await writer.meta()).transcript == Transcript(2, "aa", "ff")
    await writer.append(replace(run(3, 1), transcript=Transcript(3, "bb", "ff")))
    assert (await writer.meta()).transcript == Transcript(3, "bb", "ff")


async def test_reset_forgets_transcript_and_snapshots(writer: Writer) -> None:
    await writer.append(replace(run(1, 1, 2), transcript=Transcript(2, "aa", "ff")))
    await writer.snapshot(2, a=b"x")
    await writer.append(reset(3), run(4, 9))
    meta = await writer.meta()
    assert (meta.seq, meta.path, meta.position, meta.snapshot_seq) == (4, Path(3), 1, 0)
    assert meta.transcript == Transcript(0, "", "")
    assert await writer.found() is None
    with pytest.raises(SequenceConflict):
        await writer.snapshot(2, a=b"x")
    assert len(await writer.records()) == 3


async def test_key_is_learned_once_with_its_whole_turn(writer: Writer) -> None:
    turn = TurnKey("key one", 1)
    await writer.append(run(1, 1, 2), key=turn)
    await writer.append(run(3, 3), key=turn)
    await writer.read(4)
    assert await writer.store.learned(writer.session, "key one") == (1, 3)
    with pytest.raises(AlreadyLearned) as refused:
        await writer.append(run(5, 1, 2), key=TurnKey("key one", 5))
    assert (refused.value.first_seq, refused.value.last_seq) == (1, 3)
    assert (await writer.meta()).seq == 4


async def test_recent_keys_are_remembered(writer: Writer) -> None:
    for at in range(MAX_IDEMPOTENCY_KEYS + 2):
        await writer.append(run(at + 1, 1), key=TurnKey(f"key-{at}", at + 1))
    known = [
        await writer.store.learned(writer.session, f"key-{at}") for at in (1, 2, MAX_IDEMPOTENCY_KEYS + 1)
    ]
    assert known == [None, (3, 3), (MAX_IDEMPOTENCY_KEYS + 2, MAX_IDEMPOTENCY_KEYS + 2)]


@pytest.mark.parametrize("key", [TurnKey("", 1), TurnKey("x" * 256, 1), TurnKey("k", 2), TurnKey("k", 0)])
async def test_unfit_key_is_refused(writer: Writer, key: TurnKey) -> None:
    with pytest.raises(ValueError, match="1"):
        await writer.append(run(1, 1), key=key)


async def test_a_lease_keeps_others_out_until_it_is_released(
    store: SessionStore, session: SessionKey
) -> None:
    first = await Writer.create(store, session)
    with pytest.raises(LeaseHeld) as held:
        await Writer.take(store, session)
    assert held.value.retry_after_s is not None
    await first.release()
    second = await Writer.take(store, session)
    assert second.fence.counter == first.fence.counter + 1
    await second.read(1)
    with pytest.raises(LeaseHeld):
        await Writer.take(store, session)


async def test_an_expired_lease_can_be_taken_over(store: SessionStore, session: SessionKey) -> None:
    first = await Writer.create(store, session)
    await store.renew(session, first.fence, ttl_s=0.001)
    while True:
        try:
            second = await Writer.take(store, session)
            break
        except LeaseHeld:
            await asyncio.sleep(0)
    assert second.fence.counter == first.fence.counter + 1


async def test_the_holder_keeps_its_fence_and_finds_the_head(
    store: SessionStore, session: SessionKey
) -> None:
    first = await Writer.create(store, session)
    await first.read(1, 2)
    again = await Writer.take(store, session, first.fence.nonce)
    assert (again.fence, again.head) == (first.fence, first.head)
    await first.release()
    assert (await Writer.take(store, session, first.fence.nonce)).fence == first.fence


async def test_every_write_needs_the_fence(store: SessionStore, session: SessionKey) -> None:
    """Both parts of it, equal: neither an older nor a newer counter, nor another worker's nonce."""
    old = await Writer.create(store, session)
    await old.read(1, 2)
    await old.snapshot(1, a=b"one")
    await old.release()
    new = await Writer.take(store, session)
    before = await new.meta()
    point = await point_at(store, session, 1)
    nobody = Fence(new.fence.counter, secrets.token_hex(16))
    for fence in (old.fence, nobody, Fence(new.fence.counter + 1, new.fence.nonce)):
        calls = [
            store.renew(session, fence, ttl_s=TTL_S),
            store.release(session, fence),
            store.append(session, fence, expected=new.head, records=[run(3, 5)]),
            store.rollback(session, fence, expected=new.head, to=point),
            store.put_snapshot(session, fence, seq=2, parts={"a": b"two"}, head=new.head),
            store.quarantine(session, fence),
            store.reveal(session, fence),
            store.delete(session, fence),
        ]
        for call in calls:
            with pytest.raises(Fenced):
                await call
    assert await new.meta() == before
    assert await new.found() == (1, {"a": b"one"})
    with pytest.raises(LeaseHeld):
        await Writer.take(store, session)
    await new.read(3)


async def test_a_released_writer_is_good_until_another_comes(
    store: SessionStore, session: SessionKey
) -> None:
    """A snapshot may still be on its way when the turn is over."""
    writer = await Writer.create(store, session)
    await writer.read(1, 2)
    await writer.release()
    await writer.snapshot(2, a=b"x")
    assert await writer.found() == (2, {"a": b"x"})


async def test_a_quarantined_session_is_kept_and_takes_nothing(writer: Writer) -> None:
    await writer.read(1, 2)
    await writer.store.quarantine(writer.session, writer.fence)
    assert (await writer.meta()).quarantined
    with pytest.raises(SessionQuarantined):
        await writer.read(3)
    with pytest.raises(SessionQuarantined):
        await writer.rollback(1)
    assert await writer.records() == [run(1, 1, 2)]
    await writer.delete()


async def test_a_staged_session_is_hidden_until_it_is_revealed(
    store: SessionStore, session: SessionKey
) -> None:
    writer = await Writer.create(store, session, staged=True)
    await writer.read(1, 2)
    await writer.snapshot(2, a=b"x")
    with pytest.raises(SessionNotFound):
        await writer.meta()
    assert session not in [meta.key for meta in await store.list("tenant", after=None, limit=10_000)]
    await store.reveal(session, writer.fence)
    assert (await writer.meta()).head == writer.head
    assert session in [meta.key for meta in await store.list("tenant", after=None, limit=10_000)]
    assert await writer.found() == (2, {"a": b"x"})


async def test_rollback_goes_back_and_keeps_the_journal(writer: Writer) -> None:
    told = [Transcript(1, "aa", "ff"), Transcript(2, "bb", "ff")]
    await writer.append(replace(run(1, 1, 2, 3), transcript=told[0]))
    await writer.append(replace(run(4, 4, 5), transcript=told[1]))
    await writer.snapshot(2, a=b"two")
    await writer.snapshot(5, a=b"five")
    await writer.rollback(3)
    meta = await writer.meta()
    assert (meta.seq, meta.position, meta.path) == (6, 3, Path(6, ((1, 3),)))
    assert (meta.transcript, meta.snapshot_seq) == (told[0], 2)
    assert await writer.found() == (2, {"a": b"two"})
    await writer.read(9)
    meta = await writer.meta()
    assert (meta.position, meta.path.after(2, meta.seq)) == (4, [(3, 3), (7, 7)])
    last = (await writer.records())[2]
    assert (last.kind, last.first_seq, last.target_seq) == ("rollback", 6, 3)
    assert len(await writer.records()) == 4


async def test_a_freeze_keeps_every_token_and_ends_learning(writer: Writer) -> None:
    """Snapshots of what was learned since are forgotten, and tokens up to the record get none any more."""
    await writer.append(replace(run(1, *range(6)), transcript=Transcript(1, "aa", "ff")))
    await writer.snapshot(2, a=b"two")
    await writer.snapshot(5, a=b"five")
    await writer.freeze(4)
    meta = await writer.meta()
    assert (meta.seq, meta.position) == (7, 6)
    assert meta.path == Path(7, ((1, 6),), Freeze(4, 7))
    assert (meta.transcript, meta.snapshot_seq) == (Transcript(1, "aa", "ff"), 2)
    assert await writer.found() == (2, {"a": b"two"})
    (last,) = await writer.records(after=6)
    assert (last.kind, last.first_seq, last.target_seq) == ("freeze", 7, 4)
    await writer.read(9, 9)
    with pytest.raises(SequenceConflict):
        await writer.snapshot(5, a=b"five")
    await writer.snapshot(8, a=b"eight")
    meta = await writer.meta()
    assert (meta.position, meta.snapshot_seq, meta.path.frozen_position) == (8, 8, 4)


async def test_a_session_is_frozen_once(writer: Writer) -> None:
    """Whoever takes the path to be another one changes nothing, and whoever comes late is told."""
    await writer.read(1, 2, 3)
    for good in (4, 5, -1):
        with pytest.raises(ValueError, match="cannot keep"):
            await writer.freeze(good)
    before = writer.head
    await writer.freeze(0)
    with pytest.raises(ValueError, match="cannot end again"):
        await writer.freeze(0)
    for expected in (writer.head, before):
        with pytest.raises(SequenceConflict):
            await writer.store.freeze(
                writer.session, writer.fence, expected=expected, path=Path(), good_seq=1
            )
    stranger = Writer(writer.store, writer.session, Fence(1, "f" * 32), writer.head)
    with pytest.raises(Fenced):
        await stranger.store.freeze(
            stranger.session, stranger.fence, expected=stranger.head, path=Path(), good_seq=1
        )
    with pytest.raises(ValueError, match="commit of its own"):
        await writer.append(JournalRecord(5, "freeze", "system", (), target_seq=1))
    assert (await writer.meta()).path == Path(4, ((1, 3),), Freeze(0, 4))


async def test_a_rollback_to_before_a_freeze_learns_again_and_one_to_after_it_does_not(
    writer: Writer,
) -> None:
    await writer.read(1, 2, 3, 4)
    await writer.snapshot(2, a=b"two")
    await writer.freeze(2)
    await writer.read(6, 7)
    await writer.rollback(6)
    assert (await writer.meta()).path == Path(8, ((1, 4), (6, 6)), Freeze(2, 5))
    await writer.rollback(3)
    assert (await writer.meta()).path == Path(9, ((1, 3),))
    await writer.rollback(8)
    assert (await writer.meta()).path == Path(10, ((1, 4), (6, 6)), Freeze(2, 5))
    assert (await writer.found()) == (2, {"a": b"two"})
    await writer.append(reset(11))
    assert (await writer.meta()).path == Path(11)


async def test_rollback_reaches_what_was_rolled_back_or_reset(writer: Writer) -> None:
    await writer.append(replace(run(1, 1, 2), transcript=Transcript(1, "aa", "ff")))
    await writer.append(reset(3))
    await writer.read(5, 6, 7)
    await writer.rollback(2)
    assert (await writer.meta()).path == Path(7, ((1, 2),))
    assert (await writer.meta()).transcript == Transcript(1, "aa", "ff")
    await writer.rollback(5)
    meta = await writer.meta()
    assert (meta.path, meta.position, meta.transcript) == (Path(8, ((4, 5),)), 2, Transcript(0, "", ""))
    await writer.rollback(0)
    assert ((await writer.meta()).position, (await writer.meta()).path) == (0, Path(9))
    for wrong in (10, -1):
        with pytest.raises(InvalidRequest):
            await writer.rollback(wrong)


async def test_points_are_the_session_as_it_stood(writer: Writer) -> None:
    """At every number, also inside records: the path then, and the transcript of what was read whole."""
    seen: dict[int, SessionMeta] = {0: await writer.meta()}
    for record in ("run", "reset", "run", "run"):
        seq = writer.head.seq + 1
        made = reset(seq) if record == "reset" else run(seq, 1, 2)
        told = None if record == "reset" else Transcript(seq, "aa", "")
        await writer.append(replace(made, transcript=told))
        seen[writer.head.seq] = await writer.meta()
    for target in (1, 6):
        await writer.rollback(target)
        seen[writer.head.seq] = await writer.meta()
        await writer.read(3)
        seen[writer.head.seq] = await writer.meta()
    for seq, meta in seen.items():
        assert await point_at(writer.store, writer.session, seq) == Point(seq, meta.path, meta.transcript)


async def test_a_fork_at_every_number_is_the_session_as_it_stood(writer: Writer) -> None:
    """Its journal, path, transcript and newest snapshot by then; the source stays as it is."""
    await writer.append(replace(run(1, 1, 2, 3), transcript=Transcript(1, "aa", "ff")), key=TurnKey("k", 1))
    await writer.snapshot(2, a=b"two")
    await writer.append(reset(4))
    await writer.read(5, 6)
    await writer.rollback(2)
    await writer.append(replace(run(8, 8), sampler=Sampler(7, 2), request="ab" * 16))
    await writer.freeze(2)
    await writer.read(10)
    source, records = await writer.meta(), await writer.records()
    for seq in range(11):
        target = sibling(writer.session, seq)
        made = await fork(writer.store, source, target, seq=seq, name="twin", nonce="a" * 32)
        point = await point_at(writer.store, writer.session, seq)
        assert made == await writer.store.meta(target)
        assert (made.seq, made.path, made.transcript, made.name) == (
            seq,
            point.path,
            point.transcript,
            "twin",
        )
        copied = await writer.store.records(target, after=0, limit=100)
        assert copied == [part_of(record, 1, seq) for record in records if record.first_seq <= seq]
        assert await writer.store.learned(target, "k") is None
    assert (await writer.meta(), await writer.records()) == (source, records)
    with pytest.raises(SequenceConflict):
        await fork(writer.store, source, sibling(writer.session, 1), seq=1, name=None, nonce="a" * 32)


async def test_a_fork_takes_the_snapshot_along(writer: Writer) -> None:
    await writer.read(*range(9))
    await writer.snapshot(3, a=b"three")
    await writer.snapshot(6, a=b"six")
    for seq, found in ((9, (6, {"a": b"six"})), (5, (3, {"a": b"three"})), (2, None)):
        target = sibling(writer.session, seq)
        await fork(writer.store, await writer.meta(), target, seq=seq, name=None, nonce="a" * 32)
        assert await (await Writer.take(writer.store, target)).found() == found


async def test_list_goes_on_where_it_stopped(store: SessionStore, session: SessionKey) -> None:
    made = [await store.create(sibling(session, at), model="m", name=None) for at in range(5)]
    ours = [meta async for meta in _all(store, made[0].session_id)]
    assert [meta for meta in [made[0], *ours] if meta.session_id.startswith(session.session)] == made
    assert (await store.list("tenant", after=made[0].session_id, limit=2)) == made[1:3]
    await (await Writer.take(store, made[1].key)).delete()
    assert (await store.list("tenant", after=list_cursor(made[1]), limit=2)) == made[2:4]
    with pytest.raises(SessionNotFound):
        await store.list("tenant", after=made[1].session_id, limit=2)


async def _all(store: SessionStore, after: str) -> AsyncIterator[SessionMeta]:
    while page := await store.list("tenant", after=after, limit=2):
        for meta in page:
            yield meta
        after = page[-1].session_id


async def test_a_tenant_sees_its_own_sessions_alone(store: SessionStore, session: SessionKey) -> None:
    other = SessionKey("other", session.session)
    ours = await Writer.create(store, session)
    await store.create(other, model="m", name="theirs")
    await ours.append(run(1, 5), key=TurnKey("k", 1))
    assert (await store.meta(other)).seq == 0
    assert await store.records(other, after=0, limit=1) == []
    assert await store.learned(other, "k") is None
    listed = [meta.key for meta in await store.list("other", after=None, limit=10_000)]
    assert other in listed
    assert {key.tenant for key in listed} == {"other"}
    await (await Writer.take(store, other)).delete()
    assert (await store.meta(session)).seq == 1


async def test_two_generations_of_snapshots(writer: Writer) -> None:
    await writer.read(*range(9))
    for seq in (2, 4, 6):
        await writer.snapshot(seq, slow=b"same", fast=b"%d" % seq)
    assert await writer.found() == (6, {"slow": b"same", "fast": b"6"})
    assert await writer.found(5) == (4, {"slow": b"same", "fast": b"4"})
    assert await writer.found(3) is None
    assert (await writer.meta()).snapshot_seq == 6


async def test_a_snapshot_names_the_record_that_it_lies_in(writer: Writer) -> None:
    await writer.read(1, 2, 3)
    await writer.read(4)
    for seq, holder in ((2, 0), (3, 0), (4, 1)):
        await writer.snapshot(seq, a=b"x")
        snapshot = await writer.store.get_snapshot(writer.session)
        assert snapshot is not None
        assert snapshot.chain == (await writer.records())[holder].chain


async def test_a_snapshot_of_tokens_that_the_journal_does_not_have_is_refused(writer: Writer) -> None:
    """A store that lost its tail has other tokens under the numbers that a worker's snapshot is of."""
    lost = await writer.read(1, 2, 3)
    await writer.read(4)
    for seq, head in (
        (2, Head(3, "ab" * 32)),
        (2, Head(2, lost.sha256)),
        (2, Head(9, lost.sha256)),
        (4, lost),
    ):
        with pytest.raises(SequenceConflict):
            await writer.store.put_snapshot(
                writer.session, writer.fence, seq=seq, parts={"a": b"x"}, head=head
            )
    assert await writer.found() is None
    await writer.store.put_snapshot(writer.session, writer.fence, seq=3, parts={"a": b"x"}, head=lost)
    assert await writer.found() == (3, {"a": b"x"})


async def test_snapshots_stay_on_the_path_and_never_go_back(writer: Writer) -> None:
    await writer.read(*range(9))
    await writer.snapshot(4, a=b"x")
    for seq in (0, 3, 10):
        with pytest.raises(SequenceConflict):
            await writer.snapshot(seq, a=b"y")
    await writer.snapshot(4, a=b"z")
    assert await writer.found() == (4, {"a": b"z"})
    assert await writer.found(3) is None
    await writer.rollback(6)
    await writer.snapshot(6, a=b"on the path")
    for seq in (7, 10):
        with pytest.raises(SequenceConflict):
            await writer.snapshot(seq, a=b"off the path")


async def test_large_part_is_cut_and_joined(writer: Writer) -> None:
    await writer.read(1)
    parts = {"large": bytes(range(256)) * 4096 * 2 + b"tail", "exact": b"y" * MAX_CHUNK_BYTES}
    await writer.snapshot(1, **parts)
    assert await writer.found() == (1, parts)


@pytest.mark.parametrize("parts", [{}, {"a": b""}, {"": b"x"}, {"a/b": b"x"}, {"a" * 65: b"x"}])
async def test_unfit_parts_are_refused(writer: Writer, parts: "dict[str, bytes]") -> None:
    await writer.read(1)
    with pytest.raises(ValueError, match=r"1 to 4096|expected"):
        await writer.snapshot(1, **parts)


async def test_deleted_session_is_gone(store: SessionStore, session: SessionKey) -> None:
    writer = await Writer.create(store, session)
    await writer.append(run(1, 1), key=TurnKey("k", 1))
    await writer.snapshot(1, a=b"x")
    await writer.delete()
    with pytest.raises(SessionNotFound):
        await writer.meta()
    assert session not in [meta.key for meta in await store.list("tenant", after=None, limit=10_000)]
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
        await open_store("http://127.0.0.1", KEYS)


def test_snapshot_corrupt_is_a_server_error() -> None:
    assert SnapshotCorrupt("x").status == 500


async def test_documents_are_kept_beside_the_journal(store: SessionStore, session: SessionKey) -> None:
    await store.create(session, model="m", name=None)
    assert await store.document_names(session) == []
    for name, data in (("b2", b"two"), ("a1", b"one"), ("b2", b"newer")):
        await store.put_document(session, name, data)
    assert await store.document_names(session) == ["a1", "b2"]
    assert await store.documents(session, ["b2", "c3", "a1"]) == {"b2": b"newer", "a1": b"one"}
    await store.put_document(session, "a1", None)
    await store.put_document(session, "a1", None)
    assert await store.documents(session, ["a1", "b2"]) == {"b2": b"newer"}
    assert (await store.meta(session)).head == GENESIS


async def test_documents_go_with_their_session(store: SessionStore, session: SessionKey) -> None:
    other = sibling(session, 2)
    for each in (session, other):
        await store.create(each, model="m", name=None)
        await store.put_document(each, "a", b"data")
    fence, _ = await store.acquire(session, nonce=FENCE.nonce, ttl_s=TTL_S)
    await store.delete(session, fence)
    for ask in (
        store.document_names(session),
        store.documents(session, ["a"]),
        store.put_document(session, "a", b"x"),
    ):
        with pytest.raises(SessionNotFound):
            await ask
    await store.create(session, model="m", name=None)
    assert await store.document_names(session) == []
    assert await store.documents(other, ["a"]) == {"a": b"data"}


async def test_documents_are_bounded(
    store: SessionStore, session: SessionKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("memory_store", "documents"):
        monkeypatch.setattr(f"hope_server.sessions.{module}.MAX_DOCUMENTS", 2)
    await store.create(session, model="m", name=None)
    for name in ("a", "b", "a"):
        await store.put_document(session, name, b"data")
    with pytest.raises(TooManyDocuments):
        await store.put_document(session, "c", b"data")
    await store.put_document(session, "a", None)
    await store.put_document(session, "c", b"data")
    for name, data in (
        ("", b"x"),
        ("A", b"x"),
        ("a b", b"x"),
        ("a" * 65, b"x"),
        ("a", b""),
        ("a", bytes(1 << 20)),
    ):
        with pytest.raises(ValueError, match="document"):
            await store.put_document(session, name, data)
    with pytest.raises(ValueError, match="document"):
        await store.put_document(session, "a", bytes(MAX_DOCUMENT_BYTES + 1))
    assert len(await store.documents(session, ["b"])) == 1


async def test_every_deletion_happens_inside_of_what_was_asked_for(
    store: SessionStore, session: SessionKey, external_url: str
) -> None:
    """The twin too: what a server does around deletions can be tested without Redis."""
    seen: list[bool] = []

    @asynccontextmanager
    async def deleting() -> AsyncIterator[None]:
        seen.append(await exists(watched, session))
        yield
        seen.append(await exists(watched, session))

    url = "memory:" if isinstance(store, MemoryStore) else external_url
    watched = await open_store(url, KEYS, deleting=deleting)
    writer = await Writer.create(watched, session)
    await watched.delete(session, writer.fence)
    assert seen == [True, False]
    await watched.close()


async def exists(store: SessionStore, session: SessionKey) -> bool:
    try:
        await store.meta(session)
    except SessionNotFound:
        return False
    return True
