"""Rows that leave their slot for the host's memory and come back: no store, no replay, no bit changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.model.attention.tiny import tiny_model
from tests.model.small import build, small_config
from tests.server.engine.conftest import HashModel

from hope_server.engine.runner import ServedModel
from hope_server.sessions.key import SessionKey

Bench = Any
ROOM = 1 << 30
MODELS: dict[str, Callable[[], ServedModel]] = {
    "hash": HashModel,
    "hope": lambda: build(small_config(), torch.float32),
    "attention": tiny_model,
}


@pytest.fixture(params=MODELS)
def served(request: pytest.FixtureRequest) -> ServedModel:
    return MODELS[request.param]()


async def new(service: Any) -> SessionKey:
    key: SessionKey = (await service.create_session("tenant")).key
    return key


def prompt(turn: int, of: int) -> list[int]:
    return [(5 * turn + 3 * of + place) % 30 for place in range(3 + turn % 3)]


async def test_a_row_that_comes_back_goes_on_as_if_it_had_never_left(
    bench: Bench, served: ServedModel, same: Any
) -> None:
    """Three sessions take turns in one slot; three have a slot each."""
    tight, wide = (
        await bench.service(served, slots=1, host_state_bytes=ROOM),
        await bench.service(served, slots=3),
    )
    pairs = [(await new(tight), await new(wide)) for _ in range(3)]
    for turn in range(9):
        for number, (left, right) in enumerate(pairs):
            asked = prompt(turn, number)
            found = await bench.turn(tight, left, asked, 5, temperature=1.0, seed=turn)
            expected = await bench.turn(wide, right, asked, 5, temperature=1.0, seed=turn)
            assert [event.token for event in found] == [event.token for event in expected]
        await tight.check_integrity()
    for left, right in pairs:
        assert same(await bench.row(tight, left), await bench.row(wide, right))
    stats = tight.stats()
    assert stats.host_hits >= 12


async def test_nothing_is_read_from_the_store_for_it(bench: Bench) -> None:
    service = await bench.service(slots=1, host_state_bytes=ROOM)
    first, second = await new(service), await new(service)
    for _ in range(4):
        await bench.turn(service, first, [1, 2, 3], 2)
        await bench.turn(service, second, [4, 5], 2)
    assert bench.observer.replayed == []


async def test_without_room_it_is_restored_from_the_store(bench: Bench) -> None:
    service = await bench.service(slots=1, host_state_bytes=1)
    first, second = await new(service), await new(service)
    for _ in range(2):
        await bench.turn(service, first, [1, 2, 3], 2)
        await bench.turn(service, second, [4, 5], 2)
    assert len(bench.observer.replayed) == 2
    assert service.stats().host_hits == 0
    assert service.stats().host_evictions == 3


async def test_a_row_that_another_worker_has_overtaken_is_not_used(
    bench: Bench, served: ServedModel, same: Any
) -> None:
    here = await bench.service(served, slots=1, host_state_bytes=ROOM)
    there = await bench.service(served, slots=1)
    session, other = await new(here), await new(here)
    await bench.turn(here, session, [1, 2, 3], 4)
    await bench.turn(here, other, [4], 1)
    assert here.stats().host_rows == 1
    await bench.turn(there, session, [5, 6], 4)
    bench.observer.replayed.clear()
    await bench.turn(here, session, [7, 8], 4)
    assert len(bench.observer.replayed) == 1
    fresh = await bench.service(served, slots=1)
    assert same(await bench.row(here, session), await bench.row(fresh, session))


async def test_a_session_that_was_reset_or_deleted_leaves_nothing_behind(bench: Bench) -> None:
    service = await bench.service(slots=1, host_state_bytes=ROOM)
    reset, deleted, other = [await new(service) for _ in range(3)]
    for session in (reset, deleted, other):
        await bench.turn(service, session, [1, 2, 3], 2)
    assert service.stats().host_rows == 2
    await service.reset_session(reset)
    await service.delete_session(deleted)
    await bench.turn(service, other, [1], 1)
    assert (service.stats().host_rows, service.stats().host_bytes) == (0, 0)
    afresh = await bench.turn(service, reset, [9, 9], 4)
    twin = await new(service)
    assert [e.token for e in afresh] == [e.token for e in await bench.turn(service, twin, [9, 9], 4)]
