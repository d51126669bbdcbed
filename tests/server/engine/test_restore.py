"""The live state always equals the journal's replay, bit for bit: after cancels, crashes and damage."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_server.errors import SessionCorrupted, SessionNotFound, SessionQuarantined, SnapshotCorrupt
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import Head, SessionMeta

Bench = Any


async def new(service: Any) -> SessionKey:
    key: SessionKey = (await service.create_session("tenant")).key
    return key


async def replayed(bench: Bench, session: SessionKey) -> Any:
    """The row that a new process restores."""
    service = await bench.service()
    row = await bench.row(service, session)
    await service.stop(deadline_s=2.0)
    return row


@pytest.mark.parametrize("prompt", [3, 30], ids=["inside-a-block", "over-blocks"])
async def test_cancel_at_every_token(bench: Bench, same: Any, prompt: int) -> None:
    service = await bench.service()
    for taken in range(12):
        session = await new(service)
        stream = service.generate(bench.request(session, range(prompt), max_tokens=400))
        async with aclosing(stream):
            got = [(await anext(stream)).token for _ in range(taken)]
        journal = await bench.journal(session)
        assert journal[prompt : prompt + taken] == got
        assert len(journal) < prompt + 400 or not taken
        await service.check_integrity()
        assert same(await bench.row(service, session), await replayed(bench, session))


@pytest.mark.parametrize("hops", range(12))
async def test_cancel_at_every_moment_of_admission(bench: Bench, same: Any, hops: int) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, range(20), max_tokens=3)
    for evict in (False, True):
        if evict:
            await service._thread.call(lambda: service._engine.drop(str(session)))
        reading = asyncio.ensure_future(anext(service.generate(bench.request(session, range(21)))))
        for _ in range(hops):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait({reading})  # it may have been quicker than the cancel
        await _idle(service, session)
        await service.check_integrity()
        assert same(await bench.row(service, session), await replayed(bench, session))


async def _idle(service: Any, session: SessionKey) -> None:
    turn = service._turns.get(str(session))
    if turn is not None:
        turn.cancel()
        await turn.closed.wait()


async def test_a_cancelled_wait_for_a_slot_leaves_the_queue(bench: Bench, eventually: Any) -> None:
    service = await bench.service(slots=1)
    session = await new(service)
    holder = service.generate(bench.request(None, (3,), max_tokens=10**6))
    await anext(holder)
    waiting = asyncio.ensure_future(bench.turn(service, session, (4,)))
    await eventually(service, lambda: service.stats().waiting == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert service.stats().waiting == 0
    assert await bench.journal(session) == []
    await holder.aclose()


async def test_a_long_prompt_is_given_up_but_stays_learned(bench: Bench, same: Any, eventually: Any) -> None:
    service = await bench.service()
    session = await new(service)
    prompt = [i % 50 for i in range(8 * 4000)]
    reading = asyncio.ensure_future(bench.turn(service, session, prompt))
    await eventually(service, lambda: str(session) in service._engine._jobs)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await bench.journal(session) == prompt
    assert await service._thread.call(lambda: service._engine.position(str(session))) is None
    assert int((await bench.row(service, session))["position"]) == len(prompt)
    await service.check_integrity()


@settings(max_examples=12)
@given(
    turns=st.lists(
        st.tuples(st.lists(st.integers(0, 49), min_size=1, max_size=20), st.integers(0, 12)),
        min_size=1,
        max_size=4,
    ),
    kills=st.sets(st.integers(0, 3)),
)
async def test_killed_and_restored_equals_uninterrupted(
    bench: Bench, same: Any, turns: list[tuple[list[int], int]], kills: set[int]
) -> None:
    twin, service = await bench.service(), await bench.service()
    steady, killed = await new(twin), await new(twin)
    for number, (prompt, max_tokens) in enumerate(turns):
        if number in kills:  # the old process is not asked to flush anything
            service = await bench.service()
        options = {"temperature": 1.0, "seed": number}
        expected = await bench.turn(twin, steady, prompt, max_tokens, **options)
        found = await bench.turn(service, killed, prompt, max_tokens, **options)
        assert [event.token for event in found] == [event.token for event in expected]
        assert same(await bench.row(twin, steady), await bench.row(service, killed))
    await bench.close()


async def test_a_restore_starts_at_the_newest_snapshot(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, range(20), max_tokens=7)
    await service.stop(deadline_s=5.0)
    assert (await bench.store.meta(session)).snapshot_seq == 24
    await bench.row(await bench.service(), session)
    assert bench.observer.replayed == [3]


@pytest.mark.parametrize("damaged", [1, 2])
async def test_damaged_snapshots_fall_back_to_older_ones_then_to_the_journal(
    bench: Bench, same: Any, damaged: int
) -> None:
    service = await bench.service()
    session = await new(service)
    for prompt in (8, 6):  # one boundary a turn: of several, the writer skips those that are overtaken
        await bench.turn(service, session, range(prompt), max_tokens=4)
        await service._snapshots.flush()
    expected = await bench.row(service, session)
    generations = bench.store._sessions[session].generations
    assert [generation.seq for generation, _ in generations] == [8, 16]
    for generation, _ in generations[-damaged:]:
        for chunk in generation.chunk_ids:
            bench.store._sessions[session].chunks[chunk] = b"damage"
    assert same(await replayed(bench, session), expected)
    assert bench.observer.replayed == [22 - 8 if damaged == 1 else 22]
    assert [type(error) for error in bench.observer.failed_snapshots] == [SnapshotCorrupt] * damaged


async def test_a_snapshot_that_counts_other_tokens_is_not_trusted(bench: Bench, same: Any) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, range(16), max_tokens=2)
    await service._snapshots.flush()
    expected = await bench.row(service, session)
    wrong = {name: tensor.clone() for name, tensor in expected.items()}
    entry = bench.store._sessions[session]
    service._snapshots.offer(session, entry.fence, 17, wrong, entry.meta.head)
    await service._snapshots.flush()
    assert same(await replayed(bench, session), expected)
    assert len(bench.observer.failed_snapshots) == 1


async def test_a_snapshot_of_another_journal_is_not_trusted(bench: Bench, same: Any) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, range(16), max_tokens=2)
    await service._snapshots.flush()
    expected = await bench.row(service, session)
    entry = bench.store._sessions[session]
    entry.generations = [(manifest, "ab" * 32) for manifest, _ in entry.generations]
    assert same(await replayed(bench, session), expected)
    assert bench.observer.replayed == [18]


async def test_a_journal_that_does_not_end_with_its_head_is_quarantined(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, range(3), max_tokens=2)
    entry = bench.store._sessions[session]
    entry.meta = replace(entry.meta, head=Head(entry.meta.seq, "ab" * 32))
    with pytest.raises(SessionCorrupted):
        await bench.turn(await bench.service(), session, (1,))
    assert entry.meta.quarantined


async def test_a_damaged_journal_is_an_error_of_that_session_alone(bench: Bench) -> None:
    service = await bench.service()
    session, healthy = await new(service), await new(service)
    await bench.turn(service, session, range(3), max_tokens=3)
    bench.store._sessions[session].journal.pop(0)
    fresh = await bench.service()
    with pytest.raises(SessionCorrupted):
        await bench.turn(fresh, session, (1,))
    for call in (bench.turn(fresh, session, (1,)), bench.turn(await bench.service(), session, (1,))):
        with pytest.raises(SessionQuarantined):
            await call
    assert (await fresh.get_session(session)).quarantined
    assert len(bench.store._sessions[session].journal) > 0
    assert len(await bench.turn(fresh, healthy, (1,), max_tokens=2)) == 2


async def test_eviction_and_return_change_nothing(bench: Bench) -> None:
    small, large = await bench.service(slots=1), await bench.service(slots=4)
    crowd = [await new(small) for _ in range(3)]
    alone = [await new(large) for _ in range(3)]
    for turn in range(3):
        for one, other in zip(crowd, alone, strict=True):
            found = await bench.turn(small, one, (turn, 7), max_tokens=5)
            expected = await bench.turn(large, other, (turn, 7), max_tokens=5)
            assert [event.token for event in found] == [event.token for event in expected]
    await small.check_integrity()


async def test_reset_starts_over_and_keeps_the_journal(bench: Bench, same: Any) -> None:
    service = await bench.service()
    session = await new(service)
    first = await bench.turn(service, session, range(20), max_tokens=10)
    await service._snapshots.flush()
    meta = await service.reset_session(session)
    assert (meta.seq, meta.path.start_seq, meta.position) == (31, 31, 0)
    assert [level.tokens for level in await service.levels(session)] == [0, 0, 0]
    again = await bench.turn(service, session, range(20), max_tokens=10)
    assert [event.token for event in again] == [event.token for event in first]
    assert again[0].seq == 31 + 20 + 1
    assert same(await bench.row(service, session), await replayed(bench, session))


async def test_delete_forgets_the_row_too(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, range(20))
    await service.delete_session(session)
    assert service.stats().resident_idle == 0 or await service._thread.call(
        lambda: service._engine.position(str(session)) is None
    )
    for call in (service.get_session, service.levels, service.delete_session, service.reset_session):
        with pytest.raises(SessionNotFound):
            await call(session)
    await service._snapshots.flush()


async def test_levels_are_the_states_own_counters(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, range(30), max_tokens=11)
    fast, slower, slow = await service.levels(session)
    assert (fast.name, fast.period, fast.tokens, fast.writes, fast.frequency) == ("fast", 1, 41, 41, 1.0)
    assert (slower.tokens, slower.writes, slower.frequency) == (41, 10, 10 / 41)
    assert (slow.name, slow.period, slow.writes, slow.bytes) == ("slow", None, 0, 0)
    assert (fast.bytes, slower.bytes) == (24, 8)
    assert fast.drift_ratio > 0
    assert await (await bench.service()).levels(session) == [fast, slower, slow]
    assert bench.observer.tokens == {"fast": 41, "slower": 41}
    assert bench.observer.writes == {"fast": 41, "slower": 10}
    assert "fast" in bench.observer.drifts


async def test_levels_can_be_read_while_a_turn_runs(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    stream = service.generate(bench.request(session, range(20), max_tokens=10**6))
    for _ in range(2):  # a second token is sampled from a state that has read the first
        await anext(stream)
    levels = await service.levels(session)
    assert levels[0].tokens > 20
    await stream.aclose()


async def test_meta_of_another_position_never_leaves_a_stale_row(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, range(5), max_tokens=2)
    meta: SessionMeta = await bench.store.meta(session)
    other = await bench.service()
    await other.reset_session(session)
    await bench.turn(service, session, range(2), max_tokens=2)
    assert (await bench.store.meta(session)).position == 4
    assert meta.position == 7
    await service.check_integrity()
