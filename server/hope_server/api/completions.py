"""POST /v1/completions: the model continues texts. A session reads its prompt after all it has read."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from hope_client.wire import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    HopeTurn,
    Usage,
)
from hope_server.api.body import read_json
from hope_server.api.choices import choices_of
from hope_server.api.formats import grammar_of
from hope_server.api.logprobs import CompletionTokens
from hope_server.api.openapi import accepts_turn, answers_stream
from hope_server.api.request import turn_spec
from hope_server.api.runtime import Runtime, RuntimeOf
from hope_server.api.sse import TurnResponse
from hope_server.api.tenancy import SessionsOf, TenantSessions
from hope_server.api.turn import (
    Piece,
    Prompt,
    TurnSpec,
    check_model,
    check_tokens,
    sampling_of,
    tokenised,
)
from hope_server.constrained import Grammar
from hope_server.engine.request import PromptPart
from hope_server.errors import EmptyPrompt

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint."""

router = APIRouter(tags=["generate"])


@router.post(
    "/v1/completions",
    response_model=Completion,
    responses=answers_stream(),
    openapi_extra=accepts_turn(CompletionRequest),
)
async def complete(request: Request, runtime: RuntimeOf, sessions: SessionsOf) -> Response:
    """Continue each prompt `n` times, whole or as a stream of events."""
    body = await read_json(request, CompletionRequest, limit=runtime.config.max_body_bytes)
    check_model(runtime, body.model)
    grammar = await grammar_of(runtime, body.response_format)
    specs = [_spec(request, runtime, sessions, body, prompt, grammar) for prompt in body.prompts]
    choices = choices_of(specs, body.n)
    shape = _Shape(runtime, choices=len(choices), with_logprobs=body.logprobs is not None)
    return TurnResponse(runtime, choices, shape, body)


def _spec(
    request: Request,
    runtime: Runtime,
    sessions: TenantSessions,
    body: CompletionRequest,
    prompt: str | list[int],
    grammar: Grammar | None,
) -> TurnSpec:
    if not prompt:
        raise EmptyPrompt("expected a prompt with at least one token, found none", param="prompt")
    if not isinstance(prompt, str):
        check_tokens(runtime, prompt, param="prompt")
    sampling = sampling_of(
        runtime,
        body,
        default=DEFAULT_MAX_TOKENS,
        logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
    )

    async def prepare(session_id: str | None, key: str | None) -> Prompt:
        tokens = PromptPart("text", await _tokens(runtime, prompt))
        if isinstance(prompt, str) and runtime.chat_format.text_start:
            return Prompt((*await _start(runtime, sessions, session_id), tokens))
        return Prompt((tokens,))

    echo = _echo(runtime, prompt) if body.echo else None
    return turn_spec(request, sessions, body, sampling, prepare, echo=echo, grammar=grammar)


def _echo(runtime: Runtime, prompt: str | list[int]) -> str:
    if isinstance(prompt, str):
        return prompt
    return runtime.tokenizer.decode_bytes(prompt).decode("utf-8", "replace")


async def _tokens(runtime: Runtime, prompt: str | list[int]) -> tuple[int, ...]:
    if isinstance(prompt, str):
        return await tokenised(runtime, len(prompt), lambda: tuple(runtime.tokenizer.encode(prompt)))
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

    def __init__(self, runtime: Runtime, *, choices: int, with_logprobs: bool) -> None:
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._runtime = runtime
        self._choices = choices
        self._with_logprobs = with_logprobs
        self._tokens: dict[int, CompletionTokens] = {}

    def opening(self, index: int) -> Sequence[Completion]:
        return ()

    def piece(self, index: int, piece: Piece, usage: Usage | None) -> Sequence[Completion]:
        chunks = []
        if piece.text or piece.logprobs:
            choice = CompletionChoice(index=index, text=piece.text, logprobs=self._logprobs(index, piece))
            chunks.append(self._body([choice], usage))
        if piece.finish_reason is not None:
            choice = CompletionChoice(index=index, text="", finish_reason=piece.finish_reason)
            chunks.append(self._body([choice], usage, self._hope(piece)))
        return chunks

    def usage(self, usage: Usage) -> Completion:
        return self._body([], usage)

    def whole(self, answers: Sequence[Sequence[Piece]], usage: Usage) -> Completion:
        choices = [self._choice(*found) for found in enumerate(answers)]
        return self._body(choices, usage, self._hope(answers[0][-1]))

    def _hope(self, last: Piece) -> HopeTurn | None:
        return last.hope if self._choices == 1 else None

    def _choice(self, index: int, pieces: Sequence[Piece]) -> CompletionChoice:
        return CompletionChoice(
            index=index,
            text="".join(piece.text for piece in pieces),
            logprobs=self._logprobs(index, *pieces),
            finish_reason=pieces[-1].finish_reason,
        )

    def _logprobs(self, index: int, *pieces: Piece) -> CompletionLogprobs | None:
        if not self._with_logprobs:
            return None
        tokens = self._tokens.setdefault(index, CompletionTokens(self._runtime.tokenizer))
        return tokens.write(each for piece in pieces for each in piece.logprobs)

    def _body(
        self, choices: list[CompletionChoice], usage: Usage | None, hope: HopeTurn | None = None
    ) -> Completion:
        return Completion(
            id=self._id,
            created=self._created,
            model=self._runtime.model_name,
            system_fingerprint=self._runtime.fingerprint,
            choices=choices,
            usage=usage,
            hope=hope,
        )
