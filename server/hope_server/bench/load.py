"""Sends a planned load: at given moments, or from a number of clients that wait for their answers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import httpx

from hope_server.bench.answer import Asking, Sample, StreamError, ask, check, code_of
from hope_server.bench.load_plan import LoadSettings, PlannedRequest


class Sessions:
    """Sessions of the server, each lent to one request at a time until its turns are used up."""

    def __init__(self, client: httpx.AsyncClient, turns: int) -> None:
        self._client, self._turns = client, turns
        self._idle: deque[tuple[str, int]] = deque()
        self._made: list[str] = []

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[str | None]:
        """A session's id, None if requests have none. Raises StreamError, httpx.HTTPError."""
        if not self._turns:
            yield None
            return
        session, left = self._idle.popleft() if self._idle else (await self._create(), self._turns)
        yield session
        if left > 1:
            self._idle.append((session, left - 1))

    async def delete_all(self) -> int:
        """Delete what this made; returns how many could not be."""
        failed = 0
        for session in self._made:
            try:
                response = await self._client.delete(f"/v1/sessions/{session}")
                failed += not response.is_success
            except httpx.HTTPError:
                failed += 1
        return failed

    async def _create(self) -> str:
        response = await self._client.post("/v1/sessions")
        await check(response)
        try:
            session = str(response.json()["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise StreamError("bad_session") from error
        self._made.append(session)
        return session


class Load:
    """One load test.

    Args:
        client: connected to the server, without a bound on connections.
        asking: what all requests have in common.
        settings: how many, when, with which sessions.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        asking: Asking,
        settings: LoadSettings,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client, self._asking, self._settings = client, asking, settings
        self._clock, self._sleep = clock, sleep
        self.sessions = Sessions(client, settings.turns)
        self.samples: list[Sample] = []

    async def send(self, planned: Sequence[PlannedRequest]) -> None:
        """Send every request; what became of them is in ``samples``."""
        if self._settings.rate is None:
            left = iter(planned)
            async with asyncio.TaskGroup() as clients:
                for _ in range(self._settings.concurrency):
                    clients.create_task(self._one_after_the_other(left))
            return
        start = self._clock()
        async with asyncio.TaskGroup() as requests:
            for request in planned:
                assert request.at_s is not None
                due_s = start + request.at_s
                await self._sleep(max(0.0, due_s - self._clock()))
                requests.create_task(self._one(request, due_s))

    async def _one_after_the_other(self, left: Iterator[PlannedRequest]) -> None:
        for request in left:
            await self._one(request, self._clock())

    async def _one(self, request: PlannedRequest, due_s: float) -> None:
        try:
            async with self.sessions.lend() as session:
                sample = await ask(
                    self._client, self._asking, request, session, due_s=due_s, clock=self._clock
                )
        except StreamError as error:
            sample = self._unsent(request, due_s, error.code)
        except httpx.HTTPError as error:
            sample = self._unsent(request, due_s, code_of(error))
        self.samples.append(sample)

    def _unsent(self, request: PlannedRequest, due_s: float, code: str) -> Sample:
        now_s = self._clock()
        return Sample(request.index, due_s, now_s, now_s, error=code)
