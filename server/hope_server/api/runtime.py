"""What the routes share: the engine as they see it, the tokenizer, the limits, and one turn per session."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Protocol

from fastapi import Depends, Request

from hope_server.api.repeats import Refusals
from hope_server.chat import ChatFormat, TextTokenizer
from hope_server.config import ServerConfig
from hope_server.constrained import Grammars
from hope_server.engine.request import (
    Difference,
    EngineStats,
    GenerationRequest,
    LevelStatus,
    SessionLoss,
    TokenEvent,
    Verification,
)
from hope_server.errors import SessionBusy, ShuttingDown, TooManyTransfers
from hope_server.metrics import Metrics
from hope_server.sessions.container import Importable
from hope_server.sessions.key import SessionKey
from hope_server.sessions.reading import Buffer
from hope_server.sessions.session import JournalRecord, SessionMeta
from hope_server.tenants.account import Accounts
from hope_server.tenants.gate import Gate
from hope_server.tracing import NO_TRACING, Tracing


class Engine(Protocol):
    """The part of EngineService that the routes use; its own docstrings hold the details."""

    async def create_session(self, tenant: str, name: str | None = None) -> SessionMeta: ...
    async def get_session(self, session: SessionKey) -> SessionMeta: ...
    async def rename_session(self, session: SessionKey, name: str) -> SessionMeta: ...
    async def list_sessions(self, tenant: str, *, after: str | None, limit: int) -> list[SessionMeta]: ...
    async def delete_session(self, session: SessionKey) -> None: ...
    async def reset_session(self, session: SessionKey) -> SessionMeta: ...
    async def fork_session(
        self, session: SessionKey, *, seq: int | None = None, name: str | None = None
    ) -> SessionMeta: ...
    async def rollback_session(self, session: SessionKey, *, seq: int) -> SessionMeta: ...
    async def verify_session(self, session: SessionKey) -> Verification: ...
    async def diff_session(self, session: SessionKey, *, first: int, last: int | None) -> Difference: ...
    async def session_loss(self, session: SessionKey, *, tokens: int) -> SessionLoss: ...
    def export_session(self, session: SessionKey) -> AsyncGenerator[bytes]: ...
    async def open_export(self, data: Buffer) -> Importable: ...
    async def import_session(self, tenant: str, found: Importable) -> SessionMeta: ...
    async def levels(self, session: SessionKey) -> list[LevelStatus]: ...
    async def events(
        self, session: SessionKey, *, after: int, limit: int
    ) -> tuple[list[JournalRecord], int]: ...
    def path(self, session: SessionKey, *, after: int) -> AsyncGenerator[JournalRecord]: ...
    async def learned(self, session: SessionKey, idempotency_key: str) -> tuple[int, int] | None: ...
    async def put_document(self, session: SessionKey, name: str, data: bytes | None) -> None: ...
    async def document_names(self, session: SessionKey) -> Sequence[str]: ...
    async def documents(self, session: SessionKey, names: Sequence[str]) -> Mapping[str, bytes]: ...
    def generate(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]: ...
    async def verify_slow_weights(self) -> bool: ...
    def stats(self) -> EngineStats: ...


class SessionTurns:
    """Which sessions are in the middle of a turn.

    The engine runs one turn per session too; holding it from here covers what a turn does before the engine
    sees it: reading the transcript and choosing what is new.
    """

    def __init__(self) -> None:
        self._held: set[SessionKey] = set()

    @contextmanager
    def hold(self, session: SessionKey | None) -> Iterator[None]:
        """One holder per session; an ephemeral session (None) is nobody else's. Raises SessionBusy."""
        if session is None:
            yield
            return
        if session in self._held:
            raise SessionBusy("the session is in the middle of another turn", param="session_id")
        self._held.add(session)
        try:
            yield
        finally:
            self._held.remove(session)


class Transfers:
    """How many exports and imports run: `most` in all, of one tenant half as many (at least one)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: Counter[str] = Counter()

    @contextmanager
    def hold(self, tenant: str) -> Iterator[None]:
        """A place for one. Raises TooManyTransfers."""
        if self._running.total() >= self._most or self._running[tenant] >= max(1, self._most // 2):
            raise TooManyTransfers("expected fewer exports and imports at once")
        self._running[tenant] += 1
        try:
            yield
        finally:
            self._running[tenant] -= 1
            self._running += Counter()  # forgets tenants that have none


@dataclass
class Runtime:
    """The wired parts of one server. `stopping` is set once; nothing is admitted afterwards."""

    config: ServerConfig
    engine: Engine
    tokenizer: TextTokenizer
    chat_format: ChatFormat
    metrics: Metrics
    model_name: str
    slow_weights_sha256: str
    created: int
    check_store: Callable[[], Awaitable[None]]
    gate: Gate
    accounts: Accounts
    state_bytes: int
    grammars: Grammars
    turns: SessionTurns = field(default_factory=SessionTurns)
    tokenising: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    refusals: Refusals = field(default_factory=Refusals)
    tracing: Tracing = NO_TRACING
    stopping: bool = False

    @cached_property
    def transfers(self) -> Transfers:
        """The exports and imports of all tenants."""
        return Transfers(self.config.max_transfers)

    @property
    def fingerprint(self) -> str:
        """OpenAI's `system_fingerprint`: answers can be compared while it stays the same."""
        return f"fp_{self.slow_weights_sha256[:12]}"

    def admit(self) -> None:
        """Raises ShuttingDown once the server stops."""
        if self.stopping:
            raise ShuttingDown("the server is shutting down and admits no new work")


def _of(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


RuntimeOf = Annotated[Runtime, Depends(_of)]
"""A route's parameter: the runtime of its app."""
