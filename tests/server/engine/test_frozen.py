"""Three refused writes in a row: the session goes back to its last good boundary and learns no more."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.engine.conftest import BLOCK, HashModel

from hope_model.state import State
from hope_model.streaks import LIMIT, Frozen
from hope_server.engine.request import SamplingParams, TokenLogprob, TurnFigures
from hope_server.errors import SessionCorrupted, StoreUnavailable
from hope_server.sessions.codec import decode_row, encode_row
from hope_server.sessions.key import SessionKey
from hope_server.sessions.path import Freeze

Bench = Any

BAD = 49
PROMPT = (*range(10), BAD, BAD, BAD, 30, 31)
"""The third refused write is that of token 13; the last good boundary is after token 8."""
GOOD, SAID = BLOCK, len(PROMPT) + 1


def refusing(*tokens: int) -> HashModel:
    return HashModel(refuses=tokens or (BAD,))


async def new(service: Any) -> SessionKey:
    key: SessionKey = (await service.create_session("tenant")).key
    return key


async def learned(bench: Bench, tokens: Sequence[int]) -> torch.Tensor:
    """What a session has learned of whole blocks."""
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, tokens, max_tokens=0)
    memory: torch.Tensor = (await bench.row(service, session))["memory"]
    return memory


async def frozen_row(bench: Bench, service: Any, session: SessionKey) -> State:
    """The row, which is checked: nothing was learned after the first block, and every token was read."""
    row: State = await bench.row(service, session)
    assert torch.equal(row["memory"], await learned(bench, PROMPT[:GOOD]))
    assert int(row["frozen"]) == Frozen.JOURNAL
    assert int(row["position"]) == len(await bench.journal(session))
    assert (row["refused"].tolist(), row["writes"].tolist()) == ([[0, 0]], [[GOOD, GOOD // 4]])
    return row


async def replays(bench: Bench, same: Any, service: Any, session: SessionKey) -> None:
    """The live row is what its journal makes: by the server's own comparison, and on a worker that is new."""
    assert (await service.verify_session(session)).equal
    fresh = await bench.service(service._model)
    assert same(await bench.row(fresh, session), await bench.row(service, session))
    await service.check_integrity()


async def test_a_session_goes_back_and_learns_no_more(bench: Bench, same: Any) -> None:
    service = await bench.service(refusing())
    told: list[TurnFigures] = []
    session = await new(service)
    events = await bench.turn(service, session, PROMPT, 6, finished=told.append)
    assert [event.seq for event in events] == list(range(SAID + 1, SAID + 7))
    meta = await service.get_session(session)
    assert meta.path.freeze == Freeze(GOOD, SAID)
    assert meta.position == len(PROMPT) + 6
    (figures,) = told
    assert isinstance(figures, TurnFigures)
    assert (figures.frozen, figures.learned_tokens, figures.level_writes["fast"]) == (True, GOOD, GOOD)
    row = await frozen_row(bench, service, session)
    assert bench.observer.rollbacks == ["non_finite"]
    assert service.stats().frozen == 1
    await replays(bench, same, service, session)
    await bench.turn(service, session, range(20), 3)
    after = await frozen_row(bench, service, session)
    assert not torch.equal(after["digest"], row["digest"])
    assert bench.observer.rollbacks == ["non_finite"]
    await replays(bench, same, service, session)


async def test_two_refused_writes_change_nothing_but_counters(bench: Bench) -> None:
    service = await bench.service(refusing())
    session = await new(service)
    await bench.turn(service, session, (BAD, BAD, 1, BAD, BAD, 2), 0)
    level = (await service.levels(session))[0]
    assert (level.writes, level.refused) == (2, 4)
    meta = await service.get_session(session)
    assert (meta.path.freeze, bench.observer.rollbacks) == (None, [])


async def test_a_boundary_with_an_open_streak_is_no_snapshot(bench: Bench, same: Any) -> None:
    """What a session goes back to is stored; restored between the refusals it comes to the same."""
    service = await bench.service(refusing())
    session = await new(service)
    await bench.turn(service, session, (*range(14), BAD, BAD), 0)
    await service._snapshots.flush()
    assert (await service.get_session(session)).snapshot_seq == GOOD
    fresh = await bench.service(refusing())
    for worker, more in ((fresh, (BAD, 5)), (fresh, range(20))):
        await bench.turn(worker, session, more, 0)
    meta = await service.get_session(session)
    assert meta.path.freeze == Freeze(GOOD, 19)
    await fresh._snapshots.flush()
    assert (await service.get_session(session)).snapshot_seq > 19
    await replays(bench, same, fresh, session)


async def test_a_refusal_while_it_answers(bench: Bench, same: Any) -> None:
    """Every token that was sent is kept; the answer goes on from the state that was made again."""
    plain, prompt = await bench.service(), (BAD,) * 10
    answer = [event.token for event in await bench.turn(plain, await new(plain), prompt, 9)]
    assert BAD not in answer
    service = await bench.service(refusing(*answer))
    session = await new(service)
    events = await bench.turn(service, session, prompt, 9)
    assert [event.token for event in events][:3] == answer[:3]
    assert len(events) == 9
    (kind,) = [
        record for record in await bench.store.records(session, after=0, limit=99) if not record.tokens
    ]
    assert (kind.kind, kind.target_seq, kind.first_seq) == ("freeze", GOOD, 14)
    await replays(bench, same, service, session)


async def test_neighbours_in_the_batch_keep_every_bit(bench: Bench, same: Any) -> None:
    service, other = await bench.service(refusing()), await bench.service(refusing())
    sick, *well = [await new(service) for _ in range(3)]
    prompts = [PROMPT, range(11), range(20)]
    together = await asyncio.gather(
        *(bench.turn(service, key, asked, 20) for key, asked in zip([sick, *well], prompts, strict=True))
    )
    for key, asked, events in zip([sick, *well], prompts, together, strict=True):
        alone = await new(other)
        expected = await bench.turn(other, alone, asked, 20)
        assert [event.token for event in events] == [event.token for event in expected]
        assert same(await bench.row(service, key), await bench.row(other, alone))


async def test_forks_and_rollbacks_learn_again_before_the_freeze_and_not_after_it(
    bench: Bench, same: Any
) -> None:
    service = await bench.service(refusing())
    session = await new(service)
    await bench.turn(service, session, PROMPT, 4)
    await service._snapshots.flush()
    row, head = await bench.row(service, session), (await service.get_session(session)).seq
    for seq in (SAID, head - 1, head):
        forked = await service.fork_session(session, seq=seq)
        assert forked.path.freeze == Freeze(GOOD, SAID)
        assert int((await bench.row(service, forked.key))["frozen"]) == Frozen.JOURNAL
    assert same(await bench.row(service, forked.key), row)
    before = await service.fork_session(session, seq=12)
    assert int((await bench.row(service, before.key))["frozen"]) == Frozen.NO
    meta = await service.rollback_session(session, seq=12)
    assert (meta.path.freeze, meta.position) == (None, 12)
    assert same(await bench.row(service, session), await bench.row(service, before.key))
    await bench.turn(service, session, (1, 2), 0)
    assert int((await bench.row(service, session))["writes"][0, 0]) == 12
    await replays(bench, same, service, session)
    await service.rollback_session(session, seq=head)
    assert same(await bench.row(service, session), row)
    await replays(bench, same, service, session)
    assert (await service.reset_session(session)).path.freeze is None
    await bench.turn(service, session, range(8), 0)
    assert torch.equal((await bench.row(service, session))["memory"], await learned(bench, range(8)))


async def test_a_snapshot_whose_mark_is_not_its_journals_is_not_taken(bench: Bench, same: Any) -> None:
    service = await bench.service(refusing())
    session, spec = await new(service), service._desk.spec
    await bench.turn(service, session, PROMPT, 4)
    await service._snapshots.flush()
    head, stored = (await service.get_session(session)).head, await bench.store.get_snapshot(session)
    assert stored.seq > SAID
    learning = decode_row(spec, stored.parts, stored.seq)
    learning["frozen"].fill_(int(Frozen.NO))
    async with service._ownership.hold(session) as (fence, _):
        parts = encode_row(spec, learning, stored.seq)
        await bench.store.put_snapshot(session, fence, seq=stored.seq, parts=parts, head=head)
    fresh = await bench.service(refusing())
    assert same(await bench.row(fresh, session), await bench.row(service, session))
    (refused,) = bench.observer.failed_snapshots
    assert "marked" in str(refused)


async def test_an_export_brings_the_freeze_along(bench: Bench, same: Any) -> None:
    service = await bench.service(refusing())
    session = await new(service)
    await bench.turn(service, session, PROMPT, 4)
    data = b"".join([piece async for piece in service.export_session(session)])
    made = await service.import_session("tenant", await service.open_export(data))
    assert made.path == (await service.get_session(session)).path
    assert same(await bench.row(service, made.key), await bench.row(service, session))
    await replays(bench, same, service, made.key)


@pytest.mark.parametrize("looked_at", [False, True])
async def test_a_worker_that_dies_before_it_is_said_leaves_it_to_the_next(
    bench: Bench, same: Any, looked_at: bool
) -> None:
    """Who only looks at a session says nothing; the row that it leaves does not go on either."""
    service, twin = await bench.service(refusing()), await bench.service(refusing())
    session, whole = await new(service), await new(twin)
    bench.store.broken = lambda append: StoreUnavailable("gone") if append == 2 else None
    with pytest.raises(StoreUnavailable):
        await bench.turn(service, session, PROMPT, 6)
    assert (await service.get_session(session)).path.freeze is None
    assert bench.observer.rollbacks == []
    fresh = await bench.service(refusing())
    if looked_at:
        assert (await fresh.levels(session))[0].refused == LIMIT
        assert (await fresh.verify_session(session)).equal
        assert (await fresh.get_session(session)).path.freeze is None
    bench.store.broken = lambda append: None
    await bench.turn(fresh, session, (7,), 0)
    await bench.turn(twin, whole, PROMPT, 0)
    await bench.turn(twin, whole, (7,), 0)
    assert same(await frozen_row(bench, fresh, session), await bench.row(twin, whole))
    assert (await fresh.get_session(session)).path.freeze == Freeze(GOOD, SAID + looked_at)


def held_at_the_freeze(bench: Bench) -> asyncio.Event:
    """The store answers no more from the second write on; set when it comes."""
    freezing = asyncio.Event()

    def hold(append: int) -> None:
        if append == 2:
            bench.store.gate.clear()
            freezing.set()

    bench.store.broken = hold
    return freezing


async def test_who_looks_meanwhile_does_not_see_the_empty_row(bench: Bench) -> None:
    service = await bench.service(refusing())
    session, freezing = await new(service), held_at_the_freeze(bench)
    turn = asyncio.create_task(bench.turn(service, session, PROMPT, 6))
    await freezing.wait()
    looking = asyncio.create_task(service.levels(session))
    await asyncio.sleep(0)
    await service._thread.call(lambda: None)
    bench.store.gate.set()
    await turn
    assert (await looking)[0].tokens == len(PROMPT) + 6


async def test_a_caller_who_goes_away_meanwhile_leaves_a_session_that_goes_on(
    bench: Bench, same: Any
) -> None:
    service = await bench.service(refusing())
    session, freezing = await new(service), held_at_the_freeze(bench)
    async with aclosing(service.generate(bench.request(session, PROMPT, 6))) as events:
        first = asyncio.create_task(anext(events))
        await freezing.wait()
        first.cancel()
        bench.store.gate.set()
        await asyncio.wait({first})
    await bench.turn(service, session, (7,), 2)
    await frozen_row(bench, service, session)
    await replays(bench, same, service, session)


async def test_an_ephemeral_session_answers_as_a_durable_one(bench: Bench) -> None:
    service = await bench.service(refusing())
    told: list[TurnFigures] = []
    expected = await bench.turn(service, await new(service), PROMPT, 20)
    events = await bench.turn(service, None, PROMPT, 20, finished=told.append)
    assert [event.token for event in events] == [event.token for event in expected]
    assert [figures.frozen for figures in told] == [True]
    assert bench.observer.rollbacks == ["non_finite"] * 2


@pytest.mark.parametrize("durable", [False, True])
async def test_a_result_that_stays_non_finite_ends_learning_before_it(bench: Bench, durable: bool) -> None:
    """First the state is made again; when the same comes of it, it is what was learned."""
    service = await bench.service(HashModel(fails=(30,)))
    told: list[TurnFigures] = []
    session = await new(service) if durable else None
    events = await bench.turn(service, session, (*range(12), 30), 5, finished=told.append)
    assert (len(events), told[-1].frozen, told[-1].learned_tokens) == (5, True, GOOD)
    assert (bench.observer.corrupted, bench.observer.reloads) == (2, 1)
    assert bench.observer.rollbacks == ["output"]


async def test_a_result_that_is_non_finite_also_without_learning_is_the_sessions_error(bench: Bench) -> None:
    model = HashModel()
    whole = model._logits
    model._logits = lambda state: torch.where(  # type: ignore[method-assign]
        state["position"][:, None] == 12, torch.nan, whole(state)
    )
    service = await bench.service(model)
    session = await new(service)
    with pytest.raises(SessionCorrupted):
        await bench.turn(service, session, range(10), 5)
    assert (bench.observer.corrupted, bench.observer.reloads, bench.observer.rollbacks) == (3, 1, ["output"])
    assert (await service.get_session(session)).path.freeze == Freeze(GOOD, 13)


@pytest.mark.parametrize("split", [0, 9, 14])
async def test_every_token_of_a_prompt_is_scored_once(bench: Bench, split: int) -> None:
    service = await bench.service(refusing())
    session, scored = await new(service), list[TokenLogprob]()
    if split:
        await bench.turn(service, session, PROMPT[:split], 0)
    request = bench.request(session, PROMPT[split:], 3, scored=scored.extend)
    request = replace(request, sampling=SamplingParams(temperature=0.0, max_tokens=3, prompt_logprobs=1))
    assert len([event async for event in service.generate(request)]) == 3
    assert [one.token for one in scored] == list(PROMPT[split:])


TURNS = st.lists(
    st.tuples(st.lists(st.sampled_from([1, 2, 3, BAD]), min_size=1, max_size=20), st.integers(0, 9)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=15)
@given(turns=TURNS, place=st.integers(0, 100), flush=st.booleans(), refuses=st.sets(st.integers(0, 48)))
async def test_whatever_is_refused_the_journal_makes_the_same_state(
    bench: Bench, same: Any, turns: list[tuple[list[int], int]], place: int, flush: bool, refuses: set[int]
) -> None:
    """On another worker turn by turn, and after a rollback and in a fork."""
    workers = [await bench.service(refusing(BAD, *refuses)) for _ in range(2)]
    session = await new(workers[0])
    for number, (prompt, max_tokens) in enumerate(turns):
        await bench.turn(workers[number % 2], session, prompt, max_tokens, temperature=1.0, seed=number)
        if flush:
            await workers[number % 2]._snapshots.flush()
    await replays(bench, same, workers[(len(turns) - 1) % 2], session)
    seq = place * (await workers[0].get_session(session)).seq // 100
    forked = await workers[0].fork_session(session, seq=seq)
    rolled = await workers[1].rollback_session(session, seq=seq)
    assert forked.path.freeze == rolled.path.freeze
    for worker, key in zip(workers, (forked.key, session), strict=True):
        await bench.turn(worker, key, (1, 2), 5, seed=7)
        await replays(bench, same, worker, key)
    assert same(await bench.row(workers[0], forked.key), await bench.row(workers[1], session))
