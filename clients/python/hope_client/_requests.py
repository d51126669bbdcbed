"""Requests of a model: to generate, and what there is to know of it. Both clients share them."""

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack
from urllib.parse import quote

from hope_client import wire
from hope_client._call import Call, M, T, build
from hope_client.errors import InvalidRequestError

Prompt = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]
Messages = str | Sequence[wire.ChatMessage | Mapping[str, object]]


class GenerationOptions(TypedDict, total=False):
    """Options of both generating calls; what is left out takes the server's default.

    `n` asks for as many answers, which needs a request without a session.
    Without `session_id` the server forgets the request when it ends. `idempotency_key` names the request
    across retries of your own; each call makes one of its own otherwise. `include_usage` asks a stream for
    its usage at the end, `continuous_usage` for the usage so far in each chunk too; other answers always have
    it. With `learn="off"` no token of the turn teaches.
    """

    session_id: str | None
    idempotency_key: str | None
    model: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    stop: str | list[str] | None
    ignore_eos: bool
    n: int
    min_tokens: int
    logit_bias: Mapping[int, float] | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    response_format: wire.ResponseFormat | Mapping[str, object] | None
    include_usage: bool
    continuous_usage: bool
    user: str | None
    learn: wire.Learn | None


class CompletionOptions(GenerationOptions, total=False):
    """`logprobs`: the log-probability of each token, and of so many likeliest ones beside it. `echo`: the
    prompt comes first in each text.
    """

    logprobs: int | None
    echo: bool


class ChatOptions(GenerationOptions, total=False):
    """`logprobs`: the log-probability of each token, and of `top_logprobs` likeliest ones beside it."""

    logprobs: bool
    top_logprobs: int | None
    max_completion_tokens: int | None
    tools: Sequence[wire.Tool | Mapping[str, object]] | None
    tool_choice: str | Mapping[str, object] | None
    parallel_tool_calls: bool | None


def completion(
    prompt: Prompt, *, stream: bool, answer: type[T], **options: Unpack[CompletionOptions]
) -> Call[T]:
    """POST /v1/completions."""
    given = prompt if isinstance(prompt, str) else [_as_list(each) for each in prompt]
    return _generation("/v1/completions", wire.CompletionRequest, {"prompt": given}, stream, answer, options)


def chat(messages: Messages, *, stream: bool, answer: type[T], **options: Unpack[ChatOptions]) -> Call[T]:
    """POST /v1/chat/completions. A plain string is one message of the user."""
    given = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    return _generation(
        "/v1/chat/completions", wire.ChatCompletionRequest, {"messages": given}, stream, answer, options
    )


def _generation(
    path: str,
    request_model: type[M],
    content: dict[str, object],
    stream: bool,
    answer: type[T],
    options: CompletionOptions | ChatOptions,
) -> Call[T]:
    fields: dict[str, object] = {**content, **options}
    if bias := options.get("logit_bias"):
        fields["logit_bias"] = {str(token): value for token, value in bias.items()}
    key = _idempotency_key(fields.pop("idempotency_key", None))
    continuous = fields.pop("continuous_usage", False)
    include_usage = fields.pop("include_usage", False)
    if stream:
        fields["stream"] = True
        if continuous:
            fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        elif include_usage:
            fields["stream_options"] = {"include_usage": True}
    body = build(request_model, **fields).to_wire()
    session_id = body.pop("session_id", None)
    headers = {wire.IDEMPOTENCY_HEADER: key}
    if session_id is not None:
        # As a header, so that a proxy can route by it without reading the body.
        headers[wire.SESSION_HEADER] = str(session_id)
    repeatable = session_id is None
    return Call("POST", path, answer, repeatable=repeatable, streamed=stream, body=body, headers=headers)


def _as_list(prompt: str | int | Sequence[int]) -> object:
    return prompt if isinstance(prompt, str | int) else list(prompt)


def _idempotency_key(given: object) -> str:
    """The caller's key, or a new one."""
    if given is None:
        return str(uuid.uuid4())
    if not isinstance(given, str) or re.fullmatch(wire.IDEMPOTENCY_KEY_PATTERN, given) is None:
        raise InvalidRequestError(f"idempotency_key: expected 1 to 128 ASCII characters, got {given!r}")
    return given


def models() -> Call[wire.ModelList]:
    """GET /v1/models."""
    return Call("GET", "/v1/models", wire.ModelList, repeatable=True)


def model(name: str) -> Call[wire.Model]:
    """GET /v1/models/{name}."""
    return Call("GET", f"/v1/models/{quote(name, safe='')}", wire.Model, repeatable=True)


def tokenize(given: Messages, model: str | None, return_token_strs: bool) -> Call[wire.Tokenized]:
    """POST /tokenize: a text, or messages."""
    content = {"prompt": given} if isinstance(given, str) else {"messages": list(given)}
    strs = True if return_token_strs else None
    body = build(wire.TokenizeRequest, **content, model=model, return_token_strs=strs).to_wire()
    return Call("POST", "/tokenize", wire.Tokenized, repeatable=True, body=body)


def detokenize(tokens: Sequence[int], model: str | None) -> Call[wire.Detokenized]:
    """POST /detokenize."""
    body = build(wire.DetokenizeRequest, tokens=list(tokens), model=model).to_wire()
    return Call("POST", "/detokenize", wire.Detokenized, repeatable=True, body=body)


def tokenizer_info() -> Call[wire.TokenizerInfo]:
    """GET /tokenizer_info."""
    return Call("GET", "/tokenizer_info", wire.TokenizerInfo, repeatable=True)


def ready() -> Call[wire.Ready]:
    """GET /ready."""
    return Call("GET", "/ready", wire.Ready, repeatable=True)


def health() -> Call[wire.Health]:
    """GET /health."""
    return Call("GET", "/health", wire.Health, repeatable=True)
