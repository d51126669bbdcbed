"""One turn: a prompt goes in, pieces of text come out. Streamed and whole answers both read `pieces`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from hope_client.wire import ChatCompletionRequest, CompletionRequest, FinishReason, Usage
from hope_server.api.conversation import AnswerTranscript
from hope_server.api.runtime import Runtime
from hope_server.api.tenancy import TenantSessions
from hope_server.api.text import AnswerText
from hope_server.chat import TextTokenizer
from hope_server.engine.request import GenerationRequest, PromptPart, SamplingParams, TokenEvent
from hope_server.errors import ContextTooLong, InvalidRequest, ModelNotFound
from hope_server.sessions.session import Transcript

Body = ChatCompletionRequest | CompletionRequest
T = TypeVar("T")

INLINE_CHARS = 4096
"""Text up to this length is tokenised on the event loop: it takes less than a millisecond."""
MAX_SHOWN_CHARS = 200
SEED_MASK = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one turn reads. `transcript`: the chat up to and including it; None outside of chats."""

    parts: tuple[PromptPart, ...]
    transcript: Transcript | None = None

    @property
    def tokens(self) -> int:
        return sum(len(part.tokens) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that became certain. Only the last piece has a finish reason; `usage` counts up to here."""

    text: str
    usage: Usage
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class TurnSpec:
    """A validated request. `prepare` makes the prompt once no other turn of the session can run."""

    request_id: str
    sessions: TenantSessions
    session_id: str | None
    idempotency_key: str | None
    sampling: SamplingParams
    stop_strings: tuple[str, ...]
    prepare: Callable[[], Awaitable[Prompt]]


async def pieces(runtime: Runtime, spec: TurnSpec) -> AsyncGenerator[Piece]:
    """Run the turn. The first step raises every error of admission; closing it stops the turn."""
    runtime.admit()
    with spec.sessions.turn(spec.session_id):
        prompt = await spec.prepare()
        if prompt.tokens > runtime.config.max_prompt_tokens:
            raise ContextTooLong(
                f"expected at most {runtime.config.max_prompt_tokens} new tokens, found {prompt.tokens}"
            )
        await spec.sessions.reserve(
            spec.session_id, prompt_tokens=prompt.tokens, max_tokens=spec.sampling.max_tokens
        )
        answer = _Answer(runtime.tokenizer, spec.stop_strings, prompt.transcript)
        events = spec.sessions.generate(
            GenerationRequest(
                request_id=spec.request_id,
                session=None if spec.session_id is None else spec.sessions.key(spec.session_id),
                prompt=prompt.parts,
                sampling=spec.sampling,
                transcript=prompt.transcript,
                idempotency_key=spec.idempotency_key,
                stop_check=answer.stop_check,
                answered=answer.transcript.after if answer.transcript else None,
            )
        )
        text = AnswerText(runtime.tokenizer.decode_bytes, spec.stop_strings)
        async with aclosing(_closable(events)) as events:
            async for event in events:
                spec.sessions.on_token()
                piece = text.feed(event.token) + (text.finish() if event.finish_reason else "")
                yield Piece(piece, _usage(prompt.tokens, event.index + 1), event.finish_reason)


def sampling_of(runtime: Runtime, body: Body, *, limit: int | None, default: int) -> SamplingParams:
    """The request's sampling. `limit`: the tokens it asks for; `default`: those it gets otherwise."""
    most = runtime.config.max_output_tokens
    if limit is not None and limit > most:
        raise InvalidRequest(
            f"max_tokens: expected at most {most}, found {limit}", param="max_tokens", code="invalid_value"
        )
    return SamplingParams(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=None if body.seed is None else body.seed & SEED_MASK,
        max_tokens=limit or min(default, most),
        stop_token_ids=runtime.chat_format.stop_token_ids,
        ignore_eos=body.ignore_eos,
    )


def check_model(runtime: Runtime, name: str | None) -> None:
    """Raises ModelNotFound unless `name` is the served model or not given."""
    if name not in (None, runtime.model_name):
        found = str(name)[:MAX_SHOWN_CHARS]
        raise ModelNotFound(f"the model here is {runtime.model_name!r}, not {found!r}", param="model")


async def tokenised(runtime: Runtime, chars: int, work: Callable[[], T]) -> T:
    """`work()`, which tokenises `chars` characters: long texts one after another, off the event loop."""
    if chars <= INLINE_CHARS:
        return work()
    async with runtime.tokenising:
        return await asyncio.to_thread(work)


class _Answer:
    """What the engine asks about the answer while it runs ahead of what the client has been sent."""

    def __init__(self, tokenizer: TextTokenizer, stops: tuple[str, ...], before: Transcript | None) -> None:
        self._tokens: list[int] = []
        self._text = AnswerText(tokenizer.decode_bytes, stops)
        self.transcript: AnswerTranscript | None = None
        if before is not None:
            text = AnswerText(tokenizer.decode_bytes, stops)
            self.transcript = AnswerTranscript(before, text, self._tokens.__getitem__)

    def stop_check(self, token: int) -> bool:
        """Called on the engine's thread, once for each sampled token, before it is committed."""
        self._tokens.append(token)
        self._text.feed(token)
        return self._text.stopped


def _usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


async def _closable(events: AsyncIterator[TokenEvent]) -> AsyncGenerator[TokenEvent]:
    """`events` as a generator: closing it closes what it wraps, at once and not when it is collected."""
    try:
        async for event in events:
            yield event
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
