"""POST /v1/chat/completions: the model answers the last message. A session reads only what is new to it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from hope_client.wire import (
    AnswerMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatLogprobs,
    ChatMessage,
    Delta,
    FinishReason,
    HopeTurn,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from hope_server.api.body import read_json
from hope_server.api.choices import choices_of
from hope_server.api.conversation import advance, new_messages, with_tools
from hope_server.api.formats import grammar_of
from hope_server.api.logprobs import chat_logprobs
from hope_server.api.openapi import accepts_turn, answers_stream
from hope_server.api.request import turn_spec
from hope_server.api.runtime import Runtime, RuntimeOf
from hope_server.api.sse import TurnResponse
from hope_server.api.tenancy import SessionsOf, TenantSessions
from hope_server.api.tools import ToolUse, text_of, tool_use, wire_call
from hope_server.api.turn import Piece, Prompt, check_model, sampling_of, tokenised, unchanged
from hope_server.chat import LastToken, Message
from hope_server.chat.tools import ToolText
from hope_server.sessions.refusals import already_learned
from hope_server.sessions.session import NO_TRANSCRIPT, SessionMeta

ROLES = {"developer": "system"}
"""OpenAI's newer name for it."""

router = APIRouter(tags=["generate"])


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses=answers_stream(),
    openapi_extra=accepts_turn(ChatCompletionRequest),
)
async def chat(request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> Response:
    """Answer the last message, whole or as a stream of events."""
    body = await read_json(request, ChatCompletionRequest, limit=runtime.config.max_body_bytes)
    check_model(runtime, body.model)
    messages = as_messages(runtime, body.messages)
    tools = tool_use(runtime, body)

    async def prepare(session_id: str | None, key: str | None) -> Prompt:
        return await _prompt(runtime, sessions, messages, tools, session_id, key)

    sampling = sampling_of(
        runtime,
        body,
        default=runtime.config.default_output_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    grammar = await (tools.grammar(runtime) if tools else grammar_of(runtime, body.response_format))
    canonical = tools.canonical if tools else unchanged
    spec = turn_spec(request, sessions, body, sampling, prepare, grammar=grammar, canonical=canonical)
    shape = _Shape(runtime, choices=body.n, with_logprobs=body.logprobs, with_tools=tools is not None)
    return TurnResponse(runtime, choices_of([spec], body.n), shape, body)


def as_messages(runtime: Runtime, messages: Sequence[ChatMessage]) -> list[Message]:
    """Messages as the model's format takes them."""
    return [Message(ROLES.get(each.role, each.role), text_of(runtime, each)) for each in messages]


async def _prompt(
    runtime: Runtime,
    sessions: TenantSessions,
    messages: Sequence[Message],
    tools: ToolUse | None,
    session_id: str | None,
    key: str | None,
) -> Prompt:
    before, after = NO_TRANSCRIPT, None
    if session_id is not None:
        meta = await sessions.get(session_id)
        if key is not None:
            await _refuse_learned(sessions, session_id, key)
        before = meta.transcript
        after = await last_token(sessions, meta) if before.count else None
    fresh = new_messages(before, messages if tools is None else with_tools(before, messages, tools.told))
    chars = sum(len(message.text) for message in fresh)
    parts = await tokenised(runtime, chars, lambda: runtime.chat_format.render(fresh, after=after))
    return Prompt(parts, transcript=advance(before, fresh) if session_id is not None else None)


async def _refuse_learned(sessions: TenantSessions, session_id: str, key: str) -> None:
    """A retried turn is in the transcript already: say so before the transcript is compared."""
    learned = await sessions.learned(session_id, key)
    if learned is not None:
        raise already_learned(*learned)


async def last_token(sessions: TenantSessions, meta: SessionMeta) -> LastToken | None:
    """The last token that the session's state has read, None after a reset."""
    if not meta.position:
        return None
    seq = meta.path.seq(meta.position)
    (record, *_), _ = await sessions.events(meta.session_id, after=seq - 1, limit=1)
    return LastToken(record.tokens[seq - record.first_seq], record.origin)


class _Shape:
    """OpenAI's chat.completion and chat.completion.chunk."""

    def __init__(self, runtime: Runtime, *, choices: int, with_logprobs: bool, with_tools: bool) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._runtime = runtime
        self._choices = choices
        self._with_logprobs = with_logprobs
        self._with_tools = with_tools
        self._calling: dict[int, _Calling] = {}

    def opening(self, index: int) -> Sequence[ChatCompletionChunk]:
        return (self._chunk([ChatChunkChoice(index=index, delta=Delta(role="assistant", content=""))]),)

    def piece(self, index: int, piece: Piece, usage: Usage | None) -> Sequence[ChatCompletionChunk]:
        text, calls, reason = self._parts(index, piece)
        choices = []
        logprobs = self._logprobs(piece)
        hope = piece.hope if self._choices == 1 else None
        if text or (logprobs and logprobs.content):
            choices.append(ChatChunkChoice(index=index, delta=Delta(content=text), logprobs=logprobs))
        choices += [ChatChunkChoice(index=index, delta=Delta(tool_calls=[call])) for call in calls]
        if reason is not None:
            choices.append(ChatChunkChoice(index=index, delta=Delta(), finish_reason=reason))
        return [
            self._chunk([choice], usage, None if choice.finish_reason is None else hope) for choice in choices
        ]

    def usage(self, usage: Usage) -> ChatCompletionChunk:
        return self._chunk([], usage)

    def whole(self, answers: Sequence[Sequence[Piece]], usage: Usage) -> ChatCompletion:
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._runtime.model_name,
            system_fingerprint=self._runtime.fingerprint,
            choices=[self._choice(index, pieces) for index, pieces in enumerate(answers)],
            usage=usage,
            hope=answers[0][-1].hope if self._choices == 1 else None,
        )

    def _choice(self, index: int, pieces: Sequence[Piece]) -> ChatChoice:
        parts = [self._parts(index, piece) for piece in pieces]
        text = "".join(part for part, _, _ in parts)
        calls = [ToolCall(id=call.id, function=call.function) for _, found, _ in parts for call in found]
        message = AnswerMessage(content=None if calls and not text else text, tool_calls=calls or None)
        logprobs, reason = self._logprobs(*pieces), parts[-1][2]
        return ChatChoice(index=index, message=message, logprobs=logprobs, finish_reason=reason)

    def _parts(self, index: int, piece: Piece) -> tuple[str, list[ToolCallDelta], FinishReason | None]:
        """What a piece shows, calls and ends with."""
        if not self._with_tools:
            return piece.text, [], piece.finish_reason
        return self._calling.setdefault(index, _Calling()).take(piece)

    def _logprobs(self, *pieces: Piece) -> ChatLogprobs | None:
        if not self._with_logprobs:
            return None
        ends = self._runtime.chat_format.stop_token_ids
        return chat_logprobs(
            self._runtime.tokenizer, (each for piece in pieces for each in piece.logprobs), ends
        )

    def _chunk(
        self, choices: list[ChatChunkChoice], usage: Usage | None = None, hope: HopeTurn | None = None
    ) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self._id,
            created=self._created,
            model=self._runtime.model_name,
            system_fingerprint=self._runtime.fingerprint,
            choices=choices,
            usage=usage,
            hope=hope,
        )


class _Calling:
    """One answer that may call tools."""

    def __init__(self) -> None:
        self._text = ToolText()
        self._calls = 0

    def take(self, piece: Piece) -> tuple[str, list[ToolCallDelta], FinishReason | None]:
        read = self._text.feed if piece.finish_reason is None else self._text.finish
        text, calls = read(piece.text)
        deltas = [
            ToolCallDelta(index=index, **wire_call(call).model_dump())
            for index, call in enumerate(calls, self._calls)
        ]
        self._calls += len(calls)
        called = piece.finish_reason == "stop" and self._calls > 0
        return text, deltas, "tool_calls" if called else piece.finish_reason
