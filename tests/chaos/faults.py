"""The faults: three lanes that never wait for each other, each drawing from its own deck."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from tests.chaos.proxy import Proxy
from tests.chaos.worker import LEASE_TTL_S, Worker
from tests.chaos.world import WORKERS, World

FIRST_GAP_S = 0.4
NETWORK_GAP_S = 1.0
PROCESS_GAP_S = 1.2
STORE_GAP_S = 4.0
"""Mean pauses between two faults of a lane."""
FULL_BYTES = "1mb"
EVERY = range(WORKERS)

Fault = Callable[[], Awaitable[None]]


class Faults:
    """Draws every kind once in random order, then again and again by weight."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = Random(world.rng.getrandbits(32))

    async def rage(self, seconds: float) -> None:
        """Return when everything is whole again. Each lane has a fault at least, however slow the machine."""
        self._end = asyncio.get_running_loop().time() + seconds
        lanes = [self._lane(self._network(number), NETWORK_GAP_S) for number in EVERY]
        lanes.append(self._lane(self._processes(), PROCESS_GAP_S))
        lanes.append(self._lane(self._store(), STORE_GAP_S))
        await asyncio.gather(*lanes)

    async def _lane(self, deck: list[tuple[Fault, int]], gap_s: float) -> None:
        faults, weights = [fault for fault, _ in deck], [weight for _, weight in deck]
        coming = self._rng.sample(faults, len(faults))
        pause_s = self._rng.uniform(0, FIRST_GAP_S)
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(self._rng.expovariate(1 / gap_s), 3 * gap_s)
            await (coming.pop() if coming else self._rng.choices(faults, weights)[0])()
            if asyncio.get_running_loop().time() + pause_s >= self._end:
                return

    # Between one worker and the store.

    def _network(self, number: int) -> list[tuple[Fault, int]]:
        proxy, rng = self._world.proxies[number], self._rng

        async def latency() -> None:
            self._world.hit("latency", number)
            await proxy.delay(rng.uniform(0.005, 0.1), for_s=rng.uniform(0.2, 0.8))

        async def black_hole() -> None:
            lost = rng.random() < 0.5
            self._world.hit(f"black hole, {'lost' if lost else 'late'}", number)
            long = rng.random() < 0.15
            await proxy.swallow(for_s=rng.uniform(0.1, 0.8) + long * LEASE_TTL_S, lost=lost)

        async def reset() -> None:
            self._world.hit("connection reset", number)
            proxy.reset()

        return [
            (latency, 2),
            (black_hole, 3),
            (reset, 3),
            (self._torn(proxy, number, "reply"), 3),
            (self._torn(proxy, number, "request"), 3),
        ]

    def _torn(self, proxy: Proxy, number: int, direction: str) -> Fault:
        async def torn() -> None:
            self._world.hit(f"truncated {direction}", number)
            proxy.tear("request" if direction == "request" else "reply")
            await asyncio.sleep(0.2)
            proxy.mend()

        return torn

    # Workers.

    def _processes(self) -> list[tuple[Fault, int]]:
        return [(self._freeze_worker, 8), (self._kill_worker, 2), (self._stop_worker, 1)]

    def _a_worker(self) -> Worker:
        return self._rng.choice(self._world.workers)

    async def _freeze_worker(self) -> None:
        """Shorter and longer than its leases live."""
        worker = self._a_worker()
        long = self._rng.random() < 0.25
        self._world.hit("SIGSTOP of a worker", worker.number)
        worker.freeze()
        await asyncio.sleep(self._rng.uniform(0.1, 0.8) + long * 1.2 * LEASE_TTL_S)
        worker.thaw()

    async def _kill_worker(self) -> None:
        worker = self._a_worker()
        self._world.hit("kill -9 of a worker", worker.number)
        await worker.kill()
        await worker.start()

    async def _stop_worker(self) -> None:
        worker = self._a_worker()
        self._world.hit("SIGTERM of a worker", worker.number)
        await worker.stop()
        await worker.start()

    # The store.

    def _store(self) -> list[tuple[Fault, int]]:
        return [(self._kill_store, 3), (self._freeze_store, 4), (self._fill_memory, 3), (self._fill_disk, 2)]

    async def _kill_store(self) -> None:
        self._world.hit("kill -9 of Valkey", *EVERY)
        await self._world.valkey.kill()
        await asyncio.sleep(self._rng.uniform(0, 0.3))
        await self._world.valkey.start()

    async def _freeze_store(self) -> None:
        self._world.hit("SIGSTOP of Valkey", *EVERY)
        self._world.valkey.freeze()
        await asyncio.sleep(self._rng.uniform(0.1, 1.0))
        self._world.valkey.thaw()

    async def _fill_memory(self) -> None:
        self._world.hit("Valkey out of memory", *EVERY)
        await self._world.valkey.say("CONFIG", "SET", "maxmemory", FULL_BYTES)
        await asyncio.sleep(self._rng.uniform(0.3, 1.0))
        await self._world.valkey.say("CONFIG", "SET", "maxmemory", "0")

    async def _fill_disk(self) -> None:
        """With `appendfsync always` Valkey ends at the first write that does not fit."""
        valkey, disk = self._world.valkey, self._world.disk
        self._world.hit(f"disk full ({disk.kind})", *EVERY)
        await asyncio.to_thread(disk.fill, valkey)
        ended = asyncio.create_task(valkey.ended())
        await asyncio.wait({ended}, timeout=2.0)
        disk.free()
        await valkey.kill()  # if nobody wrote
        await ended
        await valkey.start()
