"""Two workers, each behind a proxy of its own, one Valkey on a small disk, and tenants with their clients."""

from __future__ import annotations

import asyncio
import re
import secrets
from functools import cache
from pathlib import Path
from random import Random

from tests.chaos.actor import Actor
from tests.chaos.checkpoint import write_checkpoint, write_refusing_checkpoint
from tests.chaos.disk import open_disk
from tests.chaos.ledger import Ledger
from tests.chaos.proxy import Proxy
from tests.chaos.tenant import Tenant
from tests.chaos.valkey import Valkey
from tests.chaos.worker import Worker

from hope_model.checkpoint import resolve
from hope_model.tokenizer import Tokenizer
from hope_server.sessions.keyfile import find_keys
from hope_server.tenants.key_file import KeyFile

WORKERS = 2
TENANTS = ("acme", "umbrella", "initech")
SHOWN_CHARS = 500
ACTORS = 2
"""Clients of each tenant."""


class World:
    """Everything that runs; `async with` starts and ends it.

    refusals: a model is served whose guards refuse writes and end sessions' learning.
    """

    def __init__(self, seed: int, folder: Path, *, refusals: bool = False) -> None:
        self.rng = Random(seed)
        self.ledger = Ledger()
        self.over = False
        """Faults have ended: clients finish what they have."""
        self._folder, self._refusals = folder, refusals
        self.disk = open_disk(folder / "disk")
        self.valkey = Valkey(folder / "disk")
        self.proxies = [Proxy(self.valkey.port, self.rng) for _ in range(WORKERS)]
        self.workers: list[Worker] = []
        self._tokenizer = Tokenizer.load(resolve("hope-tiny") / "tokenizer.json")
        self.tokens_of = cache(self._tokenizer.encode)

    async def __aenter__(self) -> World:
        await self.valkey.start()
        write = write_refusing_checkpoint if self._refusals else write_checkpoint
        checkpoint = write(self._folder / "checkpoint")
        keys = KeyFile(self._folder / "data" / "keys")
        self.tenants = [
            Tenant(name, keys.create(name)[1], f"canary-{name}-{secrets.token_hex(6)}", self._on_foreign)
            for name in TENANTS
        ]
        for tenant in self.tenants:
            tenant.others = [other for other in self.tenants if other is not tenant]
        self.actors = [
            Actor(self, tenant, self.rng.getrandbits(32)) for tenant in self.tenants for _ in range(ACTORS)
        ]
        for number, proxy in enumerate(self.proxies):
            await proxy.start()
            self.workers.append(
                Worker(number, checkpoint=checkpoint, data_dir=self._folder / "data", store_port=proxy.port)
            )
        find_keys(None, self._folder / "data")  # makes the encryption keys that the workers share
        starts = (worker.start() for worker in self.workers)
        for error in await asyncio.gather(*starts, return_exceptions=True):
            if error is not None:
                await self.__aexit__()
                raise error
        return self

    async def __aexit__(self, *failure: object) -> None:
        for tenant in self.tenants:
            await tenant.aclose()
        for worker in self.workers:
            worker.thaw()
            await worker.kill()
        for proxy in self.proxies:
            await proxy.stop()
        self.valkey.thaw()
        await self.valkey.kill()
        self.disk.remove()

    def pick_worker(self, rng: Random) -> Worker | None:
        """Any that answers."""
        up = [worker for worker in self.workers if worker.url is not None]
        return rng.choice(up) if up else None

    def hit(self, kind: str, *workers: int) -> None:
        """A fault begins; it hits the turns at ``workers``."""
        self.ledger.faults[kind] += 1
        for actor in self.actors:
            if actor.recovery.worker in workers:
                actor.recovery.hit()

    async def finish(self) -> None:
        """All is well again and every client is done: nothing is left, and workers stop as they should."""
        client = None
        for tenant in self.tenants:
            assert self.workers[0].url is not None
            client = tenant.client(self.workers[0].url)
            for session in (await client.sessions.list(limit=1000)).data:
                if session.id not in tenant.sessions and session.name not in tenant.doubtful:
                    self._unexpected(f"{tenant.name} has a session that it never made, or deleted: {session}")
                if not (await client.sessions.verify(session.id)).equal:
                    self.ledger.hash_mismatches += 1
        statuses = await asyncio.gather(*(worker.stop() for worker in self.workers))
        for worker, status in zip(self.workers, statuses, strict=True):
            if status != 0:
                self._unexpected(f"worker {worker.number} ended with {status} when it was asked to stop")
            for error in tracebacks(worker.log.read_text()):
                self._unexpected(f"worker {worker.number} logged {error}")

    def _on_foreign(self, count: int, note: str) -> None:
        self.ledger.foreign_bytes += count
        self.ledger.notes.append(note)

    def _unexpected(self, note: str) -> None:
        self.ledger.unexpected += 1
        self.ledger.notes.append(note)


def tracebacks(log: str) -> list[str]:
    """Each traceback in a log, whole: no fault is to look like a bug of the server."""
    return [
        found.strip() for found in re.findall(r"^Traceback \(most recent.*\n(?:[ \t].*\n)+.*$", log, re.M)
    ]
