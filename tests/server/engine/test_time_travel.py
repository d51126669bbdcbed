"""Fork and rollback are bit-exact: the state is the one that the journal up to there makes."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_server.errors import InvalidRequest, SessionBusy, SessionCorrupted, SessionNotFound
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import Transcript

Bench = Any
TURNS = st.lists(
    st.tuples(st.lists(st.integers(0, 49), min_size=1, max_size=20), st.integers(0, 12)),
    min_size=1,
    max_size=4,
)


async def new(service: Any) -> SessionKey:
    key: SessionKey = (await service.create_session("tenant")).key
    return key


async def test_every_past_state_comes_back(bench: Bench, same: Any) -> None:
    """At the end of each turn the state is kept; rollback and fork, on this worker and another, give it."""
    service = await bench.service()
    session = await new(service)
    states = {0: await bench.row(service, session)}
    for length in (5, 8, 30, 1, 12):
        await bench.turn(service, session, range(length), max_tokens=6)
        await service._snapshots.flush()
        states[(await service.get_session(session)).seq] = await bench.row(service, session)
    for seq in sorted(states, reverse=True):
        forked = await service.fork_session(session, seq=seq)
        meta = await service.rollback_session(session, seq=seq)
        assert meta.position == forked.position == seq
        for key in (session, forked.key):
            assert same(await bench.row(service, key), states[seq])
            assert same(await bench.row(await bench.service(), key), states[seq])
    await service.check_integrity()


@settings(max_examples=10)
@given(turns=TURNS, places=st.lists(st.integers(0, 100), min_size=1, max_size=3), flush=st.booleans())
async def test_a_rollback_a_fork_and_a_replay_agree(
    bench: Bench, same: Any, turns: list[tuple[list[int], int]], places: list[int], flush: bool
) -> None:
    """At any number, inside runs and answers and after earlier rollbacks; and so do the next tokens."""
    service, fresh = await bench.service(), await bench.service()
    session = await new(service)
    for number, (prompt, max_tokens) in enumerate(turns):
        await bench.turn(service, session, prompt, max_tokens, temperature=1.0, seed=number)
    for place in places:
        if flush:
            await service._snapshots.flush()
        seq = place * (await service.get_session(session)).seq // 100
        forked = await fresh.fork_session(session, seq=seq)
        rolled = await service.rollback_session(session, seq=seq)
        assert (rolled.position, rolled.transcript) == (forked.position, forked.transcript)
        assert same(await bench.row(service, session), await bench.row(fresh, forked.key))
        options = {"temperature": 1.0, "seed": place, "max_tokens": 9}
        found = await bench.turn(service, session, (7, 7), **options)
        expected = await bench.turn(fresh, forked.key, (7, 7), **options)
        assert [event.token for event in found] == [event.token for event in expected]
        assert same(await bench.row(service, session), await bench.row(await bench.service(), session))
    await bench.close()


async def test_a_rollback_starts_at_the_snapshot_that_it_keeps(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    for prompt in (8, 6):
        await bench.turn(service, session, range(prompt), max_tokens=4)
        await service._snapshots.flush()
    assert (await service.rollback_session(session, seq=10)).snapshot_seq == 8
    await bench.row(service, session)
    assert bench.observer.replayed == [2]


async def test_boundaries_of_a_past_that_was_kept_are_stored(bench: Bench) -> None:
    """A long way back without a snapshot is replayed once, not at every restore."""
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, range(30), max_tokens=20)
    await service._snapshots.flush()
    assert (await service.rollback_session(session, seq=20)).snapshot_seq == 0
    await bench.turn(service, session, (1,), max_tokens=1)
    await service._snapshots.flush()
    assert (await service.get_session(session)).snapshot_seq == 16


async def test_a_fork_is_a_session_of_its_own(bench: Bench, same: Any) -> None:
    service = await bench.service()
    session = await new(service)
    told = Transcript(1, "e" * 64, "f" * 64)
    options = {"idempotency_key": "k", "transcript": told}
    await bench.turn(service, session, (3, 1), max_tokens=4, **options)
    forked = await service.fork_session(session, name="twin")
    assert (forked.name, forked.transcript, forked.key.tenant) == ("twin", told, "tenant")
    assert forked.session_id != session.session
    await bench.turn(service, forked.key, (3, 1), max_tokens=4, **options)
    assert (await service.get_session(session)).seq == 6
    await service.delete_session(session)
    assert len(await bench.journal(forked.key)) == 12
    listed = [meta.key for meta in await service.list_sessions("tenant", after=None, limit=10)]
    assert listed == [forked.key]


async def test_a_session_is_forked_while_it_is_in_a_turn(bench: Bench, same: Any) -> None:
    service = await bench.service()
    session = await new(service)
    stream = service.generate(bench.request(session, (3, 1), max_tokens=10**6))
    last = [await anext(stream) for _ in range(9)][-1]
    forked = await service.fork_session(session, seq=last.seq)
    with pytest.raises(SessionBusy):
        await service.rollback_session(session, seq=1)
    await stream.aclose()
    assert await bench.journal(forked.key) == (await bench.journal(session))[: last.seq]
    await service.rollback_session(session, seq=last.seq)
    assert same(await bench.row(service, session), await bench.row(service, forked.key))


async def test_another_history_of_equal_length_is_noticed(bench: Bench, same: Any) -> None:
    """The row that one worker kept stands at the right position, but not at the head."""
    service, other = await bench.service(), await bench.service()
    session = await new(service)
    await bench.turn(service, session, (3, 1), max_tokens=4)
    await other.rollback_session(session, seq=0)
    await bench.turn(other, session, (7, 7), max_tokens=4)
    assert (await service.get_session(session)).position == 6
    assert same(await bench.row(service, session), await bench.row(other, session))


async def test_numbers_that_the_journal_does_not_have(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, (3, 1), max_tokens=2)
    for seq in (-1, 5):
        for travel in (service.rollback_session, service.fork_session):
            with pytest.raises(InvalidRequest):
                await travel(session, seq=seq)
    nobody = SessionKey("tenant", "nobody")
    for travel in (service.rollback_session, service.fork_session):
        with pytest.raises(SessionNotFound):
            await travel(nobody, seq=0)
    assert [meta.key for meta in await service.list_sessions("tenant", after=None, limit=9)] == [session]


async def test_a_damaged_source_leaves_no_fork(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, range(3), max_tokens=3)
    journal = bench.store._sessions[session].journal
    journal[-1] = (journal[-1][0], journal[-1][1][:-1] + b"?")
    with pytest.raises(SessionCorrupted):
        await service.fork_session(session)
    assert list(bench.store._sessions) == [session]
    assert len(await bench.journal((await service.fork_session(session, seq=3)).key)) == 3


async def test_a_snapshot_on_its_way_does_not_survive_a_rollback(bench: Bench, same: Any) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, range(20), max_tokens=10)
    row = await bench.row(service, session)
    fence, head = bench.store._sessions[session].fence, (await service.get_session(session)).head
    await service.rollback_session(session, seq=10)
    service._snapshots.offer(session, fence, 24, row, head)
    await service._snapshots.flush()
    assert (await service.get_session(session)).snapshot_seq <= 10
    assert int((await bench.row(service, session))["position"]) == 10
