"""What each tenant uses at this moment, held against its quota."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from hope_server.errors import (
    SessionQuotaExceeded,
    StorageQuotaExceeded,
    TokenQuotaExceeded,
    TurnQuotaExceeded,
)
from hope_server.tenants.quota import Quota, QuotaFile
from hope_server.tenants.stored import Stored

COUNT_AGAIN_S = 60.0
"""How long a count of the store is built upon: other servers change it too."""
COUNT_PAUSE_S = 1.0
"""Between two counts; a tenant that is refused again and again costs no more."""

CountStored = Callable[[], Awaitable[Stored]]


class Account:
    """One tenant. `quota()` is asked each time: it may change. Times are `clock`'s, in seconds."""

    def __init__(self, quota: Callable[[], Quota], clock: Callable[[], float]) -> None:
        self._quota = quota
        self._clock = clock
        self._turns = 0
        self._tokens = float(quota().tokens_per_minute)
        self._tokens_at = clock()
        self._stored = Stored()
        self._counted_at = float("-inf")
        self._counts = 0
        self._counting = asyncio.Lock()

    @property
    def concurrent_turns(self) -> int:
        """How many turns the tenant may have at once."""
        return self._quota().concurrent_turns

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One turn, running or waiting. Raises TurnQuotaExceeded, TokenQuotaExceeded."""
        quota = self._quota()
        if self._turns >= quota.concurrent_turns:
            raise TurnQuotaExceeded(f"expected at most {quota.concurrent_turns} turns at once")
        self._refill(quota.tokens_per_minute)
        if self._tokens < 0:
            wait_s = -self._tokens * 60 / quota.tokens_per_minute
            raise TokenQuotaExceeded(
                f"expected at most {quota.tokens_per_minute} tokens a minute", retry_after_s=wait_s
            )
        self._turns += 1
        try:
            yield
        finally:
            self._turns -= 1

    def charge(self, tokens: int) -> None:
        """Tokens were read or generated. The debt of a turn that runs is paid by the next one's wait."""
        self._tokens -= tokens

    async def book(self, more: Stored, count: CountStored) -> None:
        """Take room for `more`. Nobody is refused by an old count; what is booked stands until the next one.

        Raises:
            SessionQuotaExceeded, StorageQuotaExceeded: It does not fit.
        """
        async with self._counting:
            if not self._counted_within(COUNT_AGAIN_S):
                await self._count(count)
            if not self._fits(more) and not self._counted_within(COUNT_PAUSE_S):
                await self._count(count)
            self._require(more)
            self._stored += more

    @asynccontextmanager
    async def booked(self, more: Stored, count: CountStored) -> AsyncIterator[None]:
        """As :meth:`book`, for what is stored inside; a failure gives the room back at once."""
        await self.book(more, count)
        counts = self._counts
        try:
            yield
        except BaseException:
            if self._counts == counts:  # a later count has found that it is not there
                self._stored -= more
            raise

    def forget_count(self) -> None:
        """Something was deleted: the next booking counts again."""
        self._counted_at = float("-inf")

    def _refill(self, per_minute: int) -> None:
        now = self._clock()
        self._tokens = min(per_minute, self._tokens + (now - self._tokens_at) * per_minute / 60)
        self._tokens_at = now

    def _counted_within(self, seconds: float) -> bool:
        return self._clock() - self._counted_at < seconds

    async def _count(self, count: CountStored) -> None:
        self._stored = await count()
        self._counted_at = self._clock()
        self._counts += 1

    def _fits(self, more: Stored) -> bool:
        quota, after = self._quota(), self._stored + more
        return after.sessions <= quota.sessions and after.stored_bytes <= quota.stored_bytes

    def _require(self, more: Stored) -> None:
        quota, after = self._quota(), self._stored + more
        if more.sessions and after.sessions > quota.sessions:
            raise SessionQuotaExceeded(f"expected at most {quota.sessions} sessions: delete one")
        if more.stored_bytes and after.stored_bytes > quota.stored_bytes:
            raise StorageQuotaExceeded(
                f"expected at most {quota.stored_bytes} stored bytes: delete a session"
            )


class Accounts:
    """All tenants of this server. One that never called has none, one that did keeps a few hundred bytes."""

    def __init__(self, quotas: QuotaFile, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._quotas = quotas
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def of(self, tenant: str) -> Account:
        """The account of `tenant`, which must be one that the server knows."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account(lambda: self._quotas.of(tenant), self._clock)
        return account
