"""The service over a real Hope model at its served size: what only real arithmetic can show."""

import asyncio
import copy
from contextlib import aclosing
from typing import Any

import pytest
import torch

from hope_model.cms import AssociativeLevel
from hope_model.config import get_config
from hope_model.hope import Hope
from hope_server.sessions.key import SessionKey

Bench = Any

PROMPTS = (1, 3, 100, 250, 255, 256, 300, 509)
"""Lengths around and inside a block of 256, so that rows of one batch differ in position and phase."""
TOKENS = 12


@pytest.fixture(scope="module")
def hope() -> Hope:
    """Weights of the first step of a training run: bits do not depend on how good they are."""
    torch.manual_seed(0)
    return Hope(get_config("hope-tiny")).requires_grad_(False).eval()


def prompt(length: int) -> list[int]:
    return [(37 * i + length) % 8000 + 100 for i in range(length)]


async def new(service: Any) -> SessionKey:
    key: SessionKey = (await service.create_session("tenant")).key
    return key


async def test_company_changes_no_bit(bench: Bench, hope: Hope, same: Any) -> None:
    service, other = await bench.service(hope, slots=8), await bench.service(hope, slots=1)
    crowd = [await new(service) for _ in PROMPTS]
    together = await asyncio.gather(
        *(bench.turn(service, session, prompt(n), TOKENS) for session, n in zip(crowd, PROMPTS, strict=True))
    )
    for session, length, found in zip(crowd, PROMPTS, together, strict=True):
        alone = await new(other)
        expected = await bench.turn(other, alone, prompt(length), TOKENS)
        assert [event.token for event in found] == [event.token for event in expected]
        assert same(await bench.row(service, session), await bench.row(other, alone))


async def test_a_restored_session_has_the_bits_of_one_that_never_left(
    bench: Bench, hope: Hope, same: Any
) -> None:
    service = await bench.service(hope, slots=8)
    crowd = [await new(service) for _ in PROMPTS]
    await asyncio.gather(
        *(bench.turn(service, session, prompt(n), TOKENS) for session, n in zip(crowd, PROMPTS, strict=True))
    )
    fresh = await bench.service(hope, slots=1)
    for session in crowd:
        assert same(await bench.row(service, session), await bench.row(fresh, session))


async def test_a_turn_leaves_its_neighbours_alone(bench: Bench, hope: Hope, same: Any) -> None:
    service = await bench.service(hope, slots=3)
    idle, busy = await new(service), await new(service)
    await bench.turn(service, idle, prompt(300), TOKENS)
    before = await bench.row(service, idle)
    await bench.turn(service, busy, prompt(500), 2 * TOKENS)
    position = await service._thread.call(lambda: service._engine.position(str(idle)))
    assert position == 300 + TOKENS  # the row stayed where it was: nothing was restored
    assert same(await bench.row(service, idle), before)


async def test_nan_in_one_session_is_made_good_inside_its_turn_and_harms_no_other(
    bench: Bench, hope: Hope, same: Any
) -> None:
    service, twin = await bench.service(hope, slots=4), await bench.service(hope, slots=4)
    sick, well = await new(service), await new(service)
    lonely = [await new(twin), await new(twin)]
    asked = [(prompt(50), 5 * TOKENS), (prompt(100), 4 * TOKENS)]
    expected = [await bench.turn(twin, one, *ask) for one, ask in zip(lonely, asked, strict=True)]
    async with (
        aclosing(service.generate(bench.request(sick, *asked[0]))) as failing,
        aclosing(service.generate(bench.request(well, *asked[1]))) as living,
    ):
        found = [[await anext(failing)], [await anext(living)]]
        await service._thread.call(lambda: _poison(service._engine, sick))  # both decode now, in one batch
        found[0] += [event async for event in failing]
        found[1] += [event async for event in living]
    assert found == expected
    assert same(await bench.row(service, sick), await bench.row(twin, lonely[0]))
    assert same(await bench.row(service, well), await bench.row(twin, lonely[1]))
    assert (bench.observer.corrupted, bench.observer.reloads, bench.observer.rollbacks) == (1, 1, [])


async def test_a_level_whose_writes_are_never_finite_ends_learning(
    bench: Bench, hope: Hope, same: Any
) -> None:
    """Every memory is as it began; the answer is that of a session whose levels were never written."""
    broken = copy.deepcopy(hope)
    level = next(module for module in broken.modules() if isinstance(module, AssociativeLevel))
    level.step_length.copy_(torch.tensor([torch.nan]))
    service = await bench.service(broken)
    session = await new(service)
    events = await bench.turn(service, session, prompt(300), TOKENS)
    assert len(events) == TOKENS
    assert bench.observer.rollbacks == ["non_finite"]
    assert (await service.get_session(session)).path.frozen_position == 0
    row = await bench.row(service, session)
    context = ("window", "last_key", "position", "frozen")
    assert [name for name, tensor in row.items() if tensor.any() and not name.endswith(context)] == []
    assert int(row["position"]) == 300 + TOKENS
    assert (await service.verify_session(session)).equal
    assert same(await bench.row(await bench.service(broken), session), row)


def _poison(engine: Any, session: SessionKey) -> None:
    slot = engine._rows[str(session)].slot
    rows = engine._runner._live._rows
    rows._blocks[0].phi.slabs["memory"][slot, 0, 0, 0] = float("nan")
    rows._path.take_rows([slot])
