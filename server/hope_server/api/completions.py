"""POST /v1/completions: the model continues a text. A session reads the prompt after all it has read."""

from __future__ import annotations

import time
import uuid

from fastapi import APIRouter, Request
from starlette.responses import Response

from hope_client.wire import Completion, CompletionChoice, CompletionRequest, FinishReason, Usage
from hope_server.api.body import read_json
from hope_server.api.openapi import accepts_turn
from hope_server.api.request import turn_spec
from hope_server.api.runtime import Runtime, RuntimeOf
from hope_server.api.sse import TurnResponse
from hope_server.api.tenancy import SessionsOf, TenantSessions
from hope_server.api.turn import Prompt, check_model, sampling_of, tokenised
from hope_server.engine.request import PromptPart
from hope_server.errors import EmptyPrompt, InvalidRequest

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint."""

router = APIRouter(tags=["generate"])


@router.post("/v1/completions", response_model=Completion, openapi_extra=accepts_turn(CompletionRequest))
async def complete(request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> Response:
    """Continue the prompt, whole or as a stream of events."""
    body = await read_json(request, CompletionRequest, limit=runtime.config.max_body_bytes)
    check_model(runtime, body.model)

    async def prepare(session_id: str | None, key: str | None) -> Prompt:
        tokens = PromptPart("text", await _tokens(runtime, body.prompt))
        if isinstance(body.prompt, str) and runtime.chat_format.text_start:
            return Prompt((*await _start(runtime, sessions, session_id), tokens))
        return Prompt((tokens,))

    sampling = sampling_of(runtime, body, limit=body.max_tokens, default=DEFAULT_MAX_TOKENS)
    return TurnResponse(runtime, turn_spec(request, sessions, body, sampling, prepare), _Shape(runtime), body)


async def _tokens(runtime: Runtime, prompt: str | list[int]) -> tuple[int, ...]:
    if not prompt:
        raise EmptyPrompt("expected a prompt with at least one token, found none", param="prompt")
    if isinstance(prompt, str):
        return await tokenised(runtime, len(prompt), lambda: tuple(runtime.tokenizer.encode(prompt)))
    largest = max(prompt)
    if largest >= runtime.tokenizer.vocab_size:
        raise InvalidRequest(
            f"prompt: expected token ids below {runtime.tokenizer.vocab_size}, found {largest}",
            param="prompt",
            code="invalid_token",
        )
    return tuple(prompt)


async def _start(
    runtime: Runtime, sessions: TenantSessions, session_id: str | None
) -> tuple[PromptPart, ...]:
    """What comes before a text: nothing in a session that has read something."""
    if session_id is not None and (await sessions.get(session_id)).position:
        return ()
    return (PromptPart("template", runtime.chat_format.text_start),)


class _Shape:
    """OpenAI's text_completion, for chunks and whole answers alike."""

    def __init__(self, runtime: Runtime) -> None:
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = runtime.model_name
        self._fingerprint = runtime.fingerprint

    def opening(self) -> None:
        return None

    def text(self, text: str, usage: Usage | None) -> Completion:
        return self._body([CompletionChoice(text=text)], usage)

    def end(self, reason: FinishReason | None, usage: Usage | None) -> Completion:
        return self._body([CompletionChoice(text="", finish_reason=reason)], usage)

    def usage(self, usage: Usage) -> Completion:
        return self._body([], usage)

    def whole(self, text: str, reason: FinishReason | None, usage: Usage) -> Completion:
        return self._body([CompletionChoice(text=text, finish_reason=reason)], usage)

    def _body(self, choices: list[CompletionChoice], usage: Usage | None) -> Completion:
        return Completion(
            id=self._id,
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=usage,
        )
