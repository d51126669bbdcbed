"""Answers on the wire: a turn as server-sent events or as one body, stopped when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Protocol

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hope_client.wire import FinishReason, Usage
from hope_server.api.errors import as_hope_error, error_body, report
from hope_server.api.runtime import Runtime
from hope_server.api.turn import Body, Piece, TurnSpec, pieces
from hope_server.errors import TurnTimeout

DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),
]


class Shape(Protocol):
    """How one endpoint writes an answer."""

    def opening(self) -> BaseModel | None:
        """The chunk before any text."""

    def text(self, text: str, usage: Usage | None) -> BaseModel:
        """A chunk of text."""

    def end(self, reason: FinishReason | None, usage: Usage | None) -> BaseModel:
        """The chunk after all text."""

    def usage(self, usage: Usage) -> BaseModel:
        """The chunk that has no choices."""

    def whole(self, text: str, reason: FinishReason | None, usage: Usage) -> BaseModel:
        """The answer in one body."""


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

    def __init__(self, runtime: Runtime, spec: TurnSpec, shape: Shape, body: Body) -> None:
        super().__init__()
        self._runtime = runtime
        self._spec = spec
        self._shape = shape
        self._stream = body.stream
        self._with_usage = body.include_usage
        self._running_usage = body.include_usage and bool(
            body.stream_options and body.stream_options.continuous_usage_stats
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit_s = self._runtime.config.turn_timeout_s
        async with aclosing(_within(limit_s, pieces(self._runtime, self._spec))) as answer:
            if self._stream:
                await self._send_events(answer, send)
            else:
                await (await self._whole(answer))(scope, receive, send)

    async def _whole(self, answer: AsyncGenerator[Piece]) -> Response:
        texts = []
        async for piece in answer:
            texts.append(piece.text)
        body = self._shape.whole("".join(texts), piece.finish_reason, piece.usage)
        return Response(body.model_dump_json(), media_type="application/json")

    async def _send_events(self, answer: AsyncGenerator[Piece], send: Send) -> None:
        first = await anext(answer)
        await send({"type": "http.response.start", "status": 200, "headers": list(STREAM_HEADERS)})
        try:
            if opening := self._shape.opening():
                await _send_body(send, event(opening))
            last = await self._send_piece(first, send)
            async for piece in answer:
                last = await self._send_piece(piece, send)
            await _send_body(send, self._ending(last))
        except Exception as error:
            ours = as_hope_error(error)
            report(self._runtime, ours)
            await _send_body(send, event(error_body(ours)))
        await _send_body(send, b"", more=False)

    async def _send_piece(self, piece: Piece, send: Send) -> Piece:
        if piece.text:
            usage = piece.usage if self._running_usage else None
            await _send_body(send, event(self._shape.text(piece.text, usage)))
        return piece

    def _ending(self, last: Piece) -> bytes:
        usage = last.usage if self._running_usage else None
        end = event(self._shape.end(last.finish_reason, usage))
        return end + (event(self._shape.usage(last.usage)) if self._with_usage else b"") + DONE


async def _within(limit_s: float, answer: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    """`answer`, closed with TurnTimeout when it has not ended after `limit_s` seconds."""
    deadline = asyncio.get_running_loop().time() + limit_s
    async with aclosing(answer):
        while True:
            try:
                async with asyncio.timeout_at(deadline) as limit:
                    piece = await anext(answer, None)
            except TimeoutError:
                if not limit.expired():
                    raise
                raise TurnTimeout(f"expected a turn of at most {limit_s:g} seconds") from None
            if piece is None:
                return
            yield piece


async def _send_body(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
