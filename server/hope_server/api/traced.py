"""A turn as a span, with the attributes of OpenTelemetry's conventions for generative AI."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from hope_server.api.runtime import Runtime
from hope_server.tracing import Value, error_type

if TYPE_CHECKING:
    from hope_server.api.turn import Piece, TurnSpec

PROVIDER = "hope"


async def traced(
    run: Callable[[Runtime, TurnSpec], AsyncGenerator[Piece]], runtime: Runtime, spec: TurnSpec
) -> AsyncGenerator[Piece]:
    """`run`, inside of a span of its own."""
    span = spec.span.child(f"{spec.operation} {runtime.model_name}", _asked(runtime, spec))
    try:
        async with aclosing(run(runtime, replace(spec, span=span))) as answer:
            async for piece in answer:
                if piece.finish_reason is not None:
                    span.set(_answered(piece))
                yield piece
    except BaseException as error:
        span.end("cancelled" if isinstance(error, GeneratorExit) else error_type(error))
        raise
    span.end()


def _asked(runtime: Runtime, spec: TurnSpec) -> dict[str, Value]:
    sampling = spec.sampling
    asked: dict[str, Value] = {
        "gen_ai.operation.name": spec.operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": runtime.model_name,
        "gen_ai.response.model": runtime.model_name,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
    }
    if sampling.seed is not None:
        asked["gen_ai.request.seed"] = sampling.seed
    if spec.session_id is not None:
        asked["gen_ai.conversation.id"] = spec.session_id
    return asked


def _answered(piece: Piece) -> dict[str, Value]:
    answered: dict[str, Value] = {
        "gen_ai.usage.input_tokens": piece.prompt_tokens,
        "gen_ai.usage.output_tokens": piece.completion_tokens,
        "gen_ai.response.finish_reasons": [str(piece.finish_reason)],
    }
    if piece.hope is not None:
        answered["hope.learned_tokens"] = piece.hope.learned_tokens
        answered.update({f"hope.level_writes.{level}": n for level, n in piece.hope.level_writes.items()})
        if piece.hope.seq is not None:
            answered["hope.seq"] = piece.hope.seq
    return answered
