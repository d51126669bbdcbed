"""One run of chaos: faults for a while, calm, and the count."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.chaos.actor import PATIENCE_S
from tests.chaos.faults import Faults
from tests.chaos.ledger import Ledger
from tests.chaos.world import World


async def run(seed: int, seconds: float, *, refusals: bool = False) -> Ledger:
    """Faults for so long, then calm, then the count. refusals: as :class:`World` takes it."""
    with tempfile.TemporaryDirectory(prefix="hope-chaos-") as folder:
        async with World(seed, Path(folder), refusals=refusals) as world:
            clients = [asyncio.create_task(actor.live()) for actor in world.actors]
            await Faults(world).rage(seconds)
            world.over = True
            done, late = await asyncio.wait(clients, timeout=3 * PATIENCE_S)
            for client in done:
                client.result()
            for client in late:
                client.cancel()
                world.ledger.unexpected += 1
                world.ledger.notes.append("a client did not come to its end after the faults")
            await world.finish()
            world.ledger.notes.append(f"seed {seed}; the store's disk: {world.disk.kind}")
            return world.ledger
