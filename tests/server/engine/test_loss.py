"""What a memory is worth: scored from the right states, and nothing of the session or the metrics moves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.model.attention.tiny import BLOCK, VOCAB, tiny_model

from hope_model.state import State
from hope_server.engine import loss as subject
from hope_server.engine.logprobs import PromptScores
from hope_server.engine.loss import counted, forgotten
from hope_server.errors import SessionNotFound
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import JournalRecord

Bench = Any


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of the tests' model have 8 tokens."""
    monkeypatch.setattr(subject, "LEAD_TOKENS", 2)
    monkeypatch.setattr(subject, "ENOUGH_TOKENS", 3)


async def told(bench: Bench, service: Any, *lengths: int) -> SessionKey:
    """One turn a length, each answered by 3 tokens."""
    key: SessionKey = (await service.create_session("tenant")).key
    for length in lengths:
        await bench.turn(service, key, range(length), max_tokens=3)
        await service._snapshots.flush()
    return key


def runs_of(service: Any, records: list[JournalRecord]) -> list[JournalRecord]:
    return [replace(record, kind="run") for record in records]


def expected(service: Any, row: State, position: int, runs: list[JournalRecord]) -> float:
    """By hand, in slot 0 of the engine's own runner, which must be idle."""
    runner, scores = service._engine._runner, PromptScores(0)
    runner.load(0, row)
    nats = [
        token.logprob
        for unit in runner.cut(runs, position=position)
        for token in scores.read(unit.tokens, runner.run_every(0, unit).every)
    ]
    marked = counted(runs)
    return -sum(each or 0.0 for each, count in zip(nats, marked, strict=True) if count) / sum(marked)


async def test_both_figures_are_those_of_their_states(bench: Bench) -> None:
    service = await bench.service()
    session = await told(bench, service, 9, 10, 4)  # 12, 25, 32 tokens: snapshots at 24 and 32
    found = await service.session_loss(session, tokens=100)
    assert (found.first_seq, found.last_seq, found.tokens) == (24, 32, 4 - 1)
    row = await bench.row(service, (await service.fork_session(session, seq=24)).key)
    records = [record async for record in service.path(session, after=24)]
    other = await bench.service()
    runs = runs_of(other, records)
    assert found.with_memory == pytest.approx(expected(other, row, 24, runs), abs=1e-6)
    blank = forgotten(service._desk.spec, row)
    assert found.without_memory == pytest.approx(expected(other, blank, 24, runs), abs=1e-6)
    assert found.with_memory != found.without_memory


async def test_nothing_moves(bench: Bench) -> None:
    service = await bench.service()
    session = await told(bench, service, 9, 10, 4)
    before = await service.get_session(session), await bench.row(service, session)
    figures = dict(bench.observer.writes), dict(bench.observer.tokens), list(bench.observer.drifts)
    snapshots = bench.observer.snapshots
    assert (await service.session_loss(session, tokens=100)).tokens
    await service._snapshots.flush()
    assert await service.get_session(session) == before[0]
    after = await bench.row(service, session)
    assert all(torch.equal(after[name], tensor) for name, tensor in before[1].items())
    assert (dict(bench.observer.writes), dict(bench.observer.tokens), list(bench.observer.drifts)) == figures
    assert bench.observer.snapshots == snapshots
    await service.check_integrity()


async def test_the_older_snapshot_serves_where_the_newer_leaves_too_little(bench: Bench) -> None:
    service = await bench.service()
    session = await told(bench, service, 9, 5, 4)  # 12, 20, 27 tokens: snapshots at 16 and 24
    found = await service.session_loss(session, tokens=100)
    assert (found.first_seq, found.last_seq, found.tokens) == (16, 27, 4)
    found = await service.session_loss(session, tokens=6)
    assert (found.first_seq, found.last_seq, found.tokens) == (16, 22, 2)


async def test_without_a_snapshot_there_is_nothing_to_compare(bench: Bench) -> None:
    service = await bench.service()
    session = await told(bench, service, 3)
    found = await service.session_loss(session, tokens=100)
    assert (found.tokens, found.with_memory, found.without_memory) == (0, None, None)
    with pytest.raises(SessionNotFound):
        await service.session_loss(SessionKey("tenant", "0" * 32), tokens=1)


async def test_a_caller_who_leaves_gives_the_slot_back(bench: Bench) -> None:
    service = await bench.service(slots=1, max_waiting=0)
    session = await told(bench, service, 9, 10, 4)
    for steps in range(0, 120, 3):
        asked = asyncio.create_task(service.session_loss(session, tokens=100))
        for _ in range(steps):
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await service.check_integrity()
    assert (await service.session_loss(session, tokens=100)).tokens
    assert service.stats().running == 0


async def test_of_a_model_with_attention_the_window_stays(bench: Bench) -> None:
    service = await bench.service(tiny_model())
    key: SessionKey = (await service.create_session("tenant")).key
    for length in (2 * BLOCK, 40):
        prompt = [(37 * place + place * place // 7) % VOCAB for place in range(length)]
        await bench.turn(service, key, prompt, max_tokens=1)
        await service._snapshots.flush()
    before = await bench.row(service, key)
    found = await service.session_loss(key, tokens=40)
    assert found.first_seq % BLOCK == 0
    assert found.tokens > 0
    assert found.with_memory != found.without_memory
    spec = service._desk.spec
    row = await bench.row(service, (await service.fork_session(key, seq=found.first_seq)).key)
    assert row["window"].any()
    assert torch.equal(forgotten(spec, row)["window"], row["window"])
    after = await bench.row(service, key)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_model_s_own_words_do_not_count_nor_does_the_lead() -> None:
    runs = [JournalRecord(1, "run", "user", (1, 2, 3)), JournalRecord(4, "run", "model", (4, 5))]
    runs += [JournalRecord(6, "run", "template", (6,)), JournalRecord(7, "run", "text", (7,))]
    assert counted(runs) == [False, False, True, False, False, False, True]


async def test_forgotten_is_the_beginning_at_the_same_place(bench: Bench) -> None:
    service = await bench.service()
    session = await told(bench, service, 9)
    row, spec = await bench.row(service, session), service._desk.spec
    blank = forgotten(spec, row)
    assert blank.keys() == row.keys()
    for tensor in spec.tensors:
        kept = tensor.level not in ("fast", "slower")
        assert torch.equal(blank[tensor.name], row[tensor.name]) == kept, tensor.name
        assert kept or not blank[tensor.name].any()
