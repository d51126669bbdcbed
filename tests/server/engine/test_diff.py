"""Differences between two points: computed from states that are those of then, and of nothing else."""

import asyncio
import math
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tests.server.engine.conftest import BLOCK

from hope_model.state import COUNTERS, LevelSpec, State, StateSpec, TensorSpec
from hope_server.engine.diff import compare
from hope_server.errors import InvalidRequest, SessionCorrupted, SessionNotFound
from hope_server.sessions.key import SessionKey
from hope_server.sessions.path import Path

Bench = Any

SPEC = StateSpec(
    tensors=(
        TensorSpec("a", "fast", (2,)),
        TensorSpec("b", "fast", (1, 2)),
        TensorSpec("c", "slower", (2,)),
        TensorSpec("ids", "slower", (2,), torch.int64),
        TensorSpec("writes", COUNTERS, (2,), torch.int64),
    ),
    levels=(LevelSpec("fast", 1), LevelSpec("slower", 4), LevelSpec("slow", None)),
)


def state(a: list[float], b: list[float], c: list[float], writes: list[int]) -> State:
    numbers = {"a": [a], "b": [[b]], "c": [c]}
    ids = torch.tensor([writes]) * 1000
    floats = {name: torch.tensor(value) for name, value in numbers.items()}
    return {**floats, "ids": ids, "writes": torch.tensor([writes])}


def test_the_figures_of_a_known_change() -> None:
    before = state([3, 0], [0, 4], [0, 0], [7, 1])
    after = state([0, 0], [3, 4], [0, 2], [9, 0])
    fast, slower = compare(SPEC, before, after)
    assert (fast.name, fast.writes, slower.name, slower.writes) == ("fast", 2, "slower", -1)
    assert fast.norm == pytest.approx(math.sqrt(18))
    assert fast.relative == pytest.approx(math.sqrt(18) / 5)
    assert fast.cosine == pytest.approx(16 / 25)
    assert fast.max_abs == 3
    assert (slower.norm, slower.max_abs, slower.relative, slower.cosine) == (2, 2, None, None)


async def told(bench: Bench, service: Any) -> SessionKey:
    """Three turns, a rollback and another turn: 44 numbers, 30 tokens on the path."""
    key: SessionKey = (await service.create_session("tenant")).key
    for length in (12, 9):
        await bench.turn(service, key, range(length), max_tokens=6)
        await service._snapshots.flush()
    await service.rollback_session(key, seq=20)
    await bench.turn(service, key, (5,), max_tokens=9)
    await service._snapshots.flush()
    return key


async def test_every_pair_of_points_is_compared_as_forks_of_then_are(bench: Bench) -> None:
    service = await bench.service()
    session = await told(bench, service)
    spec, head = service._desk.spec, (await service.get_session(session)).seq
    states = {}
    for seq in (0, 5, 20, 27, 33, 34, head):
        states[seq] = await bench.row(service, (await service.fork_session(session, seq=seq)).key)
    other = await bench.service()
    for first, before in states.items():
        for last, after in states.items():
            found = await other.diff_session(session, first=first, last=last)
            assert (found.first_seq, found.last_seq) == (first, last)
            assert found.levels == compare(spec, before, after)
            assert (found.first_position, found.last_position) == tuple(
                int(row["position"]) for row in (before, after)
            )
    assert (await other.diff_session(session, first=0, last=None)).last_seq == head
    assert (await other.diff_session(session, first=20, last=34)).levels[0].norm == 0


async def test_what_is_not_there_is_refused(bench: Bench) -> None:
    service = await bench.service()
    session = (await service.create_session("tenant")).key
    assert (await service.diff_session(session, first=0, last=None)).levels[0].norm == 0
    for first, last in ((1, 0), (0, 1)):
        with pytest.raises(InvalidRequest):
            await service.diff_session(session, first=first, last=last)
    with pytest.raises(SessionNotFound):
        await service.diff_session(SessionKey("tenant", "nobody"), first=0, last=0)


@pytest.mark.parametrize("what", ["verify", "diff"])
async def test_one_that_is_cancelled_gives_its_slot_back(bench: Bench, eventually: Any, what: str) -> None:
    service = await bench.service(slots=1)
    session = await told(bench, service)
    work = {
        "verify": lambda: service.verify_session(session),
        "diff": lambda: service.diff_session(session, first=0, last=None),
    }
    await work[what]()
    running = asyncio.create_task(work[what]())
    await eventually(service, lambda: any(name.startswith("eph") for name in service._desk.mailboxes))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    await service._thread.call(lambda: None)
    assert service.stats().running == 0
    await bench.turn(service, session, (1,), max_tokens=2)
    await service.check_integrity()


async def test_boundaries_are_copied_for_those_who_store_them_alone(bench: Bench) -> None:
    service = await bench.service()
    session = await told(bench, service)
    runner = service._engine._runner
    with patch.object(runner, "boundary", wraps=runner.boundary) as copied:
        await service.verify_session(session)
        await service.diff_session(session, first=0, last=None)
        assert not copied.called
        await bench.turn(service, session, range(BLOCK), max_tokens=0)
        assert copied.called


async def test_verification_finds_a_path_that_is_not_the_journal_s(bench: Bench) -> None:
    """Nothing seals a session's meta: who can write to the store could choose what it has learned. Here no
    draw tells where it stood.
    """
    service = await bench.service()
    session = (await service.create_session("tenant")).key
    await bench.turn(service, session, range(6), max_tokens=0)
    await service.rollback_session(session, seq=4)
    await bench.turn(service, session, (5, 5), max_tokens=0)
    entry = bench.store._sessions[session]
    true = entry.meta.path
    assert true == Path(7, ((1, 4),))
    assert (await service.verify_session(session)).equal
    for path in (Path(), Path(7), Path(7, ((1, 5),)), Path(7, ((2, 4),))):
        entry.meta = replace(entry.meta, path=path)
        with pytest.raises(SessionCorrupted, match="resets and rollbacks"):
            await service.verify_session(session)
    entry.meta = replace(entry.meta, path=true)
    assert (await service.verify_session(session)).equal
