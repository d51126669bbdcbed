"""Answers that take long to compute: the work ends when the client leaves or the time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hope_server.api.sse import until_disconnect
from hope_server.errors import TurnTimeout

T = TypeVar("T")


class WhileConnected(Response):
    """The JSON of what `work` returns. Its errors become the answer's status."""

    def __init__(self, work: Callable[[], Awaitable[BaseModel]], *, limit_s: float) -> None:
        super().__init__()
        self._work = work
        self._limit_s = limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await in_time(self._work(), limit_s=self._limit_s)
        await Response(body.model_dump_json(), media_type="application/json")(scope, receive, send)


async def in_time(work: Awaitable[T], *, limit_s: float) -> T:
    """What `work` returns; raises TurnTimeout if it takes longer than `limit_s` seconds."""
    try:
        async with asyncio.timeout(limit_s) as limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise TurnTimeout(f"expected an answer within {limit_s:g} seconds") from None
