"""Workers, clients and crashes over one faulty store; what must hold is checked as it happens.

I1: a token that a client was sent is in the journal, at its place. I3: of all writes that expected one head,
one succeeded, and fences only grow. I4: a turn is in the journal once, however often it was asked for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest.mock import patch

from tests.server.engine.conftest import VOCAB, HashModel
from tests.simulation.faults import FATES, FaultyStore, SteppedEngine
from tests.simulation.loop import Stuck, run

from hope_server.engine import service as service_module
from hope_server.engine.request import EngineConfig, GenerationRequest, PromptPart, SamplingParams
from hope_server.engine.service import EngineService
from hope_server.errors import AlreadyLearned, HopeError, SessionCorrupted
from hope_server.sessions.key import SessionKey
from hope_server.sessions.memory_store import MemoryStore
from hope_server.sessions.session import Fence, Head

SESSIONS, TURNS, WORKERS = 2, 4, 2
MAX_TOKENS = 5
CRASH_RATE = 0.15
LEAVE_RATE = 0.3
PAUSE_S = 0.01
LEASE_S = 0.2
LIFE_S = 1000.0
FREEZE = -1
REFUSED = tuple(range(0, VOCAB, 2))
"""Tokens whose write is refused: of the answers' three in a row often are."""
MOST_TRIES = 400


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass
class Report:
    """What one seed did."""

    acknowledged: int = 0
    crashes: int = 0
    retries: int = 0
    frozen: int = 0
    faults: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FATES, 0))


class Watched(MemoryStore):
    """Remembers which number every successful append was made after (I3), and by which fences in turn."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: asyncio.get_running_loop().time())
        self.written: set[tuple[SessionKey, int]] = set()
        self.writers: dict[SessionKey, list[Fence]] = {}
        self.violations: list[Violation] = []

    async def append(self, session: SessionKey, fence: Fence, *, expected: Head, **more: Any) -> Head:
        head = await super().append(session, fence, expected=expected, **more)
        self._watch(session, fence, expected)
        return head

    async def freeze(self, session: SessionKey, fence: Fence, *, expected: Head, **more: Any) -> Head:
        head = await super().freeze(session, fence, expected=expected, **more)
        self._watch(session, fence, expected)
        return head

    def _watch(self, session: SessionKey, fence: Fence, expected: Head) -> None:
        writers = self.writers.setdefault(session, [fence])
        if (session, expected.seq) in self.written:
            self.violations.append(Violation(f"I3: two writes after {expected.seq} of {session}"))
        if fence.counter < writers[-1].counter or (fence.counter == writers[-1].counter) != (
            fence == writers[-1]
        ):
            self.violations.append(Violation(f"I3: {fence} wrote {session} after {writers[-1]}"))
        self.written.add((session, expected.seq))
        writers.append(fence)

    async def tokens(self, session: SessionKey) -> list[int]:
        """Every token of the journal; the one with sequence number n at n - 1, and -1 for a freeze."""
        if self.violations:
            raise self.violations[0]
        try:
            records = await self.records(session, after=0, limit=10_000)
        except SessionCorrupted as error:
            raise Violation(f"I1: the journal of {session} cannot be read: {error}") from error
        return [token for record in records for token in record.tokens or (FREEZE,)]


class Worker:
    """A server process: a service over a connection of its own."""

    def __init__(self, store: Watched, rng: Random, fault_rate: float, number: int) -> None:
        self.connection = FaultyStore(store, rng, fault_rate=fault_rate)
        store_as_seen: Any = self.connection
        self.service = EngineService(
            HashModel(refuses=REFUSED),
            store_as_seen,
            EngineConfig(slots=2, threads=1, lease_ttl_s=LEASE_S, owner_nonce=f"{number:032x}"),
            slow_weights_hash=lambda: "5" * 64,
            clock=asyncio.get_running_loop().time,
        )
        self.died = asyncio.Event()

    def die(self) -> None:
        """As by kill -9: nothing of it runs any more, and its clients see their connections break."""
        self.connection.die()
        self.engine.stop()
        if (renewing := self.service._ownership._renewing) is not None:
            renewing.cancel()
        self.died.set()

    @property
    def engine(self) -> SteppedEngine:
        engine = self.service._thread
        assert isinstance(engine, SteppedEngine)
        return engine


class World:
    """One run, all of whose chance comes from one seed."""

    def __init__(self, seed: int, *, store: Watched | None = None, fault_rate: float = 0.08) -> None:
        self.rng = Random(seed)
        self.store = store or Watched()
        self.report = Report()
        self._fault_rate = fault_rate
        self._workers: list[Worker] = []
        self._graves: list[Worker] = []
        self._acknowledged: dict[SessionKey, dict[int, int]] = {}

    async def live(self) -> Report:
        for _ in range(WORKERS):
            await self._start_worker()
        sessions = [SessionKey("tenant", str(number)) for number in range(SESSIONS)]
        for session in sessions:
            await self.store.create(session, model="5" * 64, name=None)
            self._acknowledged[session] = {}
        await asyncio.gather(*map(self._client, sessions))
        for session in sessions:
            await self._check_journal(session)
        return self.report

    async def _start_worker(self) -> None:
        worker = Worker(self.store, self.rng, self._fault_rate, len(self._workers) + len(self._graves))
        await worker.service.start()
        self._workers.append(worker)

    async def _client(self, session: SessionKey) -> None:
        """Its turns one after another, each until it is certain that it was learned."""
        for turn in range(TURNS):
            prompt = _prompt(session, turn)
            for _ in range(MOST_TRIES):
                if await self._try(session, prompt, key=f"turn-{turn}"):
                    break
                self.report.retries += 1
                await asyncio.sleep(self.rng.expovariate(1 / PAUSE_S))
            else:
                raise Violation(f"{session} could not be served in {MOST_TRIES} tries")
            if self.rng.random() < CRASH_RATE:
                await self._crash()

    async def _try(self, session: SessionKey, prompt: tuple[int, ...], *, key: str) -> bool:
        """One request to some worker; whether the turn is certain to be learned."""
        worker = self.rng.choice(self._workers)
        leave_after = self.rng.randrange(MAX_TOKENS) if self.rng.random() < LEAVE_RATE else None
        ended: list[HopeError | None] = []
        request = asyncio.create_task(self._request(worker, session, prompt, key, leave_after, ended))
        broken = asyncio.create_task(worker.died.wait())
        await asyncio.wait({request, broken}, return_when=asyncio.FIRST_COMPLETED)
        broken.cancel()
        if not request.done():
            request.cancel()
            return False
        request.result()
        return bool(ended) and (ended[0] is None or isinstance(ended[0], AlreadyLearned))

    async def _request(
        self,
        worker: Worker,
        session: SessionKey,
        prompt: tuple[int, ...],
        key: str,
        leave_after: int | None,
        ended: list[HopeError | None],
    ) -> None:
        asked = GenerationRequest(
            request_id=key,
            session=session,
            prompt=(PromptPart("user", prompt),),
            sampling=SamplingParams(max_tokens=MAX_TOKENS, seed=1),
            idempotency_key=key,
        )
        events = worker.service.generate(asked)
        try:
            async for event in events:
                await self._acknowledge(session, event.seq, event.token)
                if event.index == leave_after:
                    return
            ended.append(None)
        except HopeError as error:
            ended.append(error)
        finally:
            await events.aclose()

    async def _acknowledge(self, session: SessionKey, seq: int | None, token: int) -> None:
        """A token reached its client."""
        assert seq is not None
        self.report.acknowledged += 1
        journal = await self.store.tokens(session)
        if journal[seq - 1 : seq] != [token]:
            raise Violation(f"I1: token {seq} of {session} was sent and is not in the journal")
        self._acknowledged[session][seq] = token

    async def _crash(self) -> None:
        worker = self._workers.pop(self.rng.randrange(len(self._workers)))
        self._bury(worker)
        self.report.crashes += 1
        await self._start_worker()

    async def _check_journal(self, session: SessionKey) -> None:
        await asyncio.sleep(10)  # what is late has arrived
        journal = await self.store.tokens(session)
        if len(journal) != (await self.store.meta(session)).seq:
            raise Violation(f"I1: the journal of {session} has holes")
        for seq, token in self._acknowledged[session].items():
            if journal[seq - 1] != token:
                raise Violation(f"I1: token {seq} of {session} was sent and is not in the journal any more")
        frozen, freeze = journal.count(FREEZE), (await self.store.meta(session)).path.freeze
        if frozen != (freeze is not None):
            raise Violation(f"I4: learning of {session} ended {frozen} times, its head says {freeze}")
        self.report.frozen += frozen
        for turn in range(TURNS):
            prompt = list(_prompt(session, turn))
            read = [token for token in journal if token != FREEZE]
            times = sum(read[at : at + len(prompt)] == prompt for at in range(len(read)))
            if times != 1:
                raise Violation(f"I4: turn {turn} of {session} was learned {times} times")

    def end(self) -> None:
        """Every worker dies; what still waits for one can be cancelled then."""
        for worker in self._workers:
            self._bury(worker)
        for worker in self._graves:
            worker.engine.unwind()
            worker.connection.unwind()

    def _bury(self, worker: Worker) -> None:
        worker.die()
        self._graves.append(worker)
        for fate, count in worker.connection.faults.items():
            self.report.faults[fate] += count


def _prompt(session: SessionKey, turn: int) -> tuple[int, ...]:
    """No other turn reads these tokens."""
    return (VOCAB - 1, int(session.session), turn, VOCAB - 2)


def simulate(seed: int, **more: Any) -> Report:
    """Run one seed to its end. Raises Violation, and Stuck when nothing can go on."""
    world = World(seed, **more)

    async def main() -> Report:
        try:
            async with asyncio.timeout(LIFE_S):
                return await world.live()
        except TimeoutError:
            raise Stuck(f"not over after {LIFE_S} s") from None
        finally:
            world.end()

    with (
        patch.object(service_module, "EngineThread", SteppedEngine),
        patch.object(SteppedEngine, "rng", Random(seed)),
    ):
        report: Report = run(main())
    return report
