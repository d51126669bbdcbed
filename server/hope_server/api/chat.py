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
    Delta,
    FinishReason,
    Usage,
)
from hope_server.api.body import read_json
from hope_server.api.conversation import advance, new_messages
from hope_server.api.openapi import accepts_turn
from hope_server.api.request import turn_spec
from hope_server.api.runtime import Runtime, RuntimeOf
from hope_server.api.sse import TurnResponse
from hope_server.api.tenancy import SessionsOf, TenantSessions
from hope_server.api.turn import Prompt, check_model, sampling_of, tokenised
from hope_server.chat import LastToken, Message
from hope_server.sessions.refusals import already_learned
from hope_server.sessions.session import NO_TRANSCRIPT, SessionMeta

router = APIRouter(tags=["generate"])


@router.post(
    "/v1/chat/completions", response_model=ChatCompletion, openapi_extra=accepts_turn(ChatCompletionRequest)
)
async def chat(request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> Response:
    """Answer the last message, whole or as a stream of events."""
    body = await read_json(request, ChatCompletionRequest, limit=runtime.config.max_body_bytes)
    check_model(runtime, body.model)
    messages = [Message(message.role, message.text) for message in body.messages]

    async def prepare(session_id: str | None, key: str | None) -> Prompt:
        return await _prompt(runtime, sessions, messages, session_id, key)

    sampling = sampling_of(
        runtime, body, limit=body.token_limit, default=runtime.config.default_output_tokens
    )
    return TurnResponse(runtime, turn_spec(request, sessions, body, sampling, prepare), _Shape(runtime), body)


async def _prompt(
    runtime: Runtime,
    sessions: TenantSessions,
    messages: Sequence[Message],
    session_id: str | None,
    key: str | None,
) -> Prompt:
    before, after = NO_TRANSCRIPT, None
    if session_id is not None:
        meta = await sessions.get(session_id)
        if key is not None:
            await _refuse_learned(sessions, session_id, key)
        before = meta.transcript
        after = await _last_token(sessions, meta) if before.count else None
    fresh = new_messages(before, messages)
    chars = sum(len(message.text) for message in fresh)
    parts = await tokenised(runtime, chars, lambda: runtime.chat_format.render(fresh, after=after))
    return Prompt(parts, transcript=advance(before, fresh) if session_id is not None else None)


async def _refuse_learned(sessions: TenantSessions, session_id: str, key: str) -> None:
    """A retried turn is in the transcript already: say so before the transcript is compared."""
    learned = await sessions.learned(session_id, key)
    if learned is not None:
        raise already_learned(*learned)


async def _last_token(sessions: TenantSessions, meta: SessionMeta) -> LastToken | None:
    """The session's last token, None after a reset."""
    records, _ = await sessions.events(meta.session_id, after=meta.seq - 1, limit=1)
    if not records or not records[-1].tokens:
        return None
    return LastToken(records[-1].tokens[-1], records[-1].origin)


class _Shape:
    """OpenAI's chat.completion and chat.completion.chunk."""

    def __init__(self, runtime: Runtime) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = runtime.model_name
        self._fingerprint = runtime.fingerprint

    def opening(self) -> ChatCompletionChunk:
        return self._chunk([ChatChunkChoice(delta=Delta(role="assistant", content=""))])

    def text(self, text: str, usage: Usage | None) -> ChatCompletionChunk:
        return self._chunk([ChatChunkChoice(delta=Delta(content=text))], usage)

    def end(self, reason: FinishReason | None, usage: Usage | None) -> ChatCompletionChunk:
        return self._chunk([ChatChunkChoice(delta=Delta(), finish_reason=reason)], usage)

    def usage(self, usage: Usage) -> ChatCompletionChunk:
        return self._chunk([], usage)

    def whole(self, text: str, reason: FinishReason | None, usage: Usage) -> ChatCompletion:
        choice = ChatChoice(message=AnswerMessage(content=text), finish_reason=reason)
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=[choice],
            usage=usage,
        )

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | None = None) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self._id,
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=usage,
        )
