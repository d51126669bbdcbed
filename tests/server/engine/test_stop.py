"""A stop leaves nobody waiting for an engine that has ended."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from tests.server.engine.conftest import BLOCK, HashModel
from torch import Tensor

from hope_model.state import State
from hope_server.errors import ShuttingDown

Bench = Any


class HeldModel(HashModel):
    """Waits in each block pass until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go_on = threading.Event(), threading.Event()

    def block_pass(self, tokens: Tensor, state: State, learn: Tensor | None = None) -> tuple[Tensor, State]:
        self.entered.set()
        self.go_on.wait()
        return super().block_pass(tokens, state, learn)


@pytest.mark.parametrize("asked", ["verify_session", "levels"])
async def test_a_stop_tells_whoever_still_waits(bench: Bench, asked: str) -> None:
    first, model = await bench.service(), HeldModel()
    session = (await first.create_session("tenant")).key
    await bench.turn(first, session, tuple(range(3 * BLOCK)), max_tokens=1)
    await first.stop(deadline_s=1.0)
    stored = bench.store._sessions[session]  # without a snapshot everything is to be computed again
    stored.generations, stored.meta = [], replace(stored.meta, snapshot_seq=0)
    second = await bench.service(model)
    waiting = asyncio.create_task(getattr(second, asked)(session))
    await asyncio.to_thread(model.entered.wait)
    stop = asyncio.create_task(second.stop(deadline_s=0.0))
    while not second._thread._ended:  # noqa: ASYNC110  # no event tells of it
        await asyncio.sleep(0)
    model.go_on.set()  # the engine ends after this block, with two more to go
    done, _ = await asyncio.wait({waiting, stop}, timeout=10)
    assert done == {waiting, stop}
    with pytest.raises(ShuttingDown):
        await waiting
    with pytest.raises(ShuttingDown):
        await second.verify_slow_weights()
