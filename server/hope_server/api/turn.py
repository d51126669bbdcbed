"""One turn: a prompt goes in, pieces of text come out. Streamed and whole answers both read `pieces`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from hope_client.wire import ChatCompletionRequest, CompletionRequest, FinishReason, HopeTurn
from hope_server.api.conversation import AnswerTranscript
from hope_server.api.repeats import refuse_repeated
from hope_server.api.runtime import Runtime
from hope_server.api.tenancy import TenantSessions
from hope_server.api.text import AnswerText
from hope_server.api.traced import traced
from hope_server.chat import TextTokenizer
from hope_server.constrained import Grammar
from hope_server.engine.request import (
    GenerationRequest,
    PromptPart,
    SamplingParams,
    TokenEvent,
    TokenLogprob,
    TurnFigures,
)
from hope_server.errors import ContextTooLong, InvalidRequest, ModelNotFound
from hope_server.sessions.session import Transcript
from hope_server.tracing import NO_SPAN, Span

Body = ChatCompletionRequest | CompletionRequest
T = TypeVar("T")
Operation = Literal["chat", "text_completion"]
"""OpenTelemetry's names for what is asked."""

INLINE_CHARS = 4096
"""Text up to this length is tokenised on the event loop: it takes less than a millisecond."""
MAX_SHOWN_CHARS = 200
SEED_MASK = 2**63 - 1


def unchanged(text: str) -> str:
    """What an answer without calls is sent back as."""
    return text


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
    """Text that became certain. Only the last piece has a finish reason and `hope`; tokens are counted up to
    here.

    logprobs: of the tokens that came since the piece before, where they were asked for.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason | None = None
    hope: HopeTurn | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnSpec:
    """A validated request. `prepare` makes the prompt once no other turn of the session can run.

    echo: the text of the prompt, which then is the first piece, with its tokens' log-probabilities.
    grammar: what the answer keeps to. canonical: the answer as a chat's client will send it back.
    fingerprint: what repetitions of this request have in common, empty where a key or nothing says so.
    repeated: the client says that it sends it again by itself. learn: False where no token of it teaches.
    span: the request's; the turn is a part of it.
    """

    request_id: str
    sessions: TenantSessions
    session_id: str | None
    idempotency_key: str | None
    sampling: SamplingParams
    stop_strings: tuple[str, ...]
    prepare: Callable[[], Awaitable[Prompt]]
    echo: str | None = None
    grammar: Grammar | None = None
    canonical: Callable[[str], str] = unchanged
    fingerprint: str = ""
    repeated: bool = False
    learn: bool = True
    operation: Operation = "chat"
    span: Span = NO_SPAN

    def in_session(self, session_id: str | None) -> TurnSpec:
        return replace(self, session_id=session_id)


def pieces(runtime: Runtime, spec: TurnSpec) -> AsyncGenerator[Piece]:
    """Run the turn. The first step raises every error of admission; closing it stops the turn."""
    return _pieces(runtime, spec) if spec.span is NO_SPAN else traced(_pieces, runtime, spec)


async def _pieces(runtime: Runtime, spec: TurnSpec) -> AsyncGenerator[Piece]:
    session = None if spec.session_id is None else spec.sessions.key(spec.session_id)
    with runtime.refusals.noting(session, spec.fingerprint), spec.sessions.turn(spec.session_id):
        runtime.admit()
        if spec.repeated and session is not None and not runtime.refusals.forget(session, spec.fingerprint):
            await refuse_repeated(spec.sessions, session.session, spec.fingerprint)
        prompt = await spec.prepare()
        if prompt.tokens > runtime.config.max_prompt_tokens:
            raise ContextTooLong(
                f"expected at most {runtime.config.max_prompt_tokens} new tokens, found {prompt.tokens}"
            )
        await spec.sessions.reserve(
            spec.session_id, prompt_tokens=prompt.tokens, max_tokens=spec.sampling.max_tokens
        )
        answer = _Answer(runtime.tokenizer, spec, prompt.transcript)
        events = spec.sessions.generate(
            GenerationRequest(
                request_id=spec.request_id,
                session=session,
                prompt=prompt.parts,
                sampling=spec.sampling,
                transcript=prompt.transcript,
                idempotency_key=spec.idempotency_key,
                stop_check=answer.stop_check,
                answered=answer.transcript.after if answer.transcript else None,
                scored=answer.scores.extend,
                finished=answer.finished,
                fingerprint=spec.fingerprint,
                learn=spec.learn,
                constraint=None if spec.grammar is None else spec.grammar.constraint(),
                span=spec.span,
            )
        )
        text = answer.text()
        async with aclosing(_closable(events)) as events:
            first = await anext(events, None)  # the prompt has been read
            if spec.echo is not None:
                yield Piece(spec.echo, prompt.tokens, 0, logprobs=tuple(answer.scores))
            if first is None:
                yield Piece("", prompt.tokens, 0, "length", answer.hope)
                return
            yield _piece(spec, prompt, text, first, answer.hope)
            async for event in events:
                yield _piece(spec, prompt, text, event, answer.hope)


def _piece(
    spec: TurnSpec, prompt: Prompt, text: AnswerText, event: TokenEvent, hope: HopeTurn | None
) -> Piece:
    spec.sessions.on_token()
    piece = text.feed(event.token) + (text.finish() if event.finish_reason else "")
    logprobs = () if event.logprob is None else (event.logprob,)
    last = hope if event.finish_reason else None
    return Piece(piece, prompt.tokens, event.index + 1, event.finish_reason, last, logprobs)


def sampling_of(
    runtime: Runtime, body: Body, *, default: int, logprobs: int | None, prompt_logprobs: int | None = None
) -> SamplingParams:
    """The request's sampling. `default`: the tokens that it gets if it asks for no number."""
    most, limit = runtime.config.max_output_tokens, body.token_limit
    if limit is not None and limit > most:
        raise InvalidRequest(
            f"max_tokens: expected at most {most}, found {limit}", param="max_tokens", code="invalid_value"
        )
    bias = tuple((int(token), value) for token, value in (body.logit_bias or {}).items())
    check_tokens(runtime, (token for token, _ in bias), param="logit_bias")
    max_tokens = min(default, most) if limit is None else limit
    if body.min_tokens > max_tokens:
        raise InvalidRequest(
            f"min_tokens: expected at most max_tokens ({max_tokens}), found {body.min_tokens}",
            param="min_tokens",
            code="invalid_value",
        )
    return SamplingParams(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=None if body.seed is None else body.seed & SEED_MASK,
        max_tokens=max_tokens,
        stop_token_ids=runtime.chat_format.stop_token_ids,
        ignore_eos=body.ignore_eos,
        logit_bias=bias,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        min_tokens=body.min_tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def check_tokens(runtime: Runtime, tokens: Iterable[int], *, param: str) -> None:
    """Raises InvalidRequest for a token id that the model does not have."""
    largest = max(tokens, default=0)
    if largest >= runtime.tokenizer.vocab_size:
        raise InvalidRequest(
            f"{param}: expected token ids below {runtime.tokenizer.vocab_size}, found {largest}",
            param=param,
            code="invalid_token",
        )


def check_model(runtime: Runtime, name: str | None) -> None:
    """Raises ModelNotFound unless `name` is the served model or not given."""
    if name not in (None, runtime.model_name):
        found = str(name)[:MAX_SHOWN_CHARS]
        raise ModelNotFound(f"the model here is {runtime.model_name!r}, not {found!r}", param="model")


async def tokenised(runtime: Runtime, chars: int, work: Callable[[], T]) -> T:
    """`work()`, which makes tokens of `chars` characters, or text of so many tokens: long texts one after
    another, off the event loop.
    """
    if chars <= INLINE_CHARS:
        return work()
    async with runtime.tokenising:
        return await asyncio.to_thread(work)


class _Answer:
    """What the engine asks about the answer while it runs ahead of what the client has been sent."""

    def __init__(self, tokenizer: TextTokenizer, spec: TurnSpec, before: Transcript | None) -> None:
        self._tokenizer = tokenizer
        self._spec = spec
        self._tokens: list[int] = []
        self._text = self.text()
        self.scores: list[TokenLogprob] = []
        self.hope: HopeTurn | None = None
        self.transcript: AnswerTranscript | None = None
        if before is not None:
            self.transcript = AnswerTranscript(before, self.text(), self._tokens.__getitem__, spec.canonical)

    def text(self) -> AnswerText:
        """A fresh text of the answer; all of them agree."""
        stops, least = self._spec.stop_strings, self._spec.sampling.min_tokens
        return AnswerText(self._tokenizer.decode_bytes, stops, min_tokens=least)

    def finished(self, figures: TurnFigures) -> None:
        """Called before the last token comes."""
        self.hope = HopeTurn(
            session=self._spec.session_id,
            seq=figures.seq,
            learned_tokens=figures.learned_tokens,
            level_writes=figures.level_writes,
            drift=figures.drift,
            learning="frozen" if figures.frozen else "on",
        )

    def stop_check(self, token: int) -> bool:
        """Called on the engine's thread, once for each sampled token, before it is committed."""
        self._tokens.append(token)
        self._text.feed(token)
        return self._text.stopped


async def _closable(events: AsyncIterator[TokenEvent]) -> AsyncGenerator[TokenEvent]:
    """`events` as a generator: closing it closes what it wraps, at once and not when it is collected."""
    try:
        async for event in events:
            yield event
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
