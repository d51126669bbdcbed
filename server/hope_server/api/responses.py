"""/v1/responses: a response begins anew, goes on from another one, or is the next in a conversation."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hope_client.wire import (
    SESSION_HEADER,
    ItemList,
    ResponseDeleted,
    ResponseEvent,
    ResponseObject,
    ResponseRequest,
)
from hope_server.api.body import read_json
from hope_server.api.choices import once, side_by_side
from hope_server.api.context import span_of
from hope_server.api.errors import as_hope_error, error_body, report
from hope_server.api.formats import grammar_of
from hope_server.api.items import PagingOf
from hope_server.api.openapi import accepts_turn, answers_stream
from hope_server.api.repeats import fingerprint_of, is_repeated
from hope_server.api.request import idempotency_key
from hope_server.api.response_documents import (
    Documents,
    StoredResponse,
    new_name,
    place_of,
    response_id,
    without_logprobs,
)
from hope_server.api.response_output import ResponseOutput
from hope_server.api.response_turn import ResponseTurn
from hope_server.api.runtime import RuntimeOf
from hope_server.api.sse import STREAM_HEADERS, Answer, send_body, until_disconnect, within
from hope_server.api.tenancy import SessionsOf
from hope_server.api.turn import Piece, TurnSpec, check_model, sampling_of, unchanged
from hope_server.constrained import Grammar
from hope_server.errors import HopeError, InvalidRequest
from hope_server.logging import request_id

router = APIRouter(prefix="/v1/responses", tags=["responses"])


@router.post(
    "",
    response_model=ResponseObject,
    responses=answers_stream(),
    openapi_extra=accepts_turn(ResponseRequest),
)
async def create(request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> Response:
    """Answer the input, whole or as a stream of events."""
    body = await read_json(request, ResponseRequest, limit=runtime.config.max_body_bytes)
    check_model(runtime, body.model)
    if SESSION_HEADER in request.headers:
        raise InvalidRequest(
            f"{SESSION_HEADER}: a response names its session by conversation or previous_response_id",
            param=SESSION_HEADER,
            code="unsupported_value",
        )
    turn = ResponseTurn(runtime, sessions, body)
    tools = turn.tools
    grammar = await (tools.grammar(runtime) if tools else grammar_of(runtime, turn.chat.response_format))
    return _ResponseAnswer(turn, _spec(request, turn, grammar))


def _spec(request: Request, turn: ResponseTurn, grammar: Grammar | None) -> TurnSpec:
    """The turn, but for its session, which is known when it begins."""
    body, key = turn.body, idempotency_key(request)
    sampling = sampling_of(
        turn.runtime,
        turn.chat,
        default=turn.runtime.config.default_output_tokens,
        logprobs=(body.top_logprobs or 0) if body.wants_logprobs else None,
    )
    return TurnSpec(
        request_id=request_id.get(),
        sessions=turn.sessions,
        session_id=None,
        idempotency_key=key,
        sampling=sampling,
        stop_strings=(),
        prepare=once(turn.prompt),
        grammar=grammar,
        canonical=turn.tools.canonical if turn.tools else unchanged,
        fingerprint="" if key is not None else fingerprint_of(request),
        repeated=key is None and is_repeated(request),
        learn=body.learn == "on",
        span=span_of(request.scope),
    )


class _ResponseAnswer(Response):
    """Runs the turn; what is to be kept is kept before the response is said to be complete."""

    def __init__(self, turn: ResponseTurn, spec: TurnSpec) -> None:
        super().__init__()
        self._turn = turn
        self._spec = spec
        self._runtime = turn.runtime
        self._name = new_name("r")
        self._stored = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_disconnect(receive, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._turn.open()
            output = self._output()
            async with aclosing(self._pieces()) as answer:
                if self._turn.body.stream:
                    await self._send_events(output, answer, send)
                else:
                    whole = await self._whole(output, answer)
                    await Response(whole.model_dump_json(), media_type="application/json")(
                        scope, receive, send
                    )
        finally:
            await _to_its_end(self._turn.close(stored=self._stored))

    def _output(self) -> ResponseOutput:
        place = self._turn.place
        findable = None if place is None or not self._turn.body.store else place.session_id
        identity = response_id(findable or uuid.uuid4().hex, self._name)
        return ResponseOutput(self._runtime, self._turn.body, identity, place)

    def _pieces(self) -> Answer:
        place = self._turn.place
        spec = self._spec.in_session(None if place is None else place.session_id)
        return within(self._runtime.config.turn_timeout_s, side_by_side(self._runtime, [spec]))

    async def _whole(self, output: ResponseOutput, answer: Answer) -> ResponseObject:
        last: Piece | None = None
        async for _, piece in answer:
            for _event in output.feed(piece):
                pass
            last = piece
        assert last is not None
        return await self._kept(output.whole(last))

    async def _send_events(self, output: ResponseOutput, answer: Answer, send: Send) -> None:
        first = await anext(answer)
        await send({"type": "http.response.start", "status": 200, "headers": list(STREAM_HEADERS)})
        try:
            await _send(send, *output.opening())
            last = first[1]
            async with aclosing(_chained(first, answer)) as pieces:
                async for piece in pieces:
                    await _send(send, *output.feed(piece))
                    last = piece
            await _send(send, output.closing(await self._kept(output.whole(last))))
        except Exception as error:
            ours = as_hope_error(error)
            report(self._runtime, ours)
            detail = error_body(ours).error
            await _send(send, output.failed(detail.code or ours.code, detail.message))
        await send_body(send, b"", more=False)

    async def _kept(self, whole: ResponseObject) -> ResponseObject:
        """The response, which is stored if it is to be."""
        place, hope = self._turn.place, whole.hope
        if place is not None and self._turn.body.store:
            assert hope is not None
            assert hope.seq is not None
            document = StoredResponse(
                response=without_logprobs(whole), input=self._turn.input, seq=hope.seq, told=self._turn.told
            )
            await Documents(self._turn.sessions, place.session_id).put(self._name, document)
            self._stored = True
        return whole


async def _chained(first: tuple[int, Piece], rest: Answer) -> AsyncGenerator[Piece]:
    yield first[1]
    async for _, piece in rest:
        yield piece


async def _send(send: Send, *events: ResponseEvent) -> None:
    lines = [f"event: {each.type}\ndata: {each.model_dump_json()}\n\n".encode() for each in events]
    if lines:
        await send_body(send, b"".join(lines))


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Clean up, also when the client is gone; a failure leaves a session behind and hides no other error."""
    with contextlib.suppress(HopeError):
        await asyncio.shield(asyncio.ensure_future(work))


@router.get("/{identity}")
async def retrieve(identity: str, sessions: SessionsOf) -> ResponseObject:
    """A stored response."""
    session_id, name = place_of(identity)
    return (await Documents(sessions, session_id).response(name)).response


@router.delete("/{identity}")
async def delete(identity: str, sessions: SessionsOf) -> ResponseDeleted:
    """Forget a response. The last one of a session that is no conversation takes the session with it."""
    session_id, name = place_of(identity)
    documents = Documents(sessions, session_id)
    await documents.response(name)
    if await documents.names() == [name] and not await documents.is_conversation():
        await sessions.delete(session_id)
    else:
        await documents.remove(name)
    return ResponseDeleted(id=identity)


@router.get("/{identity}/input_items")
async def input_items(identity: str, sessions: SessionsOf, paging: PagingOf) -> ItemList:
    """The items that the response's request brought."""
    session_id, name = place_of(identity)
    return paging.page((await Documents(sessions, session_id).response(name)).input)
