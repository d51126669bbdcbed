"""Turns through the service: order, durability, bounds and errors."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from hope_server.engine.request import PromptPart
from hope_server.errors import (
    AlreadyLearned,
    ContextTooLong,
    EmptyPrompt,
    Fenced,
    InternalError,
    InvalidRequest,
    LeaseHeld,
    ModelNotFound,
    QueueFull,
    SessionBusy,
    SessionNotFound,
    ShuttingDown,
    StoreUnavailable,
)
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import Transcript

OLD = SessionKey("tenant", "old")

Bench = Any  # the fixture's class lives in conftest, which tests cannot import


async def new(service: Any) -> SessionKey:
    key: SessionKey = (await service.create_session("tenant", "a name")).key
    return key


async def test_a_turn_streams_its_tokens_and_journals_prompt_and_answer(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    events = await bench.turn(service, session, (3, 1, 4), max_tokens=5)
    assert [event.index for event in events] == [0, 1, 2, 3, 4]
    assert [event.seq for event in events] == [4, 5, 6, 7, 8]
    assert [event.finish_reason for event in events] == [None] * 4 + ["length"]
    assert await bench.journal(session) == [3, 1, 4, *(event.token for event in events)]
    records, head = await service.events(session, after=0, limit=10)
    assert head == 8
    first = records[0]
    assert (first.first_seq, first.kind, first.origin, first.tokens) == (1, "run", "user", (3, 1, 4))
    assert {(record.kind, record.origin) for record in records[1:]} == {("step", "model")}
    await service.check_integrity()


async def test_no_token_is_handed_out_before_its_commit(bench: Bench, eventually: Any) -> None:
    service = await bench.service()
    session = await new(service)
    async with aclosing(service.generate(bench.request(session, (3, 1), max_tokens=3))) as events:
        await anext(events)
        bench.store.gate.clear()
        before = bench.store.appends
        waiting = asyncio.create_task(anext(events))
        await eventually(service, lambda: bench.store.appends > before or waiting.done())
        seen = 0 if not waiting.done() else 1
        for _ in range(50):
            await asyncio.sleep(0)
        held = len(await bench.journal(session)) - 2
        assert seen + 1 <= held
        bench.store.gate.set()
        await waiting


async def test_tokens_waiting_for_a_commit_go_together_and_are_bounded(bench: Bench, eventually: Any) -> None:
    service = await bench.service(max_uncommitted=5)
    session = await new(service)
    stream = service.generate(bench.request(session, (3, 1), max_tokens=40))
    await anext(stream)
    bench.store.gate.clear()
    reading = asyncio.create_task(_drain(stream))
    turn = service._turns.get(str(session))
    await eventually(service, lambda: service._engine._scheduler._entries[str(session)].uncommitted == 5)
    steps = await service._thread.call(lambda: service._engine.position(str(session)))
    await service._thread.call(lambda: None)
    assert await service._thread.call(lambda: service._engine.position(str(session))) == steps
    bench.store.gate.set()
    assert len(await reading) == 39
    assert turn.closed.is_set()
    records, _ = await service.events(session, after=2, limit=100)
    assert max(len(record.tokens) for record in records) > 1
    assert all(len(record.tokens) <= 5 for record in records)


async def _drain(stream: Any, into: list[Any] | None = None) -> list[Any]:
    """All events, those before an error too when they are to go ``into`` a list of the caller's."""
    found = [] if into is None else into
    async for event in stream:
        found.append(event)
    return found


async def test_a_second_turn_is_refused_while_one_runs_and_welcome_right_after(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    stream = service.generate(bench.request(session, (3, 1), max_tokens=30))
    await anext(stream)
    with pytest.raises(SessionBusy) as busy:
        await bench.turn(service, session, (5,))
    assert busy.value.retry_after_s is not None
    for operation in (service.reset_session, service.delete_session):
        with pytest.raises(SessionBusy):
            await operation(session)
    async for event in stream:
        if event.finish_reason:
            break
    assert len(await bench.turn(service, session, (5,), max_tokens=2)) == 2
    await stream.aclose()


async def test_stop_tokens_end_the_turn_and_are_read(bench: Bench) -> None:
    service = await bench.service()
    answer = [event.token for event in await bench.turn(service, None, (3, 1, 4), max_tokens=6)]
    stop = frozenset({answer[2]})
    stopped = await bench.turn(service, None, (3, 1, 4), max_tokens=6, stop_token_ids=stop)
    assert [event.token for event in stopped] == answer[:3]
    assert stopped[-1].finish_reason == "stop"
    ignored = await bench.turn(service, None, (3, 1, 4), 6, stop_token_ids=stop, ignore_eos=True)
    assert [event.token for event in ignored] == answer


async def test_a_stop_check_ends_the_turn_at_exactly_its_token(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    seen: list[int] = []

    def check(token: int) -> bool:
        seen.append(token)
        return len(seen) == 4

    events = await bench.turn(service, session, (3, 1), max_tokens=20, stop_check=check)
    assert [event.token for event in events] == seen
    assert (len(events), events[-1].finish_reason) == (4, "stop")
    assert await bench.journal(session) == [3, 1, *seen]


async def test_a_broken_stop_check_ends_only_its_own_turn(bench: Bench) -> None:
    service = await bench.service()
    alone = await bench.turn(service, None, (9, 9), max_tokens=20)
    healthy = asyncio.create_task(bench.turn(service, None, (9, 9), max_tokens=20))
    with pytest.raises(InternalError):
        await bench.turn(service, None, (3, 1), stop_check=lambda token: bool(1 // 0))
    assert [event.token for event in await healthy] == [event.token for event in alone]


async def test_max_tokens_zero_only_reads(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    assert await bench.turn(service, session, range(11), max_tokens=0) == []
    assert await bench.journal(session) == list(range(11))
    assert bench.observer.outcomes == ["length"]
    await service.check_integrity()


async def test_seeds_repeat_and_sampling_follows_the_position(bench: Bench) -> None:
    service = await bench.service()

    async def tokens(**sampling: Any) -> list[int]:
        events = await bench.turn(service, None, (3, 1), 20, temperature=5.0, **sampling)
        return [event.token for event in events]

    assert await tokens(seed=7) == await tokens(seed=7)
    assert await tokens(seed=7) != await tokens(seed=8)
    assert await tokens() != await tokens()


async def test_ephemeral_sessions_never_touch_the_store(bench: Bench) -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"an ephemeral session called store.{name}")

    service = await bench.service(store=Untouchable())
    events = await bench.turn(service, None, range(20), max_tokens=12)
    assert len(events) == 12
    assert {event.seq for event in events} == {None}
    assert service.stats().resident_idle == 0


async def test_bad_requests_change_nothing(bench: Bench) -> None:
    service = await bench.service(max_prompt_tokens=10)
    session = await new(service)
    cases: list[tuple[type[Exception], dict[str, Any]]] = [
        (EmptyPrompt, {"prompt": ()}),
        (EmptyPrompt, {"prompt": (), "parts": (PromptPart("user", ()),)}),
        (ContextTooLong, {"prompt": range(11)}),
        (InvalidRequest, {"prompt": (3, 50)}),
        (InvalidRequest, {"prompt": (3, -1)}),
    ]
    for error, arguments in cases:
        with pytest.raises(error):
            await bench.turn(service, session, **arguments)
    with pytest.raises(SessionNotFound):
        await bench.turn(service, SessionKey("tenant", "nobody"), (3,))
    assert await bench.journal(session) == []
    assert service.stats().running == 0


async def test_the_queue_is_bounded(bench: Bench, eventually: Any) -> None:
    service = await bench.service(slots=1, max_waiting=1)
    first = service.generate(bench.request(None, (3,), max_tokens=10_000))
    await anext(first)
    second = asyncio.create_task(bench.turn(service, None, (4,)))
    await eventually(service, lambda: service.stats().waiting == 1)
    with pytest.raises(QueueFull) as full:
        await bench.turn(service, None, (5,))
    assert full.value.retry_after_s is not None
    await first.aclose()
    assert len(await second) == 8


async def test_a_key_is_learned_once(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    await bench.turn(service, session, (3, 1), max_tokens=4, idempotency_key="k")
    assert await service.learned(session, "k") == (1, 6)
    with pytest.raises(AlreadyLearned) as known:
        await bench.turn(service, session, (3, 1), max_tokens=4, idempotency_key="k")
    assert (known.value.first_seq, known.value.last_seq) == (1, 6)
    assert len(await bench.journal(session)) == 6
    await service.check_integrity()


async def test_transcripts_go_along_with_the_commits(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    counts: list[int] = []

    def answered(tokens: int) -> Transcript:
        counts.append(tokens)
        return Transcript(2, f"{tokens:064x}", "f" * 64)

    before = Transcript(1, "e" * 64, "f" * 64)
    await bench.turn(service, session, (3, 1), max_tokens=4, transcript=before, answered=answered)
    meta = await service.get_session(session)
    assert meta.transcript == Transcript(2, f"{4:064x}", "f" * 64)
    assert counts == sorted(counts)


async def test_a_failed_commit_ends_the_turn_and_the_state_goes_back_to_the_journal(
    bench: Bench, same: Any
) -> None:
    service = await bench.service(max_uncommitted=5)  # at least six commits
    session = await new(service)
    bench.store.broken = lambda append: StoreUnavailable("gone") if append == 4 else None
    with pytest.raises(StoreUnavailable):
        await bench.turn(service, session, (3, 1), max_tokens=30)
    bench.store.broken = lambda append: None
    assert service.stats().resident_idle == 0
    row = await bench.row(service, session)
    assert int(row["position"]) == len(await bench.journal(session))
    assert same(row, await bench.row(await bench.service(), session))
    assert len(await bench.turn(service, session, (2,), max_tokens=3)) == 3
    assert "error" in bench.observer.outcomes


@pytest.mark.parametrize("failing", [1, 2], ids=["prompt-in-doubt", "answer-in-doubt"])
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_turn_that_may_be_learned_is_not_to_be_repeated_without_a_key(
    bench: Bench, failing: int, key: str | None
) -> None:
    service = await bench.service()
    session = await new(service)
    bench.store.broken = lambda append: StoreUnavailable("gone") if append == failing else None
    with pytest.raises(StoreUnavailable) as failed:
        await bench.turn(service, session, (3, 1), max_tokens=30, idempotency_key=key)
    assert failed.value.retry is (key is not None)
    assert (failed.value.retry_after_s is not None) is (key is not None)


async def test_a_turn_that_learned_nothing_may_be_repeated(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    stream = service.generate(bench.request(session, (3, 1), max_tokens=10**6))
    await anext(stream)
    with pytest.raises(SessionBusy) as busy:
        await bench.turn(service, session, (3,))
    assert busy.value.retry
    await stream.aclose()


async def test_another_writer_is_noticed_at_the_next_turn(bench: Bench, same: Any) -> None:
    service, other = await bench.service(), await bench.service()
    session = await new(service)
    await bench.turn(service, session, (3, 1), max_tokens=3)
    await bench.turn(other, session, (2, 2, 2), max_tokens=3)
    await bench.turn(service, session, (1,), max_tokens=3)
    assert same(await bench.row(service, session), await bench.row(await bench.service(), session))


async def test_another_workers_turn_is_not_disturbed(bench: Bench) -> None:
    service, other = await bench.service(), await bench.service()
    session = await new(service)
    stream = service.generate(bench.request(session, (3, 1), max_tokens=200))
    await anext(stream)
    calls = (
        bench.turn(other, session, (4,)),
        other.reset_session(session),
        other.delete_session(session),
    )
    for call in calls:
        with pytest.raises(LeaseHeld) as held:
            await call
        assert (held.value.status, held.value.retry_after_s is not None) == (409, True)
    assert len(await _drain(stream)) == 199
    assert len(await bench.turn(other, session, (4,), max_tokens=3)) == 3
    await service.check_integrity()
    await other.check_integrity()


async def test_a_worker_that_was_taken_for_dead_is_fenced(bench: Bench, same: Any) -> None:
    service, other = await bench.service(), await bench.service()
    session = await new(service)
    stream = service.generate(bench.request(session, (3, 1), max_tokens=10**6))
    got = [await anext(stream)]
    bench.store.expire(session)
    answer = await bench.turn(other, session, (4,), max_tokens=3)
    with pytest.raises(Fenced):
        await _drain(stream, into=got)
    journal = await bench.journal(session)
    assert journal[: 2 + len(got)] == [3, 1, *(event.token for event in got)]
    assert journal[-4:] == [4, *(event.token for event in answer)]
    assert same(await bench.row(service, session), await bench.row(await bench.service(), session))
    await service.check_integrity()


async def test_a_sole_owner_finds_its_own_leases_after_a_crash(bench: Bench) -> None:
    """Without waiting for them to end, as a second server has to."""
    service = await bench.service(owner_nonce="a" * 32)
    session = await new(service)
    await service._ownership.acquire(session)  # and dies here
    with pytest.raises(LeaseHeld):
        await bench.turn(await bench.service(), session, (1,))
    assert len(await bench.turn(await bench.service(owner_nonce="a" * 32), session, (1,), max_tokens=2)) == 2


async def test_leases_are_renewed_and_a_lost_one_stops_the_turn(bench: Bench) -> None:
    service = await bench.service(lease_ttl_s=0.03)
    session = await new(service)
    stream = service.generate(bench.request(session, (3, 1), max_tokens=10**9))
    await anext(stream)
    until = bench.store.lease_until(session)
    for _ in range(20_000):  # tokens; a third of the lease takes a few hundred at most
        await anext(stream)
        if bench.store.lease_until(session) > until:
            break
    assert bench.store.lease_until(session) > until
    bench.store.renewals_fail = True
    with pytest.raises(StoreUnavailable, match="lease"):
        await _drain(stream)
    bench.store.renewals_fail = False
    await bench.turn(service, session, (1,), max_tokens=1)


async def test_a_lost_lease_is_told_to_its_turn_at_once(bench: Bench, eventually: Any) -> None:
    """Also while the turn commits nothing: here its commits are held back."""
    service, other = await bench.service(lease_ttl_s=0.03), await bench.service()
    session = await new(service)
    stream = service.generate(bench.request(session, (3, 1), max_tokens=10**9))
    await anext(stream)
    bench.store.gate.clear()
    bench.store.expire(session)
    await other._ownership.acquire(session)
    waiting = asyncio.create_task(_drain(stream))
    turn = service._turns.get(str(session))
    await eventually(service, lambda: turn._lease.cancelled)
    bench.store.gate.set()
    with pytest.raises(Fenced):
        await waiting
    await other._ownership.release(session)


async def test_a_session_of_other_slow_weights_is_refused(bench: Bench) -> None:
    service = await bench.service()
    await bench.store.create(OLD, model="4" * 64, name=None)
    with pytest.raises(ModelNotFound) as refused:
        await bench.turn(service, OLD, (3,))
    assert refused.value.code == "session_model_mismatch"
    with pytest.raises(ModelNotFound):
        await service.levels(OLD)


async def test_slow_weights_are_verified_between_steps(bench: Bench) -> None:
    digests = ["a", "a", "b"]
    service = await bench.service()
    service._hash = lambda: digests.pop(0)
    service._sha256 = "a"
    assert await service.slow_weights_sha256() == "a"
    assert [await service.verify_slow_weights() for _ in range(3)] == [True, True, False]


async def test_a_stop_lets_turns_finish(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    turn = asyncio.create_task(bench.turn(service, session, (3, 1), max_tokens=30))
    await asyncio.sleep(0)
    await service.stop(deadline_s=20.0)
    assert len(await turn) == 30
    assert (await bench.store.meta(session)).snapshot_seq == 32
    with pytest.raises(ShuttingDown):
        await bench.turn(service, session, (1,))
    with pytest.raises(ShuttingDown):
        await service.levels(session)


async def test_a_stop_cuts_what_does_not_finish(bench: Bench, same: Any) -> None:
    service = await bench.service()
    session = await new(service)
    stream = service.generate(bench.request(session, (3, 1), max_tokens=10**9))
    events = [await anext(stream)]
    await service.stop(deadline_s=0.0)
    with pytest.raises(ShuttingDown):
        await _drain(stream, into=events)
    tokens = [event.token for event in events]
    assert (await bench.journal(session))[: 2 + len(tokens)] == [3, 1, *tokens]
    twin = await bench.service()
    assert int((await bench.row(twin, session))["position"]) == len(await bench.journal(session))


async def test_a_stop_does_not_wait_for_a_hung_store_for_ever(bench: Bench) -> None:
    service = await bench.service()
    session = await new(service)
    stream = service.generate(bench.request(session, (3, 1), max_tokens=10**9))
    await anext(stream)
    bench.store.gate.clear()
    await service.stop(deadline_s=0.2)
    with pytest.raises(ShuttingDown):
        await _drain(stream)
