"""A tiny model whose every bit depends on all tokens and on their cut, and services over it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio
import torch
from torch import Tensor

from hope_model.state import LevelSpec, State, StateSpec, TensorSpec
from hope_model.streaks import Frozen, Outcome, counted, counter_specs
from hope_server.engine.observer import NullObserver
from hope_server.engine.request import (
    EngineConfig,
    GenerationRequest,
    PromptPart,
    SamplingParams,
    TokenEvent,
)
from hope_server.engine.runner import ServedModel
from hope_server.engine.service import EngineService
from hope_server.errors import StoreUnavailable
from hope_server.sessions.key import SessionKey
from hope_server.sessions.memory_store import MemoryStore
from hope_server.sessions.session import Fence, Head
from hope_server.sessions.store import SessionStore

BLOCK, VOCAB = 8, 50
STEP, RUN, WHOLE = 11, 13, 17  # how tokens were read goes into the digest


@dataclass(frozen=True)
class HashConfig:
    block: int = BLOCK
    vocab_size: int = VOCAB


class HashModel:
    """Follows the protocol of Hope, but learns whatever ``learn`` says. ``digest`` hashes all tokens and,
    inside a block, how they were cut.

    refuses: tokens whose write of the fast level is refused. fails: tokens after which logits are NaN, as
    long as the row learns.
    """

    def __init__(self, *, refuses: Sequence[int] = (), fails: Sequence[int] = ()) -> None:
        self._refuses, self._fails = torch.tensor(refuses), torch.tensor(fails)
        self.config = HashConfig()
        self.state_spec = StateSpec(
            tensors=(
                TensorSpec("memory", "fast", (3, 2)),
                TensorSpec("digest", "slower", (), torch.int64),
                *counter_specs(2),
            ),
            levels=(LevelSpec("fast", 1), LevelSpec("slower", 4), LevelSpec("slow", None)),
        )

    def initial_state(self, rows: int) -> State:
        return self.state_spec.zeros(rows)

    def step(self, tokens: Tensor, state: State, learn: Tensor | None = None) -> tuple[Tensor, State]:
        return self._read(tokens[:, None], state, STEP)

    def prefill(self, tokens: Tensor, state: State, learn: Tensor | None = None) -> tuple[Tensor, State]:
        return self._read(tokens, state, RUN)

    def block_pass(self, tokens: Tensor, state: State, learn: Tensor | None = None) -> tuple[Tensor, State]:
        assert tokens.shape == (1, BLOCK)
        assert int(state["position"]) % BLOCK == 0
        return self._read(tokens, state, WHOLE)

    def forward(self, tokens: Tensor, state: State, learn: Tensor | None = None) -> tuple[Tensor, State]:
        steps = []
        for token in tokens.unbind(1):
            logits, state = self._read(token[:, None], state, STEP)
            steps.append(logits)
        return torch.stack(steps, dim=1), state

    def drift(self, state: State) -> dict[str, Tensor]:
        norm = state["memory"].flatten(1).norm(dim=1)
        return {"fast": norm, "slower": torch.zeros_like(norm)}

    def _read(self, tokens: Tensor, state: State, how: int) -> tuple[Tensor, State]:
        digest, memory, learns = state["digest"], state["memory"], state["frozen"] == Frozen.NO
        fast = ~torch.isin(tokens, self._refuses)
        for token, applied in zip(tokens.unbind(1), fast.unbind(1), strict=True):
            digest = _mix(digest, token)
            new = 0.75 * memory + (token + 1).float()[:, None, None] / VOCAB
            memory = torch.where((applied & learns)[:, None, None], new, memory)
        digest = _mix(digest, how + 2 * (~learns).long())
        position = state["position"][:, None] + torch.arange(1, tokens.shape[1] + 1)
        outcomes = [
            Outcome(fast, torch.ones_like(fast)),
            Outcome(torch.ones_like(fast), position % 4 == 0),
        ]
        after = {"memory": memory, "digest": digest}
        after |= counted(state, outcomes, tokens=tokens.shape[1], block=BLOCK)
        failed = torch.isin(tokens[:, -1], self._fails) & learns
        return torch.where(failed[:, None], torch.nan, self._logits(after)), after

    def _logits(self, state: State) -> Tensor:
        vocabulary = torch.arange(VOCAB)
        noise = _mix(_mix(state["digest"], torch.zeros(1, dtype=torch.int64))[:, None], vocabulary)
        poison = 0.0 * state["memory"].flatten(1).sum(1)  # NaN if anything in the row is
        return ((noise >> 24) & 0xFFFF).float() / 8192 + poison[:, None]


def _mix(digest: Tensor, value: Tensor) -> Tensor:
    digest = (digest ^ (value + 0x1F3D5B79)) * 0x5851F42D4C957F2D + 0x14057B7EF767814F
    return digest ^ (digest >> 29)


class GatedStore(MemoryStore):
    """A memory store whose appends can be held back, broken and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken: Callable[[int], BaseException | None] = lambda append: None
        self.appends = 0
        self.calls: list[str] = []
        self.renewals_fail = False

    def expire(self, session: SessionKey) -> None:
        """The lease of the session ends now, as after a pause of its worker."""
        self._sessions[session].lease_until = 0.0

    def lease_until(self, session: SessionKey) -> float:
        return self._sessions[session].lease_until

    async def renew(self, session: SessionKey, fence: Fence, *, ttl_s: float) -> None:
        if self.renewals_fail:
            raise StoreUnavailable("gone")
        await super().renew(session, fence, ttl_s=ttl_s)

    async def append(self, session: SessionKey, fence: Fence, **arguments: Any) -> Head:
        await self._may_commit("append")
        return await super().append(session, fence, **arguments)

    async def freeze(self, session: SessionKey, fence: Fence, **arguments: Any) -> Head:
        await self._may_commit("freeze")
        return await super().freeze(session, fence, **arguments)

    async def _may_commit(self, call: str) -> None:
        self.appends += 1
        error = self.broken(self.appends)
        await self.gate.wait()
        await asyncio.sleep(0)
        if error is not None:
            raise error
        self.calls.append(call)


@dataclass
class Recorder(NullObserver):
    """Adds up what the observer is told."""

    tokens: dict[str, int] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)
    outcomes: list[str] = field(default_factory=list)
    replayed: list[int] = field(default_factory=list)
    failed_snapshots: list[BaseException] = field(default_factory=list)
    snapshots: int = 0
    corrupted: int = 0
    drifts: list[str] = field(default_factory=list)
    reloads: int = 0
    rollbacks: list[str] = field(default_factory=list)
    canaries: list[float] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    leases: list[tuple[str, int]] = field(default_factory=list)
    evictions: int = 0

    def on_level_writes(self, level: str, *, tokens: int, writes: int, refused: int) -> None:
        self.tokens[level] = self.tokens.get(level, 0) + tokens
        self.writes[level] = self.writes.get(level, 0) + writes

    def on_turn_end(self, outcome: str, **figures: object) -> None:
        self.outcomes.append(outcome)

    def on_load(self, seconds: float, *, replayed_tokens: int) -> None:
        self.replayed.append(replayed_tokens)

    def on_snapshot(self, seconds: float, *, bytes_written: int) -> None:
        self.snapshots += 1

    def on_snapshot_failed(self, error: BaseException) -> None:
        self.failed_snapshots.append(error)

    def on_corrupted(self) -> None:
        self.corrupted += 1

    def on_reload(self) -> None:
        self.reloads += 1

    def on_learning_rollback(self, reason: str) -> None:
        self.rollbacks.append(reason)

    def on_canary(self, nats: float) -> None:
        self.canaries.append(nats)

    def on_drift(self, level: str, ratio: float) -> None:
        self.drifts.append(level)

    def on_session(self, operation: str) -> None:
        self.operations.append(operation)

    def on_eviction(self) -> None:
        self.evictions += 1

    def on_lease(self, outcome: str, *, held: int) -> None:
        self.leases.append((outcome, held))


class Bench:
    """Services over one store, and what tests ask of them."""

    def __init__(self) -> None:
        self.store = GatedStore()
        self.observer = Recorder()
        self._running: list[EngineService] = []

    async def service(
        self, model: ServedModel | None = None, store: SessionStore | None = None, **sizes: Any
    ) -> EngineService:
        """A started service; one that is running already shares the store, as after a crash."""
        service = EngineService(
            model or HashModel(),
            store or self.store,
            replace(EngineConfig(slots=4, threads=1), **sizes),
            slow_weights_hash=lambda: "5" * 64,
            observer=self.observer,
        )
        await service.start()
        self._running.append(service)
        return service

    async def close(self) -> None:
        self.store.gate.set()
        for service in self._running:
            await service.stop(deadline_s=2.0)

    @staticmethod
    def request(
        session: SessionKey | None, prompt: tuple[int, ...] | list[int], max_tokens: int = 8, **more: Any
    ) -> GenerationRequest:
        """One turn of a user; sampling fields among ``more`` go to SamplingParams."""
        names = ("temperature", "top_p", "top_k", "seed", "stop_token_ids", "ignore_eos")
        sampling = {name: more.pop(name) for name in names if name in more}
        return GenerationRequest(
            request_id=more.pop("request_id", "test"),
            session=session,
            prompt=more.pop("parts", (PromptPart("user", tuple(prompt)),)),
            sampling=SamplingParams(**{"temperature": 0.0, "max_tokens": max_tokens, **sampling}),
            **more,
        )

    async def turn(
        self,
        service: EngineService,
        session: SessionKey | None,
        prompt: tuple[int, ...] | list[int],
        max_tokens: int = 8,
        **more: Any,
    ) -> list[TokenEvent]:
        """All events of a turn."""
        return [event async for event in service.generate(self.request(session, prompt, max_tokens, **more))]

    async def row(self, service: EngineService, session: SessionKey) -> State:
        """The session's live row, restored if need be."""
        await service.levels(session)
        return await service._thread.call(lambda: service._engine.live_row(str(session)))

    async def journal(self, session: SessionKey) -> list[int]:
        """Every token the store holds, in order."""
        records = await self.store.records(session, after=0, limit=1000)
        return [token for record in records for token in record.tokens]


Eventually = Callable[[EngineService, Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Lets the service work until a condition holds, looking each time its engine has made a step."""

    async def wait(service: EngineService, condition: Callable[[], bool]) -> None:
        while not condition():
            await service._thread.call(lambda: None)

    return wait


@pytest.fixture
def model() -> HashModel:
    return HashModel()


@pytest.fixture
def same() -> Callable[[State, State], bool]:
    """Whether two states are equal bit for bit."""

    def compare(left: State, right: State) -> bool:
        return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)

    return compare


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.close()
