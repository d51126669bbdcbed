"""The service over a Hope-Attention model: learning beside decoding changes no answer of anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
import torch
from tests.model.attention.tiny import (
    BLOCK,
    DELAY,
    PERIOD,
    PREFIX,
    USABLE,
    VOCAB,
    build,
    config,
    deltas_of,
    level,
    tiny_model,
)
from torch import Tensor

from hope_model.attention.config import GRID
from hope_model.attention.rows import SessionRows
from hope_model.attention.write import Write
from hope_model.state import State
from hope_server.engine import pace
from hope_server.engine.attention_runner import AttentionRunner
from hope_server.engine.engine import Engine
from hope_server.engine.events import Boundary, Done, Event, Failed, Sampled
from hope_server.engine.jobs import Generation
from hope_server.engine.observer import NullObserver
from hope_server.engine.request import EngineConfig, PromptPart, SamplingParams, TurnFigures
from hope_server.errors import InternalError
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import JournalRecord

Bench = Any
Same = Callable[[State, State], bool]

TOKENS = 12
PHASES = {
    "in the first period": 20,
    "where a write begins": PERIOD - TOKENS,
    "where it becomes active": 2 * PERIOD - TOKENS,
    "at a boundary": BLOCK - TOKENS,
    "just after it": BLOCK,
    "before it is usable": USABLE - TOKENS - 1,
    "where it becomes usable": USABLE - TOKENS,
    "after it": USABLE + 30,
}
"""Lengths of prompts; an answer of TOKENS ends there."""


def prompt(length: int) -> list[int]:
    return [(37 * place + place * place // 7 + length) % VOCAB for place in range(length)]


def parts(length: int) -> tuple[PromptPart, ...]:
    """Something to pin, then a user's words."""
    ids = tuple(prompt(length))
    pinned = min(length // 2, PREFIX - 5)
    return PromptPart("system", ids[:pinned]), PromptPart("user", ids[pinned:])


async def new(service: Any) -> SessionKey:
    key: SessionKey = (await service.create_session("tenant")).key
    return key


async def turn(bench: Bench, service: Any, session: SessionKey | None, length: int, **more: Any) -> list[int]:
    options = {"temperature": 1.0, "seed": length, "ignore_eos": True, "parts": parts(length), **more}
    return [event.token for event in await bench.turn(service, session, (), TOKENS, **options)]


@torch.inference_mode()
def after_one_more(engine: Any, session: SessionKey) -> Tensor:
    """The logits that a session would have after one more token; it stays as it is."""
    rows = engine._runner._rows
    cache, deltas = rows.branch(engine._rows[str(session)].slot, 1)
    x = rows.model.read(cache, [0], torch.tensor([[7]]), deltas)
    logits: Tensor = rows.model.backbone.logits(x[0, -1])
    return logits


async def next_logits(bench: Bench, service: Any, session: SessionKey) -> Tensor:
    """Of a session that is restored if need be."""
    await service.levels(session)
    logits: Tensor = await service._thread.call(lambda: after_one_more(service._engine, session))
    return logits


async def equal(
    bench: Bench, same: Same, service: Any, session: SessionKey, other: Any, twin: SessionKey
) -> None:
    """Equal states and equal next tokens, bit for bit."""
    assert same(await bench.row(service, session), await bench.row(other, twin))
    found, expected = [await next_logits(bench, *one) for one in ((service, session), (other, twin))]
    assert torch.equal(found, expected)


async def test_company_changes_no_bit(bench: Bench, same: Same) -> None:
    service, other = await bench.service(tiny_model(), slots=8), await bench.service(tiny_model(), slots=1)
    crowd = [await new(service) for _ in PHASES]
    lengths = list(PHASES.values())
    together = await asyncio.gather(
        *(turn(bench, service, session, length) for session, length in zip(crowd, lengths, strict=True))
    )
    for session, length, found in zip(crowd, lengths, together, strict=True):
        alone = await new(other)
        assert found == await turn(bench, other, alone, length)
        await equal(bench, same, service, session, other, alone)
    await service.check_integrity()


@pytest.mark.parametrize("phase", PHASES)
async def test_a_restored_session_goes_on_as_one_that_never_left(
    bench: Bench, same: Same, phase: str
) -> None:
    service = await bench.service(tiny_model())
    session = await new(service)
    await turn(bench, service, session, PHASES[phase])
    await service._snapshots.flush()
    meta = await bench.store.meta(session)
    head = PHASES[phase] + TOKENS
    assert meta.position == head
    usable = (head - DELAY) // BLOCK * BLOCK if head >= USABLE else 0
    assert meta.snapshot_seq == usable, "a snapshot is stored once its encoding replaced the cache"
    fresh = await bench.service(tiny_model(), slots=1)
    await equal(bench, same, fresh, session, service, session)
    assert bench.observer.replayed == [head - usable]


async def test_turns_after_a_restore_are_those_without_it(bench: Bench, same: Same) -> None:
    steady, killed = await bench.service(tiny_model()), await bench.service(tiny_model())
    twin, session = await new(steady), await new(killed)
    for number, length in enumerate((100, 170, 60, 200)):
        expected = await turn(bench, steady, twin, length, seed=number)
        found = await turn(bench, killed, session, length, seed=number)
        assert found == expected
        await killed._snapshots.flush()
        killed = await bench.service(tiny_model())  # the old one is not asked to flush anything
    await equal(bench, same, killed, session, steady, twin)
    levels = await killed.levels(session)
    assert levels == await steady.levels(twin)
    assert levels[0].writes == (530 + 4 * TOKENS - DELAY) // PERIOD
    assert (levels[0].tokens, levels[0].refused) == (530 + 4 * TOKENS, 0)


async def test_every_write_is_told_to_the_observer_once(bench: Bench) -> None:
    service = await bench.service(tiny_model())
    session = await new(service)
    await turn(bench, service, session, USABLE)
    (level, slow) = await service.levels(session)
    assert (level.name, slow.name) == ("fast", "slow")
    assert level.writes > 0
    assert bench.observer.writes == {"fast": level.writes}
    assert bench.observer.tokens == {"fast": USABLE + TOKENS}
    assert bench.observer.drifts == ["fast"] * level.writes
    assert level.drift_ratio > 0


async def test_an_ephemeral_session_leaves_nothing(bench: Bench, same: Same) -> None:
    service, other = await bench.service(tiny_model(), slots=1), await bench.service(tiny_model(), slots=1)
    first = await turn(bench, service, None, USABLE + 5)
    assert first == await turn(bench, service, None, USABLE + 5)
    session, twin = await new(service), await new(other)
    assert await turn(bench, service, session, 150) == await turn(bench, other, twin, 150)
    await equal(bench, same, service, session, other, twin)
    await service._snapshots.flush()
    assert bench.observer.snapshots == 0


async def test_without_learning_answers_are_thetas(bench: Bench, same: Same) -> None:
    still, learning = await bench.service(tiny_model(), learn=False), await bench.service(tiny_model())
    session, other = await new(still), await new(learning)
    found, learned = await turn(bench, still, session, 400), await turn(bench, learning, other, 400)
    assert found != learned
    row = await bench.row(still, session)
    assert not any(bool(delta.any()) for delta in deltas_of(row).values())
    level, _ = await still.levels(session)
    assert (level.writes, level.refused, level.drift_ratio) == (0, 0, 0.0)
    fresh = await bench.service(tiny_model(), learn=False)
    await still._snapshots.flush()
    await equal(bench, same, fresh, session, still, session)


async def test_nan_in_one_session_is_made_good_inside_its_turn_and_harms_no_other(
    bench: Bench, same: Same
) -> None:
    service, twin = await bench.service(tiny_model()), await bench.service(tiny_model())
    sick, well = await new(service), await new(service)
    lonely = [await new(twin), await new(twin)]
    asked = [(prompt(50), 60), (prompt(100), 48)]
    expected = [
        [event.token for event in await bench.turn(twin, one, *ask)]
        for one, ask in zip(lonely, asked, strict=True)
    ]
    async with (
        aclosing(service.generate(bench.request(sick, *asked[0]))) as failing,
        aclosing(service.generate(bench.request(well, *asked[1]))) as living,
    ):
        found = [[(await anext(failing)).token], [(await anext(living)).token]]
        await service._thread.call(lambda: _poison(service._engine, sick))  # both decode now, in one batch
        found[0] += [event.token async for event in failing]
        found[1] += [event.token async for event in living]
    assert found == expected
    await equal(bench, same, service, well, twin, lonely[1])
    await equal(bench, same, service, sick, twin, lonely[0])
    assert (bench.observer.corrupted, bench.observer.reloads, bench.observer.rollbacks) == (1, 1, [])


async def test_three_writes_that_canaries_refuse_end_learning_at_the_last_good_boundary(
    bench: Bench, same: Same
) -> None:
    """The answer goes on beside a session that never comes to a canary; another worker finds the same."""
    strict = build(config(level(text_step_length=0.3), canary=1e-9))
    service, twin = await bench.service(strict), await bench.service(strict)
    told: list[TurnFigures] = []
    session, short = await new(service), await new(service)
    length, third = BLOCK + 3 * PERIOD - 5, BLOCK + 2 * PERIOD + DELAY
    assert length < third < length + TOKENS
    await asyncio.gather(
        turn(bench, service, session, length, finished=told.append), turn(bench, service, short, 100)
    )
    assert bench.observer.rollbacks == ["canary"]
    assert bench.observer.canaries
    assert min(bench.observer.canaries) > 1e-9
    assert [figures.frozen for figures in told] == [True]
    assert (await service.get_session(session)).path.frozen_position == BLOCK
    good = await new(twin)
    boundary = tuple(token for part in parts(length) for token in part.tokens)[:BLOCK]
    kinds = parts(length)
    pinned = len(kinds[0].tokens)
    whole = (PromptPart("system", boundary[:pinned]), PromptPart("user", boundary[pinned:]))
    await bench.turn(twin, good, (), 0, parts=whole)
    learned = await bench.row(twin, good)
    assert any(bool(delta.any()) for delta in deltas_of(learned).values())
    assert same(deltas_of(await bench.row(service, session)), deltas_of(learned))
    assert (await service.verify_session(session)).equal
    alone = await new(twin)
    await turn(bench, twin, alone, 100)
    await equal(bench, same, service, short, twin, alone)
    await service._snapshots.flush()
    for _ in range(2):
        await turn(bench, service, session, BLOCK)
        await service._snapshots.flush()
        await equal(bench, same, service, session, await bench.service(strict), session)
    meta = await service.get_session(session)
    assert meta.path.freeze is not None
    assert meta.snapshot_seq > meta.path.freeze.seq
    assert same(deltas_of(await bench.row(service, session)), deltas_of(learned))


@torch.inference_mode()
def _poison(engine: Any, session: SessionKey) -> None:
    engine._runner._rows._slabs.cache.values[0][engine._rows[str(session)].slot, 0, 0, 0] = float("nan")


async def test_eviction_and_return_change_nothing(bench: Bench) -> None:
    small, large = await bench.service(tiny_model(), slots=1), await bench.service(tiny_model(), slots=4)
    crowd, alone = [await new(small) for _ in range(2)], [await new(large) for _ in range(2)]
    for number in range(2):
        for one, other in zip(crowd, alone, strict=True):
            found = await turn(bench, small, one, 190, seed=number)
            assert found == await turn(bench, large, other, 190, seed=number)
    await small.check_integrity()


class Steps:
    """An engine on the test's own thread, its events by session, and commits that land after every step."""

    def __init__(self, slots: int = 4) -> None:
        self.events: dict[str, list[Event]] = {}
        config = EngineConfig(slots=slots)
        self.runner = AttentionRunner(tiny_model(), slots=slots, learn=True)
        self.engine = Engine(self.runner, config, sink=self._collect, observer=NullObserver())

    def _collect(self, events: list[tuple[str, Event]]) -> None:
        for session, event in events:
            self.events.setdefault(session, []).append(event)
            if isinstance(event, Sampled):
                self.engine.committed(session, 1)

    def start(self, session: str, length: int, tokens: int) -> None:
        self.engine.open(session)
        self.engine.step()
        self.engine.start(
            session,
            [JournalRecord(1, "run", "user", tuple(prompt(length)))],
            Generation(SamplingParams(temperature=0.0, max_tokens=tokens), seed=0),
            durable=True,
        )

    def run(self) -> None:
        while self.engine.step():
            self.engine.check_integrity()

    def tokens(self, session: str) -> list[int]:
        return [event.token for event in self.events[session] if isinstance(event, Sampled)]


@pytest.mark.compiler
def test_prompts_of_several_sessions_are_read_in_one_step() -> None:
    """As many tokens as the runner allows, in the order of arrival; the observer is told of all of them."""
    seen: list[tuple[int, int]] = []

    class Noting(NullObserver):
        def on_step(self, *, batch_size: int, prompt_tokens: int, seconds: float) -> None:
            seen.append((batch_size, prompt_tokens))

    steps = Steps(slots=7)
    steps.engine._observer = Noting()
    most = steps.runner.prompt_tokens // GRID
    for session in range(most + 2):
        steps.engine.open(f"s{session}")
    steps.engine.step()
    for session in range(most + 2):
        record = JournalRecord(1, "run", "user", tuple(prompt(GRID + session)))
        params = SamplingParams(temperature=0.0, max_tokens=3)
        steps.engine.start(f"s{session}", [record], Generation(params, seed=0), durable=True)
    steps.run()
    assert seen[0] == (0, most * GRID)
    assert sum(tokens for _, tokens in seen) == sum(GRID + session for session in range(most + 2))
    for session in range(most + 2):
        alone = Steps()
        alone.start("s", GRID + session, 3)
        alone.run()
        assert steps.tokens(f"s{session}") == alone.tokens("s")


def test_a_row_that_fails_costs_nobody_who_shares_its_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    lonely = Steps()
    lonely.start("well", 30, 3 * PERIOD)
    lonely.run()
    steps = Steps()
    steps.start("well", 30, 3 * PERIOD)
    steps.start("sick", PERIOD - 1, 3 * PERIOD)
    slot, apply = steps.engine._rows["sick"].slot, SessionRows._apply_write

    def broken(rows: SessionRows, row: int) -> None:
        if row == slot:
            raise RuntimeError("a write failed")
        apply(rows, row)

    monkeypatch.setattr(SessionRows, "_apply_write", broken)
    steps.run()
    assert any(isinstance(event, Failed) for event in steps.events["sick"])
    assert steps.tokens("well") == lonely.tokens("well")


def test_learning_goes_on_when_nobody_waits() -> None:
    """A turn is answered before what it taught is computed; then the engine works it off, and rests."""
    steps = Steps()
    steps.start("s", PERIOD, 0)
    while not any(isinstance(event, Done) for event in steps.events["s"]):
        steps.engine.step()
    slot = steps.engine._rows["s"].slot
    backlog = steps.runner.backlog(slot)
    assert backlog is not None
    steps.engine.release("s", PERIOD)
    worked = 0
    while steps.engine.step():
        worked += 1
    assert worked == backlog.slices
    assert steps.runner.backlog(slot) is None
    assert not steps.engine.step()


def test_no_step_of_decoding_ends_in_a_whole_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """While sessions decode, slices are worked off before the write's position comes."""
    left: list[int] = []
    finish = Write.finish

    def noted(write: Write) -> Any:
        left.append(write.slices)
        return finish(write)

    monkeypatch.setattr(Write, "finish", noted)
    steps = Steps()
    for session, length in (("a", 30), ("b", 50), ("c", 62)):
        steps.start(session, length, 3 * PERIOD)
    steps.run()
    assert len(left) >= 3
    assert not any(left)


def break_work(monkeypatch: pytest.MonkeyPatch, steps: Steps, session: str) -> None:
    """Every slice of one session fails."""
    work, sick = steps.runner.work, steps.engine._rows[session].slot

    def broken(slots: Sequence[int]) -> None:
        if sick in slots:
            raise RuntimeError("a slice failed")
        work(slots)

    monkeypatch.setattr(steps.runner, "work", broken)


def test_a_slice_that_fails_costs_its_session_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lonely = Steps()
    lonely.start("well", 30, 2 * PERIOD)
    lonely.run()
    steps = Steps()
    steps.start("well", 30, 2 * PERIOD)
    steps.start("sick", PERIOD - 1, 2 * PERIOD)
    break_work(monkeypatch, steps, "sick")
    steps.run()
    assert steps.engine.position("sick") is None
    (failed,) = (event for event in steps.events["sick"] if isinstance(event, Failed))
    assert isinstance(failed.error, InternalError)
    assert steps.tokens("well") == lonely.tokens("well")


def note_work(monkeypatch: pytest.MonkeyPatch, steps: Steps) -> list[list[int]]:
    """The slots of each pass from now on."""
    passes: list[list[int]] = []
    work = steps.runner.work

    def noted(slots: Sequence[int]) -> None:
        passes.append(list(slots))
        work(slots)

    monkeypatch.setattr(steps.runner, "work", noted)
    return passes


def test_a_pass_that_fails_costs_only_the_session_whose_fault_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "READERS", 1)  # two share a pass
    lonely = Steps()
    lonely.start("well", PERIOD - 1, 2 * PERIOD)
    lonely.run()
    steps = Steps()
    for session in ("well", "sick"):
        steps.start(session, PERIOD - 1, 2 * PERIOD)
    break_work(monkeypatch, steps, "sick")
    passes = note_work(monkeypatch, steps)
    steps.run()
    assert max(map(len, passes)) == 2
    assert steps.engine.position("sick") is None
    assert steps.tokens("well") == lonely.tokens("well")


def test_a_prompt_that_has_been_read_owes_as_a_step_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding follows: its last run would pay for all its tokens in one step."""
    steps = Steps()
    steps.start("s", PERIOD + 40, 1)
    passes = note_work(monkeypatch, steps)
    steps.engine.step()
    begun = len(passes)
    assert begun
    steps.engine.step()
    assert steps.engine.position("s") == PERIOD + 40
    assert len(passes) == begun


def test_a_slice_that_fails_between_turns_drops_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps()
    steps.start("sick", PERIOD - 1, 1)
    while not any(isinstance(event, Done) for event in steps.events["sick"]):
        steps.engine.step()
    steps.engine.release("sick", PERIOD)
    assert steps.engine.position("sick") == PERIOD
    break_work(monkeypatch, steps, "sick")
    assert any(not steps.engine.step() for _ in range(9)), "the engine tries for ever"
    assert steps.engine.position("sick") is None
    assert not any(isinstance(event, Failed) for event in steps.events["sick"])
    steps.engine.check_integrity()
    monkeypatch.undo()
    steps.start("next", PERIOD, 1)
    steps.run()
    assert steps.tokens("next") == _first_token(PERIOD)


def _first_token(length: int) -> list[int]:
    steps = Steps()
    steps.start("alone", length, 1)
    steps.run()
    return steps.tokens("alone")


def test_a_boundary_is_an_event_once_it_is_usable() -> None:
    steps = Steps()
    steps.start("s", USABLE - 3, 6)
    steps.run()
    events = steps.events["s"]
    (boundary,) = (event for event in events if isinstance(event, Boundary))
    assert boundary.position == int(boundary.row["position"]) == BLOCK
    before = [event for event in events[: events.index(boundary)] if isinstance(event, Sampled)]
    assert len(before) == 3, "the third sampled token completes the delay"
