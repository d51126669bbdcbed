"""A store whose requests and replies get lost, late or doubled, and an engine without a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

from hope_server.engine.engine import Engine
from hope_server.errors import HopeError, StoreUnavailable

T = TypeVar("T")

REPLY_S = 0.002
LATE_S = 0.05
FATES = ("fine", "lost request", "lost reply", "late request", "doubled request")


class FaultyStore:
    """One worker's connection to `inner`. Every call of the protocol may meet a fault.

    A late request is given up by its sender and carried out all the same, as by a server that was slow. When
    the worker dies its calls never return; what it had sent may still arrive.
    """

    def __init__(self, inner: Any, rng: Random, *, fault_rate: float) -> None:
        self._inner = inner
        self._rng = rng
        self._fault_rate = fault_rate
        self._dead = False
        self._over = asyncio.Event()
        self._loose: set[asyncio.Task[None]] = set()
        self.faults = dict.fromkeys(FATES, 0)
        self.keys = inner.keys

    def die(self) -> None:
        self._dead = True

    def unwind(self) -> None:
        """Let what still waits for a dead connection come to its end, when the run is over."""
        self._over.set()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._inner, name)

        async def call(*args: Any, **more: Any) -> Any:
            return await self._carry(lambda: method(*args, **more))

        return call

    async def _carry(self, work: Callable[[], Awaitable[Any]]) -> Any:
        await self._delay(REPLY_S)
        fate = self._rng.choice(FATES[1:]) if self._rng.random() < self._fault_rate else "fine"
        self.faults[fate] += 1
        if fate == "late request":
            self._later(work)
        if fate in ("late request", "lost request"):
            await self._delay(REPLY_S)
            raise StoreUnavailable("the store does not answer")
        if fate == "doubled request":
            self._later(work)
        reply = await work()
        await self._delay(REPLY_S)
        if fate == "lost reply":
            raise StoreUnavailable("the store does not answer")
        return reply

    async def _delay(self, mean_s: float) -> None:
        await self._require_life()
        await asyncio.sleep(self._rng.expovariate(1 / mean_s))
        await self._require_life()

    async def _require_life(self) -> None:
        if self._dead:
            await self._over.wait()
            raise StoreUnavailable("the worker is dead")

    def _later(self, work: Callable[[], Awaitable[Any]]) -> None:
        async def arrive() -> None:
            await asyncio.sleep(self._rng.expovariate(1 / LATE_S))
            try:
                await work()
            except HopeError:
                return  # refused, and nobody is there to be told

        task = asyncio.create_task(arrive())
        self._loose.add(task)
        task.add_done_callback(self._loose.discard)


class SteppedEngine:
    """Stands in for EngineThread: each step takes a random time of the loop's."""

    rng = Random(0)
    step_s = 0.003

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._inbox: list[Callable[[], None]] = []
        self._scheduled = False
        self._dead = False

    def start(self) -> None:
        self._engine.attach()

    def stop(self) -> None:
        self._dead = True

    def unwind(self) -> None:
        """Let what still waits for a dead engine come to its end, when the run is over."""
        self._dead = False
        self._schedule()

    def post(self, work: Callable[[], None]) -> None:
        self._inbox.append(work)
        self._schedule()

    def call(self, work: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()

        def answer(result: T) -> None:
            if not future.done():
                future.set_result(result)

        def run() -> None:
            result = work()
            self._engine.flush()
            self._loop.call_soon(answer, result)

        self.post(run)
        return future

    def _schedule(self) -> None:
        if not self._scheduled and not self._dead:
            self._scheduled = True
            self._loop.call_later(self.rng.expovariate(1 / self.step_s), self._step)

    def _step(self) -> None:
        self._scheduled = False
        if self._dead:
            return
        inbox, self._inbox = self._inbox, []
        for work in inbox:
            work()
        if self._engine.step() or self._inbox:
            self._schedule()
