"""Which sessions this worker may write: fences acquired, leases renewed, and given up when that fails."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hope_server.engine.observer import EngineObserver
from hope_server.errors import Fenced, HopeError, LeaseHeld, StoreUnavailable
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import Fence, SessionMeta
from hope_server.sessions.store import SessionStore

log = logging.getLogger(__name__)

RENEWALS = 3
"""A lease is renewed after each third of its life; after two thirds without success the turn stops."""


@dataclass(slots=True)
class _Held:
    fence: Fence
    renewed_at: float


class Ownership:
    """The leases of one worker. What makes a write safe is its fence; a lease only says who is at work.

    Args:
        store: where sessions live.
        ttl_s: how long others wait for a worker that died.
        nonce: the worker's own, 128 bits as hex; drawn if empty.
        on_lost: told of a session whose lease could not be kept; its turn is to stop.
        observer: told what becomes of every lease.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: SessionStore,
        *,
        ttl_s: float,
        nonce: str,
        on_lost: Callable[[SessionKey, HopeError], None],
        observer: EngineObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.nonce = nonce or secrets.token_hex(16)
        self._store, self._ttl_s, self._on_lost, self._clock = store, ttl_s, on_lost, clock
        self._observer = observer
        self._held: dict[SessionKey, _Held] = {}
        self._renewing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def hold(self, session: SessionKey) -> AsyncIterator[tuple[Fence, SessionMeta]]:
        """The session is ours inside; raises ``LeaseHeld``, ``SessionNotFound``."""
        acquired = await self.acquire(session)
        try:
            yield acquired
        finally:
            await self.release(session)

    async def acquire(self, session: SessionKey) -> tuple[Fence, SessionMeta]:
        """Take the session; raises ``LeaseHeld``, ``SessionNotFound``."""
        started = self._clock()
        try:
            fence, meta = await self._store.acquire(session, nonce=self.nonce, ttl_s=self._ttl_s)
        except LeaseHeld:
            self._observer.on_lease("refused", held=len(self._held))
            raise
        self._held[session] = _Held(fence, started)
        self._observer.on_lease("acquired", held=len(self._held))
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._keep(), name="hope-leases")
        return fence, meta

    async def release(self, session: SessionKey) -> None:
        """Let others have the session. A lease that cannot be ended ends by itself."""
        held = self._held.pop(session, None)
        if held is None:
            return
        self._observer.on_lease("released", held=len(self._held))
        try:
            await self._store.release(session, held.fence)
        except HopeError as error:
            log.info("the lease of %s was not ended: %s", session.session, error)

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / RENEWALS)
            await asyncio.gather(*(self._renew(*one) for one in list(self._held.items())))

    async def _renew(self, session: SessionKey, held: _Held) -> None:
        """Renew, unless two thirds of the lease's life pass first."""
        started = self._clock()
        deadline = held.renewed_at + self._ttl_s * (RENEWALS - 1) / RENEWALS
        try:
            async with asyncio.timeout(max(0.0, deadline - started)):
                await self._store.renew(session, held.fence, ttl_s=self._ttl_s)
        except Fenced as error:
            self._lose(session, held, error)
        except (HopeError, TimeoutError):
            if self._clock() >= deadline:
                message = "the session store does not answer, so the session's lease could not be renewed"
                self._lose(session, held, StoreUnavailable(message))
        else:
            held.renewed_at = started

    def _lose(self, session: SessionKey, held: _Held, error: HopeError) -> None:
        if self._held.get(session) is held:
            del self._held[session]
            self._observer.on_lease("lost", held=len(self._held))
            log.warning("session %s was lost: %s", session.session, error)
            self._on_lost(session, error)
