"""Answers on the wire: a turn as server-sent events or as one body, stopped when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hope_client.wire import Usage
from hope_server.api.choices import UsageCount, side_by_side
from hope_server.api.errors import as_hope_error, error_body, report
from hope_server.api.runtime import Runtime
from hope_server.api.turn import Body, Piece, TurnSpec
from hope_server.errors import TurnTimeout

Answer = AsyncGenerator[tuple[int, Piece]]
"""The pieces of a request's choices, each with its choice's index."""
DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),
]


class Shape(Protocol):
    """How one endpoint writes an answer. One is made for each request, and may remember what it wrote."""

    def opening(self, index: int) -> Sequence[BaseModel]:
        """What comes before a choice's first piece."""

    def piece(self, index: int, piece: Piece, usage: Usage | None) -> Sequence[BaseModel]:
        """What a piece of a choice adds; the last one ends it."""

    def usage(self, usage: Usage) -> BaseModel:
        """The chunk that has no choices."""

    def whole(self, answers: Sequence[Sequence[Piece]], usage: Usage) -> BaseModel:
        """The answer in one body, from the pieces of each choice."""


def event(data: BaseModel) -> bytes:
    """One server-sent event. JSON holds no line break, so that one `data:` line is enough."""
    return b"data: " + data.model_dump_json().encode() + b"\n\n"


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; cancel it, and wait until it has cleaned up, when the client goes away.

    The request's body must have been read.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        watcher.cancel()
        task.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class TurnResponse(Response):
    """The answer to one request. Errors before the first piece become an HTTP status, later ones an event."""

    def __init__(self, runtime: Runtime, specs: Sequence[TurnSpec], shape: Shape, body: Body) -> None:
        super().__init__()
        self._runtime = runtime
        self._specs = specs
        self._shape = shape
        self._count = UsageCount(body.n)
        self._stream = body.stream
        self._with_usage = body.include_usage
        self._running_usage = body.include_usage and bool(
            body.stream_options and body.stream_options.continuous_usage_stats
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit_s = self._runtime.config.turn_timeout_s
        async with aclosing(within(limit_s, side_by_side(self._runtime, self._specs))) as answer:
            if self._stream:
                await self._send_events(answer, send)
            else:
                await (await self._whole(answer))(scope, receive, send)

    async def _whole(self, answer: Answer) -> Response:
        answers: list[list[Piece]] = [[] for _ in self._specs]
        async for index, piece in answer:
            answers[index].append(piece)
            self._count.add(index, piece)
        body = self._shape.whole(answers, self._count.usage())
        return Response(body.model_dump_json(), media_type="application/json")

    async def _send_events(self, answer: Answer, send: Send) -> None:
        first = await anext(answer)
        await send({"type": "http.response.start", "status": 200, "headers": list(STREAM_HEADERS)})
        opened: set[int] = set()
        try:
            await self._send_piece(*first, opened, send)
            async for found in answer:
                await self._send_piece(*found, opened, send)
            usage = event(self._shape.usage(self._count.usage())) if self._with_usage else b""
            await send_body(send, usage + DONE)
        except Exception as error:
            ours = as_hope_error(error)
            report(self._runtime, ours)
            await send_body(send, event(error_body(ours)))
        await send_body(send, b"", more=False)

    async def _send_piece(self, index: int, piece: Piece, opened: set[int], send: Send) -> None:
        self._count.add(index, piece)
        usage = self._count.usage() if self._running_usage else None
        chunks = [*self._shape.piece(index, piece, usage)]
        if index not in opened:
            opened.add(index)
            chunks = [*self._shape.opening(index), *chunks]
        if chunks:
            await send_body(send, b"".join(map(event, chunks)))


async def within(limit_s: float, answer: Answer) -> Answer:
    """`answer`, closed with TurnTimeout when it has not ended after `limit_s` seconds."""
    deadline = asyncio.get_running_loop().time() + limit_s
    async with aclosing(answer):
        while True:
            try:
                async with asyncio.timeout_at(deadline) as limit:
                    found = await anext(answer, None)
            except TimeoutError:
                if not limit.expired():
                    raise
                raise TurnTimeout(f"expected a turn of at most {limit_s:g} seconds") from None
            if found is None:
                return
            yield found


async def send_body(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
